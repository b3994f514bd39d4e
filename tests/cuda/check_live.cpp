#include "tests/gpu/check_live.cu"
