"""export --as bundle and commit -: one version through a pipe, the same snapshot on the other side."""
import os
import shutil
import subprocess
import unittest

from harness import PATIENCE, RepositoryTest, VERA, adapter, base, read_tensors, tree, write_tensors

NAMES = ["bert/step-040", "gpt2/step-040", "llama/step-120", "llama-half/step-030",
         "llama-half-vectors", "llama-half-vectors-only", "llama-vectors-only", "minilm/step-320"]


class Bundle(RepositoryTest):
    adapters = (adapter("llama/step-120"),)

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("other"))
        self.vera("init", "other")

    def bundle(self, revision="main", code=0):
        with self.spawn(["export", revision, "-", "--as", "bundle"], stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE) as process:
            out, err = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, code, err)
        self.assertEqual(err, b"")
        return out

    def other(self, *args, **kwargs):
        return self.vera("-C", "other", *args, **kwargs)

    def refs(self):
        return tree(self.path("other", ".vera", "refs"))

    def test_a_pipe_gives_the_same_id_and_the_same_bytes(self):
        for number, name in enumerate(NAMES):
            with self.subTest(name):
                source = self.path(f"source-{number}")
                shutil.copytree(adapter(name), source)
                os.mkdir(os.path.join(source, "sub"))
                with open(os.path.join(source, "sub", "empty.txt"), "w", encoding="utf-8"):
                    pass
                sent = self.vera("commit", source, "--branch", f"b{number}", "--json").json
                taken = self.other("commit", "-", "--branch", f"b{number}", "--json",
                                   stdin=self.bundle(f"b{number}")).json
                for key in ("snapshot", "kind", "modules", "basis", "payload_bytes"):
                    self.assertEqual(taken[key], sent[key])
                self.other("export", f"b{number}", self.path(f"out-{number}"))
                self.assertEqual(tree(self.path(f"out-{number}")), tree(source))

    def test_what_was_recorded_of_the_base_comes_along(self):
        self.vera("commit", adapter("llama-vectors-only"), "--base", base("llama"))
        self.other("commit", "--stdin", stdin=self.bundle())
        for key in ("base", "basis", "snapshot"):
            self.assertEqual(self.other("show", "--json").json[key],
                             self.vera("show", "--json").json[key])
        self.assertTrue(self.other("show", "--json").json["base"]["pinned"])
        repositories = self.path(".vera"), self.path("other", ".vera")
        for entry in ("model/pin", "model/config.json", "recipe"):
            blobs = [self.git(f"--git-dir={top}", "rev-parse", f"main:{entry}")
                     for top in repositories]
            self.assertEqual(*blobs)

    def test_a_base_given_at_commit_counts(self):
        result = self.other("commit", "-", "--base", base("llama"), "--json",
                            stdin=self.bundle())
        self.assertEqual(result.json["snapshot"], self.vera("show", "--json").json["snapshot"])
        self.assertTrue(self.other("show", "--json").json["base"]["pinned"])
        self.other("reset", "main")
        self.other("commit", "-", "--base", base("bert"), stdin=self.bundle(), code=1)

    def test_a_stored_basis_comes_along(self):
        source = self.path("stored")
        shutil.copytree(adapter("llama/step-120"), source)
        path = os.path.join(source, "adapter_model.safetensors")
        tensors = read_tensors(path)
        dtype, shape, data = tensors["base_model.vera_A"]
        tensors["base_model.vera_A"] = dtype, shape, data[:-1] + bytes([data[-1] ^ 1])
        write_tensors(path, tensors)
        self.vera("commit", source)
        self.assertEqual(self.vera("show", "--json").json["basis"]["state"], "stored")
        self.other("commit", "-", stdin=self.bundle())
        self.other("export", "main", self.path("out"))
        self.assertEqual(tree(self.path("out")), tree(source))

    def test_a_directory_needs_no_repository(self):
        with self.spawn(["-C", "/", "export", adapter("llama/step-120"), "-", "--as", "bundle"],
                        stdout=subprocess.PIPE) as process:
            out, _ = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(out, self.bundle())

    def test_into_a_file(self):
        result = self.vera("export", "main", "x.bundle", "--as", "bundle")
        self.assertRegex(result.out, r"^exported \w{7} \(snapshot \w{12}\) to x.bundle: a bundle, ")
        with open(self.path("x.bundle"), "rb") as file:
            self.assertEqual(file.read(), self.bundle())
        self.fails("export", "main", "x.bundle", "--as", "bundle", code="EXISTS", hint="--force")
        with open(self.path("x.bundle"), "wb") as file:
            file.write(b"old")
        result = self.vera("export", "main", "x.bundle", "--as", "bundle", "--force", "--json").json
        self.assertEqual(len(result["files"]), 3)
        with open(self.path("x.bundle"), "rb") as file:
            self.assertEqual(file.read(), self.bundle())
        self.fails("export", "main", "no/such/x", "--as", "bundle", code="NOTFOUND")

    def test_what_is_cut_changed_or_none_is_corrupt_and_commits_nothing(self):
        whole, before = self.bundle(), self.refs()
        broken = [b"", b"hello", whole[:100], whole[:152], whole[:-1], whole + b"\n"]
        for at in (0, 4, 20, 90, 130, 200, len(whole) - 1):
            broken.append(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
        for number, data in enumerate(broken):
            with self.subTest(number):
                error = self.fails("-C", "other", "commit", "-", code="CORRUPT", stdin=data)
                self.assertTrue(error["message"].startswith("standard input: bundle: "), error)
        self.assertEqual(self.refs(), before)

    def test_other_options_hold_for_bundles_too(self):
        whole = self.bundle()
        self.other("commit", "-", "-m", "one", "--metric", "loss=2", stdin=whole)
        self.assertEqual(self.other("show", "--json").json["metrics"], {"loss": 2})
        self.fails("-C", "other", "commit", "-", code="EXISTS", stdin=whole)
        again = self.other("commit", "-", "--if-changed", "--json", stdin=whole).json
        self.assertEqual(again["stored_bytes"], 0)
        self.other("commit", "--stdin", "--allow-empty", stdin=whole)
        self.assertEqual(len(self.other("log", "--json").lines), 2)

    def test_usage(self):
        self.fails("commit", status=2, says="DIR")
        self.fails("commit", "out", "--stdin", status=2, says="exclude")
        self.fails("commit", "-", "--all", status=2, says="--all")
        self.fails("export", "main", "-", "--as", "bundle", status=2, says="--json")

    def test_a_full_disk_behind_the_pipe_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([VERA, "export", "main", "-", "--as", "bundle"], cwd=self.dir,
                                  env=self.env, stdout=full, stderr=subprocess.PIPE, check=False,
                                  timeout=PATIENCE)
        self.assertEqual(done.returncode, 1)
        self.assertTrue(done.stderr.startswith(b"vera: standard output: "), done.stderr)


if __name__ == "__main__":
    unittest.main()
