"""The MiniLM adapter onto its real base: `vera apply` against PEFT.

vera: the whole process, from a version in a repository to a synced model on disk. PEFT: load the base, load
the adapter, merge_and_unload, save_pretrained, in a process of its own that has done its imports before the
clock starts; nothing is synced. "again" is a second time in the same process. Both use all cores.
"""
import importlib.util
import os
import shutil
import subprocess
import sys

from common import FIXTURES, HERE, MINILM, VERA, measure, remove, report, run, scratch, timed

ADAPTER = FIXTURES / "adapter/minilm/step-320"


class Peft:
    """A process gives both times; each is handed out once."""

    def __init__(self, out):
        self.command = [sys.executable, HERE / "peft_apply.py", MINILM, ADAPTER, out]
        self.times, self.versions = {}, None

    def seconds(self, which):
        if which not in self.times:
            answer = subprocess.run(self.command, capture_output=True, text=True, check=True).stdout
            self.times["first"], self.times["again"], self.versions = answer.splitlines()
        return float(self.times.pop(which))


def copy_synced(out):
    """What writing such a model costs without any arithmetic: a copy, synced."""
    out.mkdir()
    shutil.copyfile(MINILM / "model.safetensors", out / "model.safetensors")
    fd = os.open(out / "model.safetensors", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def main():
    if not MINILM.is_dir():
        print("\napply: not measured, the base model is not there")
        return
    where = scratch()
    repository, out = where / "repository", where / "out"
    apply = [VERA, "-C", repository, "apply", "HEAD", "--base", MINILM, "--out", out]

    def fresh(work):
        remove(out)
        return work()

    contestants = {"vera apply": lambda: fresh(lambda: run([apply])),
                   "vera apply --threads 1": lambda: fresh(lambda: run([apply + ["--threads", "1"]]))}
    peft = Peft(out)
    if importlib.util.find_spec("peft"):
        contestants["PEFT"] = lambda: fresh(lambda: peft.seconds("first"))
        contestants["PEFT, again"] = lambda: fresh(lambda: peft.seconds("again"))
    contestants["limit: copy the file, sync it"] = lambda: fresh(lambda: timed(lambda: copy_synced(out)))
    try:
        run([[VERA, "init", repository], [VERA, "-C", repository, "commit", ADAPTER]])
        report("apply", measure(contestants), "ms", 1e3, {"PEFT": 5})
        if peft.versions:
            print(f"  {peft.versions}")
    finally:
        remove(where)


main()
