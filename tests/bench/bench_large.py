"""Commit and export of an adapter of 33 MB, made of the MiniLM run by enlarge.py.

Whole processes are timed, start, syncs and the check of every frame included. The versions of one run are
committed one after the other: the first one is whole, the next ones are differences until the chain is long
enough. Megabytes are of the payload.
"""
import json
import os
import resource
import statistics
import subprocess

from common import FIXTURES, RUNS, VERA, remove, run, scratch
from enlarge import enlarge

STEPS = (180, 190, 200, 210, 220, 230)
GOAL = 100  # MB/s
ENV = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


def shown(store, key):
    out = subprocess.run([VERA, "-C", store, "show", "--json"], env=ENV, capture_output=True, check=True).stdout
    return json.loads(out)[key]


def series(where, adapters, times):
    """One run, committed and exported; appends the seconds of each."""
    store, out = where / "vera", where / "out"
    remove(store)
    run([[VERA, "init", store]], ENV)
    for adapter in adapters:
        seconds = run([[VERA, "-C", store, "commit", adapter, "-m", adapter.name]], ENV)
        depth = shown(store, "frame")["depth"]
        times.setdefault(f"commit, {'difference, depth ' + str(depth) if depth else 'whole'}", []).append(seconds)
        remove(out)
        seconds = run([[VERA, "-C", store, "export", "HEAD", out]], ENV)
        times.setdefault(f"export, depth {depth}", []).append(seconds)
        run([["diff", "-r", adapter, out]])


def main():
    where = scratch()
    try:
        adapters = [where / f"step-{step}" for step in STEPS]
        for adapter in adapters:
            enlarge(FIXTURES / "adapter/minilm" / adapter.name, adapter, 16, 17)
        times = {}
        for _ in range((RUNS + 2) // 3):
            series(where, adapters, times)
        megabytes = shown(where / "vera", "payload_bytes") / 1e6
        print(f"\npayload of {megabytes:.1f} MB\n  {'':34}{'median':>12}{'n':>5}{'MB/s':>9}")
        for name, seconds in sorted(times.items()):
            median = statistics.median(seconds)
            line = f"  {name:34}{median * 1e3:9.1f} ms{len(seconds):5}{megabytes / median:9.0f}"
            if name.startswith("commit"):
                line += f"  goal {GOAL}: {'reached' if megabytes / median >= GOAL else 'MISSED'}"
            print(line)
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        print(f"  no process took more than {most:.0f} MB of memory")
    finally:
        remove(where)


main()
