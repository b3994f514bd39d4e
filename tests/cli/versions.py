"""What the tests of the commands share: repositories with versions in them, and the exact fields of
each command's JSON."""
import os
import shutil
import tempfile

from harness import FIXTURES, FOLDER, VeraTest, adapter, base
from tensors import Tensors

BASIS = {"generator", "variant", "rounding", "seed", "state", "sha256_a", "sha256_b"}
COMMIT = {"commit", "snapshot", "branch", "kind", "modules", "basis", "payload_bytes",
          "stored_bytes", "frame", "left_out"}
SHOW = COMMIT | {"parents", "message", "author", "time", "rank", "files", "base", "metrics", "spectrum"}
LOG = {"commit", "snapshot", "parents", "author", "time", "message", "metrics", "branches"}
REF = {"name", "commit", "previous"}
BRANCH = {"name", "commit", "snapshot", "current", "upstream"}
BASIS_LIST = BASIS | {"rank", "in", "out", "versions"}
APPLY = {"matched", "modules", "tensors_rewritten", "tensors_added", "bytes_written",
         "bytes_cloned", "device", "math", "pinned", "seconds", "report"}
REPORT = {"module", "unchanged", "kept", "max_change", "nonfinite"}
STATS = {"versions", "snapshots", "raw_bytes", "stored_bytes", "allocated_bytes", "ratio",
         "where", "branches"}
FSCK_BAD = {"object", "problem", "versions", "branches"}

A, B = "base_model.vera_A", "base_model.vera_B"


def fixture_adapters():
    """Every adapter directory, by its name below tests/fixtures/adapter, in order."""
    top = os.path.join(FIXTURES, "adapter")
    return sorted(os.path.relpath(folder, top) for folder, _, files in os.walk(top)
                  if "adapter_config.json" in files)


def fixture_base(name):
    """The base model that an adapter was trained on; None where it is not among the fixtures."""
    family = name.split("/")[0]
    for model in ("llama-half", "llama", "gpt2", "bert"):
        if family.startswith(model):
            return base(model)
    return None


class RepositoryTest(VeraTest):
    """A test that begins with a repository in its directory: a copy of one that is made once for its
    class, since init syncs 256 folders."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.template = tempfile.mkdtemp(prefix="vera-template-", dir=FOLDER)
        cls.addClassCleanup(shutil.rmtree, cls.template, ignore_errors=True)
        cls.prepared = False

    def setUp(self):
        super().setUp()
        if not type(self).prepared:
            self.vera("init")
            self.prepare()
            shutil.copytree(self.path(".vera"), os.path.join(self.template, ".vera"))
            type(self).prepared = True
        else:
            shutil.copytree(os.path.join(self.template, ".vera"), self.path(".vera"))

    def prepare(self):
        """What every test of the class begins with."""

    def commit(self, directory, *args, **kwargs):
        """The JSON of a commit."""
        return self.vera("commit", directory, "--json", *args, **kwargs).json

    def copy(self, name, to=None):
        """A fixture adapter that the test may change: its path."""
        path = self.path(to or name.replace("/", "-"))
        shutil.copytree(adapter(name), path)
        return path

    def tensors(self, directory):
        return Tensors(os.path.join(directory, "adapter_model.safetensors"))

    def check_git(self):
        """Any git finds the repository sound, and can read and clone it."""
        fsck = self.git("--git-dir=.vera", "fsck", "--strict", "--no-dangling")
        self.assertNotRegex(fsck, "error|missing|warning|corrupt")
        self.git("--git-dir=.vera", "log", "--all", "--format=%H %s")
        self.git("clone", "-q", "--bare", ".vera", "clone.git")
        shutil.rmtree(self.path("clone.git"))
