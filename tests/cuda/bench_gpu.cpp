#include "tests/gpu/bench_gpu.cu"
