"""What the benchmarks share: how contestants are timed, how results are printed, what machine it is.

Run as a program it prints the machine, and what its disk and memory can do.
"""
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
DATA = HERE / ".data"
BUILD = Path(os.environ.get("BENCH_BUILD", HERE.parent.parent / "build-bench"))
RUNS = int(os.environ.get("BENCH_RUNS", 11))
VERA = BUILD / "cli" / "vera"
MINILM = DATA / "minilm"


def measure(contestants, runs=RUNS):
    """Seconds of each contestant, {name: [seconds]}: a function that does the work and returns them.

    They take turns, in the other order every time, so that what else the machine does meets all of them.
    The first round warms up and does not count.
    """
    times = {name: [] for name in contestants}
    for i in range(runs + 1):
        order = list(contestants) if i % 2 else list(reversed(contestants))
        for name in order:
            seconds = contestants[name]()
            if i > 0:
                times[name].append(seconds)
    return times


def report(title, times, unit, per_second, goals):
    """A table of medians. `goals`: {name: at least so many times the first contestant's median}."""
    print(f"\n{title}\n  {'':34}{'median':>12}{'min':>12}{'n':>5}{'ratio':>9}")
    first = None
    for name, seconds in times.items():
        median = statistics.median(seconds)
        first = first or median
        line = f"  {name:34}{median * per_second:9.3f} {unit}{min(seconds) * per_second:9.3f} {unit}"
        line += f"{len(seconds):5}{median / first:8.2f}x"
        if name in goals:
            line += f"  goal {goals[name]}x: {'reached' if median / first >= goals[name] else 'MISSED'}"
        print(line, flush=True)


def timed(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def run(commands, env=None):
    """Run commands one after the other, seconds for all of them; their output is shown if one fails."""
    env = env or os.environ
    with tempfile.TemporaryFile() as out:
        redirect = [(os.POSIX_SPAWN_DUP2, out.fileno(), fd) for fd in (1, 2)]
        begin = time.perf_counter()
        for command in commands:
            child = os.posix_spawnp(command[0], [str(word) for word in command], env, file_actions=redirect)
            if os.waitpid(child, 0)[1] != 0:
                out.seek(0)
                sys.exit(f"{' '.join(map(str, command))}: failed\n{out.read().decode(errors='replace')}")
        return time.perf_counter() - begin


class Machine:
    """The program bench_machine, which measures inside its own process."""

    def __init__(self):
        self.process = subprocess.Popen([BUILD / "tests/bench/bench_machine"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def seconds(self, request):
        return float(self.ask(request)[0])


def scratch():
    """A new directory in .data, or in BENCH_SCRATCH, on the disk that is measured."""
    where = Path(os.environ.get("BENCH_SCRATCH", DATA))
    where.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(dir=where))


def remove(path):
    shutil.rmtree(path, ignore_errors=True)


def sync_seconds(path, data):
    """Write a new file and sync it: seconds of the sync alone."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(fd, data)
    try:
        return timed(lambda: os.fsync(fd))
    finally:
        os.close(fd)


def first_line(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "none"


def versions():
    """Of what vera links to."""
    for package in ("libgit2", "libzstd", "libcrypto", "sqlite3"):
        yield f"{package} {first_line('pkg-config', '--modversion', package)}"


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    machine, where = Machine(), scratch()
    try:
        sync = statistics.median(sync_seconds(where / str(i), b"x" * 4096) for i in range(101))
    finally:
        remove(where)
    memory = statistics.median(machine.seconds("store") for _ in range(11))
    copy = statistics.median(machine.seconds("copy") for _ in range(11))
    size = 2 * 4 * 1024 * 8192
    disk = first_line("findmnt", "--noheadings", "--output", "FSTYPE,SOURCE", "--target", str(HERE))
    print(f"processor   {processor()}, {os.cpu_count()} cores, vector code {machine.ask('level')[0]}")
    print(f"load        {os.getloadavg()[0]:.1f} processes in the last minute")
    print(f"memory      {size / memory / 1e9:.1f} GB/s written by one core, {size / copy / 1e9:.1f} GB/s read and written")
    print(f"disk        {disk}, fsync of a new 4 KiB file {sync * 1e3:.3f} ms")
    print(f"system      {platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}")
    print(f"compiler    {first_line('cc', '--version')}")
    print(f"libraries   {', '.join(versions())}")
    print(f"beside      {first_line('git', '--version')}, git-lfs: {first_line('git', 'lfs', 'version')}")


if __name__ == "__main__":
    main()
