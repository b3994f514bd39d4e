#include "apply/cuda/lane.cu"
