#include "apply/cuda/wave.cu"
