"""One new version of the MiniLM adapter comes from another machine: `vera pull` from git-daemon, rsync of the PEFT
directory from rsync's own daemon, and git-lfs.

The servers are on the loopback, behind a proxy that counts the bytes of both directions. git-lfs has no server of its
own: it fetches from a path, and what it brought is the growth of its folder. Each round brings the next checkpoint of
the run, ten steps on; rsync looks for what changed inside the files (--no-whole-file), as it does between machines.
Times are those of whole processes, transfer and syncs included.
"""
import os
import shutil
import statistics
import subprocess
import sys

from common import FIXTURES, HERE, RUNS, VERA, remove, report, run, scratch

sys.path.insert(0, str(HERE.parent / "cli"))
from proxy import ADDRESS, Proxy
from servers import GitDaemon, Server

RUN = FIXTURES / "adapter/minilm"
PERSON = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
          for what, value in (("NAME", "Bench"), ("EMAIL", "bench@localhost"))}
ENV = {**os.environ, **PERSON, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


class Rsync(Server):
    """One module, to be read."""

    def command(self):
        with open(self.path("rsyncd.conf"), "w", encoding="utf-8") as out:
            out.write(f"use chroot = no\naddress = {ADDRESS}\nport = {self.port}\n[adapter]\npath = {self.root}\n")
        return [shutil.which("rsync"), "--daemon", "--no-detach", "--config", self.path("rsyncd.conf")]


def folder_bytes(top):
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(top) for name in names)


class Vera:
    def __init__(self, where):
        where.mkdir()
        self.server = GitDaemon(str(where / "daemon"), str(where))
        self.proxy = Proxy(self.server.port)
        self.ours, self.theirs, self.adapter = where / "ours", where / "theirs.git", where / "adapter"
        run([["git", "init", "-q", "--bare", "-b", "main", self.theirs], [VERA, "init", where / "trainer"],
             [VERA, "init", self.ours], [VERA, "-C", self.ours, "remote", "add", "origin",
                                         f"git://{ADDRESS}:{self.proxy.port}/theirs.git"]], ENV)
        self.trainer = where / "trainer"

    def put(self, step):
        run([[VERA, "-C", self.trainer, "commit", step, "-m", step.name],
             [VERA, "-C", self.trainer, "push", self.theirs, "main"]], ENV)

    def get(self):
        return run([[VERA, "-C", self.ours, "pull", "origin", "main"]], ENV)

    def count(self):
        return self.proxy.up + self.proxy.down

    def close(self):
        self.proxy.close()
        self.server.close()


class RsyncOfFolder:
    def __init__(self, where):
        where.mkdir()
        self.theirs, self.ours = where / "theirs", where / "ours"
        self.theirs.mkdir()
        self.server = Rsync(str(where / "daemon"), str(self.theirs))
        self.proxy = Proxy(self.server.port)

    def put(self, step):
        for file in step.iterdir():
            shutil.copyfile(file, self.theirs / file.name)

    def get(self):
        return run([["rsync", "-rc", "--no-whole-file", "--fsync", f"rsync://{ADDRESS}:{self.proxy.port}/adapter/",
                     f"{self.ours}/"]], ENV)

    count, close = Vera.count, Vera.close


class Lfs:
    def __init__(self, where):
        where.mkdir()
        self.trainer, self.ours, theirs = where / "trainer", where / "ours", where / "theirs.git"
        run([["git", "init", "-q", "--bare", "-b", "main", theirs], ["git", "init", "-q", "-b", "main", self.trainer],
             ["git", "-C", self.trainer, "remote", "add", "origin", f"file://{theirs}"],
             ["git", "-C", self.trainer, "lfs", "install", "--local"],
             ["git", "-C", self.trainer, "lfs", "track", "*.safetensors"]], ENV)
        self.theirs = theirs

    def put(self, step):
        for file in step.iterdir():
            shutil.copyfile(file, self.trainer / file.name)
        run([["git", "-C", self.trainer, "add", "-A"], ["git", "-C", self.trainer, "commit", "-q", "-m", step.name],
             ["git", "-C", self.trainer, "push", "-q", "origin", "main"]], ENV)
        if not self.ours.exists():
            run([["git", "init", "-q", "-b", "main", self.ours], ["git", "-C", self.ours, "lfs", "install", "--local"],
                 ["git", "-C", self.ours, "remote", "add", "origin", f"file://{self.theirs}"]], ENV)

    def get(self):
        return run([["git", "-C", self.ours, "-c", "core.fsync=all", "pull", "-q", "origin", "main"]], ENV)

    def count(self):
        return folder_bytes(self.ours / ".git") if self.ours.exists() else 0

    def close(self):
        pass


def main():
    where = scratch()
    kinds = {"vera pull": Vera}
    if shutil.which("rsync"):
        kinds["rsync of the directory"] = RsyncOfFolder
    if subprocess.run(["git", "lfs", "version"], capture_output=True, check=False).returncode == 0:
        kinds["git pull with git-lfs"] = Lfs
    contestants = {name: kind(where / str(number)) for number, (name, kind) in enumerate(kinds.items())}
    times, sizes = {name: [] for name in kinds}, {name: [] for name in kinds}
    try:
        for number, step in enumerate(sorted(RUN.iterdir())[:RUNS + 3]):
            for name, contestant in contestants.items():
                contestant.put(step)
                before = contestant.count()
                seconds = contestant.get()
                if number > 2:  # the first brings everything; a difference of two begins with the third
                    times[name].append(seconds)
                    sizes[name].append(contestant.count() - before)
    finally:
        for contestant in contestants.values():
            contestant.close()
        remove(where)
    report("pull of one new version", times, "ms", 1e3, {})
    raw = folder_bytes(RUN / "step-320")
    for name, size in sizes.items():
        print(f"  {name:34}{statistics.median(size):9,.0f} bytes, 1/{raw / statistics.median(size):.1f} of the directory's {raw:,}")


if __name__ == "__main__":
    main()
