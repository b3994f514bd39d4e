#include "apply/cuda/merge_exact.cu"
