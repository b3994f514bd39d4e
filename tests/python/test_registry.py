"""verastore.Registry: rows of one batch with different adapters, beside sums in Python's own floats."""
import random
import subprocess
import unittest
from array import array
from pathlib import Path

from support import PackageTest, adapter, numpy, verastore

NAMES = ("llama/step-010", "llama/step-120", "llama-c/step-040", "llama-perl/step-040")
LAYER = "model.layers.1.mlp.down_proj"  # [64, 176]
SIZES = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (64, 32), "self_attn.v_proj": (64, 32),
         "self_attn.o_proj": (64, 64), "mlp.gate_proj": (64, 176), "mlp.up_proj": (64, 176),
         "mlp.down_proj": (176, 64)}
MODULES = {f"model.layers.{layer}.{name}": sizes for layer in range(2) for name, sizes in SIZES.items()}


def floats(tensor):
    values = array("f", tensor.data)
    columns = tensor.shape[-1]
    return [values[at:at + columns] for at in range(0, len(values), columns)]


def added(name, x):
    """b o (B (d o (A x))) in double."""
    tensors = verastore.read(Path(adapter(name))).tensors
    a, b = floats(tensors["base_model.vera_A"]), floats(tensors["base_model.vera_B"])
    d, = floats(tensors[f"base_model.model.{LAYER}.vera_lambda_d"])
    scale, = floats(tensors[f"base_model.model.{LAYER}.vera_lambda_b"])
    hidden = [sum(row[j] * x[j] for j in range(len(x))) * d[k] for k, row in enumerate(a)]
    return [sum(b[i][k] * h for k, h in enumerate(hidden)) * scale[i] for i in range(len(scale))]


class Rows(PackageTest):
    def registry(self, **options):
        given = {"budget_bytes": 1 << 22, "threads": 1, **options}
        registry = verastore.Registry(MODULES, Path(adapter(NAMES[0])), **given)
        self.addCleanup(registry.close)
        return registry

    def rows(self, count):
        chosen = random.Random(7)
        return (verastore.Raw(array("f", (chosen.gauss(0, 1) for _ in range(count * 176))), "F32", (count, 176)),
                verastore.Raw(array("f", (chosen.gauss(0, 1) for _ in range(count * 64))), "F32", (count, 64)))

    def test_each_row_gets_what_its_adapter_adds(self):
        registry = self.registry()
        ids = [registry.add(Path(adapter(name))) for name in NAMES]
        order = [2, None, 0, 3, 1, 1]
        x, y = self.rows(len(order))
        before = list(y.data)
        with registry.batch([None if number is None else ids[number] for number in order]) as batch:
            batch.forward(LAYER, x, y)
        wanted = []
        for row, number in enumerate(order):
            more = [0.0] * 64 if number is None else added(NAMES[number], x.data[176 * row:176 * row + 176])
            wanted += [before[64 * row + i] + more[i] for i in range(64)]
        largest = max(map(abs, wanted))
        self.assertLessEqual(max(abs(ours - own) for ours, own in zip(y.data, wanted)), 1e-5 * largest)
        self.assertEqual(list(y.data[64:128]), before[64:128])  # the base model's row
        self.assertGreater(max(abs(ours - old) for ours, old in zip(y.data, before)), 1e-3)

    def test_a_batch_of_sequences_gives_each_adapter_its_rows(self):
        registry = self.registry()
        ids = [registry.add(Path(adapter(name))) for name in NAMES[:2]]
        x, together = self.rows(6)
        alone = verastore.Raw(array("f", together.data), "F32", (6, 64))
        with registry.batch(ids) as batch:
            batch.forward(LAYER, x, together)
        with registry.batch([ids[0]] * 3 + [ids[1]] * 3) as batch:
            batch.forward(LAYER, x, alone)
        self.assertEqual(together.data, alone.data)

    def test_revisions_and_bundles_are_added_under_their_ids(self):
        registry = self.registry()
        repo = self.repository("llama/step-120", "llama")
        snapshot = self.vera("-C", "store", "show", "--json").json["snapshot"]
        self.assertEqual(registry.add("main", repo=repo), snapshot)
        with self.spawn(["export", adapter("llama/step-120"), "-", "--as", "bundle"],
                        stdout=subprocess.PIPE) as process:
            bundle = process.communicate()[0]
        self.assertEqual(registry.add(bundle), snapshot)
        self.assertEqual(registry.add(adapter("llama/step-120"), pin=True), snapshot)
        state = registry.status()
        self.assertEqual((state.adapters, state.pinned, state.held), (1, 1, 0))
        with registry.batch([snapshot, snapshot]):
            self.assertEqual(registry.status().held, 1)
        self.assertEqual(registry.status().held, 0)
        registry.pin(snapshot, False)
        registry.remove(snapshot)
        self.assertEqual(registry.status().adapters, 0)
        self.fails(verastore.NotFound, "", registry.pin, snapshot)

    def test_the_least_recently_used_goes_and_a_batch_keeps_its_own(self):
        whole = self.registry().status()
        each = (14 * 32 + sum(outputs for _, outputs in MODULES.values())) * 4
        registry = self.registry(budget_bytes=whole.bytes + 3 * (each + 400))
        capacity = registry.status().capacity
        self.assertGreaterEqual(capacity, 1)
        steps = [registry.add(Path(adapter(f"llama/step-{step:03}"))) for step in range(0, 130, 10)]
        state = registry.status()
        self.assertEqual(state.adapters, capacity)
        self.assertEqual(state.evicted, 13 - capacity)
        self.assertLessEqual(state.bytes, state.budget_bytes)
        with self.assertRaises(verastore.NotFound):
            with registry.batch([steps[0]]):
                pass

    def test_what_does_not_fit_is_refused(self):
        registry = self.registry()
        llama = registry.add(Path(adapter(NAMES[0])))
        self.assertIsInstance(self.fails(verastore.VeraError, "", registry.add, Path(adapter("gpt2/step-040"))),
                              (verastore.Invalid, verastore.Conflict))
        x, y = self.rows(2)
        for snapshot in ("main", "sha256:12", "sha256:" + "x" * 64):
            with self.assertRaises(verastore.Invalid):
                with registry.batch([snapshot]):
                    pass
        with registry.batch([llama]) as batch:
            cases = ((("nothing", x, y), "no module"), ((LAYER, y, x), "columns"),
                     ((LAYER, x, self.rows(1)[1]), "x has 2 rows, y has 1"),
                     ((LAYER, x.data, y), "1 dimensions"))
            before = list(y.data)
            for arguments, words in cases:
                self.fails(verastore.Invalid, words, batch.forward, *arguments)
            half = verastore.Raw(bytearray(2 * 2 * 176), "F16", (2, 176))
            self.fails(verastore.Invalid, "x is F16, y is F32", batch.forward, LAYER, half, y)
            self.assertEqual(list(y.data), before)
            self.fails(verastore.Invalid, "cannot be closed", registry.close)
        with registry.batch([llama] * 3) as batch:
            self.fails(verastore.Invalid, "the batch has 3", batch.forward, LAYER, x, y)
        error = self.fails(verastore.Invalid, "", verastore.Registry, {LAYER: (64, 1 << 20)},
                           Path(adapter(NAMES[0])), budget_bytes=1 << 22)
        self.assertTrue(error.message)

    def test_numpy_rows_may_lie_apart(self):
        if self.without_numpy():
            return
        registry = self.registry()
        one = registry.add(Path(adapter(NAMES[1])))
        x, y = self.rows(4)
        wide = numpy.zeros((4, 300), numpy.float32)
        wide[:, :176] = numpy.frombuffer(x.data, numpy.float32).reshape(4, 176)
        inputs = wide[:, :176]
        inputs.flags.writeable = False
        out = numpy.frombuffer(bytearray(y.data), numpy.float32).reshape(4, 64)
        with registry.batch([one]) as batch:
            batch.forward(LAYER, inputs, out)
            batch.forward(LAYER, x, y)
            self.fails(verastore.Invalid, "side by side", batch.forward, LAYER, numpy.asfortranarray(inputs), out)
        self.assertEqual(out.tobytes(), bytes(y.data))


if __name__ == "__main__":
    unittest.main()
