#include "apply/cuda/job.cu"
