#include "apply/cuda/parameters.cu"
