#!/bin/sh
# Builds vera and runs every test, from any directory. Installs what is missing (docs/install.sh).
# The last line is "N passed, N failed", counted by single test cases.
set -eu

usage() {
    cat <<'USAGE'
Usage: sh tests/run.sh [--sanitize | --threads] [--werror] [--clean] [TEST…]
       sh tests/run.sh --fuzz [SECONDS]

  --sanitize  build with the address and undefined-behaviour sanitizers
  --threads   build with the thread sanitizer; without TEST only what has threads is run
  --werror    a compiler warning is an error
  --clean     build from nothing
  --fuzz      run each fuzzer for a minute, or for SECONDS (tests/fuzz; installs clang)
  TEST        run these test programs only (names as "meson test --list" shows them)

Builds in build-tests/, with --sanitize in build-sanitize/, with --threads in build-threads/.
USAGE
}

top=$(cd "$(dirname "$0")/.." && pwd)
sanitize=none werror=false clean=false
while [ $# -gt 0 ]; do
    case $1 in
    --sanitize) sanitize=address,undefined ;;
    --threads) sanitize=thread ;;
    --werror) werror=true ;;
    --clean) clean=true ;;
    --fuzz) shift && exec sh "$top/tests/fuzz/run.sh" "$@" ;;
    -h | --help) usage && exit 0 ;;
    -*) usage >&2 && exit 2 ;;
    *) break ;;
    esac
    shift
done

if [ "$sanitize" = thread ] && [ $# = 0 ]; then
    set -- crew live_device live_threads registry registry_queue cli-swap
fi
sh "$top/docs/install.sh" build
if [ $# = 0 ]; then
    sh "$top/docs/install.sh" browser
    sh "$top/docs/install.sh" servers
    sh "$top/docs/install.sh" python
    sh "$top/docs/install.sh" pypi
fi

# The caller's git and vera settings must not reach the tests.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY VERA_REPO VERA_CPU VERA_CUDA_MODULE VERA_TOKEN VERA_RETRIES
export LC_ALL=C.UTF-8
build=$top/build-tests type=release slower=1 cuda=auto
# No sanitizer looks into what nvcc makes.
[ "$sanitize" = none ] || cuda=disabled
if [ "$sanitize" = thread ]; then
    build=$top/build-threads type=debugoptimized slower=10
    export TSAN_OPTIONS="halt_on_error=1"
elif [ "$sanitize" != none ]; then
    build=$top/build-sanitize type=debugoptimized slower=4
    export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1"
    export LSAN_OPTIONS="suppressions=$top/tests/lsan.supp:print_suppressions=0"
    export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
fi

# Run a step and say nothing unless it fails.
quietly() { # WHAT COMMAND…
    echo "$1"
    shift
    log=$build.log
    if "$@" >"$log" 2>&1 </dev/null; then
        grep -E 'warning:' "$log" || true
        rm -f "$log"
    else
        cat "$log"
        rm -f "$log"
        echo "0 passed, 1 failed"
        exit 1
    fi
}

if [ "$clean" = true ]; then
    rm -rf "$build"
fi
again=
if [ -f "$build/build.ninja" ]; then
    again=--reconfigure
fi
# shellcheck disable=SC2086  # $again is one word or none
quietly "Configuring ${build##*/}" meson setup $again "$build" "$top" -Dbuildtype=$type \
    -Dwerror=$werror -Dcuda=$cuda -Db_sanitize=$sanitize -Db_lundef=false
quietly "Building" ninja -C "$build"
if [ -e "$build/cli/vera_cuda.so" ]; then
    echo "  the CUDA module compiles here, with nvcc"
elif [ $cuda = auto ]; then
    echo "  no nvcc here: the CUDA module is compiled for the emulated device only"
fi

echo "Testing"
log=$build/meson-logs/testlog.json
rm -f "$log"
# count.py judges: meson's own exit status says no more than the log does.
meson test -C "$build" --no-rebuild --timeout-multiplier "$slower" "$@" </dev/null |
    sed -n 's/^ *[0-9]*\/[0-9]* /  /p' || true
python3 "$top/tests/count.py" "$log"
