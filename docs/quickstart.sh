#!/bin/sh
# vera's main job on real adapters, from nothing: installs what is missing (docs/install.sh), builds
# in build/, then versions, compares, applies and verifies in a scratch folder that is removed at the
# end. Each command is shown as it runs.
#
#   sh docs/quickstart.sh          all of it
#   sh docs/quickstart.sh --keep   keep the scratch folder, and say where it is
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
keep=false
case ${1-} in
'') ;;
--keep) keep=true ;;
*) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac

sh "$top/docs/install.sh" build

# Run a step of the build and say nothing unless it fails.
quietly() { # WHAT COMMAND…
    echo "$1"
    shift
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" && rm -f "$log"
        echo "quickstart: the build failed, see above" >&2
        exit 1
    fi
    rm -f "$log"
}
if [ ! -f "$top/build/build.ninja" ]; then
    quietly "Configuring build/" meson setup "$top/build" "$top"
fi
quietly "Building build/cli/vera" ninja -C "$top/build" cli/vera

scratch=$(mktemp -d)
leave() {
    if [ "$keep" = true ]; then
        echo "Kept: $scratch"
    else
        rm -rf "$scratch"
    fi
}
trap leave EXIT
trap 'exit 130' INT TERM
cd "$scratch"
unset VERA_REPO
PATH=$top/build/cli:$PATH
cp -r "$top/tests/fixtures/adapter/llama" runs
cp -r "$top/tests/fixtures/adapter/llama-perl" runs-perl
cp -r "$top/tests/fixtures/base/llama" base

say() { printf '\n# %s\n' "$*"; }
run() {
    printf '$ %s\n' "$*"
    "$@"
}

say "A repository, and a training run: 13 checkpoints that PEFT saved"
run vera init
run vera commit runs/step-000 --base base -m "step 0"
for step in 010 020 030 040 050 060 070 080 090 100 110 120; do
    run vera commit "runs/step-$step" --base base -m "step ${step#0}" --no-progress
done
run vera log -n 3
run vera show

say "Another task, branched off at step 60"
run vera switch -c perl main~6
for step in 010 020 030 040; do
    run vera commit "runs-perl/step-$step" --base base -m "perl, step ${step#0}"
done
run vera log --oneline --graph --all -n 10
run vera branch

say "What comes back is what went in, byte for byte"
run vera export main restored
run diff -r runs/step-120 restored && echo "no difference"

say "On its model: merged weights, the same bits on every machine"
run vera apply main --base base --out merged
run vera verify merged --rev main --base base
run ls merged

say "Everything is read and hashed; git reads it too"
run vera fsck
run git --git-dir=.vera fsck --strict
run vera stats
