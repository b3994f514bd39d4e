"""apply when things go wrong: it is killed, the disk is full, a shard cannot be read, or changes while
it is read. Never half an output; an error that names what it was."""
import json
import os
import random
import shutil
import signal
import subprocess
import unittest

from harness import VeraTest, adapter, base, tree
from tensors import Model
from versions import RepositoryTest

LLAMA = adapter("llama/step-120")
CHANGES_MAX = 400  # of a file system by one process, far above what there are
SHARD = "model-00002-of-00003.safetensors"


class FaultTest(VeraTest):
    def apply(self, *args, model=None, out="out", **kwargs):
        return self.vera("apply", LLAMA, "--base", model or base("llama"), "--out", out, *args,
                         **kwargs)

    def whole(self):
        self.apply(out=os.path.join(self.top, "whole"))
        return tree(os.path.join(self.top, "whole"))

    def entries(self):
        return sorted(os.listdir(self.dir))

    def copy_base(self):
        """A base that the test may change."""
        model = self.path("model")
        shutil.copytree(base("llama"), model)
        return model


class Killed(FaultTest):
    def after(self, allowed, *args):
        """What is at the output is one of `allowed`; the next run tells what is left beside it, and
        how to remove it, and is not disturbed by it."""
        self.assertIn(tree(self.path("out")) if "out" in self.entries() else None, allowed)
        left = [name for name in self.entries() if name != "out"]
        self.assertLessEqual(len(left), 1)
        err = self.apply("--force", *args).err
        for name in left:
            self.assertRegex(name, r"^\.out\.vera-[a-z2-7]{6}$")
            self.assertIn(f"vera: warning: {os.path.join(self.dir, name)}: left by another run", err)
            self.assertIn(f"hint: rm -r -- '{os.path.join(self.dir, name)}'", err)
            shutil.rmtree(self.path(name))
        self.assertNotIn("left by another run", self.apply("--force").err)
        self.assertEqual(tree(self.path("out")), self.expected)
        shutil.rmtree(self.path("out"))
        return len(left)

    def killed_everywhere(self, allowed, prepare, *args):
        tried = left = 0
        for change in range(1, CHANGES_MAX):
            prepare()
            done = self.apply("--threads", "1", *args, code=None, env=self.preload(KILL=change))
            if done.code == 0:
                break
            self.assertEqual(done.code, -signal.SIGKILL)
            tried += 1
            left += self.after(allowed)
        self.assertGreater(tried, 30)
        self.assertGreater(left, 20)

    def test_at_any_change_nothing_or_all_is_there(self):
        self.expected = self.whole()
        self.killed_everywhere((None, self.expected), lambda: None)

    def test_at_any_change_the_old_one_or_the_new_one_is_there(self):
        self.expected = self.whole()
        old = os.path.join(self.top, "old")
        self.vera("apply", adapter("llama/step-110"), "--base", base("llama"), "--out", old)
        self.killed_everywhere((tree(old), self.expected),
                               lambda: shutil.copytree(old, self.path("out")), "--force")

    def test_at_any_time(self):
        self.expected = self.whole()
        chance = random.Random(7)
        for _ in range(20):
            process = self.spawn(["apply", LLAMA, "--base", base("llama"), "--out", "out"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=chance.uniform(0, 0.03))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.after((None, self.expected))

    def test_leftovers_of_others_are_not_its_own(self):
        for name in (".other.vera-abcdef", ".out.veraabcdef", "out.vera-abcdef", ".out.vera"):
            os.mkdir(self.path(name))
        self.assertNotIn("left by another run", self.apply().err)
        self.assertEqual(len(self.entries()), 5)


class Disk(FaultTest):
    def refused(self, code, says, *args, hint=(), **kwargs):
        """It fails with one line that tells, and nothing is left."""
        model = kwargs.pop("model", base("llama"))
        before = tree(self.dir)
        error = self.fails("apply", LLAMA, "--base", model, "--out", "out", *args, code=code,
                           says=says, hint=hint, **kwargs)
        self.assertNotIn("\n", error["message"])
        self.assertEqual(tree(self.dir), before)
        return error

    def test_full_at_any_byte(self):
        total = self.apply("--json").json["bytes_written"]
        shutil.rmtree(self.path("out"))
        for space in [0, 1, total - 1] + list(range(1000, total, total // 12)):
            for threads in ("1", "3"):
                self.refused("IO", ("out/", "No space left"), "--threads", threads,
                             hint="free some space", env=self.preload(SPACE=space))
        self.apply("--threads", "1", env=self.preload(SPACE=2 * total))

    def test_full_while_an_old_one_is_replaced(self):
        self.vera("apply", adapter("llama/step-110"), "--base", base("llama"), "--out", "out")
        self.refused("IO", "No space left", "--force", env=self.preload(SPACE=300000))

    def test_full_in_a_part(self):
        expected = self.whole()
        self.apply("--part", "1/2")
        before = tree(self.path(".out.vera-parts", "tree"))
        self.fails("apply", LLAMA, "--base", base("llama"), "--out", "out", "--part", "2/2",
                   code="IO", says="No space left", env=self.preload(SPACE=100000))
        self.assertEqual(set(tree(self.path(".out.vera-parts", "tree"))), set(before))
        self.assertEqual(self.entries(), [".out.vera-parts"])
        self.apply("--part", "2/2")
        self.assertEqual(tree(self.path("out")), expected)

    def test_full_when_parts_begin(self):
        self.refused("IO", "No space left", "--part", "1/2", env=self.preload(SPACE=10))

    def test_a_read_only_place(self):
        self.refused("IO", "Read-only file system", env=self.preload(READONLY=self.dir))

    def test_a_shard_that_may_not_be_read(self):
        path = os.path.join(base("llama"), SHARD)
        for args in ([], ["--part", "1/2"], ["--dry-run"]):
            self.refused("IO", (SHARD, "Permission denied"), *args,
                         env=self.preload(FORBIDDEN=path))

    def test_a_shard_whose_disk_is_broken(self):
        path = os.path.join(base("llama"), SHARD)
        for args in ([], ["--threads", "1"]):
            self.refused("IO", (SHARD, "Input/output error"), *args,
                         env=self.preload(BROKEN=path))

    def test_an_index_that_names_a_missing_shard(self):
        model = self.copy_base()
        os.remove(os.path.join(model, SHARD))
        for args in ([], ["--part", "1/2"], ["--finish"], ["--dry-run"]):
            error = self.fails("apply", LLAMA, "--base", model, "--out", "out", *args, says=SHARD)
            self.assertIn(f"{SHARD}: no such file", error["message"])
        self.assertEqual(self.entries(), ["model"])

    def test_a_shard_that_ends_too_early(self):
        model = self.copy_base()
        path = os.path.join(model, SHARD)
        os.truncate(path, os.path.getsize(path) - 1)
        self.refused("CORRUPT", SHARD, model=model)

    def test_never_into_the_base(self):
        model = self.copy_base()
        os.symlink(model, self.path("link"))
        os.mkdir(self.path("beside"))
        for out in ("model", "model/", "model/new", "link", "link/new", "beside/../model", "."):
            self.refused("INVALID", out, "--force", model=model, out_is=out)

    def fails(self, *args, out_is=None, **kwargs):
        args = [out_is if out_is and arg == "out" else arg for arg in args]
        return super().fails(*args, **kwargs)


class Changing(FaultTest):
    """The base is written to while it is read: the run has stopped at some change of its own."""

    def append(self, path):
        with open(path, "ab") as file:
            file.write(b"\0")

    def shrink(self, path):
        os.truncate(path, os.path.getsize(path) - 1000)

    def overwrite(self, path):
        """Another value, of the same size, and the old time: only the time of the change tells."""
        before = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(-1000, os.SEEK_END)
            file.write(b"\x11" * 500)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertEqual(os.stat(path).st_mtime_ns, before.st_mtime_ns)

    def replace(self, path):
        """Another file takes its place."""
        shutil.copy(path, path + ".new")
        os.replace(path + ".new", path)

    def stopped(self, change, model, *args):
        """What a run says to whose base a change was made while it stood before its N-th own."""
        process = self.spawn(["apply", LLAMA, "--base", model, "--out", "out", "--threads", "2",
                              "--json", *args],
                             env=self.preload(STOP=change), stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
        self.addCleanup(process.kill)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        yield
        while os.WIFSTOPPED(status):
            os.kill(process.pid, signal.SIGCONT)
            _, status = os.waitpid(process.pid, os.WUNTRACED)
        process.returncode = os.waitstatus_to_exitcode(status)
        with process.stdout:
            yield json.loads(process.stdout.read())

    def test_is_named_and_nothing_is_written(self):
        for change in (self.append, self.shrink, self.overwrite, self.replace):
            for at in (2, 8, 14):
                for args in ([], ["--part", "1/1"]):
                    with self.subTest(change=change.__name__, at=at, args=args):
                        model = self.copy_base()
                        run = self.stopped(at, model, *args)
                        next(run)
                        change(os.path.join(model, SHARD))
                        error = next(run).get("error", {})
                        self.assertEqual(error.get("code"), "CONFLICT", error)
                        self.assertIn(f"{SHARD}: changed while it was read", error["message"])
                        self.assertIn("run it again", error["hint"])
                        shutil.rmtree(self.path(".out.vera-parts"), ignore_errors=True)
                        self.assertEqual(self.entries(), ["model"])
                        shutil.rmtree(model)

class Pinned(RepositoryTest):
    def test_a_pin_catches_what_no_time_tells(self):
        self.commit(LLAMA, "--base", base("llama"))
        model = self.path("model")
        shutil.copytree(base("llama"), model)
        name = "model.layers.0.self_attn.q_proj.weight"
        Model(model).tensors[name].flip(name, 1)
        for args in ([], ["--part", "1/1"], ["--dry-run"]):
            self.fails("apply", "main", "--base", model, "--out", "out", *args, code="CONFLICT",
                       says="model.layers.0.self_attn.q_proj", hint="committed with")
        self.assertNotIn("out", os.listdir(self.dir))


if __name__ == "__main__":
    unittest.main()
