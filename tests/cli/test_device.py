"""apply and verify on a GPU: the real program with the CUDA module that runs on an emulated device
(tests/cuda). $EMULATED is that module, $OTHER_ABI one of another version."""
import os
import shutil
import subprocess
import unittest

from harness import PRELOAD, TESTS, VERA, adapter, base, tree
from versions import APPLY, RepositoryTest, fixture_base

EMULATED = os.environ["EMULATED"]
OTHER_ABI = os.environ["OTHER_ABI"]


class Device(RepositoryTest):
    def prepare(self):
        self.commit(adapter("llama/step-120"), "--base", base("llama"))

    def on_cuda(self, *args, words="", module=EMULATED, **kwargs):
        """vera with the emulated device: what is freed is looked at at the end of each process."""
        words = ",".join(filter(None, ("leaks=fatal", words)))
        return self.vera(*args, env={"VERA_CUDA_MODULE": module, "VERA_EMULATED": words}, **kwargs)

    def refused(self, words="", module=EMULATED, says="", hint=None):
        """apply --device cuda fails with DEVICE, in so many words, and leaves nothing."""
        done = self.on_cuda("apply", "main", "--base", base("llama"), "--out", "out", "--device",
                            "cuda", "--json", words=words, module=module, code=1)
        self.assertEqual(done.json["error"]["code"], "DEVICE", done)
        self.assertIn(says, done.json["error"]["message"])
        self.assertEqual(done.err.count("vera: "), 1, done)
        if hint:
            self.assertIn(hint, done.json["error"]["hint"])
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_gives_the_processors_bytes(self):
        for name in ("llama/step-120", "llama-half/step-030", "gpt2/step-040", "bert/step-040"):
            with self.subTest(name):
                model, short = fixture_base(name), name.split("/", maxsplit=1)[0]
                reports = []
                for device in ("cpu", "cuda"):
                    done = self.on_cuda("apply", adapter(name), "--base", model, "--out",
                                        f"{short}-{device}", "--device", device, "--report",
                                        "--json").json
                    self.assertEqual(set(done), APPLY)
                    self.assertEqual((done["device"], done["math"]), (device, "exact"))
                    reports.append(done["report"])
                self.assertEqual(reports[0], reports[1])
                self.assertEqual(tree(self.path(short + "-cpu")), tree(self.path(short + "-cuda")))
                done = self.on_cuda("verify", short + "-cpu", "--rev", adapter(name), "--base",
                                    model, "--device", "cuda", "--json")
                self.assertTrue(done.json["ok"])

    def test_whatever_the_order_and_the_memory(self):
        self.vera("apply", "main", "--base", base("llama"), "--out", "cpu")
        for number, words in enumerate(("order=eager", "order=others", "order=11",
                                        "fibers=reverse", "memory=300000")):
            self.on_cuda("apply", "main", "--base", base("llama"), "--out", f"cuda-{number}",
                         "--device", "cuda", words=words)
            self.assertEqual(tree(self.path(f"cuda-{number}")), tree(self.path("cpu")), words)

    def test_parts_may_come_from_both(self):
        self.vera("apply", "main", "--base", base("llama"), "--out", "whole")
        for part, device in (("1/3", "cuda"), ("2/3", "cpu"), ("3/3", "cuda")):
            self.on_cuda("apply", "main", "--base", base("llama"), "--out", "parts", "--part", part,
                         "--device", device)
        self.assertEqual(tree(self.path("parts")), tree(self.path("whole")))

    def test_one_fast_part_makes_the_whole_fast(self):
        for part, device in (("1/2", "cuda"), ("2/2", "cpu")):
            done = self.on_cuda("apply", "main", "--base", base("llama"), "--out", "parts",
                                "--part", part, "--device", device, "--math", "fast", "--json")
            self.assertEqual(done.json["math"], "fast")
            self.assertIn("math: fast: ", done.err)

    def test_auto_takes_it_and_says_so(self):
        done = self.on_cuda("apply", "main", "--base", base("llama"), "--out", "out", "--json")
        self.assertEqual(done.json["device"], "cuda")
        self.assertIn("with emulated on the CPU", done.err)
        checked = self.on_cuda("apply", "main", "--base", base("llama"), "--dry-run", "--json")
        self.assertEqual(checked.json["device"], "cuda")

    def test_auto_is_silent_where_there_is_none(self):
        for number, (words, module) in enumerate((("driver=none", EMULATED), ("devices=0", EMULATED),
                                                  ("", "/nowhere.so"), ("", OTHER_ABI))):
            done = self.on_cuda("apply", "main", "--base", base("llama"), "--out", f"out-{number}",
                                words=words, module=module)
            self.assertEqual(done.err, "")

    def test_what_is_missing_is_named(self):
        self.refused("driver=none", says="there is no driver", hint="nvidia-smi")
        self.refused("devices=0", says="there is a driver, and no device",
                     hint="CUDA_VISIBLE_DEVICES")
        self.refused(module="/nowhere.so", says="/nowhere.so is not there", hint="-Dcuda=enabled")
        self.refused(module=OTHER_ABI, says=f"{OTHER_ABI} is of another version of vera",
                     hint="built together")
        self.refused(module=PRELOAD, says=f"{PRELOAD} is no module of vera")
        self.refused(module=os.path.join(TESTS, "run.sh"), says="cannot be loaded")

    def test_a_failing_call_is_named(self):
        self.refused("fail=cudaMemcpyAsync:2:700",
                     says="cudaMemcpyAsync: an illegal memory access was encountered")
        self.refused("fail=cudaLaunchKernel:1:719", says="cudaLaunchKernel: ")
        self.refused("fail=cudaMalloc:1:2", says="the device's memory is too small: A and B need",
                     hint="--device cpu")

    def test_fast_mode_says_its_error_and_exact_mode_its_absence(self):
        done = self.on_cuda("apply", "main", "--base", base("llama"), "--out", "fast", "--math",
                            "fast", "--json")
        self.assertEqual((done.json["device"], done.json["math"]), ("cuda", "fast"))
        self.assertIn("math: fast: ", done.err)
        self.assertIn("is off by at most (2.01 u + R 2^-22) S", done.err)
        done = self.vera("apply", "main", "--base", base("llama"), "--out", "exact", "--math",
                         "fast", "--device", "cpu", "--json")
        self.assertEqual((done.json["device"], done.json["math"]), ("cpu", "exact"))
        self.assertIn("math: exact: ", done.err)
        self.vera("apply", "main", "--base", base("llama"), "--out", "plain")
        self.assertEqual(tree(self.path("exact")), tree(self.path("plain")))

    def test_the_module_beside_the_program_is_found(self):
        os.mkdir(self.path("bin"))
        shutil.copy(VERA, self.path("bin", "vera"))
        shutil.copy(EMULATED, self.path("bin", "vera_cuda.so"))
        del self.env["VERA_CUDA_MODULE"]
        done = subprocess.run(
            [self.path("bin", "vera"), "apply", adapter("llama/step-120"), "--base", base("llama"),
             "--out", self.path("out"), "--device", "cuda", "--json"],
            capture_output=True, check=True, text=True, env=self.env)
        self.assertIn('"device":"cuda"', done.stdout)


class Gpu(unittest.TestCase):
    def test_the_tests_for_a_gpu_fail_where_there_is_none(self):
        """By a device that does not exist, so also on a machine that has some."""
        done = subprocess.run(["sh", os.path.join(TESTS, "gpu", "run.sh")], capture_output=True,
                              check=False, text=True,
                              env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "^gpu: no (NVIDIA GPU|CUDA compiler)")
        self.assertEqual(done.stdout, "")


if __name__ == "__main__":
    unittest.main()
