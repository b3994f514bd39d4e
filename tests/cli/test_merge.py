"""vera merge, revert and cherry-pick on real adapters. What is said to be lost is computed here again,
from dW built element by element."""
import json
import math
import operator
import os
import shutil
import signal
import struct
import unittest

from harness import adapter, base, read_tensors, tree, write_tensors
from versions import A, B, RepositoryTest

MODEL = base("llama")
BASE, C, PERL = adapter("llama/step-060"), adapter("llama-c/step-040"), adapter("llama-perl/step-040")
MERGE = {"commit", "snapshot", "branch", "base", "strategy", "weight", "fast_forward", "residual", "lost",
         "modules", "conflicts", "lora_rank"}
NONE = MERGE - {"snapshot", "branch", "base"}
PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def floats(data):
    return struct.unpack(f"<{len(data) // 4}f", data)


def packed(values):
    return struct.pack(f"<{len(values)}f", *values)


def vectors(directory):
    """({module: (d, b)}, A, B) as floats."""
    tensors = {name: floats(data) for name, (_, _, data) in read_tensors(os.path.join(directory, WEIGHTS)).items()}
    names = [name[len(PREFIX):-len(".vera_lambda_d")] for name in tensors if name.endswith(".vera_lambda_d")]
    modules = {name: (tensors[f"{PREFIX}{name}.vera_lambda_d"], tensors[f"{PREFIX}{name}.vera_lambda_b"])
               for name in names}
    return modules, tensors[A], tensors[B]


def inputs(module):
    return 176 if module.endswith("down_proj") else 64


def energy(terms, matrix_a, matrix_b, features_in):
    """||sum of w diag(b) B diag(d) A||^2 over terms (w, d, b), element by element in doubles."""
    rank = len(terms[0][1])
    width = len(matrix_a) // rank
    columns = [[matrix_a[k * width + j] for k in range(rank)] for j in range(features_in)]
    total = []
    for i in range(len(terms[0][2])):
        row = matrix_b[i * rank:(i + 1) * rank]
        mixed = [row[k] * math.fsum(w * b[i] * d[k] for w, d, b in terms) for k in range(rank)]
        total += [sum(map(operator.mul, mixed, column)) ** 2 for column in columns]
    return math.fsum(total)


class Merging(RepositoryTest):
    """main: step 60 of a run; c and perl: two branches that were trained on from there."""

    def prepare(self):
        type(self).start = self.commit(BASE, "-m", "base", "--base", MODEL)["commit"]
        for name, directory in (("c", C), ("perl", PERL)):
            self.vera("branch", name)
            self.commit(directory, "--branch", name, "-m", f"learn {name}", "--base", MODEL,
                        "--metric", "loss=1.5")

    def state(self):
        """Everything in the repository but what is only an index."""
        return {path: digest for path, digest in tree(self.path(".vera")).items()
                if not path.startswith("index.sqlite")}

    def merge(self, ours, theirs, *args):
        """On a new branch that begins at `ours`: the JSON."""
        name = f"try{len(self.vera('branch', '--json').lines)}"
        self.vera("switch", "-c", name, ours)
        result = self.vera("merge", theirs, "--json", *args).json
        self.assertEqual(set(result), MERGE)
        return result

    def conflict(self, *args, says=(), hint=(), **kwargs):
        """It must be refused with its own fields beside the error, and change nothing."""
        before = self.state()
        result = self.vera(*args, "--json", code=1, **kwargs)
        self.assertEqual(set(result.json), MERGE | {"error"})
        error = result.json["error"]
        self.assertEqual(error["code"], "CONFLICT")
        for text in says:
            self.assertIn(text, error["message"])
            self.assertIn(text, result.err)
        for text in hint:
            self.assertIn(text, error["hint"])
        self.assertIsNone(result.json["commit"])
        self.assertEqual(self.state(), before)
        return result.json

    def export(self, revision):
        shutil.rmtree(self.path("out"), ignore_errors=True)
        self.vera("export", revision, "out")
        return self.path("out")

    def variant(self, source, name, change=None, note=None, config=None):
        """A changed copy of an adapter: its path."""
        directory = self.path(name)
        shutil.copytree(source, directory)
        path = os.path.join(directory, WEIGHTS)
        if change:
            tensors = read_tensors(path)
            change(tensors)
            write_tensors(path, tensors)
        if note is not None:
            with open(os.path.join(directory, "note.txt"), "w", encoding="utf-8") as file:
                file.write(note)
        if config:
            path = os.path.join(directory, CONFIG)
            with open(path, encoding="utf-8") as file:
                keys = json.load(file)
            keys.update(config)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(keys, file, indent=2, sort_keys=True)
        return directory

    def branch(self, name, directory, *args, at=None):
        """A branch with one version on top of the start (or `at`)."""
        self.vera("branch", name, at or self.start)
        return self.commit(directory, "--branch", name, "-m", name, *args)["commit"]


class Numbers(Merging):
    def compute(self, weights, merged):
        """residual and lost of a merge, and what taking one side alone would lose."""
        sides = [vectors(path) for path in (BASE, C, PERL)]
        got, matrix_a, matrix_b = vectors(merged)
        sums = {"residual": [], "wanted": [], "ours": [], "theirs": [], "keep_ours": [], "keep_theirs": []}
        for name, (d, b) in got.items():
            versions = [side[0][name] for side in sides]
            wanted = [(w, *v) for w, v in zip(weights, versions)]
            minus = [(-w, *v) for w, v in zip(weights, versions)]
            terms = {
                "residual": [(1, d, b), *minus],
                "wanted": [*wanted, (-1, *versions[0])],
                "ours": [(1, *versions[1]), (-1, *versions[0])],
                "theirs": [(1, *versions[2]), (-1, *versions[0])],
                "keep_ours": [(1, *versions[1]), *minus],
                "keep_theirs": [(1, *versions[2]), *minus],
            }
            for key, value in terms.items():
                sums[key].append(energy(value, matrix_a, matrix_b, inputs(name)))
        return {key: math.sqrt(math.fsum(parts)) for key, parts in sums.items()}

    def check(self, args, weights, most):
        result = self.merge("c", "perl", *args)
        norms = self.compute(weights, self.export(result["commit"]))
        residual = norms["residual"] / max(norms["ours"], norms["theirs"])
        self.assertTrue(math.isclose(result["residual"], residual, rel_tol=1e-6), (result["residual"], residual))
        lost = norms["residual"] / norms["wanted"]
        self.assertTrue(math.isclose(result["lost"], lost, rel_tol=1e-6))
        self.assertLessEqual(lost, most)
        self.assertLessEqual(norms["residual"], min(norms["keep_ours"], norms["keep_theirs"]))
        self.assertEqual({module["taken"] for module in result["modules"]}, {"fitted"})
        return result

    def test_task_keeps_what_it_says(self):
        result = self.check([], (-1, 1, 1), 0.0655)
        self.assertEqual((result["strategy"], result["weight"]), ("task", 1))
        self.assertIsNone(result["lora_rank"])

    def test_average_keeps_what_it_says(self):
        result = self.check(["--strategy", "average"], (0, 0.5, 0.5), 0.0338)
        self.assertEqual((result["strategy"], result["weight"]), ("average", 0.5))

    def test_any_weight_keeps_what_it_says(self):
        self.check(["--weight", "0.25"], (-0.25, 1, 0.25), 1)
        self.check(["--strategy", "average", "--weight=0.75"], (0, 0.25, 0.75), 1)

    def test_exchanging_the_sides_gives_the_same_bits(self):
        for args in ([], ["--strategy", "average"]):
            first = self.merge("c", "perl", *args)
            second = self.merge("perl", "c", *args)
            self.assertEqual(first["snapshot"], second["snapshot"])
            self.assertEqual(first["residual"], second["residual"])
            self.assertEqual(first["base"], second["base"])
        third = self.merge("c", "perl", "--strategy", "ours")
        fourth = self.merge("perl", "c", "--strategy", "theirs")
        self.assertEqual(third["snapshot"], fourth["snapshot"])
        self.assertEqual(third["modules"][0]["taken"], "ours")
        self.assertEqual([m["residual"] for m in third["modules"]] + [third["residual"], third["weight"]],
                         [None] * 16)

    def test_a_dry_run_reports_and_changes_nothing(self):
        self.vera("switch", "c")
        before = self.state()
        result = self.vera("merge", "perl", "--dry-run", "--report", "--json").json
        self.assertEqual(self.state(), before)
        self.assertIsNone(result["commit"])
        ranks = result["lora_rank"]
        self.assertEqual(set(ranks), {"0.9", "0.99", "0.999"})
        self.assertTrue(1 < ranks["0.9"] <= ranks["0.99"] <= ranks["0.999"] <= 64)
        self.assertEqual(len(result["modules"]), 14)
        said = self.vera("merge", "perl", "--dry-run", "--report").out
        self.assertIn("not written", said)
        self.assertIn(f"rank {ranks['0.9']} keeps 90%", said)
        made = self.merge("c", "perl")
        self.assertEqual(made["snapshot"], result["snapshot"])
        self.assertEqual(made["residual"], result["residual"])

    def test_a_residual_above_the_limit_is_a_conflict_that_names_the_worst(self):
        self.vera("switch", "c")
        result = self.conflict("merge", "perl", "--max-residual", "0.1", "--report",
                               says=["residual 0.116", "v_proj"], hint=["--max-residual 0.13"])
        self.assertTrue(0.1 < result["residual"] < 0.13)
        self.assertIn("model.layers.0.self_attn.v_proj", result["conflicts"])
        self.assertTrue(result["lora_rank"])
        loss = {m["name"]: m["residual"] for m in result["modules"]}
        self.assertTrue(all(loss[name] > 0.1 for name in result["conflicts"]))
        self.vera("merge", "perl", "--max-residual", "0.13")

    def test_a_module_that_is_mostly_lost_is_warned_of(self):
        """Opposing changes in one module, which no single (d, b) holds."""
        name = "model.layers.0.self_attn.v_proj"

        def change(way):
            def edit(tensors):
                key = f"{PREFIX}{name}.vera_lambda_"
                d, b = floats(tensors[key + "d"][2]), floats(tensors[key + "b"][2])
                half = len(d) // 2
                d = [0.3 if (k < half) == way else 0 for k in range(len(d))]
                b = [(3 if (k % 2 == 0) == way else 0) for k in range(len(b))]
                tensors[key + "d"] = ("F32", [len(d)], packed(d))
                tensors[key + "b"] = ("F32", [len(b)], packed(b))
            return edit

        self.branch("one", self.variant(BASE, "1", change(True)))
        self.branch("two", self.variant(BASE, "2", change(False)))
        self.vera("switch", "one")
        result = self.conflict("merge", "two", "--base", MODEL, says=[name])
        self.assertEqual(result["conflicts"], [name])
        made = self.vera("merge", "two", "--base", MODEL, "--max-residual", "2")
        self.assertIn(f"vera: warning: {name}: residual 0.", made.err)


class ThreeWay(Merging):
    def change_one(self, module):
        def edit(tensors):
            key = f"{PREFIX}{module}.vera_lambda_d"
            dtype, shape, data = tensors[key]
            tensors[key] = (dtype, shape, packed([2 * x for x in floats(data)]))
        return edit

    def test_nothing_changed_on_both_sides_is_the_base_bit_for_bit(self):
        self.branch("one", self.variant(BASE, "1", note="a"))
        self.branch("two", self.variant(BASE, "2", config={"vera_dropout": 0.5}))
        result = self.merge("one", "two")
        self.assertEqual({m["taken"] for m in result["modules"]}, {"base"})
        self.assertEqual(result["residual"], 0)
        out = tree(self.export("HEAD"))
        self.assertEqual(out[WEIGHTS], tree(BASE)[WEIGHTS])
        self.assertEqual(out["note.txt"], tree(self.path("1"))["note.txt"])
        self.assertEqual(out[CONFIG], tree(self.path("2"))[CONFIG])

    def test_what_one_side_changed_has_that_sides_bits(self):
        self.branch("note", self.variant(BASE, "1", note="a"))
        for ours, theirs, taken in (("note", "perl", "theirs"), ("perl", "note", "ours")):
            result = self.merge(ours, theirs)
            self.assertEqual({m["taken"] for m in result["modules"]}, {taken})
            self.assertEqual(tree(self.export("HEAD")), {**tree(PERL), "note.txt": tree(self.path("1"))["note.txt"]})
        self.assertTrue(self.vera("show", "--json").json["base"]["pinned"])

    def test_the_same_change_has_those_bits(self):
        self.branch("one", self.variant(C, "1", note="a"))
        result = self.merge("one", "c")
        self.assertEqual({m["taken"] for m in result["modules"]}, {"both"})
        self.assertEqual(tree(self.export("HEAD")), tree(self.path("1")))

    def test_changes_of_different_modules_need_no_model(self):
        first, second = "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"
        self.branch("one", self.variant(BASE, "1", self.change_one(first)))
        self.branch("two", self.variant(BASE, "2", self.change_one(second)))
        result = self.merge("one", "two")
        taken = {m["name"]: m["taken"] for m in result["modules"]}
        self.assertEqual((taken.pop(first), taken.pop(second)), ("ours", "theirs"))
        self.assertEqual(set(taken.values()), {"base"})
        both = self.variant(self.variant(BASE, "3", self.change_one(first)), "4", self.change_one(second))
        self.assertEqual(tree(self.export("HEAD")), tree(both))

    def test_a_module_that_both_changed_needs_sizes(self):
        module = "model.layers.0.mlp.up_proj"
        at = self.commit(self.variant(BASE, "0", note="no pin"), "--branch", "plain", "-m", "plain")["commit"]
        self.branch("one", self.variant(self.path("0"), "1", self.change_one(module)), at=at)
        self.branch("two", self.variant(self.path("0"), "2", lambda tensors: (
            self.change_one(module)(tensors), self.change_one(module)(tensors))), at=at)
        self.vera("switch", "one")
        self.fails("merge", "two", hint="--base MODEL")
        result = self.vera("merge", "two", "--base", MODEL, "--json", "--max-residual", "1").json
        self.assertEqual({m["taken"] for m in result["modules"]}, {"base", "fitted"})
        self.assertTrue(self.vera("show", "--json").json["base"]["pinned"])
        self.vera("apply", "HEAD", "--base", MODEL, "--out", "merged")

    def test_a_pin_is_what_both_sides_have_recorded(self):
        self.branch("plain", self.variant(C, "1", note="no pin"))
        self.merge("plain", "perl")
        self.assertFalse(self.vera("show", "--json").json["base"]["pinned"])
        self.merge("plain", "perl", "--base", MODEL)
        self.assertTrue(self.vera("show", "--json").json["base"]["pinned"])
        self.merge("c", "perl")
        self.assertTrue(self.vera("show", "--json").json["base"]["pinned"])
        pins = {self.git("--git-dir=.vera", "rev-parse", f"{name}:model/pin") for name in ("c", "HEAD")}
        self.assertEqual(len(pins), 1)

    def test_modules_that_one_side_added_or_removed(self):
        first, second = "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"

        def without(*names):
            def edit(tensors):
                for name in names:
                    del tensors[f"{PREFIX}{name}.vera_lambda_d"], tensors[f"{PREFIX}{name}.vera_lambda_b"]
            return edit

        at = self.commit(self.variant(BASE, "0", without(first, second)), "--branch", "less", "-m", "less")["commit"]
        self.branch("one", self.variant(BASE, "1", without(first)), at=at)
        self.branch("two", self.variant(BASE, "2", without(second)), at=at)
        self.merge("one", "two")
        self.assertEqual(tree(self.export("HEAD")), tree(BASE))
        self.branch("three", self.variant(BASE, "3", without(first), note="a"))
        self.branch("four", self.variant(BASE, "4", note="a"))
        self.merge("four", "three")
        self.assertEqual(tree(self.export("HEAD")), tree(self.path("3")))
        self.branch("five", self.variant(BASE, "5", self.change_one(first)))
        self.vera("switch", "five")
        result = self.conflict("merge", "three", says=[first, "removed"], hint=["--strategy ours"])
        self.assertEqual(result["conflicts"], [first])

    def test_files_and_keys_that_both_changed_are_named(self):
        self.branch("one", self.variant(C, "1", note="a", config={"vera_dropout": 0.5}))
        self.branch("two", self.variant(PERL, "2", note="b", config={"vera_dropout": 0.25}))
        self.vera("switch", "one")
        result = self.conflict("merge", "two", says=["note.txt", "vera_dropout"], hint=["--strategy ours"])
        self.assertEqual(result["conflicts"], [f"{CONFIG}: vera_dropout", "note.txt"])
        self.assertIsNone(result["residual"])
        self.vera("merge", "two", "--strategy", "theirs")
        self.assertEqual(tree(self.export("HEAD")), tree(self.path("2")))
        self.vera("reset", "HEAD~1")
        self.vera("merge", "two", "--strategy", "ours")
        self.assertEqual(tree(self.export("HEAD")), tree(self.path("1")))

    def test_different_bases_are_refused_and_one_side_can_be_taken(self):
        other = adapter("llama-half/step-030")
        self.branch("other", other, "--base", base("llama-half"))
        self.vera("switch", "c")
        before = self.state()
        for strategy in ("task", "average"):
            self.fails("merge", "other", "--strategy", strategy, code="UNSUPPORTED", says="base",
                       hint=["--strategy ours", "LoRA"])
        self.assertEqual(self.state(), before)
        self.assertEqual(self.merge("c", "other", "--strategy", "theirs")["modules"][0]["taken"], "theirs")
        self.assertEqual(tree(self.export("HEAD")), {**tree(other), "README.md": tree(other)["README.md"]})
        self.merge("c", "other", "--strategy", "ours")
        out = tree(self.export("HEAD"))
        self.assertEqual((out[WEIGHTS], out[CONFIG]), (tree(C)[WEIGHTS], tree(C)[CONFIG]))

    def test_other_base_models_are_refused_too(self):
        """Of the same shapes, with other weights; or only by their names."""
        shutil.copytree(MODEL, self.path("model"))
        name = sorted(path for path in os.listdir(self.path("model")) if path.endswith(".safetensors"))[0]
        path = self.path("model", name)
        tensors = read_tensors(path)
        key = next(name for name in tensors if "_proj" in name)
        dtype, shape, data = tensors[key]
        tensors[key] = (dtype, shape, bytes([data[0] ^ 1]) + data[1:])
        write_tensors(path, tensors)
        self.branch("tuned", self.variant(PERL, "1", note="1"), "--base", self.path("model"))
        self.branch("named", self.variant(PERL, "2", config={"base_model_name_or_path": "other"}))
        self.vera("switch", "c")
        self.fails("merge", "tuned", code="UNSUPPORTED", hint="--strategy ours")
        self.fails("merge", "named", code="UNSUPPORTED", says=["tiny/llama", "other"], hint="--base MODEL")
        self.fails("merge", "named", "--base", self.path("model"), code="CONFLICT", hint="leave --base out")
        self.fails("merge", "named", "--base", base("gpt2"))
        result = self.merge("c", "named", "--base", MODEL)
        self.assertEqual(result["modules"][0]["taken"], "fitted")
        self.merge("c", "tuned", "--strategy", "theirs")
        self.assertEqual(tree(self.export("HEAD")), tree(self.path("1")))
        self.vera("apply", "HEAD", "--base", self.path("model"), "--out", "merged")

    def test_another_rank_is_refused_too(self):
        self.branch("gpt2", adapter("gpt2/step-040"), "--base", base("gpt2"))
        self.vera("switch", "c")
        self.fails("merge", "gpt2", code="UNSUPPORTED", hint="--strategy ours")
        self.vera("merge", "gpt2", "--strategy", "theirs")
        self.assertEqual(tree(self.export("HEAD"))[WEIGHTS], tree(adapter("gpt2/step-040"))[WEIGHTS])

    def test_biases_and_whole_modules_merge_element_by_element(self):
        paths = [adapter(f"bert/step-0{n}0") for n in (1, 2, 3)]
        self.vera("switch", "-c", "bert")
        start = self.commit(paths[0], "--base", base("bert"))["commit"]
        self.branch("two", paths[1], "--base", base("bert"), at=start)
        self.branch("three", paths[2], "--base", base("bert"), at=start)
        self.merge("two", "three", "--max-residual", "2")
        merged = read_tensors(os.path.join(self.export("HEAD"), WEIGHTS))
        versions = [read_tensors(os.path.join(path, WEIGHTS)) for path in paths]
        seen = 0
        for name, (_, _, data) in merged.items():
            if name.startswith(PREFIX) and "vera_lambda" not in name:
                values = [floats(version[name][2]) for version in versions]
                sums = [float(o + t - b) for b, o, t in zip(*values)]
                self.assertEqual(data, packed(sums), name)
                seen += 1
        self.assertEqual(seen, 4)

    def test_values_that_are_no_numbers_name_the_module(self):
        module = "model.layers.0.mlp.up_proj"

        def edit(tensors):
            key = f"{PREFIX}{module}.vera_lambda_d"
            tensors[key] = (*tensors[key][:2], packed([math.nan] + list(floats(tensors[key][2]))[1:]))

        self.branch("nan", self.variant(PERL, "1", edit), "--base", MODEL)
        self.vera("switch", "c")
        before = self.state()
        self.fails("merge", "nan", says=module)
        self.assertEqual(self.state(), before)


class History(Merging):
    def test_a_merge_is_an_ordinary_commit_with_two_parents(self):
        self.vera("switch", "c")
        result = self.vera("merge", "perl", "--json").json
        shown = self.vera("show", "--json").json
        c, perl = [self.vera("show", name, "--json").json["commit"] for name in ("HEAD~1", "perl")]
        self.assertEqual(shown["parents"], [c, perl])
        self.assertEqual(shown["commit"], result["commit"])
        self.assertEqual(shown["metrics"], {})
        self.assertTrue(shown["base"]["pinned"])
        trailers = self.git("--git-dir=.vera", "log", "-1", "--format=%s|%(trailers:only,separator=%x2C)", "c").strip()
        residual = f"{result['residual']:.6g}"
        self.assertEqual(trailers, "Merge branch 'perl' into c|Merge-Strategy: task,Merge-Weight: 1,"
                                   f"Merge-Residual: {residual}")
        self.assertIn("merge perl: Merge branch", self.git("--git-dir=.vera", "log", "-g", "-1", "--format=%gs", "c"))
        self.check_git()
        self.vera("fsck")
        self.vera("apply", "HEAD", "--base", MODEL, "--out", "merged")
        self.vera("verify", "merged", "--rev", "HEAD", "--base", MODEL)
        again = self.vera("merge", "perl", "--json").json
        self.assertEqual(set(again), NONE)
        self.assertEqual((again["commit"], again["fast_forward"]), (result["commit"], False))
        self.assertIn("up to date", self.vera("merge", "main").out)

    def test_a_branch_without_versions_of_its_own_moves_forward(self):
        tip = self.vera("show", "c", "--json").json["commit"]
        before = self.state()
        dry = self.vera("merge", "c", "--dry-run", "--json").json
        self.assertEqual((dry["commit"], dry["fast_forward"]), (None, True))
        self.assertEqual(self.state(), before)
        result = self.vera("merge", "c", "--json").json
        self.assertEqual(set(result), NONE)
        self.assertEqual((result["commit"], result["fast_forward"], result["modules"]), (tip, True, []))
        self.assertEqual(self.vera("show", "main", "--json").json["commit"], tip)
        self.vera("switch", "-c", "side", "main")

    def test_what_is_merged_is_named_as_git_names_it(self):
        self.vera("tag", "told", "perl")
        commit = self.vera("show", "perl", "--json").json["commit"]
        for revision, title in (("told", "Merge tag 'told' into x0"),
                                (commit[:9], f"Merge commit '{commit[:9]}' into x1")):
            name = title.split()[-1]
            self.vera("switch", "-c", name, "c")
            self.vera("merge", revision)
            self.assertIn(title, self.vera("log", "-n", "1").out)
        self.vera("switch", "-c", "x2", "c")
        self.vera("merge", "perl", "-m", "mine")
        self.assertIn("mine", self.vera("log", "-n", "1").out)
        self.vera("branch", "-m", "x2", "master")
        self.vera("reset", "c")
        self.vera("merge", "perl")
        self.assertIn("Merge branch 'perl'\n", self.vera("log", "-n", "1").out)

    def test_after_merges_across_the_newest_base_is_taken_and_told(self):
        for name, theirs in (("left", "perl"), ("right", "c")):
            self.vera("switch", "-c", name, "c" if name == "left" else "perl")
            self.vera("merge", theirs)
        self.commit(self.variant(self.export("left"), "l", note="l"), "--branch", "left", "-m", "on")
        self.vera("switch", "right")
        result = self.vera("merge", "left", "--json", "--dry-run")
        self.assertIn("merged with each other before", result.err)
        bases = self.git("--git-dir=.vera", "merge-base", "--all", "left", "right").split()
        self.assertEqual(len(bases), 2)
        self.assertIn(result.json["base"], bases)

    def test_histories_without_a_common_version_are_refused(self):
        self.git("--git-dir=.vera", "symbolic-ref", "HEAD", "refs/heads/alone")
        self.commit(adapter("llama/step-100"), "-m", "alone")
        before = self.state()
        self.fails("merge", "c", says="in common")
        self.assertEqual(self.state(), before)

    def test_an_unborn_branch_moves_to_what_is_merged(self):
        self.git("--git-dir=.vera", "symbolic-ref", "HEAD", "refs/heads/new")
        result = self.vera("merge", "c", "--json").json
        self.assertTrue(result["fast_forward"])
        self.assertEqual(self.vera("show", "new", "--json").json["commit"], result["commit"])

    def test_a_shallow_clone_cannot_tell_the_base(self):
        self.vera("merge", "c")
        self.commit(adapter("llama-c/step-030"), "-m", "on")
        os.mkdir(self.path("clone"))
        self.git("clone", "-q", "--bare", "--depth", "1", "--no-single-branch", "file://" + self.path(".vera"),
                 "clone/.vera")
        for command in ("merge", "revert", "cherry-pick"):
            self.fails(command, "perl", code="UNSUPPORTED", says="shallow", hint="fetch --unshallow",
                       cwd=self.path("clone"))
        self.git("--git-dir=clone/.vera", "fetch", "-q", "--unshallow", "origin", "+refs/heads/*:refs/heads/*",
                 "--update-head-ok")
        self.vera("merge", "perl", "--max-residual", "1", cwd=self.path("clone"))

    def test_wrong_usage_is_told(self):
        for args in (["--weight", "x"], ["--weight", "inf"], ["--max-residual", "-1"], ["--strategy", "best"],
                     ["--strategy", "ours", "--weight", "1"], ["--strategy", "theirs", "--max-residual", "1"]):
            with self.subTest(args=args):
                self.fails("merge", "c", *args, status=2)
        self.fails("merge", "nobody", code="NOTFOUND")


class Safety(Merging):
    def test_a_merge_that_dies_anywhere_leaves_the_old_state_or_the_new(self):
        self.vera("switch", "c")
        shutil.copytree(self.path(".vera"), self.path("start"), symlinks=True)
        change, new = 1, 0
        while True:
            shutil.rmtree(self.path(".vera"))
            shutil.copytree(self.path("start"), self.path(".vera"), symlinks=True)
            result = self.vera("merge", "perl", code=None, env=self.preload(KILL=change))
            if result.code == 0:
                break
            self.assertEqual(result.code, -9, result)
            versions = len(self.vera("log", "--json").lines)
            self.assertIn(versions, (2, 4))
            new += versions == 4
            self.vera("fsck")
            self.vera("merge", "perl")
            self.assertEqual(len(self.vera("log", "--json").lines), 4)
            change += 1 + change // 5
        self.assertGreater(change, 20)

    def test_a_full_disk_is_an_error_and_changes_no_ref(self):
        self.vera("switch", "c")
        refs = self.git("--git-dir=.vera", "for-each-ref")
        space = failures = 0
        while True:
            result = self.vera("merge", "perl", "--json", code=None, env=self.preload(SPACE=space))
            if result.code == 0:
                break
            self.assertEqual((result.code, result.json["error"]["code"]), (1, "IO"), result)
            self.assertEqual(self.git("--git-dir=.vera", "for-each-ref"), refs)
            failures += 1
            space += max(61, space // 4)
        self.assertGreater(failures, 5)
        self.check_git()

    def test_a_tip_that_moves_meanwhile_is_a_conflict(self):
        """It stops before it writes; another one commits; it goes on."""
        for command, moved in ((["merge", "perl"], "c"), (["merge", "c"], "main")):
            self.vera("switch", moved)
            with self.spawn([*command, "--json"], env=self.preload(STOP=1), stdout=-1, stderr=-1) as process:
                _, status = os.waitpid(process.pid, os.WUNTRACED)
                self.assertTrue(os.WIFSTOPPED(status))
                self.commit(adapter("llama/step-100"), "-m", "meanwhile")
                before = self.vera("branch", "--json").out
                while os.WIFSTOPPED(status):
                    os.kill(process.pid, signal.SIGCONT)
                    _, status = os.waitpid(process.pid, os.WUNTRACED)
                process.returncode = os.waitstatus_to_exitcode(status)
                error = json.loads(process.stdout.read())["error"]
                self.assertEqual((process.returncode, error["code"]), (1, "CONFLICT"))
            self.assertEqual(self.vera("branch", "--json").out, before)


class OneChange(Merging):
    def test_revert_gives_back_the_bits_from_before(self):
        self.vera("switch", "c")
        commit = self.vera("show", "--json").json["commit"]
        result = self.vera("revert", "HEAD", "--json").json
        self.assertEqual(set(result), MERGE)
        self.assertEqual({m["taken"] for m in result["modules"]}, {"theirs"})
        self.assertEqual(tree(self.export("HEAD")), tree(BASE))
        shown = self.vera("show", "--json").json
        self.assertEqual(shown["parents"], [commit])
        self.assertTrue(shown["message"].startswith(f'Revert "learn c"\n\nThis reverts commit {commit}.\n\n'))
        self.assertIn("Merge-Strategy: task", shown["message"])
        self.assertTrue(shown["base"]["pinned"])
        # And back again.
        self.vera("revert", "HEAD")
        self.assertEqual(tree(self.export("HEAD")), tree(C))

    def test_revert_of_an_older_change_keeps_what_came_later(self):
        self.vera("switch", "c")
        change = self.vera("show", "--json").json["commit"]
        self.vera("merge", "perl")
        result = self.vera("revert", change, "--max-residual", "1", "--json").json
        self.assertLess(result["residual"], 0.15)
        # What is left is nearly what perl learnt.
        left = self.vera("diff", "c", "perl", "--json").json["total"]
        whole = self.vera("diff", "main", "perl", "--json").json["total"]
        self.assertLess(left["delta_norm"], 0.25 * whole["delta_norm"])

    def test_cherry_pick_makes_the_change_here(self):
        self.vera("switch", "c")
        env = {"GIT_AUTHOR_NAME": "Bob", "GIT_AUTHOR_EMAIL": "bob@example.org"}
        result = self.vera("cherry-pick", "perl", "--json", env=env).json
        self.assertEqual(set(result), MERGE)
        shown = self.vera("show", "--json").json
        self.assertEqual(len(shown["parents"]), 1)
        self.assertEqual(shown["message"].split("\n")[0], "learn perl")
        self.assertEqual(shown["metrics"], {})
        self.assertIn("Ada", shown["author"])
        self.assertEqual(self.git("--git-dir=.vera", "log", "-1", "--format=%an", "c").strip(), "Ada")
        self.assertEqual(self.merge("c~1", "perl")["snapshot"], result["snapshot"])
        self.check_git()

    def test_a_picked_version_keeps_its_author(self):
        """Even where git has an odd one."""
        whole = self.git("--git-dir=.vera", "rev-parse", "perl^{tree}").strip()
        for number, (author, kept) in enumerate((("Bob <bob@example.org>", "Bob|bob@example.org"), ("Eve <>", "Eve|"),
                                                 (" <x@example.org>", "Ada|ada@example.org"))):
            text = (f"tree {whole}\nparent {self.start}\nauthor {author} 1700000000 +0000\n"
                    "committer Bob <bob@example.org> 1700000000 +0000\n\n"
                    "odd\n\nMetric-loss: 2\nMerge-Weight: 3\nBy: Bob\n")
            commit = self.git("--git-dir=.vera", "hash-object", "-t", "commit", "-w", "--stdin", "--literally",
                              input=text.encode()).strip()
            self.vera("switch", "-c", f"pick{number}", "c")
            self.vera("cherry-pick", commit)
            said = self.git("--git-dir=.vera", "log", "-1", "--format=%an|%ae|%cn|%B", f"pick{number}")
            self.assertTrue(said.startswith(kept), said)
            self.assertIn("|Ada|odd\n\nBy: Bob\nMerge-Strategy: task\nMerge-Weight: 1\n", said)
            self.assertNotIn("Metric", said)

    def test_where_it_changes_nothing_it_says_so(self):
        self.vera("switch", "c")
        before = self.state()
        self.fails("cherry-pick", "c", code="EXISTS", says="nothing would change")
        self.assertEqual(self.state(), before)

    def test_first_versions_and_merges_have_no_change_of_their_own(self):
        self.vera("switch", "c")
        self.vera("merge", "perl")
        before = self.state()
        for command in ("revert", "cherry-pick"):
            self.fails(command, self.start, says="first version")
            self.fails(command, "HEAD", says="is a merge", hint="^2")
        self.assertEqual(self.state(), before)

    def test_a_dry_run_changes_nothing(self):
        self.vera("switch", "c")
        before = self.state()
        result = self.vera("revert", "HEAD", "--dry-run", "--report", "--json").json
        self.assertIsNone(result["commit"])
        self.assertEqual(set(result["lora_rank"]), {"0.9", "0.99", "0.999"})
        self.assertEqual(self.state(), before)


class Tenants(RepositoryTest):
    """MiniLM: adapters without A and B, rank 256. Its weights are not among the fixtures; a file of
    the same shapes tells the sizes."""

    def model(self):
        tensors = read_tensors(os.path.join(adapter("minilm/step-160"), WEIGHTS))
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, (_, shape, _) in tensors.items():
            if name.endswith(".vera_lambda_b"):
                module = name[len(PREFIX):-len(".vera_lambda_b")]
                wide = ".output.dense" in module and ".attention." not in module
                size = [shape[0], 1536 if wide else 384]
                end = at + 4 * size[0] * size[1]
                header[module + ".weight"] = {"dtype": "F32", "shape": size, "data_offsets": [at, end]}
                at = end
        text = json.dumps(header).encode()
        os.mkdir(self.path("model"))
        with open(self.path("model", "model.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + at)  # zeros that take no space
        return self.path("model")

    def test_two_tenants_keep_what_they_learnt(self):
        model = self.model()
        self.commit(adapter("minilm/step-160"))
        self.vera("branch", "one")
        self.commit(adapter("minilm-tenant-0/step-040"))
        self.commit(adapter("minilm-tenant-1/step-040"), "--branch", "one")
        self.fails("merge", "one", hint="--base MODEL")
        result = self.vera("merge", "one", "--base", model, "--json").json
        self.assertLessEqual(result["lost"], 0.0332)
        self.assertEqual(len(result["modules"]), 36)
        self.vera("fsck")


if __name__ == "__main__":
    unittest.main()
