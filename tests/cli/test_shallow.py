"""Shallow clones, made by git: whole up to where they end, and told where that is (V1, G6)."""
import os
import shutil
import unittest

from harness import adapter, base, tree
from versions import RepositoryTest

MODEL = base("llama")
HINT = "fetch --unshallow"


class Shallow(RepositoryTest):
    """main: four versions of llama, of which `clone` has the last; side: left after the second."""

    STEPS = ("step-030", "step-040", "step-050", "step-060")

    def prepare(self):
        type(self).ids = [self.commit(adapter(f"llama/{step}"), "-m", step, "--base", MODEL)["commit"]
                          for step in self.STEPS]
        self.vera("branch", "side", self.ids[1])
        self.commit(adapter("llama/step-070"), "--branch", "side", "-m", "side")

    def setUp(self):
        super().setUp()
        self.clone(1)

    def clone(self, depth):
        shutil.rmtree(self.path("clone"), ignore_errors=True)
        os.mkdir(self.path("clone"))
        self.git("clone", "-q", "--bare", "--depth", str(depth), "--no-single-branch",
                 "file://" + self.path(".vera"), "clone/.vera")
        self.assertTrue(os.path.exists(self.path("clone", ".vera", "shallow")))

    def there(self, *args, **kwargs):
        return self.vera(*args, cwd=self.path("clone"), **kwargs)

    def test_a_tip_is_shown_exported_applied_and_verified(self):
        shown = self.there("show", "--json").json
        self.assertEqual(shown["commit"], self.ids[3])
        self.assertEqual(shown["frame"]["depth"], 3)
        self.there("export", "HEAD", "out")
        self.assertEqual(tree(self.path("clone", "out")), tree(adapter("llama/step-060")))
        self.there("apply", "HEAD", "--base", MODEL, "--out", "merged")
        self.there("verify", "merged", "--rev", "HEAD", "--base", MODEL)
        self.there("export", "side", "beside")
        self.assertEqual(tree(self.path("clone", "beside")), tree(adapter("llama/step-070")))

    def test_everything_that_is_there_is_sound(self):
        self.assertIn("all whole", self.there("fsck").out)
        self.git("--git-dir=clone/.vera", "fsck", "--strict")

    def test_log_ends_at_the_boundary_and_says_so(self):
        for depth in (1, 2):
            self.clone(depth)
            log = self.there("log", "--json")
            self.assertEqual([entry["commit"] for entry in log.lines], self.ids[:-depth - 1:-1])
            self.assertEqual(log.lines[-1]["parents"], [self.ids[3 - depth]])
            self.assertIn("vera: this clone is shallow", log.err)
            self.assertIn(HINT, log.err)
            self.assertEqual(self.there("log", "--oneline").out.count("\n"), depth)
        # Not where it ends before, by its own limit.
        self.assertEqual(self.there("log", "-n", "1").err, "")
        self.assertEqual(self.vera("log").err, "")

    def test_what_lies_behind_the_boundary_is_not_found(self):
        self.fails("show", "HEAD~1", code="NOTFOUND", says="has no parent", hint="shallow",
                   cwd=self.path("clone"))
        self.fails("show", self.ids[2], code="NOTFOUND", cwd=self.path("clone"))

    def test_history_goes_on_from_there(self):
        commit = self.there("commit", adapter("llama/step-080"), "-m", "on", "--json").json
        self.assertEqual(commit["frame"]["depth"], 4)
        self.assertEqual(self.there("show", "--json").json["parents"], [self.ids[3]])
        self.assertEqual(len(self.there("log", "--json").lines), 2)
        self.assertEqual(self.there("stats", "--json").json["versions"], 3)
        self.there("export", "HEAD~1", "out")
        self.assertEqual(tree(self.path("clone", "out")), tree(adapter("llama/step-060")))
        # And back into the whole repository.
        self.git("--git-dir=clone/.vera", "push", "-q", "origin", "main:onward")
        self.vera("export", "onward", "onward")
        self.assertEqual(tree(self.path("onward")), tree(adapter("llama/step-080")))
        self.assertEqual(len(self.vera("log", "onward", "--json").lines), 5)
        self.git("--git-dir=clone/.vera", "fetch", "-q", "--unshallow")
        log = self.there("log", "--json")
        self.assertEqual(len(log.lines), 5)
        self.assertEqual(log.err, "")

    def test_gc_leaves_it_alone(self):
        self.fails("gc", code="UNSUPPORTED", says="shallow", hint=HINT, cwd=self.path("clone"))


if __name__ == "__main__":
    unittest.main()
