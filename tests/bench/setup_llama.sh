#!/bin/sh
# llama.cpp for tests/bench/check_exports.py, in an environment of its own, tests/bench/.llama: PyPI's
# llama-cpp-python built from its source distribution (9 minutes on two cores), and the gguf package.
# Does nothing where they are there.
set -eu
cd "$(dirname "$0")"

if .llama/bin/python -c 'import llama_cpp, gguf' 2>/dev/null; then
    exit 0
fi
command -v cmake >/dev/null && command -v c++ >/dev/null || {
    echo "setup: no C++ compiler or no CMake (apt-get install g++ cmake)" >&2
    exit 1
}
[ -x .llama/bin/pip ] || python3 -m venv .llama || {
    rm -rf .llama
    echo "setup: no virtual environment (apt-get install python3-venv)" >&2
    exit 1
}
echo "setup: building llama-cpp-python into tests/bench/.llama" >&2
.llama/bin/pip install --quiet --disable-pip-version-check --no-binary llama-cpp-python \
    llama-cpp-python==0.3.36 gguf==0.19.0 numpy >&2
