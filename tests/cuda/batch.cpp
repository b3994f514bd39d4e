#include "apply/cuda/batch.cu"
