"""apply --part and --finish: one directory, whoever writes it, whatever becomes of them."""
import json
import os
import shutil
import signal
import subprocess
import unittest

from harness import TESTS, VERA, VeraTest, adapter, base, tree
from tensors import Model
from versions import APPLY, RepositoryTest, fixture_adapters, fixture_base

# One adapter of each kind; every fixture has its turn with --part in Whole.
LLAMA = adapter("llama/step-120")
CHANGES_MAX = 400  # of a file system by one process, far above what there are


def parts(count):
    return [f"{part}/{count}" for part in range(1, count + 1)]


class PartsTest(VeraTest):
    def apply(self, *args, out="out", name=LLAMA, model=None, **kwargs):
        return self.vera("apply", name, "--base", model or base("llama"), "--out", out, *args,
                         **kwargs)

    def part(self, part, *args, **kwargs):
        return self.apply("--part", part, *args, **kwargs)

    def whole(self, **kwargs):
        """What one run writes: the tree that parts must give."""
        self.apply(out="whole", **kwargs)
        made = tree(self.path("whole"))
        shutil.rmtree(self.path("whole"))
        return made

    def entries(self):
        return sorted(os.listdir(self.dir))


class Whole(PartsTest):
    def test_any_number_of_parts_in_any_order_gives_the_bits_of_one_run(self):
        for number, name in enumerate(fixture_adapters()):
            model = fixture_base(name)
            if not model:
                continue
            args = {"name": adapter(name), "model": model}
            expected = self.whole(**args)
            for count in (1, 2, 3, 7, 60) if name.endswith("0") and number % 4 == 0 else (3,):
                with self.subTest(name=name, count=count):
                    order = parts(count)[::-1] if number % 2 else parts(count)
                    for part in order:
                        self.assertNotIn("out", self.entries())
                        self.part(part, **args)
                    self.assertEqual(tree(self.path("out")), expected)
                    self.assertEqual(self.entries(), ["out"])
                    shutil.rmtree(self.path("out"))

    def test_added_tensors_and_all_files_come_along(self):
        model = self.path("bert")
        shutil.copytree(base("bert"), model)
        with open(os.path.join(model, "tokenizer.json"), "w", encoding="utf-8") as file:
            file.write("{}")
        args = {"name": adapter("bert/step-040"), "model": model}
        expected = self.whole(**args)
        self.assertIn("tokenizer.json", expected)
        for count in (2, 5):
            for part in parts(count):
                self.part(part, **args)
            self.assertEqual(tree(self.path("out")), expected)
            shutil.rmtree(self.path("out"))

    def test_several_adapters_with_weights(self):
        both = (adapter("llama/step-120") + ":0.7", adapter("llama-c/step-040") + ":0.3")
        self.vera("apply", *both, "--base", base("llama"), "--out", "whole")
        for part in parts(3):
            self.vera("apply", *both, "--base", base("llama"), "--out", "out", "--part", part)
        self.assertEqual(tree(self.path("out")), tree(self.path("whole")))
        self.vera("verify", "out", "--rev", both[0], "--rev", both[1], "--base", base("llama"))

    def test_threads_and_instructions_may_differ(self):
        expected = self.whole()
        self.part("1/3", "--threads", "2", env={"VERA_CPU": "scalar"})
        self.part("2/3", "--threads", "1", env={"VERA_CPU": "avx2"})
        self.part("3/3")
        self.assertEqual(tree(self.path("out")), expected)

    def test_all_at_once(self):
        expected = self.whole()
        for count in (2, 8):
            for _ in range(3):
                running = [self.spawn(["apply", LLAMA, "--base", base("llama"), "--out", "out",
                                       "--part", part, "--json"], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE)
                           for part in parts(count) + parts(count)[:2]]
                done = [process.communicate() for process in running]
                self.assertEqual([process.returncode for process in running], [0] * len(running),
                                 done)
                self.assertTrue(any(json.loads(out)["complete"] for out, _ in done))
                self.assertEqual(tree(self.path("out")), expected)
                self.assertEqual(self.entries(), ["out"])
                shutil.rmtree(self.path("out"))

    def test_all_at_once_over_an_old_one(self):
        expected = self.whole()
        for _ in range(4):
            self.vera("apply", adapter("llama/step-110"), "--base", base("llama"), "--out", "out",
                      "--force")
            running = [self.spawn(["apply", LLAMA, "--base", base("llama"), "--out", "out",
                                   "--part", part, "--force"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
                       for part in parts(6)]
            self.assertEqual([process.wait() for process in running], [0] * 6)
            self.assertEqual(tree(self.path("out")), expected)
            self.assertEqual(self.entries(), ["out"])

    def test_the_work_is_divided_evenly(self):
        shares = [self.part(part, "--json").json["bytes_written"] for part in parts(4)[:-1]]
        total = self.part("4/4", "--json").json["bytes_written"]
        for share in shares:
            self.assertLess(share, 0.4 * total)
            self.assertGreater(share, 0.1 * total)


class Told(PartsTest):
    def test_json_is_of_the_part_and_in_the_end_of_all(self):
        whole = self.apply("--json", "--report", out="whole").json
        self.assertNotIn("part", whole)
        shares = []
        for part in parts(3):
            done = self.part(part, "--json", "--report").json
            self.assertEqual(set(done), APPLY | {"part", "complete"})
            self.assertEqual((done["part"], done["complete"]), (part, part == "3/3"))
            self.assertEqual(done["modules"], 14)
            self.assertEqual(len(done["report"]), done["matched"])
            shares.append(done)
        last = shares.pop()
        self.assertTrue(all(share["matched"] < 14 for share in shares))
        for key in ("matched", "modules", "tensors_rewritten", "tensors_added", "bytes_written",
                    "bytes_cloned", "device", "math", "pinned", "report"):
            self.assertEqual(last[key], whole[key], key)
        self.assertGreaterEqual(last["seconds"], sum(share["seconds"] for share in shares))

    def test_says_how_far_it_is(self):
        self.assertIn("1 of 3 parts of out are there", self.part("2/3").out)
        again = self.part("2/3").out
        self.assertIn("was done", again)
        self.assertIn("1 of 3 parts of out are there", again)
        self.assertIn("2 of 3 parts of out are there", self.part("1/3").out)
        self.assertIn("wrote out", self.part("3/3").out)

    def test_called_wrongly(self):
        for part in ("", "0/2", "3/2", "1", "/2", "1/", "1/0", "-1/2", "1/2/3", "1/10001", "a/b",
                     "01/2", "1/ 2"):
            self.fails("apply", LLAMA, "--base", base("llama"), "--out", "out", "--part", part,
                       status=2, says="--part")
        self.fails("apply", LLAMA, "--base", base("llama"), "--out", "out", "--part", "1/2",
                   "--finish", status=2)
        for option in (["--part", "1/2"], ["--finish"]):
            self.fails("apply", LLAMA, "--base", base("llama"), "--out", "out", "--dry-run",
                       *option, status=2, says="--dry-run")
        self.assertEqual(self.entries(), [])

    def test_help_and_manual_say_how(self):
        text = self.vera("apply", "--help").out
        for word in ("--part I/N", "--finish", ".DIR.vera-parts"):
            self.assertIn(word, text)


class Refused(PartsTest):
    def refused(self, *args, code="CONFLICT", **kwargs):
        model = kwargs.pop("model", base("llama"))
        name = kwargs.pop("name", LLAMA)
        return self.fails("apply", name, "--base", model, "--out", "out", *args, code=code,
                          **kwargs)

    def test_parts_of_something_else_are_named(self):
        self.part("1/3")
        before = tree(self.dir)
        hint = ("rm -r --", ".out.vera-parts")
        self.refused("--part", "2/4", says="parts: 3 there, 4 here", hint=hint)
        self.refused("--part", "2/3", name=adapter("llama/step-110"), says="adapter: ", hint=hint)
        self.refused("--part", "2/3", name=LLAMA + ":0.5", says="weight 1 ", hint=hint)
        self.refused("--part", "2/3", "--report", says="report: no there, yes here", hint=hint)
        self.refused("--part", "2/3", name=adapter("llama-half/step-030"),
                     model=base("llama-half"), says=("adapter: ", "shard: ", "config: "), hint=hint)
        self.refused("--finish", name=adapter("llama/step-110"), says="adapter: ", hint=hint)
        self.assertEqual(tree(self.dir), before)

    def test_a_base_that_was_written_to_between_two_parts(self):
        model = self.path("model")
        shutil.copytree(base("llama"), model)
        self.part("1/2", model=model)
        name = "model.norm.weight"  # no adapter's, so no pin would tell
        Model(model).tensors[name].flip(name, 3)
        self.refused("--part", "2/2", model=model, says="shard: ")
        self.assertNotIn("out", self.entries())

    def test_missing_parts_are_named(self):
        self.refused("--finish", code="NOTFOUND", says="no part", hint="--part 1/N")
        for part in ("2/9", "6/9", "9/9"):
            self.part(part)
        self.refused("--finish", code="NOTFOUND", says="6 of 9 parts missing: 1, 3 to 5, 7, 8",
                     hint=("--part", "rm -r --"))
        for part in parts(9):
            self.part(part)
        self.apply("--finish")

    def test_what_is_there_is_not_overwritten(self):
        os.mkdir(self.path("out"))
        with open(self.path("out", "mine"), "w", encoding="utf-8") as file:
            file.write("mine")
        for option in (["--part", "1/2"], ["--finish"]):
            self.refused(*option, code="EXISTS", hint="--force")
        self.assertEqual(tree(self.dir), {"out": None, "out/mine": tree(self.path("out"))["mine"]})
        self.part("1/2", "--force")
        self.assertEqual(os.listdir(self.path("out")), ["mine"])
        self.refused("--part", "2/2", code="EXISTS")
        self.part("2/2", "--force")
        self.assertEqual(tree(self.path("out")), self.whole())
        self.assertEqual(self.entries(), ["out"])

    def test_one_that_appears_meanwhile_is_not_overwritten(self):
        self.part("1/2")
        os.mkdir(self.path("out"))
        with open(self.path("out", "mine"), "w", encoding="utf-8") as file:
            file.write("mine")
        self.refused("--part", "2/2", code="EXISTS")
        os.remove(self.path("out", "mine"))
        self.part("2/2")  # an empty directory may be there
        self.assertEqual(tree(self.path("out")), self.whole())

    def test_places_that_cannot_be_renamed(self):
        os.mkdir(self.path("here"))
        self.fails("apply", LLAMA, "--base", base("llama"), "--out", ".", "--part", "1/2",
                   cwd=self.path("here"), says="current directory", hint="another name")
        self.refused("--part", "1/2", "--out", "x" * 220, code="INVALID", says="too long")
        self.refused("--part", "1/2", "--out", "none/out", code="NOTFOUND", hint="mkdir")
        self.assertEqual(self.entries(), ["here"])

    def test_never_into_the_base(self):
        model = self.path("model")
        shutil.copytree(base("llama"), model)
        os.symlink(model, self.path("link"))
        before = tree(model)
        for out in ("model", "model/out", "link", "link/out", "."):
            for option in (["--part", "1/2"], ["--finish"], []):
                self.fails("apply", LLAMA, "--base", model, "--out", out, "--force", *option,
                           says=out)
        self.assertEqual(tree(model), before)
        self.assertEqual(self.entries(), ["link", "model"])


class Pins(RepositoryTest):
    def test_each_part_compares_its_own_and_together_all(self):
        self.commit(adapter("llama/step-120"), "--base", base("llama"))
        model = self.path("model")
        shutil.copytree(base("llama"), model)
        name = "model.layers.1.self_attn.v_proj.weight"
        Model(model).tensors[name].flip(name, 5)
        refused = 0
        for part in parts(4):
            done = self.vera("apply", "main", "--base", model, "--out", "out", "--part", part,
                             "--json", code=None)
            if done.code:
                refused += 1
                self.assertEqual(done.json["error"]["code"], "CONFLICT")
                self.assertIn("model.layers.1.self_attn.v_proj", done.json["error"]["message"])
            else:
                self.assertTrue(done.json["pinned"])
        self.assertEqual(refused, 1)
        self.fails("apply", "main", "--base", model, "--out", "out", "--finish", code="NOTFOUND",
                   says="1 of 4 parts missing")
        self.assertNotIn("out", os.listdir(self.dir))

    def test_a_version_and_its_directory_are_one(self):
        self.commit(adapter("llama/step-120"))
        self.vera("apply", "main", "--base", base("llama"), "--out", "out", "--part", "1/2")
        self.vera("apply", LLAMA, "--base", base("llama"), "--out", "out", "--part", "2/2")
        self.vera("verify", "out", "--rev", "main", "--base", base("llama"))


class Guide(RepositoryTest):
    """The guide's job scripts, run as their batch systems run them."""

    def setUp(self):
        super().setUp()
        self.commit(LLAMA, "--base", base("llama"))
        self.shared = self.path("shared")
        os.makedirs(os.path.join(self.shared, "models"))
        shutil.copytree(base("llama"), os.path.join(self.shared, "models", "base"))
        os.rename(self.path(".vera"), self.path("shared", "adapters.git"))
        os.mkdir(self.path("shared", "adapters"))
        os.rename(self.path("shared", "adapters.git"), self.path("shared", "adapters", ".vera"))
        with open(os.path.join(os.path.dirname(TESTS), "docs", "guide.md"),
                  encoding="utf-8") as file:
            self.guide = file.read()
        self.env["PATH"] = os.path.dirname(VERA) + ":" + self.env["PATH"]

    def run_all(self, argv, variable, first):
        """All 8 tasks, each with its number."""
        merged = os.path.join(self.shared, "models", "merged")
        for task in range(first, first + 8):
            self.assertFalse(os.path.exists(merged))
            done = subprocess.run(argv, env={**self.env, variable: str(task),
                                             "SLURM_CPUS_PER_TASK": "2"},
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            self.assertEqual(done.returncode, 0, done.stdout)
        self.vera("-C", os.path.join(self.shared, "adapters"), "verify", merged, "--rev", "main",
                  "--base", base("llama"))
        self.assertEqual(sorted(os.listdir(os.path.dirname(merged))), ["base", "merged"])

    def block(self, begin):
        """A block of the guide, in which the shared file system is the test's."""
        self.assertEqual(self.guide.count(begin), 1)
        text = self.guide.split(begin)[1].split("```")[0]
        self.assertGreater(text.count("/shared"), 2)
        return text.replace("/shared", self.shared)

    def test_job_array_of_slurm(self):
        script = self.path("merge.sbatch")
        with open(script, "w", encoding="utf-8") as file:
            file.write(self.block("```bash\n"))
        subprocess.run(["bash", "-n", script], check=True)
        with open(script, encoding="utf-8") as file:
            self.assertIn("#SBATCH --array=1-8\n", file.read())
        self.run_all(["bash", script], "SLURM_ARRAY_TASK_ID", 1)

    def test_indexed_job_of_kubernetes(self):
        text = self.block("```yaml\n")
        for line in ("completionMode: Indexed\n", "completions: 8\n", 'command: ["sh", "-c"]\n'):
            self.assertIn(line, text)
        folded = text.split("- >-\n")[1].split("volumeMounts:")[0]
        self.run_all(["sh", "-c", " ".join(folded.split())], "JOB_COMPLETION_INDEX", 0)


class Again(PartsTest):
    def test_a_part_may_be_run_again_at_any_time(self):
        expected = self.whole()
        for part in ("1/3", "1/3", "3/3", "1/3", "2/3"):
            self.part(part)
        for part in parts(3):  # a batch system tries one again that had ended
            done = self.part(part, "--json").json
            self.assertTrue(done["complete"])
            self.assertEqual((done["matched"], done["bytes_written"]), (14, 0))
        self.assertTrue(self.apply("--finish", "--json").json["complete"])
        self.assertEqual(tree(self.path("out")), expected)
        self.assertEqual(self.entries(), ["out"])
        self.fails("apply", adapter("llama/step-110"), "--base", base("llama"), "--out", "out",
                   "--part", "1/3", code="EXISTS")

    def killed(self, *args, first=1, step=1, **faults):
        """Kill a run before its first change to the file system, before its second ... until one
        runs through: after each, what is left is the test's to say."""
        for change in range(first, CHANGES_MAX, step):
            done = self.apply(*args, code=None, env=self.preload(KILL=change, **faults))
            if done.code == 0:
                return
            self.assertEqual(done.code, -signal.SIGKILL, done)
            yield change
        self.fail("never ran through")

    def clean(self):
        """Nothing is left but the output and what a run that was killed while it began had; and
        that is told."""
        left = [name for name in self.entries() if name != "out"]
        for name in left:
            self.assertRegex(name, r"^\.{1,2}out\.vera-")
            self.assertIn(name, self.apply("--force").err)
            shutil.rmtree(self.path(name))
        self.assertEqual(self.entries(), ["out"])
        shutil.rmtree(self.path("out"))

    def test_killed_at_any_point_the_first_leaves_nothing_that_is_in_the_way(self):
        expected, tried = self.whole(), 0
        for _ in self.killed("--part", "1/2", "--threads", "1"):
            tried += 1
            self.assertNotIn("out", self.entries())
            for part in parts(2):
                self.part(part)
            self.assertEqual(tree(self.path("out")), expected)
            self.clean()
        self.assertGreater(tried, 30)

    def test_killed_at_any_point_the_last_is_run_again_or_finished(self):
        expected, tried, finished = self.whole(), 0, 0
        self.part("1/2")
        for change in self.killed("--part", "2/2", "--threads", "1"):
            tried += 1
            if "out" in self.entries():
                self.assertEqual(tree(self.path("out")), expected)
            if change % 2 and self.apply("--finish", code=None).code == 0:
                finished += 1
            else:
                self.part("2/2")
            self.assertEqual(tree(self.path("out")), expected)
            self.clean()
            self.begin_again()
        self.assertGreater(tried, 20)
        self.assertGreater(finished, 1)

    def begin_again(self):
        """Part 1 of 2 is there, as it was."""
        shutil.rmtree(self.path("out"), ignore_errors=True)
        self.part("1/2")

    def old_output(self):
        """An output of another version, and the first part of what replaces it."""
        for name in self.entries():
            shutil.rmtree(self.path(name))
        shutil.copytree(os.path.join(self.top, "old"), self.path("out"))
        self.part("1/2", "--force")

    def replaced(self, may_be_away, first, **faults):
        expected, tried = self.whole(), 0
        self.vera("apply", adapter("llama/step-110"), "--base", base("llama"), "--out",
                  os.path.join(self.top, "old"))
        self.old_output()
        allowed = [tree(self.path("out")), expected] + [None] * may_be_away
        for _ in self.killed("--part", "2/2", "--threads", "1", "--force", first=first, step=2,
                             **faults):
            tried += 1
            self.assertIn(tree(self.path("out")) if "out" in self.entries() else None, allowed)
            for part in ("2/2", "1/2"):  # the second is one too many where the first completed it
                if tree(self.path("out")) != expected or ".out.vera-parts" in self.entries():
                    self.part(part, "--force", env=self.preload(**faults))
            self.assertEqual(tree(self.path("out")), expected)
            self.old_output()
        self.assertGreater(tried, 10)

    def test_killed_at_any_point_the_old_output_stays_until_the_new_one_is_there(self):
        self.replaced(False, 1)

    def test_where_directories_cannot_be_exchanged(self):
        self.replaced(True, 2, PLAIN=1)

    def stopped(self, change, *args):
        """A run that has stopped before its N-th change to the file system; None where it makes
        fewer."""
        process = self.spawn(["apply", LLAMA, "--base", base("llama"), "--out", "out", *args],
                             env=self.preload(STOP=change), stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return process
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
        return None

    def go_on(self, process):
        """To its end, past all that it stops before; its exit status."""
        while True:
            os.kill(process.pid, signal.SIGCONT)
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode

    def test_two_of_the_same_part_at_once(self):
        expected, tried = self.whole(), 0
        for change in range(2, CHANGES_MAX, 6):
            slow = self.stopped(change, "--part", "1/2", "--threads", "1")
            if not slow:
                break
            tried += 1
            for part in parts(2):
                self.part(part)
            self.assertEqual(tree(self.path("out")), expected)
            error = slow.stderr
            self.assertEqual(self.go_on(slow), 0, error.read())
            error.close()
            self.assertEqual(tree(self.path("out")), expected)
            self.assertEqual(self.entries(), ["out"])
            shutil.rmtree(self.path("out"))
        self.assertGreater(tried, 5)

    def test_ctrl_c_leaves_the_work_of_the_others(self):
        expected = self.whole()
        self.part("1/2")
        stopped = self.stopped(3, "--part", "2/2", "--threads", "1")
        os.kill(stopped.pid, signal.SIGINT)
        self.assertEqual(self.go_on(stopped), 130)
        stopped.stderr.close()
        self.assertIn("part-1", os.listdir(self.path(".out.vera-parts")))
        self.assertNotIn("out", self.entries())
        self.part("2/2")
        self.assertEqual(tree(self.path("out")), expected)

    def test_parts_that_were_removed_are_not_written_into_others(self):
        expected = self.whole()
        self.part("2/2")
        slow = self.stopped(3, "--part", "1/2", "--threads", "1")
        shutil.rmtree(self.path(".out.vera-parts"))
        self.part("2/2")
        error = slow.stderr
        self.assertEqual(self.go_on(slow), 1)
        self.assertIn(b"removed meanwhile", error.read())
        error.close()
        self.fails("apply", LLAMA, "--base", base("llama"), "--out", "out", "--finish",
                   code="NOTFOUND", says="1 of 2 parts missing: 1")
        self.part("1/2")
        self.assertEqual(tree(self.path("out")), expected)

    def test_damaged_records_and_plans(self):
        expected = self.whole()
        staging = self.path(".out.vera-parts")
        for text in ("", "x", "verastore part 1\n",
                     "verastore part 1\nmath quick\ncounts 1 1 1 1 1 1\n",
                     "verastore part 1\nmath exact\ncounts 1 2 3\n",
                     "verastore part 1\nmath exact\ncounts 1 1 1 1 1 1\nsums 0 1 1 1 1 1 1 1\n"):
            self.part("1/2")
            with open(os.path.join(staging, "part-1"), "w", encoding="utf-8") as file:
                file.write(text)
            self.assertEqual(self.part("2/2", code=None).code, 1)
            self.fails("apply", LLAMA, "--base", base("llama"), "--out", "out", "--finish",
                       code="CORRUPT", says="part 1", hint="run this part again")
            self.part("1/2")
            self.assertEqual(tree(self.path("out")), expected)
            shutil.rmtree(self.path("out"))
        self.part("1/2")
        for text in ("", "x\n", "verastore parts 2\n", "verastore parts 1\nparts 2\n"):
            with open(os.path.join(staging, "plan"), "w", encoding="utf-8") as file:
                file.write(text)
            for option in (["--part", "2/2"], ["--finish"]):
                done = self.apply(*option, "--json", code=1).json["error"]
                self.assertIn(done["code"], ("CORRUPT", "CONFLICT"))
                self.assertIn("rm -r --", done["hint"])


if __name__ == "__main__":
    unittest.main()
