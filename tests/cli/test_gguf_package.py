"""What export --as gguf writes, read by the gguf package that llama.cpp's own tools are made with: every tensor,
every value.

The package comes from PyPI into an environment of its own ($PACKAGES, in the build's folder). Where it cannot be
had, that is said aloud; tests/cli/gguf_reader.py has read the files all the same.
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import unittest

from gguf_reader import Gguf
from harness import base
from lora_factors import LLAMA_NAMES, NAMES, fixture
from versions import RepositoryTest

PACKAGES = os.environ["PACKAGES"]
PYTHON = os.path.join(PACKAGES, "bin", "python")
VERSION = "0.19.0"
PATIENCE = 200  # seconds

# Prints each file's values, and its tensors as type, shape and digest.
READER = """
import hashlib, json, sys
from gguf import GGUFReader
for path in sys.argv[1:]:
    reader = GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {t.name: [t.tensor_type.name, [int(n) for n in reversed(t.shape)],
                        hashlib.sha256(t.data.tobytes()).hexdigest()] for t in reader.tensors}
    print(json.dumps({"values": values, "tensors": tensors, "order": [t.name for t in reader.tensors]}))
"""


def install():
    """None, or why the package cannot be had."""
    def run(*command):
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              timeout=PATIENCE, stdin=subprocess.DEVNULL)
    try:
        if os.path.exists(PYTHON) and run(PYTHON, "-c", "import gguf").returncode == 0:
            return None
        shutil.rmtree(PACKAGES, ignore_errors=True)
        for command in ((sys.executable, "-m", "venv", PACKAGES),
                        (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1",
                         "--timeout", "20", f"gguf=={VERSION}")):
            done = run(*command)
            if done.returncode != 0:
                return done.stdout.decode(errors="replace").strip().splitlines()[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None


class Package(RepositoryTest):
    def test_the_package_reads_what_was_written(self):
        why = install()
        if why:
            print(f"{self.id()}: NOT TRIED, the gguf package of PyPI cannot be had: {why}", file=sys.stderr)
            return
        qwen = self.path("qwen")
        shutil.copytree(base("llama"), qwen)
        with open(os.path.join(qwen, "config.json"), "r+", encoding="utf-8") as file:
            config = json.load(file)
            config["model_type"] = "qwen2"
            file.seek(0)
            json.dump(config, file)
            file.truncate()
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}
        paths, expected = [], []
        for number, (name, model, order) in enumerate((
                ("llama/step-120", None, heads), ("llama-half/step-030", None, heads), ("llama/step-120", qwen, None),
                ("gpt2/step-040", None, None), ("bert/step-040", None, None))):
            directory, own, adapter = fixture(name)
            for option, dtype in (("fp32", "F32"), ("bf16", "BF16"), ("fp16", "F16")):
                out = self.path(f"{number}-{option}")
                self.vera("export", directory, out, "--as", "gguf", "--base", model or own, "--drop", "--dtype", option)
                paths.append(os.path.join(out, "adapter.gguf"))
                expected.append(adapter.gguf(NAMES.get(name.split("/")[0], LLAMA_NAMES), order, dtype))
        done = subprocess.run([PYTHON, "-c", READER, *paths], stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
        read = [json.loads(line) for line in done.stdout.decode().splitlines()]
        self.assertEqual(len(read), len(expected))
        for path, file, tensors in zip(paths, read, expected):
            with self.subTest(path):
                self.assertEqual(file["tensors"], {name: [dtype, shape, hashlib.sha256(data).hexdigest()]
                                                   for name, (dtype, shape, data) in tensors.items()})
                self.assertEqual(file["values"], Gguf(path).values)
                self.assertEqual(file["order"], sorted(tensors))


if __name__ == "__main__":
    unittest.main()
