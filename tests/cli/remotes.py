"""What the tests of remotes share: a repository that is fetched from, and what must hold of a clone."""
import os
import shutil

from harness import adapter, tree
from versions import RepositoryTest

TRANSFER = {"updated", "bytes", "objects", "digest"}
STEPS = ("step-030", "step-040", "step-050")


class RemoteTest(RepositoryTest):
    """"theirs" has three versions on main, a branch at the second and a tag at the first."""

    def prepare(self):
        for step in STEPS:
            self.commit(adapter(f"llama/{step}"), "-m", step)
        self.vera("branch", "side/one", "HEAD~1")
        self.vera("tag", "first", "HEAD~2", "-m", "the first one")

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("theirs"))
        os.rename(self.path(".vera"), self.path("theirs", ".vera"))
        self.theirs = self.path("theirs")
        self.there = f"--git-dir={self.theirs}/.vera"

    def url(self):
        return self.theirs

    def ids(self, git_dir, *names):
        return self.git(f"--git-dir={git_dir}", "rev-parse", *names).split()

    def clone(self, name="mine", *args):
        return self.vera("clone", self.url(), self.path(name), "--json", *args).json

    def at(self, name, *args, **kwargs):
        return self.vera("-C", self.path(name), *args, **kwargs)

    def commit_there(self, step, *args):
        return self.at("theirs", "commit", adapter(f"llama/{step}"), "-m", step, "--json", *args).json["commit"]

    def refs(self, name):
        lines = self.git(f"--git-dir={self.path(name)}/.vera", "for-each-ref",
                         "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split() for line in lines)

    def assert_whole(self, name):
        self.assertIn("all whole", self.at(name, "fsck").out)
        self.assertNotRegex(self.git(f"--git-dir={self.path(name)}/.vera", "fsck", "--strict"),
                            "error|missing|corrupt")
        objects = os.listdir(self.path(name, ".vera", "objects"))
        self.assertEqual([entry for entry in objects if entry.startswith("tmp")], [])

    def assert_exported(self, name, revision, step):
        out = self.path("out")
        shutil.rmtree(out, ignore_errors=True)
        self.at(name, "export", revision, out)
        self.assertEqual(tree(out), tree(adapter(f"llama/{step}")))
