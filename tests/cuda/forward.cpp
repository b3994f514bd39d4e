#include "apply/cuda/forward.cu"
