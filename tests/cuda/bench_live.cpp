#include "tests/gpu/bench_live.cu"
