"""apply and verify: the bits that exact mode must give, whoever computes them; nothing by halves."""
import json
import os
import shutil
import unittest

from harness import FIXTURES, VeraTest, adapter, base, tree
from tensors import Model, Tensors
from versions import APPLY, REPORT, RepositoryTest, fixture_base

with open(os.path.join(FIXTURES, "expected", "exact.json"), encoding="utf-8") as exact_file:
    # MiniLM's own checkpoint is not among the fixtures.
    EXACT = {name: tensors for name, tensors in json.load(exact_file).items()
             if fixture_base(name)}


def headers(directory):
    """The shards' headers, by file."""
    found = {}
    for name in os.listdir(directory):
        if name.endswith(".safetensors"):
            shard = Tensors(os.path.join(directory, name))
            found[name] = bytes(shard.data[:shard.begin])
    return found


class Exact(RepositoryTest):
    def test_gives_the_expected_bits(self):
        self.assertEqual(len(EXACT), 9)
        for name, expected in EXACT.items():
            with self.subTest(name):
                model, out = fixture_base(name), self.path(name.replace("/", "-"))
                self.commit(adapter(name), "--base", model, "--allow-empty")
                done = self.vera("apply", "HEAD", "--base", model, "--out", out, "--json").json
                self.assertTrue(done["pinned"])
                self.assertEqual(done["matched"], len(expected))
                merged, before = Model(out), Model(model)
                self.assertEqual({tensor: merged.digest(tensor) for tensor in expected}, expected)
                replaced = set(merged.tensors) - set(expected)
                if not name.startswith("bert"):
                    for tensor in replaced:
                        self.assertEqual(merged.bytes(tensor), before.bytes(tensor), tensor)
                self.assertEqual(headers(out), headers(model))
                self.assertEqual(self.vera("verify", out, "--rev", "HEAD", "--base", model,
                                           "--json").json, {"ok": True, "first_difference": None})

    def test_bert_replaces_biases_and_classifier(self):
        self.vera("apply", adapter("bert/step-040"), "--base", base("bert"), "--out", "out")
        merged, own = Model(self.path("out")), Model(adapter("bert/step-040"))
        for name in ("classifier.weight", "classifier.bias"):
            self.assertEqual(merged.bytes(name), own.bytes("base_model.model." + name))
        query = "bert.encoder.layer.1.attention.self.query."
        self.assertEqual(merged.bytes(query + "bias"),
                         own.bytes("base_model.model." + query + "base_layer.bias"))

    def test_same_bits_with_any_threads_and_instructions(self):
        for name in ("llama/step-120", "llama-half/step-030", "gpt2/step-040"):
            model, trees = fixture_base(name), []
            for number, (threads, cpu) in enumerate((("1", ""), ("2", ""), ("1", "scalar"),
                                                     ("2", "avx2"), ("2", "avx512"))):
                out = self.path(f"{name.replace('/', '-')}-{number}")
                self.vera("apply", adapter(name), "--base", model, "--out", out, "--threads",
                          threads, env={"VERA_CPU": cpu} if cpu else {})
                trees.append(tree(out))
            self.assertEqual(trees.count(trees[0]), len(trees), name)

    def test_a_version_and_its_directory_are_one(self):
        self.commit(adapter("llama/step-120"))
        self.vera("apply", "HEAD", "--base", base("llama"), "--out", "version")
        self.vera("apply", adapter("llama/step-120"), "--base", base("llama"), "--out", "directory")
        self.assertEqual(tree(self.path("version")), tree(self.path("directory")))


class Apply(RepositoryTest):
    def prepare(self):
        type(self).made = self.commit(adapter("llama/step-120"), "--base", base("llama"))

    def test_json_has_exactly_its_fields(self):
        done = self.vera("apply", "main", "--base", base("llama"), "--out", "out", "--json").json
        self.assertEqual(set(done), APPLY)
        self.assertEqual((done["matched"], done["modules"]), (14, 14))
        self.assertEqual((done["tensors_rewritten"], done["tensors_added"]), (14, 0))
        self.assertEqual((done["device"], done["math"]), ("cpu", "exact"))
        self.assertIsNone(done["report"])
        self.assertGreater(done["seconds"], 0)

    def test_says_what_was_done(self):
        done = self.vera("apply", "main", "--base", base("llama"), "--out", "out")
        self.assertIn("14 of 14 modules", done.out)
        self.assertEqual(done.err, "")

    def test_report(self):
        done = self.vera("apply", "main", "--base", base("llama"), "--out", "out", "--json",
                         "--report").json
        self.assertEqual(len(done["report"]), 14)
        for module in done["report"]:
            self.assertEqual(set(module), REPORT)
            self.assertTrue(0 <= module["unchanged"] <= 1)
            self.assertAlmostEqual(module["kept"], 1, delta=1e-3)
            self.assertEqual(module["nonfinite"], 0)
        said = self.vera("apply", "main", "--base", base("llama"), "--out", "out2", "--report").out
        self.assertIn("model.layers.0.self_attn.q_proj", said)

    def test_dry_run_writes_nothing(self):
        done = self.vera("apply", "main", "--base", base("llama"), "--dry-run", "--json").json
        self.assertEqual(set(done), APPLY)
        self.assertEqual(done["matched"], 14)
        self.assertEqual(os.listdir(self.dir), [".vera"])
        self.fails("apply", "main", "--base", base("gpt2"), "--dry-run")

    def test_unpinned_is_said(self):
        self.commit(adapter("llama/step-110"))
        done = self.vera("apply", "HEAD", "--base", base("llama"), "--out", "out", "--json")
        self.assertFalse(done.json["pinned"])
        self.assertIn("warning: unpinned", done.err)

    def test_another_base_is_refused(self):
        self.fails("apply", "main", "--base", base("gpt2"), "--out", "out", says="matched 0 of 14")
        self.fails("apply", "main", "--base", base("llama-half"), "--out", "out", code="CONFLICT")
        changed = self.path("changed")
        shutil.copytree(base("llama"), changed)
        name = "model.layers.0.self_attn.q_proj.weight"
        Model(changed).tensors[name].flip(name, 5)
        self.fails("apply", "main", "--base", changed, "--out", "out", code="CONFLICT",
                   says="model.layers.0.self_attn.q_proj")
        self.fails("apply", "main", "--base", self.path("none"), "--out", "out", code="NOTFOUND")
        self.assertEqual(sorted(os.listdir(self.dir)), [".vera", "changed"])

    def test_out_is_never_half_of_one(self):
        os.mkdir(self.path("out"))
        with open(self.path("out", "mine"), "w", encoding="utf-8") as file:
            file.write("mine")
        self.fails("apply", "main", "--base", base("llama"), "--out", "out", code="EXISTS",
                   hint="--force")
        self.assertEqual(os.listdir(self.path("out")), ["mine"])
        self.vera("apply", "main", "--base", base("llama"), "--out", "out", "--force")
        self.assertNotIn("mine", os.listdir(self.path("out")))

    def test_non_finite_values_are_stored_and_not_applied(self):
        path = self.copy("llama/step-110")
        tensors = self.tensors(path)
        name = next(name for name in tensors.entries if name.endswith("vera_lambda_d"))
        tensors.set(name, b"\x00\x00\xc0\x7f")
        self.commit(path)
        self.vera("export", "HEAD", "back")
        self.assertEqual(tree(self.path("back")), tree(path))
        module = name[len("base_model.model."):-len(".vera_lambda_d")]
        self.fails("apply", "HEAD", "--base", base("llama"), "--out", "out", says=module)
        self.assertFalse(os.path.exists(self.path("out")))

    def test_weights(self):
        self.commit(adapter("llama-c/step-040"), "--branch", "c")
        self.vera("apply", "main:1", "--base", base("llama"), "--out", "one")
        self.vera("apply", "main", "--base", base("llama"), "--out", "plain")
        self.assertEqual(tree(self.path("one")), tree(self.path("plain")))
        snapshot = self.made["snapshot"]
        self.vera("apply", snapshot, "--base", base("llama"), "--out", "by-id")
        self.assertEqual(tree(self.path("by-id")), tree(self.path("plain")))
        self.vera("apply", snapshot[:15] + ":0.5", "c:0.5", "--base", base("llama"), "--out", "both")
        self.assertNotEqual(tree(self.path("both")), tree(self.path("plain")))
        self.vera("verify", "both", "--rev", "main:0.5", "--rev", "c:0.5", "--base", base("llama"))
        self.vera("verify", "both", "--rev", "main:0.5", "--rev", "c:0.6", "--base", base("llama"),
                  code=1)
        for text in ("main:", "main:x", "main:nan", "main:1e99", "main:1 "):
            self.fails("apply", text, "--base", base("llama"), "--out", "no", status=2)

    def test_called_wrongly(self):
        self.fails("apply", "main", "--out", "out", status=2, says="--base")
        self.fails("apply", "main", "--base", base("llama"), status=2, says="--out")
        self.fails("apply", "--base", base("llama"), "--out", "out", status=2)
        for option in ("--threads=0", "--threads=x", "--threads=99999", "--device=gpu",
                       "--math=quick"):
            self.fails("apply", "main", "--base", base("llama"), "--out", "out", option, status=2)
        self.fails("apply", "nobody", "--base", base("llama"), "--out", "out", code="NOTFOUND")
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_without_a_repository(self):
        shutil.rmtree(self.path(".vera"))
        self.vera("apply", adapter("llama/step-120"), "--base", base("llama"), "--out", "out")
        self.vera("verify", "out", "--rev", adapter("llama/step-120"), "--base", base("llama"))


LLAMA = adapter("llama/step-120")
HALF = adapter("llama-half/step-030")
SWALLOWED = "swallows most of the change"


class Report(VeraTest):
    def report(self, name, model, *args, code=0):
        return self.vera("apply", name, "--base", base(model), "--dry-run", "--report", *args,
                         code=code)

    def test_warns_where_a_16_bit_base_swallows_most_of_an_adapter(self):
        for weight in ("0.03", "0.01", "0.0001", "-0.01"):
            done = self.report(f"{HALF}:{weight}", "llama-half")
            self.assertIn(f"vera: warning: rounding to the base model's dtype {SWALLOWED}", done.err)
            self.assertIn("in 14 of 14 modules", done.err)
            self.assertIn("hint: a float32 copy of the base model", done.err)

    def test_does_not_where_it_arrives(self):
        for name, model in ((HALF, "llama-half"), (HALF + ":0.3", "llama-half"),
                            (LLAMA, "llama"), (LLAMA + ":0.0001", "llama"),
                            (adapter("gpt2/step-040"), "gpt2"), (HALF + ":0", "llama-half")):
            self.assertNotIn(SWALLOWED, self.report(name, model).err)
        self.assertNotIn(SWALLOWED, self.vera("apply", HALF + ":0.01", "--base", base("llama-half"),
                                              "--dry-run").err)

    def test_what_moves_too_far_is_not_taken_for_kept(self):
        """At a weight of 0.03 the weights that move do so by whole steps, and make up in size for
        those that do not: that is why the change's own norm does not decide."""
        total = self.report(HALF + ":0.03", "llama-half").out.splitlines()[15].split()
        unchanged, kept, lost = (float(text.rstrip("%")) for text in total[:3])
        self.assertGreater(kept, 80)
        self.assertGreater(lost, 75)
        self.assertGreater(unchanged, 80)

    def test_the_parts_warn_together(self):
        args = ("apply", HALF + ":0.01", "--base", base("llama-half"), "--out", "out", "--report")
        self.vera(*args, "--part", "1/2")
        self.assertIn("in 14 of 14 modules", self.vera(*args, "--part", "2/2").err)

    def test_is_a_table_of_80_columns(self):
        lines = self.report(HALF, "llama-half").out.splitlines()
        self.assertEqual(lines[0].split(), ["unchanged", "kept", "lost", "max", "change", "module"])
        self.assertEqual(lines[15].split()[-3:], ["all", "14", "together"])
        self.assertTrue(all(len(line) <= 80 for line in lines[:16]))
        self.assertEqual(len({line.index(line.split()[-1]) for line in lines[1:15]}), 1)
        again = self.report(HALF, "llama-half", "--json").json["report"]
        for line, module in zip(lines[1:15], again):
            unchanged, kept, _, change, name = line.split()
            self.assertEqual(name, module["module"])
            self.assertEqual(unchanged, f"{100 * module['unchanged']:.2f}%")
            self.assertEqual(kept, f"{100 * module['kept']:.2f}%")
            self.assertAlmostEqual(float(change), module["max_change"],
                                   delta=0.01 * module["max_change"])

    def test_no_change_is_a_dash(self):
        lines = self.report(HALF + ":0", "llama-half").out.splitlines()
        self.assertEqual(lines[1].split()[:4], ["100.00%", "-", "-", "0"])


class Verify(RepositoryTest):
    def setUp(self):
        super().setUp()
        self.commit(adapter("llama/step-110"), "-m", "other")
        self.commit(adapter("llama/step-120"), "-m", "this")
        self.vera("apply", "HEAD", "--base", base("llama"), "--out", "out")

    def verify(self, code, *args):
        return self.vera("verify", "out", "--base", base("llama"), *args, code=code)

    def test_says_so(self):
        self.assertIn("out is exactly", self.verify(0, "--rev", "HEAD").out)

    def test_one_bit_of_any_tensor_is_found_by_name(self):
        for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
            tensors = Model(self.path("out")).tensors[name]
            tensors.flip(name, 9, 3)
            done = self.verify(1, "--rev", "HEAD", "--json")
            self.assertEqual(done.json, {"ok": False, "first_difference": name})
            self.assertIn(name, self.verify(1, "--rev", "HEAD").out)
            tensors.flip(name, 9, 3)
            self.verify(0, "--rev", "HEAD")

    def test_says_so_of_every_fixture(self):
        for name in sorted(set(EXACT) | {"bert/step-040"}):
            with self.subTest(name):
                out = self.path(name.replace("/", "-"))
                args = ("--base", fixture_base(name))
                dry = self.vera("apply", adapter(name), *args, "--dry-run", "--json").json
                self.assertFalse(os.path.exists(out))
                done = self.vera("apply", adapter(name), *args, "--out", out, "--json").json
                for key in ("matched", "modules", "tensors_rewritten", "tensors_added", "pinned"):
                    self.assertEqual(dry[key], done[key], key)
                before = tree(out)
                self.vera("verify", out, "--rev", adapter(name), *args)
                self.assertEqual(tree(out), before)
                self.vera("verify", out, "--rev", adapter(name) + ":0.5", *args,
                          code=1 if dry["tensors_added"] == 0 and not name.startswith("bert")
                          else None)

    def test_several_with_weights(self):
        args = ("--base", base("llama"))
        for weights in ((":0.5", ":-2"), ("", ":1")):
            self.vera("apply", "HEAD" + weights[0], "HEAD~1" + weights[1], *args, "--out", "two",
                      "--force")
            self.vera("verify", "two", "--rev", "HEAD" + weights[0], "--rev", "HEAD~1" + weights[1],
                      *args)
            self.vera("verify", "two", "--rev", "HEAD" + weights[0], *args, code=1)
        self.assertIn("--rev REV[:W]", self.vera("verify", "--help").out)

    def test_another_version_differs(self):
        self.assertIsNotNone(self.verify(1, "--rev", "HEAD~1", "--json").json["first_difference"])

    def test_called_wrongly(self):
        self.fails("verify", "out", "--base", base("llama"), status=2, says="--rev")
        self.fails("verify", "out", "--rev", "HEAD", status=2, says="--base")
        self.fails("verify", "none", "--rev", "HEAD", "--base", base("llama"), code="NOTFOUND")


if __name__ == "__main__":
    unittest.main()
