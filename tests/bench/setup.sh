#!/bin/sh
# The Python environment of the benchmarks, tests/bench/.venv: made where it is missing.
#
#   sh tests/bench/setup.sh         the environment alone
#   sh tests/bench/setup.sh torch   with torch, PEFT and Transformers, of the versions that made the fixtures
set -eu
cd "$(dirname "$0")"

if [ ! -x .venv/bin/pip ]; then
    rm -rf .venv
    python3 -m venv .venv || {
        rm -rf .venv
        echo "setup: no virtual environment (apt-get install python3-venv)" >&2
        exit 1
    }
fi
if [ "${1:-}" = torch ] && ! .venv/bin/python -c 'import torch, peft, transformers' 2>/dev/null; then
    echo "setup: installing torch, PEFT and Transformers into tests/bench/.venv (6 GB)" >&2
    .venv/bin/pip install --quiet --disable-pip-version-check \
        torch==2.15.0 peft==0.21.2 transformers==5.23.0 safetensors numpy >&2
fi
