#include "apply/cuda/merge_fast.cu"
