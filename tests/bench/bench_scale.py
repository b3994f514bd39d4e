"""Repositories of 10, 1,000 and 10,000 versions: is a command as fast in the largest as in the smallest?

The versions are those of a service with tenants. `main` is one long run, every tenant a branch that leaves it
at its tip (at 1,000 and at 10,000 there are 1,000 branches). Version s of a branch is the real checkpoint s of a
run of MiniLM adapters (minilm, minilm-tenant-0 and -1 take turns; a run that ends begins anew), with the values of
every tensor in another order: one that belongs to the branch and, on main, to the lap. So every payload is another
one that no packer finds in another, every value is a real one, and two versions in a row differ as two real
checkpoints do.

They are committed by `vera commit`, a process each, in memory where there is room (nothing waits for the disk
then), and the repository is copied to the disk that is measured. Every other number is that of whole processes on
that disk, start included, with a warm cache. Contestants take turns.
"""
import array
import functools
import json
import operator
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import FIXTURES, RUNS, VERA, measure, remove, run, scratch

sys.path.insert(0, str(FIXTURES.parent / "cli"))
from projections import projections, with_projections

SIZES = [int(size) for size in os.environ.get("BENCH_SCALE", "10 1000 10000").split()]
BRANCHES = 1000
RUN_NAMES = ["minilm", "minilm-tenant-0", "minilm-tenant-1"]
WRITERS = os.cpu_count()
PERSON = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
          for what, value in (("NAME", "Bench"), ("EMAIL", "bench@localhost"))}
ENV = {**os.environ, **PERSON, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
FRAMES_MAX = 33
DEPTH_AT = 6  # of a frame's header
MIB = 1 << 20

missed = []


def goal(text, reached):
    if not reached:
        missed.append(text)
    return f"goal {text}: {'reached' if reached else 'MISSED'}"


# Adapters


class Checkpoint:
    """A real one, taken apart."""

    def __init__(self, directory):
        self.directory = directory
        data = (directory / "adapter_model.safetensors").read_bytes()
        begin = 8 + struct.unpack("<Q", data[:8])[0]
        self.header, self.values = data[:begin], array.array("I", data[begin:])
        entries = json.loads(data[8:begin])
        self.spans = tuple((entry["data_offsets"][0] // 4, entry["data_offsets"][1] // 4)
                           for name, entry in entries.items() if name != "__metadata__")


@functools.lru_cache(maxsize=64)
def shuffled(spans, seed):
    """Takes values out of a payload, each tensor's in an order that belongs to the seed."""
    generator, order = random.Random(seed), []
    for begin, end in spans:
        places = list(range(begin, end))
        generator.shuffle(places)
        order += places
    return operator.itemgetter(*order)


CHECKPOINTS = {name: [Checkpoint(path) for path in sorted((FIXTURES / "adapter" / name).iterdir())]
               for name in RUN_NAMES}


def version(branch, step):
    """What version `step` of branch number `branch` (0: main) is: its checkpoint, and the seed of its order."""
    checkpoints = CHECKPOINTS[RUN_NAMES[branch % len(RUN_NAMES)]]
    laps, at = divmod(step, len(checkpoints))
    return checkpoints[at], branch + laps * BRANCHES


def write_adapter(directory, branch, step):
    checkpoint, seed = version(branch, step)
    directory.mkdir(exist_ok=True)
    for path in checkpoint.directory.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, directory / path.name)
    values = array.array("I", shuffled(checkpoint.spans, seed)(checkpoint.values))
    (directory / "adapter_model.safetensors").write_bytes(checkpoint.header + values.tobytes())


def branch_name(number):
    return "main" if number == 0 else f"tenant/{number:03}"


# Repositories


def memory_or_disk(bytes_needed):
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK | os.X_OK):
        space = os.statvfs(memory)
        if space.f_bavail * space.f_frsize >= bytes_needed:
            return memory
    return None


class Repository:
    """`versions` versions: main's, then as many on each tenant's branch."""

    def __init__(self, where, versions):
        self.versions, self.top = versions, where / f"{versions}"
        tenants = min(versions, BRANCHES) - 1 if versions >= BRANCHES else 0
        each = max(1, versions // BRANCHES - 1) if tenants else 0
        self.lengths = [versions - tenants * each] + [each] * tenants  # versions of each branch's own
        self.name = f"{versions:,} versions"

    def vera(self, *args):
        return [VERA, "-C", self.top, *args]

    def answer(self, *args):
        return json.loads(subprocess.run([*self.vera(*args), "--json"], env=ENV, check=True, capture_output=True,
                                         text=True).stdout)

    def commit_next(self, branch, folder):
        """The next version of a branch: seconds of the commit alone."""
        step = self.lengths[branch]
        write_adapter(folder, branch, step)
        seconds = run([self.vera("commit", folder, "--branch", branch_name(branch), "-m", f"step {step}",
                                 "--metric", f"loss={1 / (branch + step + 1):.4f}")], ENV)
        self.lengths[branch] += 1
        return seconds

    def grow(self, branches, folder, lengths):
        for branch in branches:
            while self.lengths[branch] < lengths[branch]:
                self.commit_next(branch, folder)

    def make(self):
        """Commit all of it, main first, then the tenants by several writers at once."""
        final, lengths = self.top, self.lengths
        self.lengths = [0] * len(lengths)
        memory = memory_or_disk(self.versions * 300_000 + 256 * MIB)
        self.top = Path(tempfile.mkdtemp(dir=memory)) if memory else final
        folder = Path(tempfile.mkdtemp(dir=memory))
        begin = time.perf_counter()
        try:
            run([self.vera("init")] if memory else [[VERA, "init", final]], ENV)
            self.grow([0], folder / "0", lengths)
            writers = [threading.Thread(target=self.grow, args=(range(1 + i, len(lengths), WRITERS),
                                                                folder / str(i), lengths)) for i in range(WRITERS)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            seconds = time.perf_counter() - begin
            if memory:
                shutil.copytree(self.top, final)
                remove(self.top)
        finally:
            self.top = final
            remove(folder)
        if self.lengths != lengths:
            sys.exit(f"{self.name}: a commit failed")
        print(f"\n{self.name} on {len(lengths):,} branches, by {min(WRITERS, len(lengths))} writers: {seconds:.0f} s, "
              f"{self.versions / seconds:.0f} a second{', in memory' if memory else ''}", flush=True)

    def sync(self):
        subprocess.run(["sync", "-f", self.top], check=True)

    def copies(self, count):
        """As it is now, so many times."""
        made = []
        for _ in range(count):
            copy = Repository(Path(tempfile.mkdtemp(dir=self.top.parent)), self.versions)
            shutil.copytree(self.top, copy.top)
            made.append(copy)
        self.sync()
        return made


# Times


def rows(title, times, limit_ms=None, most=None):
    """Medians, and the ratio to the first one. Goals hold for the last one."""
    print(f"\n{title}\n  {'':34}{'median':>12}{'min':>12}{'n':>5}{'ratio':>9}")
    first = statistics.median(next(iter(times.values())))
    for i, (name, seconds) in enumerate(times.items()):
        median = statistics.median(seconds)
        line = f"  {name:34}{1e3 * median:9.1f} ms{1e3 * min(seconds):9.1f} ms{len(seconds):5}{median / first:8.2f}x"
        if i == len(times) - 1 and limit_ms:
            line += "  " + goal(f"{title}: under {limit_ms} ms", 1e3 * median < limit_ms)
        if i == len(times) - 1 and most and i:
            line += "  " + goal(f"{title}: at most {most}x", median / first <= most)
        print(line, flush=True)


def commit_contestant(repository, folder):
    """Each run commits to another branch; where there is main alone, to a copy, so that their number stays."""
    if len(repository.lengths) == 1:
        waiting = repository.copies(RUNS + 1)
        return lambda: waiting.pop().commit_next(0, folder)
    turns = [0]

    def commit():
        turns[0] += len(repository.lengths) // (RUNS + 2)
        return repository.commit_next(turns[0], folder)
    return commit


def measure_commit(repositories, where, state):
    times = measure({r.name: commit_contestant(r, where / "adapter") for r in repositories})
    rows(f"vera commit, {state}", times, most=1.2)


SNAPSHOT = "sha256:..."  # of each repository's oldest version
READERS = [
    ["log", "-n", "20"],
    ["log", "--all", "--oneline", "-n", "20"],
    ["show"],
    ["show", SNAPSHOT],
    ["branch"],
    ["branch", "--json"],
    ["query", "rank<=256 and metric.loss<0.5", "-n", "20"],
    ["query", "--sort", "metric.loss", "-n", "20"],
]


def measure_readers(repositories, state):
    oldest = {r: r.answer("show", f"main~{r.lengths[0] - 1}")["snapshot"] for r in repositories}
    for args in READERS:
        commands = {r: r.vera(*(oldest[r] if word == SNAPSHOT else word for word in args)) for r in repositories}
        times = measure({r.name: lambda command=commands[r]: run([command], ENV) for r in repositories})
        rows(f"vera {' '.join(args)}, {state}", times, limit_ms=50)


# What holds for every version


def frame_depths(repository):
    """The depth of each version's frame, by git alone."""
    git = ["git", f"--git-dir={repository.top}/.vera"]
    commits = subprocess.run([*git, "rev-list", "--all"], check=True, capture_output=True, text=True).stdout.split()
    asked = "".join(f"{commit}:vectors/frame\n" for commit in commits).encode()
    with tempfile.TemporaryFile() as file:
        file.write(asked)
        file.seek(0)
        with subprocess.Popen([*git, "cat-file", "--batch"], stdin=file, stdout=subprocess.PIPE) as git:
            depths = []
            for _ in commits:
                size = int(git.stdout.readline().split()[2])
                depths.append(git.stdout.read(size + 1)[DEPTH_AT])
    return depths


def check_export(top, revision, branch, step, folder):
    """Is what comes back, byte for byte, what was committed?"""
    remove(folder)
    folder.mkdir()
    write_adapter(folder / "committed", branch, step)
    run([[VERA, "-C", top, "export", revision, folder / "exported"]], ENV)
    return subprocess.run(["diff", "-r", folder / "committed", folder / "exported"]).returncode == 0


def some(lengths, count):
    """Branches, spread over all of them, main among them."""
    return sorted({i * len(lengths) // count for i in range(count)})


def check_restore(repository, where):
    depths = frame_depths(repository)
    print(f"  {'frames decoded at most':34}{max(depths) + 1:12}   {goal(f'{FRAMES_MAX} frames', max(depths) < FRAMES_MAX)}")
    print(f"  {'frames decoded, mean':34}{statistics.mean(depths) + 1:12.1f}")
    lengths = repository.lengths
    asked = [(branch, back) for branch in some(lengths, 10) for back in {0, lengths[branch] // 2, lengths[branch] - 1}]
    whole = all(check_export(repository.top, f"{branch_name(branch)}~{back}", branch, lengths[branch] - 1 - back,
                             where / "check") for branch, back in asked)
    print(f"  {'versions exported and compared':34}{len(asked):12}   {goal('byte for byte', whole)}", flush=True)


def check_clones(repository, where):
    chosen, whole = some(repository.lengths, 10), True
    for branch in chosen:
        clone = where / "clone"
        remove(clone)
        run([["git", "clone", "--quiet", "--bare", "--depth", "1", "--branch", branch_name(branch),
              f"file://{repository.top}/.vera", clone / ".vera"]], ENV)
        whole &= check_export(clone, "HEAD", branch, repository.lengths[branch] - 1, where / "check")
        remove(clone)
    print(f"  {'depth-1 clones that restore':34}{len(chosen):12}   {goal('every tip', whole)}", flush=True)


def check_git(repository):
    begin = time.perf_counter()
    fsck = subprocess.run(["git", f"--git-dir={repository.top}/.vera", "fsck", "--strict"], capture_output=True)
    seconds = time.perf_counter() - begin
    print(f"  {'git fsck --strict':34}{seconds:10.1f} s   {goal('git fsck --strict passes', fsck.returncode == 0)}",
          flush=True)


def files_sizes(top):
    """Of all files below, their sizes and what is allocated for them."""
    stats = [os.lstat(os.path.join(folder, name)) for folder, _, names in os.walk(top) for name in names]
    return sum(s.st_size for s in stats), sum(512 * s.st_blocks for s in stats)


def check_sizes(repository, goals):
    stored, allocated = files_sizes(repository.top / ".vera")
    raw = repository.answer("stats")["raw_bytes"]
    versions = sum(repository.lengths)
    print(f"  {'bytes per version':34}{stored / versions:12,.0f}   of {raw / versions:,.0f} as directories")
    line = f"  {'allocated, by size of the files':34}{allocated / stored:11.2f}x"
    if goals:
        line += "   " + goal("allocated at most 1.3x", allocated <= 1.3 * stored)
    print(line, flush=True)


def gc(repository):
    seconds = run([repository.vera("gc")], ENV)
    print(f"\n{repository.name}, after vera gc ({seconds:.1f} s)", flush=True)


def measure_scale(where):
    repositories = [Repository(where, size) for size in SIZES]
    for repository in repositories:
        repository.make()
        check_sizes(repository, False)
        repository.sync()
    measure_commit(repositories, where, "as it grew")
    measure_readers(repositories, "as it grew")
    for repository in repositories:
        gc(repository)
        check_sizes(repository, repository.versions >= BRANCHES)
        check_git(repository)
        check_restore(repository, where)
        check_clones(repository, where)
        repository.sync()
    measure_commit(repositories, where, "after gc")
    measure_readers(repositories, "after gc")


# Sizes


def measure_run(where):
    """One run, saved PEFT's default way: with A and B in every checkpoint."""
    basis = json.loads((FIXTURES / "expected/expected.json").read_text())["minilm_basis"]
    (rank, features_in), (features_out, _) = basis["A"]["shape"], basis["B"]["shape"]
    a, b = projections(0, rank, features_in, features_out)
    top, raw = where / "run", 0
    run([[VERA, "init", top]], ENV)
    for step in sorted((FIXTURES / "adapter/minilm").iterdir()):
        adapter = where / "checkpoint"
        with_projections(adapter, step, basis, a, b)
        raw += files_sizes(adapter)[0]
        run([[VERA, "-C", top, "commit", adapter, "-m", step.name]], ENV)
        remove(adapter)
    run([[VERA, "-C", top, "gc"]], ENV)
    stored, allocated = files_sizes(top / ".vera")
    print(f"\n33 checkpoints of minilm, saved with A and B: {raw:,} bytes; all files of .vera after gc: {stored:,}, "
          f"1/{raw / stored:.1f} ({allocated:,} allocated)\n  {goal('at most 1/36', 36 * stored <= raw)}", flush=True)


def main():
    where = scratch()
    try:
        measure_run(where)
        measure_scale(where)
    finally:
        remove(where)
    for text in missed:
        print(f"MISSED: {text}", file=sys.stderr)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
