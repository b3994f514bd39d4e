"""Commit and export of the MiniLM adapter: vera against git, and against git-lfs.

Every run has a repository of its own, made before the clock starts; whole processes are timed, start
included. All sync what they commit: git with core.fsync=all, vera always. vera also syncs what it exports;
git does not sync the files of a checkout, so that row has a second form, in which they are synced.
"""
import os
import shutil
import subprocess

from common import FIXTURES, VERA, measure, remove, report, run, scratch

PREVIOUS, ADAPTER = (FIXTURES / "adapter/minilm" / step for step in ("step-310", "step-320"))
GIT = ["git", "-c", "core.fsync=all"]
PERSON = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
          for what, value in (("NAME", "Bench"), ("EMAIL", "bench@localhost"))}
ENV = {**os.environ, **PERSON, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


class Git:
    """A work tree with the adapter in `adapter/`."""

    def __init__(self, where):
        self.top = where / "git"
        self.command = GIT + ["-C", self.top]

    def make(self):
        remove(self.top)
        run([["git", "init", "--quiet", self.top]], ENV)

    def put(self, adapter):
        shutil.copytree(adapter, self.top / "adapter", copy_function=shutil.copyfile, dirs_exist_ok=True)

    def commit(self):
        return run([self.command + ["add", "adapter"], self.command + ["commit", "--quiet", "-m", "step"]], ENV)

    def export(self, *then):
        remove(self.top / "adapter")
        return run([self.command + ["checkout", "--quiet", "HEAD", "--", "adapter"], *then], ENV)

    def export_synced(self):
        return self.export(["sync", *(self.top / "adapter" / file.name for file in ADAPTER.iterdir()),
                            self.top / "adapter", self.top])


class Lfs(Git):
    def __init__(self, where):
        self.top = where / "lfs"
        self.command = GIT + ["-C", self.top]

    def make(self):
        super().make()
        run([self.command + ["lfs", "install", "--local"], self.command + ["lfs", "track", "*.safetensors"],
             self.command + ["add", ".gitattributes"], self.command + ["commit", "--quiet", "-m", "track"]], ENV)


class Vera:
    def __init__(self, where):
        self.top, self.source, self.out = where / "vera", None, where / "exported"

    def make(self):
        remove(self.top)
        run([[VERA, "init", self.top]], ENV)

    def put(self, adapter):
        self.source = adapter

    def commit(self):
        return run([[VERA, "-C", self.top, "commit", self.source, "-m", "step"]], ENV)

    def export(self):
        remove(self.out)
        return run([[VERA, "-C", self.top, "export", "HEAD", self.out]], ENV)


def first(store):
    store.make()
    store.put(ADAPTER)
    return store.commit()


def following(store):
    store.make()
    store.put(PREVIOUS)
    store.commit()
    store.put(ADAPTER)
    return store.commit()


def compare(title, stores, work):
    times = measure({name: lambda store=store: work(store) for name, store in stores.items()})
    report(title, times, "ms", 1e3, {name: 2 for name in list(stores)[1:]})


def check_export(vera):
    subprocess.run(["diff", "-r", ADAPTER, vera.out], check=True)


def main():
    where = scratch()
    try:
        stores = {"vera": Vera(where), "git": Git(where)}
        if subprocess.run(["git", "lfs", "version"], capture_output=True).returncode == 0:
            stores["git-lfs"] = Lfs(where)
        compare("commit, the first of a repository (git: add, commit)", stores, first)
        compare("commit, on top of the step before", stores, following)
        times = measure({"vera": stores["vera"].export, "git checkout": stores["git"].export,
                         "git checkout, sync": stores["git"].export_synced,
                         **({"git-lfs checkout": stores["git-lfs"].export} if "git-lfs" in stores else {})})
        report("export", times, "ms", 1e3, {name: 2 for name in times if name != "vera"})
        check_export(stores["vera"])
    finally:
        remove(where)


main()
