#!/usr/bin/env python3
"""Predictions, tokens, raw bits and range coder give the same bytes, however and for whatever machine they
are built: a frame made on one must be read on all. So do merged weights. Builds tests/same_bits.c and
tests/same_bits_kernel.c with each compiler, without and with optimisation, and for arm64 (run by qemu) where
its compiler is installed: sh docs/install.sh arm64. What is not tried, since a tool is missing, is said.
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SOURCES = [TESTS / "same_bits.c", *(TESTS.parent / "format" / f"{name}.c" for name in (
    "buf", "cpu", "delta_range", "delta_tokens", "dtype", "error", "predict", "range_coder"))]
KERNEL = [TESTS / "same_bits_kernel.c",
          *(TESTS.parent / "format" / f"{name}.c" for name in ("buf", "cpu", "dtype", "error", "interrupt")),
          *(TESTS.parent / "apply" / f"{name}.c" for name in ("kernel", "kernel_scalar"))]
FLAGS = ["-std=c17", "-D_XOPEN_SOURCE=700", "-ffp-contract=off", f"-I{TESTS.parent}"]
CHECKPOINTS = [TESTS / f"fixtures/adapter/minilm/step-{step}/adapter_model.safetensors"
               for step in ("010", "020", "030")]

# SHA-256 of what the program writes: for the edges of float32, and for three checkpoints of a run.
EDGES = "30e5a4efc14ef6d5252420f90b0513091261406dd0b4f2789efd7830730826b7"
RUN = "e4372bab4110d6bbda9525de51393f6d1a335a2ae1acae586a34080a533dabe9"


def payload(path):
    """The float32 values that a frame would hold."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8:begin])
    spans = sorted(tensor["data_offsets"] for name, tensor in tensors.items()
                   if name not in ("__metadata__", "base_model.vera_A", "base_model.vera_B"))
    return b"".join(data[begin + start:begin + end] for start, end in spans)


class SameBits(unittest.TestCase):
    def setUp(self):
        self.where = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.where)
        self.payloads = []
        for i, checkpoint in enumerate(CHECKPOINTS):
            self.payloads.append(self.where / str(i))
            self.payloads[-1].write_bytes(payload(checkpoint))

    def compare(self, *command):
        for arguments, wanted in (([], EDGES), (self.payloads, RUN)):
            out = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, check=True).stdout
            self.assertEqual(hashlib.sha256(out).hexdigest(), wanted)

    def build(self, compiler, *flags, run=()):
        for tool in (compiler, *run[:1]):
            if not shutil.which(tool):
                print(f"{self.id()}: not tried here, {tool} is missing", file=sys.stderr)
                return
        program = self.where / "same_bits"
        subprocess.run([compiler, *FLAGS, *flags, "-o", program, *SOURCES, "-lm"], check=True)
        self.compare(*run, program)

    def merged(self, *command, level):
        """SHA-256 of the merged weights of one level of vector code, which the program must have."""
        out = subprocess.run([*command, level], stdout=subprocess.PIPE, check=True).stdout
        self.assertGreater(len(out), 100000)
        return hashlib.sha256(out).hexdigest()

    def merge_for_arm64(self, *flags):
        for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
            if not shutil.which(tool):
                print(f"{self.id()}: not tried here, {tool} is missing", file=sys.stderr)
                return
        program = self.where / "same_bits_kernel"
        subprocess.run(["aarch64-linux-gnu-gcc", *FLAGS, *flags, "-static", "-o", program, *KERNEL,
                        TESTS.parent / "apply/kernel_neon.c", "-lm", "-pthread"], check=True)
        wanted = self.merged(os.environ["SAME_BITS_KERNEL"], level="scalar")
        self.assertEqual(self.merged("qemu-aarch64", program, level="scalar"), wanted)
        self.assertEqual(self.merged("qemu-aarch64", program, level="neon"), wanted)

    def test_weights_merged_on_arm64_without_optimisation(self):
        self.merge_for_arm64("-O0")

    def test_weights_merged_on_arm64_with_optimisation(self):
        self.merge_for_arm64("-O3")

    def test_this_build(self):
        self.compare(os.environ["SAME_BITS"])

    def test_gcc_without_optimisation(self):
        self.build("gcc", "-O0")

    def test_gcc_for_this_very_processor(self):
        self.build("gcc", "-O3", "-march=native")

    def test_clang_without_optimisation(self):
        self.build("clang", "-O0")

    def test_clang_for_this_very_processor(self):
        self.build("clang", "-O3", "-march=native")

    def test_arm64_without_optimisation(self):
        self.build("aarch64-linux-gnu-gcc", "-O0", "-static", run=("qemu-aarch64",))

    def test_arm64_with_optimisation(self):
        self.build("aarch64-linux-gnu-gcc", "-O3", "-static", run=("qemu-aarch64",))


if __name__ == "__main__":
    unittest.main()
