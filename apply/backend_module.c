/*
 * Finding and loading the CUDA module. See backend.h.
 *
 * It is looked up anew for each device that is opened, which is once in a run; the loader knows
 * what it has loaded.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "apply/backend.h"
#include "format/file.h"

#define MODULE_NAME     "vera_cuda.so"
#define MODULE_VARIABLE "VERA_CUDA_MODULE"
#define DRIVER_NAME     "libcuda.so.1"

static int missing(int err)
{
    return error_hint(
        err,
        "vera has it where it was built with CUDA's compiler nvcc (meson setup -Dcuda=enabled); "
        "elsewhere, " MODULE_VARIABLE " names it"
    );
}

/* The first place that has it. */
static int module_find(char **out)
{
    AUTO_FREE(char, beside);
    AUTO_FREE(char, path);
    const char *named = getenv(MODULE_VARIABLE);
    int err;

    /* The loader takes a name without a slash for one of the system's. */
    if (named && named[0] && named[0] != '/')
        return path_join(out, ".", named);
    if (named && named[0])
        return (*out = bytes_dup(text_bytes(named))) ? 0 : error_wrap(E_NOMEM, MODULE_VARIABLE);
    if ((err = program_directory(&beside)) < 0 || (err = path_join(&path, beside, MODULE_NAME)) < 0)
        return err;
    if (!path_exists(path)) {
        free(path);
        path = NULL;
        if ((err = path_join(&path, MODULE_DIRECTORY, MODULE_NAME)) < 0)
            return err;
    }
    if (!path_exists(path))
        return missing(error_set(
            E_DEVICE, "cuda: the module %s is neither in %s nor in %s", MODULE_NAME, beside,
            MODULE_DIRECTORY
        ));
    *out = path;
    path = NULL;
    return 0;
}

/* Ask a loaded module for its vtable. */
static int module_enter(const struct backend **out, void *module, const char *path)
{
    void *symbol = dlsym(module, BACKEND_ENTRY);
    backend_entry *entry;
    unsigned abi = 0;

    if (!symbol)
        return error_set(E_DEVICE, "cuda: %s is no module of vera", path);
    memcpy(&entry, &symbol, sizeof(entry));
    const struct backend *backend = entry(&abi, BACKEND_ABI);
    if (!backend || abi != BACKEND_ABI)
        return error_hint(
            error_set(
                E_DEVICE, "cuda: %s is of another version of vera (interface %u, not %u)", path,
                abi, BACKEND_ABI
            ),
            "install the module that was built together with this program"
        );
    *out = backend;
    return 0;
}

/* The module takes some ten milliseconds to load, the driver's library, where it is missing, none.
   A module that somebody named may do without. */
bool backend_cuda_may_work(void)
{
    const char *named = getenv(MODULE_VARIABLE);

    return (named && named[0]) || dlopen(DRIVER_NAME, RTLD_LAZY | RTLD_LOCAL);
}

int backend_cuda(const struct backend **out)
{
    AUTO_FREE(char, path);
    int err = module_find(&path);

    if (err < 0)
        return err;
    if (!path_exists(path))
        return missing(error_set(E_DEVICE, "cuda: the module %s is not there", path));
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module)
        return error_set(E_DEVICE, "cuda: the module cannot be loaded: %s", dlerror());
    if ((err = module_enter(out, module, path)) < 0)
        dlclose(module);
    return err;
}
