#!/bin/sh
# Runs each fuzzer for a while (60 seconds, or as many as are given), from seeds made of the fixtures
# and what earlier runs found (build-fuzz/found). Called by "sh tests/run.sh --fuzz [SECONDS]".
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${1:-60}
build=$top/build-fuzz
sh "$top/docs/install.sh" build
sh "$top/docs/install.sh" fuzz

# Run a step and say nothing unless it fails.
quietly() { # WHAT COMMAND…
    echo "$1"
    shift
    if ! "$@" >"$build.log" 2>&1 </dev/null; then
        cat "$build.log"
        echo "0 passed, 1 failed"
        exit 1
    fi
    rm -f "$build.log"
}

if [ ! -f "$build/build.ninja" ]; then
    quietly "Configuring build-fuzz" env CC=clang meson setup "$build" "$top" \
        -Dbuildtype=debugoptimized -Db_lundef=false -Dfuzz=true -Db_sanitize=address,undefined \
        -Dc_args=-fsanitize=fuzzer-no-link
fi
quietly "Building" ninja -C "$build" cli/vera tests/fuzz/fuzz_bundle tests/fuzz/fuzz_control tests/fuzz/fuzz_frame \
    tests/fuzz/fuzz_json tests/fuzz/fuzz_manifest tests/fuzz/fuzz_safetensors
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1"
quietly "Making seeds" python3 "$top/tests/fuzz/corpus.py" "$build/cli/vera" \
    "$top/tests/fixtures" "$build/seeds"

export ASAN_OPTIONS="detect_leaks=1:allocator_may_return_null=1"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
passed=0 failed=0
for noun in bundle control frame json manifest safetensors; do
    mkdir -p "$build/found/$noun"
    log=$build/fuzz-$noun.log
    if "$build/tests/fuzz/fuzz_$noun" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -max_len=65536 -artifact_prefix="$build/$noun-" "$build/found/$noun" \
        "$build/seeds/$noun" >"$log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        echo "  $noun  OK  $(grep -E '^Done|stat::number' "$log" | tail -n 1)"
    else
        failed=$((failed + 1))
        echo "  $noun  FAIL"
        tail -n 40 "$log"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
