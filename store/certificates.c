/* Putting off the system's certificates. See certificates.h. */
#define _GNU_SOURCE
#include "store/certificates.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "store/internal.h"

#define MBEDTLS_FILE_IO_ERROR (-0x2900)

/* mbedTLS's own (x509_crt.h), which libgit2 calls. Ours is found before it, since a program comes
   before its libraries. */
typedef int parse_file(void *chain, const char *path);
__attribute__((visibility("default"))) parse_file mbedtls_x509_crt_parse_file;

static struct {
    pthread_mutex_t mutex;
    bool starting;
    char *path; /* what was put off, and is not read yet */
} late = {PTHREAD_MUTEX_INITIALIZER, false, NULL};

int mbedtls_x509_crt_parse_file(void *chain, const char *path)
{
    parse_file *real = NULL;

    if (late.starting) {
        free(late.path);
        late.path = strdup(path);
        return MBEDTLS_FILE_IO_ERROR;
    }
    void *symbol = dlsym(RTLD_NEXT, "mbedtls_x509_crt_parse_file");
    memcpy(&real, &symbol, sizeof(real));
    return real ? real(chain, path) : MBEDTLS_FILE_IO_ERROR;
}

int certificates_put_off(void)
{
    pthread_mutex_lock(&late.mutex);
    late.starting = true;
    int code = git_libgit2_init();
    late.starting = false;
    pthread_mutex_unlock(&late.mutex);
    /* It takes the file for one that cannot be read, which is no reason not to start. */
    if (code >= 0)
        git_error_clear();
    return code;
}

int certificates_load(const char *path)
{
    int err = 0;

    pthread_mutex_lock(&late.mutex);
    const char *file = path ? path : late.path;
    if (file) {
        int code = git_libgit2_opts(GIT_OPT_SET_SSL_CERT_LOCATIONS, file, NULL);
        if (code < 0)
            err = git_failed(code, "the certificates of %s", file);
    }
    if (file && err == 0) {
        free(late.path);
        late.path = NULL;
    }
    pthread_mutex_unlock(&late.mutex);
    return err;
}
