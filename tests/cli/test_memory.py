"""Memory that apply and verify take: A, B and a few blocks for each thread, whatever the model's size.

The base models are holes, and what is written is thrown away behind the headers (PRELOAD_DISCARD),
so a model of 2 GB takes neither disk nor time. What the kernel reports as the largest resident set
is an upper bound of the anonymous memory: it counts the program itself too.
"""
import json
import os
import struct
import subprocess
import unittest

from harness import VeraTest, write_tensors

SIDE = 4096  # of a weight: 32 MiB of bf16
RANK = 16
LIMIT = 300 << 20  # beside A and B, whatever the model's size
BASIS = 2 * RANK * SIDE * 4  # A and B


class Memory(VeraTest):
    def model(self, name, weights):
        """A base model of that many weights, all holes, every other one of them targeted."""
        os.mkdir(self.path(name))
        header, size = {}, 2 * SIDE * SIDE
        for number in range(weights):
            header[f"layers.{number:03}.{'qv'[number % 2]}_proj.weight"] = {
                "dtype": "BF16", "shape": [SIDE, SIDE],
                "data_offsets": [number * size, (number + 1) * size]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(self.path(name, "model.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + weights * size)

    def adapter(self, name, weights, value):
        os.mkdir(self.path(name))
        tensors = {}
        for number in range(0, weights, 2):
            module = f"base_model.model.layers.{number:03}.q_proj.vera_lambda_"
            tensors[module + "b"] = ("F32", [SIDE], struct.pack("<f", value) * SIDE)
            tensors[module + "d"] = ("F32", [RANK], struct.pack("<f", 0.1) * RANK)
        write_tensors(self.path(name, "adapter_model.safetensors"), tensors)
        with open(self.path(name, "adapter_config.json"), "w", encoding="utf-8") as file:
            json.dump({"peft_type": "VERA", "r": RANK, "save_projection": False,
                       "projection_prng_key": 0, "target_modules": ["q_proj"]}, file)

    def peak(self, *args):
        """Bytes that were resident at once, and what the run printed. What the sanitizer keeps of memory
        that was freed, and for each thread, is not the program's."""
        env = self.preload(DISCARD=1)
        if "ASAN_OPTIONS" in env:
            env["ASAN_OPTIONS"] += ":quarantine_size_mb=1:detect_stack_use_after_return=0"
        process = self.spawn([*args, "--json"], env=env,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with process.stdout:
            out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0, out)
        return usage.ru_maxrss << 10, json.loads(out)

    def prepare(self, weights):
        self.model(f"model-{weights}", weights)
        self.adapter(f"adapter-{weights}", weights, 1)
        self.adapter(f"zero-{weights}", weights, 0)
        file = os.stat(self.path(f"model-{weights}", "model.safetensors"))
        self.assertGreater(file.st_size, weights * 2 * SIDE * SIDE)
        self.assertLess(file.st_blocks * 512, 1 << 20, "holes take space here")

    def apply(self, weights, *args):
        peak, done = self.peak("apply", self.path(f"adapter-{weights}"), "--base",
                               self.path(f"model-{weights}"), "--force", *args)
        self.assertEqual(done["matched"], weights // 2)
        return peak

    def verify(self, weights):
        """Where b is 0 the model is what the adapter makes of it."""
        model = self.path(f"model-{weights}")
        peak, done = self.peak("verify", model, "--rev", self.path(f"zero-{weights}"), "--base",
                               model)
        self.assertTrue(done["ok"])
        return peak

    def check(self, peaks):
        self.assertLess(max(peaks), LIMIT + BASIS)
        self.assertLess(abs(peaks[1] - peaks[0]), 24 << 20)

    def test_does_not_grow_with_the_model(self):
        sizes = (16, 64)  # weights: 0.5 GB and 2 GB
        for weights in sizes:
            self.prepare(weights)
        self.check([self.apply(weights, "--out", "out") for weights in sizes])
        self.check([self.apply(weights, "--out", "parts", "--part", "1/1") for weights in sizes])
        self.check([self.apply(weights, "--dry-run") for weights in sizes])
        self.check([self.verify(weights) for weights in sizes])

    def test_nor_with_the_threads(self):
        for weights in (24, 96):
            self.prepare(weights)
        few, many = [self.apply(96, "--out", "out", "--threads", threads)
                     for threads in ("40", "200")]
        self.check([few, many])
        few, many = [self.apply(24, "--out", "out", "--report", "--threads", threads)
                     for threads in ("10", "200")]
        self.check([few, many])


if __name__ == "__main__":
    unittest.main()
