"""commit and export: what goes in comes out byte for byte; what is stored, and what is said."""
import json
import os
import shutil
import unittest

from harness import FIXTURES, adapter, base, tree
from tensors import flip_bit
from versions import (A, B, BASIS, COMMIT, RepositoryTest, SHOW, fixture_adapters, fixture_base)

with open(os.path.join(FIXTURES, "expected", "expected.json"), encoding="utf-8") as expected_file:
    EXPECTED = json.load(expected_file)
SEEDS = {"gpt2": 42, "bert": 7}  # the others: 0


def expected_rounding(name):
    """What the base model's type did to the float32 A and B when they were made."""
    return "bf16" if name.startswith("llama-half/") else "none"


class EveryFixture(RepositoryTest):
    def test_commits_and_exports_byte_for_byte(self):
        for number, name in enumerate(fixture_adapters()):
            with self.subTest(name):
                commit = self.commit(adapter(name), "-m", name, "--allow-empty")
                out = self.path(f"out-{number}")
                self.vera("export", commit["commit"], out)
                self.assertEqual(tree(out), tree(adapter(name)))
        self.check_git()

    def test_states_of_bases(self):
        for name in fixture_adapters():
            with self.subTest(name):
                basis = self.commit(adapter(name), "--allow-empty")["basis"]
                known = EXPECTED["basis"].get(name)
                self.assertEqual(basis["generator"], "torch-mt19937-kaiming-uniform")
                self.assertEqual(basis["seed"], SEEDS.get(name.split("/")[0], 0))
                if not known:
                    self.assertEqual(basis["state"], "declared")
                    self.assertIsNone(basis["sha256_a"])
                    self.assertIsNone(basis["variant"])
                    continue
                self.assertEqual(basis["state"], "proved")
                self.assertEqual(basis["variant"], "fma")
                self.assertEqual(basis["rounding"], expected_rounding(name))
                self.assertEqual(basis["sha256_a"], known["sha256_a"])
                self.assertEqual(basis["sha256_b"], known["sha256_b"])


class Commit(RepositoryTest):
    def test_json_has_exactly_its_fields(self):
        commit = self.commit(adapter("llama/step-010"), "-m", "first")
        self.assertEqual(set(commit), COMMIT)
        self.assertEqual(set(commit["basis"]), BASIS)
        self.assertEqual(set(commit["frame"]), {"codec", "depth", "bytes"})
        self.assertRegex(commit["commit"], "^[0-9a-f]{40}$")
        self.assertRegex(commit["snapshot"], "^sha256:[0-9a-f]{64}$")
        self.assertEqual(commit["branch"], "main")
        self.assertEqual(commit["kind"], "vera")
        self.assertEqual(commit["modules"], 14)
        self.assertEqual(commit["payload_bytes"], 6656)
        self.assertEqual(commit["frame"]["depth"], 0)
        self.assertEqual(commit["left_out"], [])
        size = os.path.getsize(os.path.join(adapter("llama/step-010"), "adapter_model.safetensors"))
        self.assertTrue(0 < commit["stored_bytes"] < size / 2, commit)

    def test_says_what_was_stored(self):
        done = self.vera("commit", adapter("llama/step-010"), "-m", "lr 4e-3")
        lines = done.out.splitlines()
        self.assertRegex(lines[0], r"^\[main [0-9a-f]{7}\] lr 4e-3$")
        self.assertRegex(done.out, r"snapshot +[0-9a-f]{12}\n")
        self.assertIn("rank 32, 14 modules", done.out)
        self.assertIn("proved: seed 0", done.out)
        self.assertRegex(done.out, r"stored +\d+\.\d kB for a directory of 61\.\d kB")
        self.assertEqual(done.err, "")
        self.assertTrue(all(len(line) <= 80 for line in lines), done.out)

    def test_json_keeps_stdout_for_itself(self):
        done = self.vera("commit", adapter("llama/step-010"), "-m", "first", "--json")
        self.assertEqual(len(done.out.splitlines()), 1)
        self.assertIn("[main ", done.err)

    def test_without_a_message_makes_one(self):
        self.commit(adapter("llama/step-010"))
        self.assertNotEqual(self.vera("show", "--json").json["message"].strip(), "")

    def test_author_from_git_or_from_option(self):
        self.commit(adapter("llama/step-000"))
        self.assertEqual(self.vera("show", "--json").json["author"], "Ada <ada@example.org>")
        self.commit(adapter("llama/step-010"), "--author", "Bo Li <bo@example.org>")
        self.assertEqual(self.vera("show", "--json").json["author"], "Bo Li <bo@example.org>")
        self.fails("commit", adapter("llama/step-020"), "--author", "a\nb <x>", code="INVALID")

    def test_author_without_any_configuration(self):
        for name in [name for name in self.env if name.startswith("GIT_")]:
            del self.env[name]
        self.commit(adapter("llama/step-000"))
        self.assertRegex(self.vera("show", "--json").json["author"], ".+ <.+>")

    def test_metrics_are_trailers(self):
        self.commit(adapter("llama/step-010"), "-m", "first", "--metric", "loss=3.178092",
                    "--metric", "eval_rte=-0.5", "--metric", "n=1e3")
        self.assertEqual(self.vera("show", "--json").json["metrics"],
                         {"loss": 3.178092, "eval_rte": -0.5, "n": 1000})
        message = self.git("--git-dir=.vera", "log", "-1", "--format=%B")
        self.assertTrue(message.startswith("first\n\n"), message)
        self.assertIn("\nMetric-loss: 3.178092\n", message)
        self.assertEqual(self.git("--git-dir=.vera", "log", "-1", "--format=%s"), "first\n")

    def test_metrics_must_be_names_and_numbers(self):
        for text in ("loss", "loss=", "=1", "loss=nan", "loss=inf", "loss=0x10", "loss=1 2",
                     "a b=1", "-x=1", "loss=1e999", "x\ny=1"):
            with self.subTest(text):
                self.fails("commit", adapter("llama/step-010"), f"--metric={text}", status=2)
        self.fails("commit", adapter("llama/step-010"), "--metric", "a=1", "--metric", "a=2",
                   status=2, says="before")
        self.assertEqual(self.vera("log", "--all").out, "")

    def test_left_out_files_are_named_and_all_takes_them(self):
        path = self.copy("llama/step-010")
        for name in ("optimizer.pt", "rng_state.pth", "training_args.bin"):
            with open(os.path.join(path, name), "wb") as file:
                file.write(b"state")
        with open(os.path.join(path, "tokenizer.json"), "wb") as file:
            file.write(b"{}")
        done = self.vera("commit", path)
        self.assertIn("left out optimizer.pt, rng_state.pth, training_args.bin\n", done.out)
        show = self.vera("show", "--json").json
        self.assertIn("tokenizer.json", [file["path"] for file in show["files"]])
        everything = self.commit(path, "--all")
        self.assertEqual(everything["left_out"], [])
        self.vera("export", "HEAD", "out")
        self.assertEqual(tree(self.path("out")), tree(path))

    def test_branch_option_commits_there_without_switching(self):
        first = self.commit(adapter("llama/step-000"))
        other = self.commit(adapter("llama/step-010"), "--branch", "sweep/1")
        self.assertEqual(other["branch"], "sweep/1")
        self.assertEqual(self.vera("show", "sweep/1", "--json").json["parents"], [first["commit"]])
        self.assertEqual(self.vera("show", "--json").json["commit"], first["commit"])
        self.check_git()


class Identity(RepositoryTest):
    def test_one_id_in_every_repository(self):
        here = self.commit(adapter("llama/step-010"))["snapshot"]
        os.mkdir(self.path("other"))
        self.vera("init", cwd=self.path("other"))
        self.env.update(GIT_AUTHOR_NAME="Bo", GIT_AUTHOR_EMAIL="bo@example.org")
        self.vera("commit", adapter("gpt2/step-010"), cwd=self.path("other"))
        there = self.vera("commit", adapter("llama/step-010"), "--base", base("llama"), "-m", "x",
                          "--json", cwd=self.path("other")).json
        self.assertEqual(there["snapshot"], here)
        self.assertEqual(self.vera("show", adapter("llama/step-010"), "--json").json["snapshot"],
                         here)

    def test_one_bit_of_any_file_changes_it(self):
        seen = {self.commit(adapter("llama/step-010"))["snapshot"]}
        changes = {
            "README.md": lambda path: flip_bit(os.path.join(path, "README.md"), 100),
            "config": lambda path: self.flip_in(path, "adapter_config.json", b"tiny/llama"),
            "header": lambda path: self.flip_in(path, "adapter_model.safetensors", b'"pt"', 1),
            "A": lambda path: self.tensors(path).flip(A, 4 * 17),
            "B": lambda path: self.tensors(path).flip(B, 7, 7),
            "vector": lambda path: self.flip_vector(path),
        }
        for name, change in changes.items():
            with self.subTest(name):
                path = self.copy("llama/step-010", name)
                change(path)
                snapshot = self.commit(path)["snapshot"]
                self.assertNotIn(snapshot, seen)
                seen.add(snapshot)
                self.vera("export", "HEAD", "out-" + name)
                self.assertEqual(tree(self.path("out-" + name)), tree(path))

    def flip_in(self, path, name, text, skip=0):
        with open(os.path.join(path, name), "rb") as file:
            offset = file.read().index(text)
        flip_bit(os.path.join(path, name), offset + skip)

    def flip_vector(self, path):
        tensors = self.tensors(path)
        tensors.flip(next(name for name in tensors.entries if name.endswith("vera_lambda_b")), 3)

    def test_identical_tip_is_refused_by_name(self):
        tip = self.commit(adapter("llama/step-010"))
        self.fails("commit", adapter("llama/step-010"), code="EXISTS", says=tip["commit"][:7],
                   hint="--if-changed")
        self.assertEqual(len(self.vera("log", "--json").lines), 1)

    def test_if_changed_gives_the_tip(self):
        tip = self.commit(adapter("llama/step-010"), "-m", "first")
        again = self.commit(adapter("llama/step-010"), "--if-changed", "-m", "second")
        self.assertEqual(again, {**tip, "stored_bytes": 0})
        self.assertEqual(len(self.vera("log", "--json").lines), 1)
        plain = self.vera("commit", adapter("llama/step-010"), "--if-changed")
        self.assertIn("unchanged", plain.out)
        other = self.commit(adapter("llama/step-020"), "--if-changed")
        self.assertNotEqual(other["commit"], tip["commit"])

    def test_allow_empty_commits_it_again(self):
        tip = self.commit(adapter("llama/step-010"))
        again = self.commit(adapter("llama/step-010"), "--allow-empty")
        self.assertEqual(again["snapshot"], tip["snapshot"])
        self.assertNotEqual(again["commit"], tip["commit"])
        self.assertEqual(self.vera("show", "--json").json["parents"], [tip["commit"]])
        self.fails("commit", adapter("llama/step-010"), "--allow-empty", "--if-changed", status=2)


class Basis(RepositoryTest):
    SERIES = [f"llama/step-{10 * step:03}" for step in range(13)]

    def basis_blobs(self):
        listed = self.git("--git-dir=.vera", "rev-list", "--objects", "--all").splitlines()
        return [line for line in listed if " basis/" in line]

    def test_a_proved_series_stores_no_basis(self):
        for name in self.SERIES:
            self.commit(adapter(name))
        self.assertEqual(self.basis_blobs(), [])
        (basis,) = self.vera("basis", "--json").lines
        self.assertEqual((basis["state"], basis["versions"]), ("proved", 13))

    def test_a_series_with_a_flipped_bit_stores_it_once(self):
        for name in self.SERIES:
            path = self.copy(name)
            self.tensors(path).flip(A, 4 * 1000, 0)
            commit = self.vera("commit", path, "--json")
            self.assertEqual(commit.json["basis"]["state"], "stored")
            self.assertIsNone(commit.json["basis"]["variant"])
            self.assertIn("vera: warning: A and B are stored", commit.err)
            self.vera("export", "HEAD", path + "-out")
            self.assertEqual(tree(path + "-out"), tree(path))
        self.assertEqual(len(self.basis_blobs()), 2)
        (basis,) = self.vera("basis", "list", "--json").lines
        self.assertEqual((basis["state"], basis["versions"]), ("stored", 13))

    def test_base_makes_a_declared_basis_known(self):
        plain = self.vera("commit", adapter("llama-vectors-only"), "--json")
        self.assertIn("--base MODEL", plain.err)
        self.assertIsNone(plain.json["basis"]["sha256_a"])
        pinned = self.vera("commit", adapter("llama-vectors-only"), "--base", base("llama"),
                           "--allow-empty", "--json")
        self.assertNotIn("warning", pinned.err)
        known = EXPECTED["basis"]["llama/step-120"]
        basis = pinned.json["basis"]
        self.assertEqual(basis["state"], "declared")
        self.assertEqual((basis["sha256_a"], basis["sha256_b"]),
                         (known["sha256_a"], known["sha256_b"]))

    def test_base_is_recorded_in_show(self):
        for name in ("llama/step-010", "llama-half/step-010", "gpt2/step-010", "bert/step-010"):
            with self.subTest(name):
                self.commit(adapter(name), "--base", fixture_base(name))
                self.assertTrue(self.vera("show", "--json").json["base"]["pinned"])
        self.check_git()

    def test_a_wrong_base_is_refused_and_nothing_recorded(self):
        self.fails("commit", adapter("llama/step-010"), "--base", base("gpt2"), code="INVALID",
                   says="matched 0 of 14 modules")
        self.fails("commit", adapter("llama/step-010"), "--base", self.path("none"),
                   code="NOTFOUND")
        self.assertEqual(self.vera("log", "--all").out, "")


class Export(RepositoryTest):
    def prepare(self):
        type(self).made = self.commit(adapter("bert/step-040"), "-m", "bert")

    def test_json_lists_the_files(self):
        done = self.vera("export", "main", "out", "--json")
        self.assertEqual(set(done.json), {"files"})
        files = done.json["files"]
        self.assertTrue(all(set(file) == {"path", "sha256", "bytes"} for file in files))
        self.assertEqual({file["path"]: file["sha256"] for file in files},
                         tree(adapter("bert/step-040")))
        self.assertIn("exported", done.err)

    def test_by_snapshot_id_and_by_ancestor(self):
        self.commit(adapter("llama/step-010"))
        for number, revision in enumerate((self.made["snapshot"], self.made["snapshot"][:19],
                                           self.made["commit"][:8], "HEAD~1", "main^")):
            self.vera("export", revision, f"out-{number}")
            self.assertEqual(tree(self.path(f"out-{number}")), tree(adapter("bert/step-040")))

    def test_a_directory_that_is_there_is_kept(self):
        os.mkdir(self.path("out"))
        self.vera("export", "main", "out")
        self.fails("export", "main", "out", code="EXISTS", hint="--force")
        with open(self.path("out", "more"), "w", encoding="utf-8") as file:
            file.write("mine")
        self.fails("export", "main", "out", code="EXISTS")
        self.assertIn("more", os.listdir(self.path("out")))
        self.vera("export", "main", "out", "--force")
        self.assertEqual(tree(self.path("out")), tree(adapter("bert/step-040")))
        self.assertEqual(sorted(os.listdir(self.dir)), [".vera", "out"])

    def test_only_in_forms_that_there_are(self):
        self.vera("export", "main", "out", "--as", "peft")
        self.fails("export", "main", "out2", "--as", "zip", status=2)
        self.fails("export", "main", "-", status=2)
        self.fails("export", "nobody", "out2", code="NOTFOUND", says="nobody")
        self.assertEqual(sorted(os.listdir(self.dir)), [".vera", "out"])

    def test_a_missing_parent_is_named(self):
        self.fails("export", "main", "no/such/out", code="NOTFOUND", says="no/such")


class Show(RepositoryTest):
    def test_json_of_a_version(self):
        first = self.commit(adapter("bert/step-000"), "-m", "first")
        commit = self.commit(adapter("bert/step-040"), "--base", base("bert"), "-m",
                             "second\n\nwith a body", "--metric", "loss=1.17")
        show = self.vera("show", "--json").json
        self.assertEqual(set(show), SHOW)
        for key in COMMIT - {"stored_bytes", "left_out"}:
            self.assertEqual(show[key], commit[key], key)
        self.assertIsNone(show["stored_bytes"])
        self.assertIsNone(show["left_out"])
        self.assertEqual(show["parents"], [first["commit"]])
        self.assertEqual(show["author"], "Ada <ada@example.org>")
        self.assertRegex(show["time"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$")
        self.assertEqual(show["rank"], 8)
        self.assertEqual(show["base"], {"name": "tiny/bert", "revision": None, "pinned": True})
        self.assertEqual(show["metrics"], {"loss": 1.17})
        self.assertTrue(show["message"].startswith("second\n\nwith a body\n"))
        self.assertEqual({file["path"]: file["sha256"] for file in show["files"]},
                         tree(adapter("bert/step-040")))

    def test_json_of_a_directory(self):
        show = self.vera("show", adapter("llama/step-010"), "--json").json
        self.assertEqual(set(show), SHOW)
        for key in ("commit", "branch", "frame", "stored_bytes", "parents", "author", "time",
                    "message", "metrics"):
            self.assertIsNone(show[key], key)
        self.assertEqual(show["left_out"], [])
        self.assertEqual(show["basis"]["state"], "proved")

    def test_a_directory_needs_no_repository(self):
        shutil.rmtree(self.path(".vera"))
        self.assertIn("rank 32", self.vera("show", adapter("llama/step-010")).out)
        self.fails("show", "main", code="NOTFOUND", says="main", hint="vera init")
        self.fails("show", code="NOTFOUND")

    def test_a_revision_goes_before_a_directory(self):
        self.commit(adapter("llama/step-010"))
        self.copy("gpt2/step-010", "main")
        self.assertEqual(self.vera("show", "main", "--json").json["rank"], 32)
        self.assertEqual(self.vera("show", "./main", "--json").json["rank"], 20)
        self.copy("gpt2/step-010", "other")
        self.assertEqual(self.vera("show", "other", "--json").json["rank"], 20)
        self.fails("show", "nothing", code="NOTFOUND", says=["nothing", "adapter_config.json"])

    def test_words_fit_a_screen(self):
        self.commit(adapter("bert/step-040"), "--base", base("bert"), "-m", "the best so far",
                    "--metric", "loss=1.17")
        done = self.vera("show")
        lines = done.out.splitlines()
        self.assertLessEqual(len(lines), 24)
        self.assertTrue(all(len(line) <= 80 for line in lines), done.out)
        for text in ("(HEAD -> main)", "snapshot sha256:", "    the best so far", "rank 8",
                     "proved", "tiny/bert", "pinned", "loss 1.17", "README.md"):
            self.assertIn(text, done.out)
        self.assertNotIn("Metric-", done.out)


if __name__ == "__main__":
    unittest.main()
