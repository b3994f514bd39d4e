"""verastore.read(): adapters out of repositories, directories and bundles, each bit as PEFT saved it."""
import json
import os
import subprocess
import unittest
from pathlib import Path

from support import PackageTest, adapter, numpy, read_tensors, verastore

ADAPTERS = ("llama/step-120", "llama-vectors-only", "llama-half/step-030", "llama-half-vectors", "gpt2/step-040",
            "bert/step-040", "minilm/step-320")


def saved(name):
    return {tensor: (dtype, tuple(shape), data) for tensor, (dtype, shape, data) in
            read_tensors(os.path.join(adapter(name), "adapter_model.safetensors")).items()}


def contents(read):
    return {name: (tensor.dtype, tensor.shape, tensor.data) for name, tensor in read.tensors.items()}


class Read(PackageTest):
    def bundle(self, *args):
        with self.spawn([*args, "-", "--as", "bundle"], stdout=subprocess.PIPE) as process:
            return process.communicate()[0]

    def test_every_adapter_is_what_peft_saved(self):
        for name in ADAPTERS:
            with self.subTest(name):
                bundle = self.bundle("export", adapter(name))
                with open(os.path.join(adapter(name), "adapter_config.json"), encoding="utf-8") as file:
                    config = json.load(file)
                for source in (Path(adapter(name)), adapter(name), bundle, bytearray(bundle), memoryview(bundle)):
                    read = verastore.read(source)
                    self.assertEqual(contents(read), saved(name))
                    self.assertEqual(list(read.tensors), list(saved(name)))
                    self.assertEqual(read.config, config)
                    self.assertEqual(read.pin, {})

    def test_a_revision_comes_through_vera_with_what_is_known_of_its_base(self):
        repo = self.repository("llama/step-120", "llama")
        shown = self.vera("-C", "store", "show", "--json").json
        for rev in ("main", "HEAD", shown["commit"][:8], shown["snapshot"]):
            read = verastore.read(rev, repo=repo)
            self.assertEqual(contents(read), saved("llama/step-120"))
            self.assertEqual(read.snapshot, shown["snapshot"])
        self.assertEqual(read.basis["vera_A"].sha256, shown["basis"]["sha256_a"])
        self.assertEqual(read.basis["vera_B"].shape, (176, 32))
        self.assertEqual(len(read.pin), 14)
        pinned = read.pin["model.layers.0.self_attn.q_proj"]
        self.assertEqual((pinned.dtype, pinned.shape, len(pinned.sha256)), ("F32", (64, 64), 64))

    def test_the_repository_is_the_one_that_is_named(self):
        repo = self.repository("llama/step-120", "llama")
        os.environ["VERA_REPO"] = "/nowhere"
        self.addCleanup(os.environ.pop, "VERA_REPO", None)
        self.assertEqual(verastore.read("main", repo=repo).config["r"], 32)
        os.environ["VERA_REPO"] = repo
        self.assertEqual(verastore.read("main").config["r"], 32)

    def test_failures_have_the_codes_and_words_of_vera(self):
        repo = self.repository("llama/step-120", "llama")
        error = self.fails(verastore.NotFound, "no branch, tag or commit 'nosuch'", verastore.read, "nosuch", repo)
        self.assertEqual(error.code, "NOTFOUND")
        self.assertIn("vera branch", error.hint)
        self.assertNotIn("vera: ", str(error))
        self.fails(verastore.NotFound, "No such file", verastore.read, "/nowhere")
        self.fails(verastore.Invalid, "is no revision", verastore.read, "--all", repo)
        self.fails(verastore.Corrupt, "bundle", verastore.read, b"VBDL" + bytes(300))
        bundle = self.bundle("export", adapter("gpt2/step-040"))
        self.fails(verastore.Corrupt, "bundle", verastore.read, bundle[:-1])
        self.fails(verastore.Corrupt, "bundle", verastore.read, bundle + b"x")

    def test_a_program_that_is_missing_is_named(self):
        program, os.environ["VERA"] = os.environ["VERA"], "/nowhere/vera"
        self.addCleanup(os.environ.__setitem__, "VERA", program)
        error = self.fails(verastore.NotFound, "/nowhere/vera", verastore.read, "main")
        self.assertIn("$VERA", error.hint)

    def test_tensors_become_numpys(self):
        if self.without_numpy():
            return
        read = verastore.read(Path(adapter("llama/step-120")))
        array = read.tensors["base_model.vera_A"].numpy()
        self.assertEqual((array.dtype, array.shape), (numpy.float32, (32, 176)))
        self.assertEqual(array.tobytes(), read.tensors["base_model.vera_A"].data)
        array[0, 0] = 7  # a copy of its own
        self.assertNotEqual(array.tobytes(), read.tensors["base_model.vera_A"].data)
        half = verastore.read(Path(adapter("llama-half-vectors")))
        self.fails(verastore.Unsupported, "numpy has no BF16", half.tensors["base_model.vera_A"].numpy)


if __name__ == "__main__":
    unittest.main()
