"""gc and prune by the program: what they say, print and refuse, and that nothing that stays is lost."""
import glob
import os
import re
import shutil
import signal
import subprocess
import unittest

from harness import adapter, tree
from versions import RepositoryTest

RUN = [f"llama/step-{step:03}" for step in range(0, 130, 10)]
GC = {"before_bytes", "after_bytes", "dropped"}
PRUNE = {"branch", "commit", "previous", "kept", "dropped", "changed"}


class Collected(RepositoryTest):
    def prepare(self):
        for number, name in enumerate(RUN):
            self.vera("commit", adapter(name), "-m", name, "--metric", f"loss={abs(number - 6)}")

    def setUp(self):
        super().setUp()
        self.ids = [line["commit"] for line in self.vera("log", "--json").lines]  # newest first

    def check_version(self, revision, name):
        shutil.rmtree(self.path("out"), ignore_errors=True)
        self.vera("export", revision, "out")
        self.assertEqual(tree(self.path("out")), tree(adapter(name)))

    def stray(self, days):
        """An object that nothing reaches, so many days old."""
        name = self.git("--git-dir=.vera", "hash-object", "-w", "--stdin", input=str(days).encode()).strip()
        path = self.path(".vera", "objects", name[:2], name[2:])
        stamp = os.stat(path).st_mtime - days * 86400
        os.utime(path, (stamp, stamp))
        return name

    def interrupted(self, stop, *args):
        """Ctrl-C at a write of the program's, the one of that number."""
        with self.spawn(list(args), env=self.preload(STOP=stop), stderr=subprocess.PIPE) as process:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            self.assertTrue(os.WIFSTOPPED(status))
            os.kill(process.pid, signal.SIGINT)
            while os.WIFSTOPPED(status):
                os.kill(process.pid, signal.SIGCONT)
                _, status = os.waitpid(process.pid, os.WUNTRACED)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(process.returncode, 130, process.stderr.read())

    def has(self, name):
        return subprocess.run(["git", "--git-dir=.vera", "cat-file", "-e", name], cwd=self.dir, env=self.env,
                              stderr=subprocess.DEVNULL, check=False).returncode == 0


class Gc(Collected):
    def test_it_packs_and_every_version_comes_back(self):
        result = self.vera("gc", "--json").json
        self.assertEqual(set(result), GC)
        self.assertLess(result["after_bytes"], result["before_bytes"])
        self.assertEqual(result["dropped"], 0)
        self.assertEqual(len(glob.glob(self.path(".vera/objects/pack/*.pack"))), 1)
        self.assertEqual(glob.glob(self.path(".vera/objects/??/*")), [])
        for commit, name in zip(reversed(self.ids), RUN):
            self.check_version(commit, name)
        self.check_git()
        self.assertEqual(self.vera("fsck", "--json").json["bad"], [])
        self.assertIn("dropped 0 objects", self.vera("gc").out)

    def test_ages(self):
        for age, kept in (("30d", (29,)), ("2w", (13,)), ("30", (29,)), ("100h", (4,)), ("3000m", (2,)),
                          ("86401s", (1,)), ("now", ())):
            with self.subTest(age=age):
                young = [self.stray(days) for days in kept]
                old = [self.stray(31)]
                would = self.vera("gc", "--expire", age, "--dry-run", "--json").json
                self.assertTrue(all(map(self.has, young + old)))
                result = self.vera("gc", "--expire", age, "--json").json
                self.assertEqual(result["dropped"], would["dropped"])
                self.assertTrue(all(map(self.has, young)))
                self.assertFalse(any(map(self.has, old)))
                self.vera("gc", "--expire", "now")
                self.assertFalse(any(map(self.has, young)))
        for age in ("", "x", "3y", "-1d", "1.5d", "d", "99999999999"):
            self.fails("gc", "--expire", age, status=2, says="an age is")

    def test_a_dry_run_writes_nothing(self):
        self.stray(100)
        before = tree(self.path(".vera"))
        result = self.vera("gc", "--dry-run", "--json").json
        self.assertEqual(result["dropped"], 1)
        self.assertLess(result["after_bytes"], result["before_bytes"])
        self.assertIn("would drop 1 object", self.vera("gc", "--dry-run").out)
        env = self.preload(READONLY=self.path(".vera"))
        self.assertEqual(self.vera("gc", "--dry-run", "--json", env=env).json, result)
        self.assertEqual(tree(self.path(".vera")), before)

    def test_what_cannot_be_written_is_not_collected(self):
        before = tree(self.path(".vera"))
        env = self.preload(READONLY=self.path(".vera"))
        self.fails("gc", code="IO", says="cannot be written", env=env)
        self.fails("prune", "main", "--keep", "last=1", code="IO", says="cannot be written", env=env)
        self.assertEqual(tree(self.path(".vera")), before)

    def test_damage_stops_it(self):
        path = self.git("--git-dir=.vera", "rev-parse", "HEAD~3:manifest").strip()
        os.remove(self.path(".vera", "objects", path[:2], path[2:]))
        stray = self.stray(100)
        error = self.fails("gc", code="CORRUPT", says=("nothing was dropped", path, "manifest"), hint="vera fsck")
        self.assertNotIn("\n", error["message"])
        self.assertTrue(self.has(stray))

    def test_a_full_disk_stops_it_and_nothing_is_left(self):
        stray = self.stray(100)
        self.fails("gc", code="IO", says="No space left", hint="free some space", env=self.preload(SPACE=8192))
        self.assertEqual(glob.glob(self.path(".vera/objects/tmp*")), [])
        self.assertEqual(glob.glob(self.path(".vera/objects/pack/*")), [])
        self.assertTrue(self.has(stray))
        self.vera("gc")
        self.check_version("main", RUN[-1])

    def test_ctrl_c_leaves_all_as_it_was(self):
        for stop in (2, 8, 20):
            stray = self.stray(100)
            self.interrupted(stop, "gc")
            self.assertEqual(glob.glob(self.path(".vera/objects/tmp*")), [])
            self.assertTrue(self.has(stray))
            self.check_version("main", RUN[-1])

    def test_the_trash_outlives_it(self):
        self.vera("branch", "gone", "main~4")
        self.vera("branch", "-d", "gone")
        self.vera("gc", "--expire", "now")
        self.vera("branch", "back", "trash/gone")
        self.check_version("back", RUN[-5])


class Prune(Collected):
    def test_what_stays_comes_back_and_the_ids_are_told(self):
        would = self.vera("prune", "main", "--keep", "last=2", "every=5", "--dry-run", "--json").json
        self.assertEqual(set(would), PRUNE)
        self.assertEqual(would["kept"], [self.ids[i] for i in (0, 1, 2, 7, 12)])
        self.assertEqual(would["dropped"], [self.ids[i] for i in (3, 4, 5, 6, 8, 9, 10, 11)])
        self.assertEqual((would["changed"], would["commit"]), ([], self.ids[0]))
        before = {line["snapshot"]: line for line in self.vera("log", "--json").lines}
        result = self.vera("prune", "main", "--keep", "last=2", "--keep", "every=5", "--json").json
        after = self.vera("log", "--json").lines
        self.assertEqual([line["commit"] for line in after], result["kept"])
        self.assertEqual([change["old"] for change in result["changed"]], would["kept"][:-1])
        self.assertEqual([change["new"] for change in result["changed"]], result["kept"][:-1])
        self.assertEqual(result["kept"][-1], self.ids[-1])
        self.assertEqual(result["dropped"], would["dropped"])
        self.assertEqual((result["branch"], result["previous"], result["commit"]),
                         ("main", self.ids[0], after[0]["commit"]))
        for line in after:
            was = before[line["snapshot"]]
            for field in ("author", "time", "message", "metrics"):
                self.assertEqual(line[field], was[field])
        for commit, name in zip(result["kept"], (RUN[12], RUN[11], RUN[10], RUN[5], RUN[0])):
            self.check_version(commit, name)
        self.check_git()
        self.assertEqual(self.vera("fsck", "--json").json["bad"], [])
        found = self.vera("query", "metric.loss>=0", "--json").lines
        self.assertEqual([line["commit"] for line in found], result["kept"])

    def test_a_dry_run_writes_nothing(self):
        before = tree(self.path(".vera"))
        env = self.preload(READONLY=self.path(".vera"))
        result = self.vera("prune", "--keep", "every=4", "main", "--dry-run", env=env)
        self.assertIn("would keep 4 of the 13 versions of 'main'", result.out)
        self.assertEqual(len(re.findall("^  keep ", result.out, re.M)), 4)
        self.assertEqual(len(re.findall("^  drop ", result.out, re.M)), 9)
        self.assertIn(f"  drop {self.ids[1][:7]} {RUN[11]}", result.out)
        self.assertEqual(tree(self.path(".vera")), before)

    def test_ctrl_c_leaves_the_branch_as_it_was(self):
        for stop in (2, 8, 20):
            self.interrupted(stop, "prune", "main", "--keep", "last=5")
            self.assertEqual(self.git("--git-dir=.vera", "rev-parse", "main").strip(), self.ids[0])
            self.assertEqual(self.vera("branch", "--deleted").out, "")
            self.check_version("main", RUN[-1])

    def test_what_is_no_version_is_dropped_but_not_kept(self):
        tree_id = self.git("--git-dir=.vera", "mktree", input=b"").strip()
        alien = self.git("--git-dir=.vera", "commit-tree", tree_id, "-p", "main", "-m", "no adapter").strip()
        self.git("--git-dir=.vera", "update-ref", "refs/heads/main", alien)
        self.fails("prune", "main", "--keep", "last=2", code="CORRUPT", says=(alien[:12], "adapter_config.json"))
        self.vera("commit", adapter(RUN[3]), "-m", "on top")
        self.vera("prune", "main", "--keep", "last=1", "best=-metric.loss")
        self.check_version("main", RUN[3])
        self.check_version("main~1", RUN[6])

    def test_it_says_that_history_was_rewritten(self):
        result = self.vera("prune", "main", "--keep", "last=1")
        self.assertIn("history of 'main' rewritten: 1 of its 13 versions kept, 12 dropped", result.out)
        self.assertRegex(result.out, f"{self.ids[0][:7]} is now [0-9a-f]{{7}} llama/step-120")
        self.assertIn("vera branch --deleted", result.err)
        self.assertNotIn("push", result.err)
        self.assertIn("nothing to drop", self.vera("prune", "main", "--keep", "last=1").out)
        self.assertEqual(self.vera("branch", "--deleted", "--json").json["commit"], self.ids[0])
        self.vera("branch", "back", "trash/main")
        self.check_version("back~6", RUN[6])

    def test_what_others_reach_is_not_thinned(self):
        self.vera("tag", "held", "main~4")
        result = self.vera("prune", "main", "--keep", "last=1", "--json").json
        self.assertEqual(result["dropped"], self.ids[1:4])
        self.assertEqual(self.vera("log", "--json").lines[1]["commit"], self.ids[4])
        self.vera("branch", "all")
        self.assertIn("other branches or tags reach every version",
                      self.vera("prune", "main", "--keep", "last=1").out)

    def test_best(self):
        lowest = self.vera("prune", "main", "--keep", "best=-metric.loss", "--dry-run", "--json").json
        self.assertEqual(lowest["kept"], [self.ids[0], self.ids[6]])
        highest = self.vera("prune", "main", "--keep", "best=metric.loss", "--dry-run", "--json").json
        self.assertEqual(highest["kept"], [self.ids[0]])
        self.fails("prune", "main", "--keep", "best=metric.rte", code="NOTFOUND", says="rte")

    def test_a_remote_that_has_it_is_named(self):
        self.git("--git-dir=.vera", "update-ref", "refs/remotes/origin/main", "main")
        said = self.vera("prune", "main", "--keep=last=1").err
        self.assertIn("origin/main has the history as it was", said)
        subprocess.run(["git", "init", "-q", "--bare", self.path("far.git")], env=self.env, check=True)
        self.git("--git-dir=far.git", "fetch", "-q", ".vera", f"{self.ids[0]}:refs/heads/main")
        self.git("--git-dir=.vera", "remote", "add", "origin", self.path("far.git"))
        command = re.search("vera (push origin main --force)$", said, re.M)[1]
        self.vera(*command.split())
        self.assertEqual(self.git("--git-dir=far.git", "rev-list", "--count", "main").strip(), "1")

    def test_it_is_smaller_when_the_trash_is_empty(self):
        before = self.vera("stats", "--json").json["stored_bytes"]
        self.vera("prune", "main", "--keep", "last=3")
        self.git("--git-dir=.vera", "update-ref", "-d",
                 self.git("--git-dir=.vera", "for-each-ref", "--format=%(refname)", "refs/vera").strip())
        shutil.rmtree(self.path(".vera/logs"))
        self.vera("gc", "--expire", "now")
        self.assertLess(self.vera("stats", "--json").json["stored_bytes"], before / 2)
        self.assertEqual(self.vera("fsck", "--json").json["bad"], [])
        self.assertEqual(len(self.vera("query", "--json").lines), 3)
        for back in range(3):
            self.check_version(f"main~{back}", RUN[12 - back])

    def test_usage(self):
        for rule in ("", "last", "last=", "last=0", "last=-1", "last=x", "last=99999999999", "every=0", "every=1.5",
                     "best=", "best=loss", "best=metric.", "best=-metric.", "first=3", "LAST=3", "last=3,every=2"):
            self.fails("prune", "main", "--keep", rule, status=2, says=("a rule is", f"--keep '{rule}'"))
            self.fails("prune", "main", "--keep", "last=3", rule, status=2, says=f"--keep '{rule}'")
        self.fails("prune", "main", status=2, says="--keep")
        self.fails("prune", "main", "last=3", status=2, says="--keep")
        self.fails("prune", "--keep", "last=3", status=2)
        self.fails("prune", "mian", "--keep", "last=3", code="NOTFOUND", says="mian", hint="main")
        self.assertEqual(self.vera("log", "--json").lines[0]["commit"], self.ids[0])


if __name__ == "__main__":
    unittest.main()
