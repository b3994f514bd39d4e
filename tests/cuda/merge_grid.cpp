#include "apply/cuda/merge_grid.cu"
