"""What the tests of the Python package share: the package, the program, models of the fixtures in memory."""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
os.environ.pop("LD_PRELOAD", None)  # it was for this process, not for those that it starts
sys.path[:0] = [os.path.join(TOP, "python"), os.path.join(TOP, "tests", "cli")]

from harness import VeraTest, adapter, base, read_tensors  # noqa: E402

import verastore  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None


def base_tensors(name):
    """{name: (dtype, shape, bytes)} of a base model of the fixtures, from all its shards."""
    found = {}
    for file in sorted(os.listdir(base(name))):
        if file.endswith(".safetensors"):
            found.update(read_tensors(os.path.join(base(name), file)))
    return found


def raw_model(name):
    """The model in plain buffers."""
    return {tensor: verastore.Raw(bytearray(data), dtype, tuple(shape))
            for tensor, (dtype, shape, data) in base_tensors(name).items()}


def raw_bytes(model):
    return {name: bytes(raw.data) for name, raw in model.items()}


class PackageTest(VeraTest):
    def setUp(self):
        super().setUp()
        for name in ("VERA_REPO", "HOME"):
            self.addCleanup(os.environ.__setitem__, name, os.environ[name]) if name in os.environ else None
        os.environ["HOME"] = self.home
        os.environ.pop("VERA_REPO", None)

    def applied(self, name, base_name):
        """{tensor: bytes} as `vera apply` writes them."""
        out = self.path("applied-" + name.replace("/", "-"))
        self.vera("apply", adapter(name), "--base", base(base_name), "--out", out)
        found = {}
        for file in os.listdir(out):
            if file.endswith(".safetensors"):
                found.update({tensor: data for tensor, (_, _, data) in
                              read_tensors(os.path.join(out, file)).items()})
        return found

    def repository(self, name, base_name):
        """A repository with one version of it, on main."""
        self.vera("init", "store")
        self.vera("-C", "store", "commit", adapter(name), "--base", base(base_name), "-m", "one")
        return self.path("store")

    def fails(self, kind, words, call, *args, **kwargs):
        """It raises that exception, with the words in its message; the exception."""
        with self.assertRaises(kind) as caught:
            call(*args, **kwargs)
        self.assertIn(words, caught.exception.message)
        return caught.exception

    def without_numpy(self):
        """Says that numpy is missing, where it is."""
        if numpy is None:
            print(f"{self.id()}: not tried here, numpy is missing (sh docs/install.sh python)", file=sys.stderr)
        return numpy is None
