#!/bin/sh
# Everything that needs a GPU, on a machine that has one: builds the CUDA module with nvcc, compares the GPU's bits
# with the processor's (of files, and of weights and batches in its memory), measures, and looks for wrong memory
# accesses. Fails where there is no GPU or no nvcc: a check that was not made is not passed.
#
#   sh tests/gpu/run.sh            on the first GPU, or on that of CUDA_VISIBLE_DEVICES; LAYERS=N: of the synthetic
#                                  model (4 of Llama-3-8B's 32, 336 MB in all; 32 are 2.7 GB)
#
# The tables go into docs/benchmarks.md as they are.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
PATH=$PATH:/usr/local/cuda/bin

stop() {
    echo "gpu: $*" >&2
    exit 1
}

# The order of what a person would mend.
command -v nvcc >/dev/null || stop "no CUDA compiler: nvcc is neither in PATH nor in /usr/local/cuda/bin"
[ "${CUDA_VISIBLE_DEVICES-0}" != "" ] || stop "no NVIDIA GPU: CUDA_VISIBLE_DEVICES is empty"
command -v nvidia-smi >/dev/null || stop "no NVIDIA GPU: nvidia-smi, which comes with the driver, is not there"
nvidia-smi -L 2>/dev/null | grep -q '^GPU' || stop "no NVIDIA GPU: nvidia-smi -L lists none"

sh "$top/docs/install.sh" build
# The caller's settings must not reach what is checked.
unset VERA_CUDA_MODULE VERA_CPU VERA_REPO VERA_EMULATED
build=$top/build-gpu
[ -f "$build/build.ninja" ] || meson setup "$build" "$top" -Dcuda=enabled >&2
ninja -C "$build" cli/vera cli/vera_cuda.so tests/gpu/bench_gpu tests/gpu/bench_live tests/gpu/check_live >&2

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,pcie.link.gen.max,pcie.link.width.max \
    --format=csv,noheader
nvcc --version | tail -n 1

export VERA="$build/cli/vera"
status=0
python3 "$top/tests/gpu/check_gpu.py" || status=1
"$build/tests/gpu/bench_gpu" || status=1

# Programs that are not vera find the module by its name.
module=$build/cli/vera_cuda.so
VERA_CUDA_MODULE=$module "$build/tests/gpu/check_live" "$top/tests/fixtures" || status=1
VERA_CUDA_MODULE=$module "$build/tests/gpu/bench_live" 1 "${LAYERS:-4}" || status=1

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        python3 "$top/tests/gpu/check_gpu.py" sanitize "$tool" || status=1
        VERA_CUDA_MODULE=$module compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$build/tests/gpu/check_live" "$top/tests/fixtures" || status=1
    done
else
    echo "NOT RUN: compute-sanitizer is not installed, so memory accesses and races were not checked"
fi

[ "$status" = 0 ] || stop "something failed"
echo "all that was run passed"
