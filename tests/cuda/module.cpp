#include "apply/cuda/module.cu"
