#!/bin/sh
# Measures vera beside what people use today, on this machine, in one run. Not one of the tests.
set -eu

usage() {
    cat <<'USAGE'
Usage: sh tests/bench/run.sh [--quick] [basis] [frames] [commit] [kernel] [apply] [model] [swap] [batch] [algebra]
                              [diff] [pull] [scale] [check] [llama] [engines]

  --quick   3 runs of each instead of 11: to see that it works, not to quote

  basis     the random matrices against torch's uniform_
  frames    what a checkpoint costs in bits a value, beside XOR and zstd; encoding and decoding
  commit    commit and export against git, and against git-lfs
  large     commit and export of a payload of 33 MB
  kernel    the exact kernel beside the most multiply-adds that a core can do
  apply     vera apply against PEFT: load, merge_and_unload, save
  model     vera apply onto a base of Llama-3-8B's shape (16 GB, made here and deleted) against cp and PEFT
            (BENCH_LAYERS="8" for less, BENCH_SCRATCH=DIR for another file system)
  swap      swaps of MiniLM's adapter in a running model, beside the kernel alone; memory over 10,000 of them
  batch     batches whose rows use different adapters, beside PEFT, and from a registry of 20,000
  algebra   norms, spectra and merges of adapters of MiniLM's and of Llama-3-8B's size
  diff      vera diff and show --spectrum of the same sizes: whole processes, their memory
  pull      one new version from another machine, beside rsync and git-lfs: bytes and time
  scale     repositories of up to 10,000 versions on 1,000 branches: times, sizes, and what holds for every
            version (BENCH_SCALE="10 1000" for other sizes)
  check     no benchmark: is what vera apply makes of a real model what PEFT and Transformers expect, and does a LoRA
            that it exports compute in PEFT what the VeRA adapter does? Does the Python package agree with torch and
            PEFT: swaps (and for contrast the drift of PEFT's merge and unmerge), loading, mixed batches; on a GPU, too,
            where torch finds one?
  llama     no benchmark: does llama.cpp, built from its source (9 minutes), compute it with a GGUF that it exports?
  engines   no benchmark: do the servers of vLLM and SGLang (7 GB, on the processor) and of llama.cpp (10 minutes) load
            what it exports and publishes, and give PEFT's probabilities?

All but model, scale, check, llama and engines where none is named. torch, PEFT and Transformers (6 GB) go into
tests/bench/.venv, the base model and the scratch files into tests/bench/.data; what cannot be had is said, and the rest
runs.
USAGE
}

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
runs=11
while [ $# -gt 0 ]; do
    case $1 in
    --quick) runs=3 ;;
    -h | --help) usage && exit 0 ;;
    basis | frames | commit | large | kernel | apply | model | swap | batch | algebra | diff | pull | scale | check | llama | \
        engines)
        benches="${benches:-} $1"
        ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
benches=${benches:-basis frames commit large kernel apply swap batch algebra diff pull}

wanted() {
    case " $benches " in *" $1 "*) true ;; *) false ;; esac
}

note() {
    echo "bench: $*" >&2
}

sh "$top/docs/install.sh" build
build=$top/build-bench
[ -f "$build/build.ninja" ] || meson setup "$build" "$top" >&2
ninja -C "$build" cli/vera tests/bench/bench_machine tests/bench/bench_frames \
    tests/bench/bench_algebra tests/bench/bench_kernel tests/bench/bench_swap \
    tests/bench/bench_batch apply/libvera_apply.so.1.0.0 >&2
# Where the build has it, for the Python package on a GPU.
if wanted check && ninja -C "$build" -t targets all | grep -q '^cli/vera_cuda\.so:'; then
    ninja -C "$build" cli/vera_cuda.so >&2
fi

# The caller's settings must not reach what is measured.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY VERA_REPO VERA_CPU VERA_TOKEN VERA_RETRIES
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE VERA_CUDA_MODULE VERA_EMULATED
export LC_ALL=C.UTF-8 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1

if wanted basis || wanted apply || wanted batch || wanted model || wanted check || wanted llama || wanted engines; then
    sh "$here/setup.sh" torch || note "torch and PEFT cannot be had here: measuring without them"
fi
if wanted llama; then
    sh "$here/setup_llama.sh"
fi
if wanted engines; then
    for engine in vllm sglang llama-server; do
        sh "$here/setup_engines.sh" "$engine" || note "$engine cannot be had here"
    done
fi
if wanted apply || wanted check || wanted llama; then
    sh "$here/fetch_minilm.sh" || note "the MiniLM model cannot be had here: no apply, no check"
fi
if wanted commit && ! git lfs version >/dev/null 2>&1; then
    note "git-lfs is not installed (apt-get install git-lfs): measuring without it"
fi

python=python3
[ ! -x "$here/.venv/bin/python" ] || python=$here/.venv/bin/python
export BENCH_BUILD="$build" BENCH_RUNS="$runs"
case $benches in
" check" | " llama" | " engines" | " check llama" | " check llama engines") ;;
*) "$python" "$here/common.py" ;;
esac
for bench in $benches; do
    case $bench in
    swap) "$build/tests/bench/bench_swap" "$top/tests/fixtures" "$runs" $([ "$runs" = 3 ] && echo 300 || echo 10000) ;;
    batch)
        "$build/tests/bench/bench_batch" "$top/tests/fixtures" \
            "$([ "$runs" = 3 ] && echo 2000 || echo 20000)" "$([ "$runs" = 3 ] && echo 21 || echo 201)"
        "$python" -W ignore "$here/bench_batch.py"
        ;;
    algebra | kernel) "$build/tests/bench/bench_$bench" ;;
    check)
        "$python" "$here/check_minilm.py"
        "$python" "$here/check_exports.py" peft
        "$python" "$here/check_python.py"
        ;;
    llama) "$python" "$here/check_exports.py" llama ;;
    engines) "$python" "$here/check_engines.py" ;;
    *) "$python" "$here/bench_$bench.py" ;;
    esac
done
