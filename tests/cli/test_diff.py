"""vera diff: what the algebra of dW says of real adapters, against float64 and against sums made here."""
import json
import math
import os
import shutil
import struct
import subprocess
import unittest

from harness import FIXTURES, PATIENCE, Terminal, adapter, base, needs_terminals, read_tensors, write_tensors
from versions import A, B, RepositoryTest

DIFF = {"identical", "total", "modules", "tensors", "files", "config"}
EFFECT = {"norm_a", "norm_b", "delta_norm", "relative", "cosine"}
PREFIX = "base_model.model."
with open(os.path.join(FIXTURES, "expected", "expected.json"), encoding="utf-8") as file:
    COMPARE = json.load(file)["compare"]


def floats(data):
    return struct.unpack(f"<{len(data) // 4}f", data)


def edit(directory, change):
    """Let `change` alter {name: (dtype, shape, bytes)} of a directory's adapter."""
    path = os.path.join(directory, "adapter_model.safetensors")
    tensors = read_tensors(path)
    change(tensors)
    write_tensors(path, tensors)


class Diff(RepositoryTest):
    def diff(self, *args, **kwargs):
        result = self.vera("diff", *args, "--json", **kwargs).json
        self.assertEqual(set(result), DIFF)
        for module in result["modules"]:
            self.assertEqual(set(module), EFFECT | {"name", "changed_d", "changed_b"})
        names = [module["name"] for module in result["modules"]]
        self.assertEqual(names, sorted(set(names)))
        return result

    def assert_close(self, got, expected, what):
        if expected is None or got is None:
            self.assertEqual(got, expected, what)
        else:
            self.assertTrue(math.isclose(got, expected, rel_tol=1e-6), (what, got, expected))

    def assert_effects(self, result, expected):
        self.assertEqual([m["name"] for m in result["modules"]], sorted(expected["modules"]))
        pairs = [(result["total"], expected["total"], "total")]
        pairs += [(m, expected["modules"][m["name"]], m["name"]) for m in result["modules"]]
        for got, wanted, what in pairs:
            for key, value in wanted.items():
                self.assert_close(got[key], value, (what, key))
            self.assert_close(got["relative"], wanted["delta_norm"] / wanted["norm_a"], (what, "relative"))

    def test_every_pair_has_the_norms_of_float64(self):
        self.assertGreater(len(COMPARE), 4)
        for pair, expected in COMPARE.items():
            names = [adapter(name) for name in pair.split()]
            self.assert_effects(self.diff(*names, "--base", base("llama")), expected)

    def test_versions_with_a_pin_need_no_model(self):
        pair, expected = next(iter(COMPARE.items()))
        first, second = pair.split()
        self.vera("commit", adapter(first), "--base", base("llama"), "--branch", "first")
        self.vera("commit", adapter(second), "--base", base("llama"), "--branch", "second")
        result = self.diff("first", "second")
        self.assert_effects(result, expected)
        self.assertFalse(result["identical"])
        self.vera("switch", "second")
        self.assertEqual(self.diff("first"), result)
        # One pin tells for both: they are adapters of one model.
        self.assertEqual(self.diff("first", adapter(second)), result)
        self.assertEqual(self.diff("first", "second", "--base", base("llama")), result)

    def test_without_sizes_it_says_how_to_tell_them(self):
        self.fails("diff", adapter("llama/step-010"), adapter("llama/step-020"), hint="--base MODEL")

    def one_ulp(self, name, number):
        """How far dW moves where one value of one d moves by one unit in the last place."""
        changed = self.copy("llama/step-060")
        tensors = self.tensors(changed)
        module = PREFIX + name
        d = floats(tensors.bytes(module + ".vera_lambda_d"))
        b = floats(tensors.bytes(module + ".vera_lambda_b"))
        rank, inputs = tensors.entries[A]["shape"]
        a, big_b = floats(tensors.bytes(A)), floats(tensors.bytes(B))
        tensors.flip(module + ".vera_lambda_d", byte=4 * number)
        moved = floats(tensors.bytes(module + ".vera_lambda_d"))
        row = math.sqrt(math.fsum(x * x for x in a[number * inputs:number * inputs + 64]))
        column = math.sqrt(math.fsum((x * big_b[i * rank + number]) ** 2 for i, x in enumerate(b)))
        result = self.diff(adapter("llama/step-060"), changed, "--base", base("llama"))
        shutil.rmtree(changed)
        return result, abs(moved[number] - d[number]) * row * column

    def test_one_unit_in_the_last_place_is_measured(self):
        name = "model.layers.1.self_attn.k_proj"  # 64 inputs
        for number in (0, 17, 31):
            result, expected = self.one_ulp(name, number)
            self.assertGreater(expected, 0)
            self.assert_close(result["total"]["delta_norm"], expected, "total")
            for module in result["modules"]:
                is_it = module["name"] == name
                self.assert_close(module["delta_norm"], expected if is_it else 0, module["name"])
                self.assertEqual((module["changed_d"], module["changed_b"]), (int(is_it), 0))

    def test_what_is_zero_has_no_relative_and_no_cosine(self):
        result = self.diff(adapter("llama/step-000"), adapter("llama/step-010"), "--base", base("llama"))
        for effect in (result["total"], *result["modules"]):
            self.assertEqual((effect["norm_a"], effect["relative"], effect["cosine"]), (0, None, None))
            self.assertGreater(effect["delta_norm"], 0)
        back = self.diff(adapter("llama/step-010"), adapter("llama/step-000"), "--base", base("llama"))
        self.assertEqual(back["total"]["relative"], 1)
        self.assertIsNone(back["total"]["cosine"])

    def test_against_no_adapter(self):
        result = self.diff(adapter("llama/step-060"), "--zero", "--base", base("llama"))
        other = self.diff(adapter("llama/step-060"), adapter("llama/step-120"), "--base", base("llama"))
        for got, wanted in zip(result["modules"], other["modules"], strict=True):
            self.assertEqual((got["norm_a"], got["norm_b"], got["delta_norm"], got["relative"]),
                             (wanted["norm_a"], 0, wanted["norm_a"], 1))
        self.fails("diff", "main", "other", "--zero", status=2)

    def test_identical(self):
        same = adapter("llama/step-060")
        self.vera("commit", same)
        for first, second in ((same, same), ("main", same), (same, "HEAD")):
            result = self.diff(first, second, "--exit-code")
            self.assertTrue(result["identical"])
            self.assertEqual([result[key] for key in ("tensors", "files", "config")], [[], [], []])
            self.assertIn("identical", self.vera("diff", first, second).out)
        result = self.diff(same, same, "--base", base("llama"))
        self.assertEqual((result["total"]["delta_norm"], result["total"]["cosine"]), (0, 1))
        self.vera("diff", "main", adapter("llama/step-070"), "--exit-code", "--base", base("llama"), code=1)
        self.vera("diff", "main", adapter("llama/step-070"), "--base", base("llama"))

    def test_the_same_effect_in_other_bits_is_no_change_of_effect(self):
        doubled = self.copy("llama/step-060")

        def double(tensors):
            for name, (dtype, shape, data) in tensors.items():
                factor = {"d": 2.0, "b": 0.5}.get(name[-1] if "vera_lambda" in name else "")
                if factor:
                    tensors[name] = dtype, shape, struct.pack(f"<{len(data) // 4}f", *(factor * x for x in floats(data)))
        edit(doubled, double)
        result = self.diff(adapter("llama/step-060"), doubled, "--base", base("llama"))
        self.assertEqual(result["total"]["delta_norm"], 0)
        self.assertFalse(result["identical"])
        self.assertTrue(all(module["changed_d"] == 32 for module in result["modules"]))

    def test_another_seed_another_rank_and_other_modules(self):
        """Declared bases: the matrices go, the configuration names another seed, or a smaller rank."""
        first, other = adapter("llama/step-060"), self.copy("llama/step-120")
        gone = PREFIX + "model.layers.0.mlp.up_proj"

        def narrow(tensors):
            for name in [A, B, gone + ".vera_lambda_d", gone + ".vera_lambda_b"]:
                del tensors[name]
            for name, (dtype, _, data) in list(tensors.items()):
                if name.endswith("vera_lambda_d"):
                    tensors[name] = dtype, [16], data[:64]
        edit(other, narrow)
        path = os.path.join(other, "adapter_config.json")
        with open(path, encoding="utf-8") as config:
            text = config.read()
        with open(path, "w", encoding="utf-8") as config:
            config.write(text.replace('"r": 32', '"r": 16').replace('"projection_prng_key": 0',
                                                                    '"projection_prng_key": 7')
                         .replace('"save_projection": true', '"save_projection": false'))
        result = self.diff(first, other, "--base", base("llama"))
        alone = {m["name"]: m["norm_a"] for m in self.diff(other, "--zero", "--base", base("llama"))["modules"]}
        for module in result["modules"]:
            if PREFIX + module["name"] == gone:
                self.assertEqual((module["norm_b"], module["relative"]), (0, 1))
                self.assertEqual((module["changed_d"], module["changed_b"]), (32, 176))
                continue
            self.assert_close(module["norm_b"], alone[module["name"]], module["name"])
            square = (module["norm_a"] ** 2 + module["norm_b"] ** 2
                      - 2 * module["cosine"] * module["norm_a"] * module["norm_b"])
            self.assert_close(module["delta_norm"], math.sqrt(square), module["name"])
            self.assertLess(abs(module["cosine"]), 0.5)
        self.assertEqual(result["config"], [{"key": "projection_prng_key", "a": 0, "b": 7},
                                            {"key": "r", "a": 32, "b": 16},
                                            {"key": "save_projection", "a": True, "b": False}])

    def test_biases_whole_modules_files_and_configuration(self):
        first, second = adapter("bert/step-000"), self.copy("bert/step-040")
        path = os.path.join(second, "adapter_config.json")
        with open(path, encoding="utf-8") as config:
            changed = json.load(config)
        changed["modules_to_save"].reverse()
        changed["vera_dropout"] = 0.25
        changed["d_initial"] = "D_INITIAL"
        changed["nested"] = {"a": [1, {"b": None}], "c": {}}
        with open(path, "w", encoding="utf-8") as config:
            config.write(json.dumps(changed).replace('"D_INITIAL"', "1e-1"))  # 0.1 in other words
        with open(os.path.join(second, "notes.txt"), "w", encoding="utf-8") as notes:
            notes.write("new\n")
        os.remove(os.path.join(second, "README.md"))
        result = self.diff(first, second, "--base", base("bert"))
        names = {tensor["name"]: tensor for tensor in result["tensors"]}
        self.assertIn("classifier.weight", names)
        left, right = (read_tensors(os.path.join(path, "adapter_model.safetensors")) for path in (first, second))
        for name, tensor in names.items():
            x, y = (floats(side[PREFIX + name][2]) for side in (left, right))
            self.assertEqual(tensor["change"], "changed")
            self.assert_close(tensor["delta_norm"], math.sqrt(math.fsum((u - v) ** 2 for u, v in zip(x, y))), name)
        unchanged = {name for name in left if "vera_" not in name and left[name] == right[name]}
        self.assertEqual(set(names), {name[len(PREFIX):] for name in left if "vera_" not in name} -
                         {name[len(PREFIX):] for name in unchanged})
        self.assertEqual(result["config"], [{"key": "nested.a", "a": None, "b": [1, {"b": None}]},
                                            {"key": "nested.c", "a": None, "b": {}},
                                            {"key": "vera_dropout", "a": 0.0, "b": 0.25}])
        self.assertEqual(result["files"], [
            {"path": "README.md", "change": "removed"},
            {"path": "adapter_config.json", "change": "changed"},
            {"path": "adapter_model.safetensors", "change": "changed"},
            {"path": "notes.txt", "change": "added"}])
        said = self.vera("diff", first, second, "--base", base("bert")).out
        for text in ("vera_dropout: 0.0 -> 0.25", "  removed  README.md\n", "classifier.weight, by "):
            self.assertIn(text, said)
        self.assertNotIn("adapter_model.safetensors", said)

    def test_what_is_refused(self):
        llama, bert = adapter("llama/step-060"), adapter("bert/step-040")
        self.fails("diff", llama, bert, "--base", base("llama"), says="matched 0 of")
        self.vera("commit", llama, "--base", base("llama"))
        self.vera("commit", bert, "--base", base("bert"), "--branch", "bert")
        other = self.copy("llama/step-060")
        self.tensors(other).set(PREFIX + "model.layers.1.mlp.up_proj.vera_lambda_b", b"\0\0\xc0\x7f")
        self.fails("diff", "main", other, says=["model.layers.1.mlp.up_proj", "not finite"])
        self.fails("diff", "main", other, "--base", base("bert"), says="matched 0 of")
        self.fails("diff", "main", "nobody", code="NOTFOUND", says="nobody")
        self.fails("diff", status=2)
        self.fails("diff", llama, "main", "third", status=2)

    def changed_base(self):
        """The llama with other values in one weight."""
        model = self.path("model")
        shutil.copytree(base("llama"), model)
        name, changed = "model.layers.1.mlp.up_proj.weight", []
        for shard in sorted(os.listdir(model)):
            path = os.path.join(model, shard)
            if shard.endswith(".safetensors") and name in (tensors := read_tensors(path)):
                dtype, shape, data = tensors[name]
                tensors[name] = dtype, shape, bytes([data[0] ^ 1]) + data[1:]
                write_tensors(path, tensors)
                changed.append(shard)
        self.assertEqual(len(changed), 1)
        return model

    def test_a_model_that_is_not_the_recorded_one_is_a_conflict(self):
        self.vera("commit", adapter("llama/step-060"), "--base", base("llama"))
        self.vera("commit", adapter("llama/step-070"), "--base", base("llama"))
        other = self.changed_base()
        for args in (["diff", "main~1", "main"], ["diff", adapter("llama/step-050"), "main"],
                     ["diff", "main", "--zero"], ["show", "main", "--spectrum"]):
            self.vera(*args, "--base", base("llama"))
            self.fails(*args, "--base", other, code="CONFLICT", hint="leave --base out",
                       says=["not the base model", "model.layers.1.mlp.up_proj: other values"])
            self.fails(*args, "--base", base("llama-half"), code="CONFLICT",
                              says="model.layers.0.mlp.up_proj: BF16 [176, 64] here, F32 [176, 64] recorded")
        # No pin, nothing to contradict: only shapes count.
        self.vera("diff", adapter("llama/step-050"), adapter("llama/step-060"), "--base", other)

    def test_adapters_of_two_base_models_are_not_compared(self):
        self.vera("commit", adapter("llama/step-060"), "--base", base("llama"))
        self.vera("commit", adapter("llama/step-070"), "--base", self.changed_base())
        self.fails("diff", "main~1", "main", says="main~1 and main were committed with different base models",
                   hint="one model")
        self.vera("commit", adapter("gpt2/step-040"), "--base", base("gpt2"), "--branch", "gpt2")
        self.vera("diff", "main", "--zero")
        self.fails("diff", "main", adapter("gpt2/step-040"), hint="--base MODEL")

    def test_conv1d_weights_are_stored_the_other_way_round(self):
        first, second = adapter("gpt2/step-020"), adapter("gpt2/step-040")
        self.vera("commit", first, "--base", base("gpt2"))
        self.vera("commit", second, "--base", base("gpt2"))
        pinned, at_hand = self.diff("main~1", "main"), self.diff(first, second, "--base", base("gpt2"))
        self.assertEqual(pinned["modules"], at_hand["modules"])
        tensors = read_tensors(os.path.join(second, "adapter_model.safetensors"))
        rank, columns = tensors[A][1]
        a, big_b = floats(tensors[A][2]), floats(tensors[B][2])
        name = next(m["name"] for m in pinned["modules"] if m["name"].endswith("c_attn"))
        d, b = (floats(tensors[f"{PREFIX}{name}.vera_lambda_{v}"][2]) for v in "db")
        self.assertEqual((len(b), columns), (144, 192))
        gram = [[d[k] * d[l] * math.fsum(a[k * columns + j] * a[l * columns + j] for j in range(48))
                 for l in range(rank)] for k in range(rank)]
        square = math.fsum((x * x * big_b[i * rank + k] * big_b[i * rank + l] * gram[k][l])
                           for i, x in enumerate(b) for k in range(rank) for l in range(rank))
        got = next(m["norm_b"] for m in pinned["modules"] if m["name"] == name)
        self.assert_close(got, math.sqrt(square), name)

    def test_progress_is_told_where_it_is_asked_for(self):
        self.vera("commit", adapter("llama/step-060"), "--base", base("llama"))
        for command in (["diff", "main", "--zero"], ["show", "main", "--spectrum"]):
            with self.spawn([*command, "--progress"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                _, told = process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, 0)
            self.assertIn(b"100%", told)

    def test_words_fit_the_line(self):
        args = ["diff", adapter("llama/step-000"), adapter("llama/step-060"), "--base", base("llama")]
        for extra in ([], ["--stat"]):
            for line in self.vera(*args, *extra).out.splitlines():
                self.assertLessEqual(len(line.replace(FIXTURES, "")), 80)
        lines = self.vera("diff", adapter("llama/step-060"), adapter("llama/step-120"), "--base", base("llama"),
                          "--stat").out.splitlines()
        bars = [line for line in lines if line.startswith("model.layers")]
        self.assertEqual(len(bars), 14)
        lengths = [line.count("#") for line in bars]
        self.assertEqual(lengths, sorted(lengths, reverse=True))
        self.assertEqual(len(bars[0]), 79)

    def on_terminal(self, columns, *args):
        """The lines that a terminal of that width is given."""
        terminal = Terminal(self, *args, columns=columns)
        while terminal.read():
            pass
        return terminal.seen.decode().splitlines()

    @needs_terminals
    def test_bars_are_as_wide_as_the_terminal(self):
        args = ["diff", adapter("llama/step-060"), adapter("llama/step-120"), "--base", base("llama"), "--stat"]
        for columns in (25, 44, 132):
            bars = [line for line in self.on_terminal(columns, *args) if "#" in line]
            self.assertEqual(len(bars), 14)
            self.assertEqual(max(map(len, bars)), columns - 1)
        for columns, width in (("44", 44), ("24", 80), ("10001", 80), ("-3", 80), ("wide", 80)):
            bars = [line for line in self.vera(*args, env={"COLUMNS": columns}).out.splitlines() if "#" in line]
            self.assertEqual(max(map(len, bars)), width - 1, columns)

    @needs_terminals
    def test_long_names_are_cut_in_the_middle_on_a_terminal_only(self):
        self.vera("commit", adapter("bert/step-000"), "--base", base("bert"))
        self.vera("commit", adapter("bert/step-040"), "--base", base("bert"))
        name = "bert.encoder.layer.1.attention.self.query"
        for columns, cut, *command in ((58, "bert...query", "diff", "main~1", "main"),
                                       (50, "bert.encoder.layer..tention.self.query", "diff", "main", "--zero"),
                                       (62, "bert.enco..elf.query", "show", "--spectrum")):
            self.assertIn(f"  {name}\n", self.vera(*command).out)
            lines = self.on_terminal(columns, *command)
            rows = [line for line in lines if line.endswith(f"  {cut}")]
            self.assertEqual(list(map(len, rows)), [columns], lines)
        biases = [line for line in self.on_terminal(58, "diff", "main~1", "main") if ", by" in line]
        self.assertEqual(len(biases), 4)
        self.assertTrue(all(len(line) <= 58 for line in biases))


class Spectrum(RepositoryTest):
    def prepare(self):
        self.commit(adapter("llama/step-060"), "--base", base("llama"))
        self.commit(adapter("llama/step-120"), "--base", base("llama"))

    def spectrum(self, *args):
        shown = self.vera("show", *args, "--spectrum", "--json").json["spectrum"]
        for entry in shown:
            self.assertEqual(set(entry), {"module", "singular_values", "energy", "effective_rank"})
        return {entry["module"]: entry for entry in shown}

    def test_values_energy_and_effective_rank_fit_the_norm(self):
        norms = {m["name"]: m["norm_a"] for m in self.vera("diff", "main", "--zero", "--json").json["modules"]}
        spectra = self.spectrum()
        self.assertEqual(set(spectra), set(norms))
        for name, entry in spectra.items():
            values = entry["singular_values"]
            self.assertEqual(len(values), 32)
            self.assertEqual(values, sorted(values, reverse=True))
            squares = [value ** 2 for value in values]
            self.assertAlmostEqual(math.sqrt(math.fsum(squares)) / norms[name], 1, places=9)
            for count, share in enumerate(entry["energy"], 1):
                self.assertAlmostEqual(share, math.fsum(squares[:count]) / math.fsum(squares), places=9)
            shares = [value / math.fsum(values) for value in values]
            entropy = -math.fsum(p * math.log(p) for p in shares if p)
            self.assertAlmostEqual(entry["effective_rank"], math.exp(entropy), places=6)

    def test_one_module_or_all_whose_name_ends_so(self):
        everything = self.spectrum("main~1")
        one = "model.layers.1.mlp.up_proj"
        self.assertEqual(self.spectrum("main~1", one), {one: everything[one]})
        self.assertEqual(self.spectrum(one), {one: self.spectrum("main")[one]})
        both = {name: entry for name, entry in everything.items() if name.endswith(".k_proj")}
        self.assertEqual(self.spectrum("main~1", "k_proj"), both)
        self.assertEqual(len(both), 2)
        self.fails("show", "main", "model.layers.1.mlp.up_prj", "--spectrum", code="NOTFOUND",
                   says="model.layers.1.mlp.up_prj", hint=one)
        self.fails("show", "main", "k_proj", status=2)

    def test_a_directory_and_what_does_nothing(self):
        self.fails("show", adapter("llama/step-000"), "--spectrum", hint="--base MODEL")
        shown = self.vera("show", adapter("llama/step-000"), "--spectrum", "--base", base("llama"), "--json").json
        self.assertTrue(all(entry["effective_rank"] == 0 and not any(entry["singular_values"])
                            for entry in shown["spectrum"]))
        self.assertIsNone(self.vera("show", "main", "--json").json["spectrum"])

    def test_words_and_a_plot(self):
        said = self.vera("show", "--spectrum", "model.layers.1.mlp.up_proj").out
        self.assertRegex(said, r"\|\|dW\|\| +effective +90% +99% +99.9%  module\n")
        plot = [line for line in said.splitlines() if "#" in line]
        self.assertEqual(len(plot), 20)
        self.assertTrue(all(len(line) <= 80 for line in plot))
        self.assertIn("and 12 more", said)

    @needs_terminals
    def test_a_narrow_terminal_has_the_numbers_and_no_room_for_bars(self):
        terminal = Terminal(self, "show", "--spectrum", "model.layers.1.mlp.up_proj", columns=25)
        self.assertEqual(terminal.finish(), 0)
        self.assertNotIn(b"#", terminal.seen)


if __name__ == "__main__":
    unittest.main()
