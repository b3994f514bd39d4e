/* A module of another version of vera. */
#include "apply/backend.h"

__attribute__((visibility("default"))) const struct backend *
vera_cuda_backend(unsigned *module_abi, unsigned abi);

const struct backend *vera_cuda_backend(unsigned *module_abi, unsigned abi)
{
    (void)abi;
    *module_abi = BACKEND_ABI + 1;
    return NULL;
}
