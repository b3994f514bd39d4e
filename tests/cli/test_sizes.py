"""What versions cost on disk. Sizes are deterministic, so these are promises and no measurements."""
import json
import os
import shutil
import unittest

from harness import FIXTURES, adapter
from projections import projections, with_projections
from tensors import Tensors
from versions import RepositoryTest

RUN = [f"minilm/step-{step:03}" for step in range(0, 330, 10)]


def files_bytes(top):
    """The sizes of all files below a directory, added up."""
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, names in os.walk(top) for name in names)


class Costs(RepositoryTest):
    def prepare(self):
        for name in RUN[8:11]:
            self.vera("commit", adapter(name))
        self.vera("branch", "behind", "main~2")

    def cost(self, directory, branch):
        """What a commit to a branch stores, all new git objects."""
        before = files_bytes(self.path(".vera", "objects"))
        stored = self.commit(directory, "--branch", branch, "--allow-empty")["stored_bytes"]
        self.assertEqual(files_bytes(self.path(".vera", "objects")) - before, stored)
        return stored

    def test_an_identical_snapshot_on_another_branch_costs_under_1_kb(self):
        self.vera("branch", "beside")
        for branch, name in (("beside", RUN[10]), ("new", RUN[10]), ("behind", RUN[10]),
                             ("behind", RUN[9]), ("new", RUN[8]), ("main", RUN[8])):
            with self.subTest(branch=branch, name=name):
                self.assertLess(self.cost(adapter(name), branch), 1000)
        self.vera("gc")
        self.assertLess(self.cost(adapter(RUN[9]), "beside"), 1000)
        self.assertLess(self.cost(adapter(RUN[9]), "other"), 1000)

    def changed(self, change):
        """The tip's adapter in a directory; its vectors, one after the other, are given to
        `change`, which answers with what they are from now on."""
        shutil.rmtree(self.path("changed"), ignore_errors=True)
        directory = self.copy(RUN[10], "changed")
        tensors = Tensors(os.path.join(directory, "adapter_model.safetensors"))
        for number, name in enumerate(sorted(tensors.entries)):
            data = tensors.bytes(name)
            changed = change(number, data)
            self.assertEqual(len(changed), len(data))
            tensors.set(name, changed)
        return directory

    def test_equal_and_constant_tensors_cost_under_2_kb(self):
        for title, change in {
            "all constant": lambda number, data: data[:4] * (len(data) // 4),
            "every other": lambda number, data: data if number % 2 else data[:4] * (len(data) // 4),
            "one": lambda number, data: data if number else data[-4:] * (len(data) // 4),
            "all but one": lambda number, data: data[:4] * (len(data) // 4) if number else data,
            "zeros": lambda number, data: bytes(len(data)),
            "minus zeros and equal": lambda number, data:
                data if number % 3 else b"\0\0\0\x80" * (len(data) // 4),
        }.items():
            with self.subTest(title):
                self.assertLess(self.cost(self.changed(change), "main"), 2000)
                # And back: every tensor is the base's base's, or was constant in the base.
                self.assertLess(self.cost(adapter(RUN[10]), "main"), 2000)


class Run(RepositoryTest):
    def test_checkpoints_with_a_and_b_take_a_36th(self):
        with open(os.path.join(FIXTURES, "expected", "expected.json"), encoding="utf-8") as file:
            basis = json.load(file)["minilm_basis"]
        (rank, features_in), (features_out, _) = basis["A"]["shape"], basis["B"]["shape"]
        a, b = projections(0, rank, features_in, features_out)
        raw = 0
        for name in RUN:
            directory = self.path("checkpoint")
            with_projections(directory, adapter(name), basis, a, b)
            raw += files_bytes(directory)
            proved = self.commit(directory)["basis"]
            self.assertEqual((proved["state"], proved["sha256_a"], proved["sha256_b"]),
                             ("proved", basis["A"]["sha256"], basis["B"]["sha256"]))
            shutil.rmtree(directory)
        self.vera("gc")
        self.assertLessEqual(36 * files_bytes(self.path(".vera")), raw)


if __name__ == "__main__":
    unittest.main(buffer=True)
