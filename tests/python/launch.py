"""Runs a test of the Python package: with a Python that has numpy, where there is one, and with the sanitizers' own
library before all others, where the library is built with them."""
import os
import subprocess
import sys


def has_numpy(python):
    return subprocess.run([python, "-c", "import numpy"], stderr=subprocess.DEVNULL, check=False).returncode == 0


def choose():
    """The system's own Python has the distribution's numpy; the one that meson found may be another."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and has_numpy(python):
            return python
    return sys.executable


def main():
    if os.environ["SANITIZE"] != "none":
        os.environ["LD_PRELOAD"] = subprocess.run(["cc", "-print-file-name=libasan.so"], check=True,
                                                  capture_output=True, text=True).stdout.strip()
        os.environ["ASAN_OPTIONS"] = "detect_leaks=0:allocator_may_return_null=1"
    python = choose()
    os.execv(python, [python, *sys.argv[1:]])


main()
