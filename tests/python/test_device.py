"""Weights and batches in a GPU's memory, on the emulated device: the bits that `vera apply` and a registry in the
host's memory give. Without torch; with it: tests/bench/check_python.py, where there is a GPU."""
import random
import struct
import unittest
from array import array
from pathlib import Path

from device import Array, Device
from support import PackageTest, adapter, base, base_tensors, verastore
from verastore import CudaArray, Raw

CASES = (("llama/step-120", "llama"), ("llama-half/step-030", "llama-half"), ("gpt2/step-040", "gpt2"))
QKV = [f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv"]
LAUNCH_FAILURE, PER_THREAD = 719, 2
TENANTS = ("llama/step-010", "llama/step-120", "llama-c/step-040", "llama-perl/step-040")
LAYER, INPUTS, OUTPUTS = "model.layers.1.mlp.down_proj", 176, 64
SIZES = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (64, 32), "self_attn.v_proj": (64, 32),
         "self_attn.o_proj": (64, 64), "mlp.gate_proj": (64, 176), "mlp.up_proj": (64, 176),
         "mlp.down_proj": (176, 64)}
MODULES = {f"model.layers.{layer}.{name}": sizes for layer in range(2) for name, sizes in SIZES.items()}


class DeviceTest(PackageTest):
    def device(self, number=0):
        device = Device(number)
        self.addCleanup(device.release)
        self.addCleanup(device.fail, "", 0, 0)
        return device

    def two_devices(self):
        first = self.device()
        first.cuda.emulated_devices(2)
        self.addCleanup(first.cuda.emulated_devices, 1)
        return first, self.device(1)


class Weights(DeviceTest):
    def model(self, device, name, **fields):
        """The base model's tensors in the device's memory."""
        return {tensor: CudaArray(device.put(data), dtype, tuple(shape), device=device.number, **fields)
                for tensor, (dtype, shape, data) in base_tensors(name).items()}

    def bits(self, device, model, name):
        return {tensor: device.read(model[tensor].address, len(data))
                for tensor, (_, _, data) in base_tensors(name).items()}

    def test_a_swap_is_what_apply_writes_and_detach_is_the_base(self):
        for name, base_name in CASES:
            wanted, before = self.applied(name, base_name), {n: d for n, (_, _, d) in base_tensors(base_name).items()}
            for given, kept in ((base(base_name), 0), (base(base_name), 1 << 24), (None, 0)):
                with self.subTest(name, base=given, kept_bytes=kept):
                    device = self.device()
                    model = self.model(device, base_name, stream=device.stream())
                    with verastore.attach(model, base=given, kept_bytes=kept) as live:
                        state = live.swap(Path(adapter(name)))
                        self.assertEqual(self.bits(device, model, base_name), wanted)
                        self.assertEqual((state.epoch, state.torn), (1, False))
                        self.assertEqual(live.detach().epoch, 2)
                        self.assertEqual(self.bits(device, model, base_name), before)

    def test_random_swaps_do_not_drift(self):
        names = [f"llama/step-{step:03}" for step in range(0, 130, 40)] + ["llama-perl/step-040", "llama-c/step-040"]
        wanted = {name: self.applied(name, "llama") for name in names}
        device, chosen = self.device(), random.Random(3)
        model = self.model(device, "llama")
        before = self.bits(device, model, "llama")
        with verastore.attach(model) as live:
            for _ in range(12):
                name = chosen.choice(names)
                live.swap(Path(adapter(name)))
                self.assertEqual(self.bits(device, model, "llama"), wanted[name])
            live.detach()
        self.assertEqual(self.bits(device, model, "llama"), before)

    def test_arrays_that_tell_where_they_lie_are_written_in_place(self):
        """Rows apart, in a stream, with the device beside; and in the default stream, whose handle is 1."""
        device, tensors = self.device(), base_tensors("llama")
        wanted = self.applied("llama/step-120", "llama")
        for more in ({"stream": device.stream()}, {"stream": 1}, {"stream": None, "strides": None}, {"version": 2}):
            with self.subTest(str(more)):
                model, addresses = {}, {}
                for name, (_, shape, data) in tensors.items():
                    row, rows = shape[-1] * 4, len(data) // (shape[-1] * 4)
                    apart = row + 12 if len(shape) == 2 and "strides" not in more else row
                    spaced = b"".join(data[at * row:(at + 1) * row].ljust(apart, b"\x7f") for at in range(rows))
                    addresses[name] = (device.put(spaced), rows, row, apart)
                    strides = {"strides": (apart, 4)[-len(shape):]} if apart > row else {}
                    model[name] = Array(addresses[name][0], "<f4", shape, device=0, **{**strides, **more})
                with verastore.attach(model, base=base("llama")) as live:
                    live.swap(Path(adapter("llama/step-120")))
                    for name, (address, rows, row, apart) in addresses.items():
                        there = device.read(address, rows * apart)
                        ours = b"".join(there[at * apart:at * apart + row] for at in range(rows))
                        self.assertEqual(ours, wanted[name])
                        self.assertEqual(there.count(b"\x7f" * 12) >= rows, apart > row)

    def test_columns_that_lie_apart_are_written_in_place(self):
        device, wanted = self.device(), self.applied("llama/step-120", "llama")
        model = self.model(device, "llama")
        dtype, (rows, columns), data = base_tensors("llama")[QKV[0]]
        turned = b"".join(data[4 * (r * columns + c):][:4] for c in range(columns) for r in range(rows))
        model[QKV[0]] = CudaArray(device.put(turned), dtype, (rows, columns), strides=(1, rows))
        with verastore.attach(model, base=base("llama")) as live:
            live.swap(Path(adapter("llama/step-120")))
            there = device.read(model[QKV[0]].address, len(data))
            self.assertEqual(b"".join(there[4 * (c * rows + r):][:4] for r in range(rows) for c in range(columns)),
                             wanted[QKV[0]])

    def test_fused_weights_are_swapped_part_by_part(self):
        device, wanted = self.device(), self.applied("llama/step-120", "llama")
        model, tensors = self.model(device, "llama"), base_tensors("llama")
        rows = {name: tensors[name][1][0] for name in QKV}
        whole = b"".join(tensors[model.pop(name) and name][2] for name in QKV)
        fused = CudaArray(device.put(whole), "F32", (sum(rows.values()), 64))
        model["qkv"] = fused
        with verastore.attach(model, base=base("llama"), parts={"qkv": verastore.stacked(rows)}) as live:
            self.assertEqual(live.swap(Path(adapter("llama/step-120"))).modules, 14)
            self.assertEqual(device.read(fused.address, len(whole)), b"".join(wanted[name] for name in QKV))

    def test_a_model_may_lie_on_two_devices_and_in_the_hosts_memory(self):
        devices, wanted = self.two_devices(), self.applied("llama/step-120", "llama")
        model, read = {}, {}
        for number, (name, (dtype, shape, data)) in enumerate(base_tensors("llama").items()):
            if number % 3 == 2:
                model[name] = Raw(bytearray(data), dtype, tuple(shape))
                read[name] = lambda raw=model[name]: bytes(raw.data)
            else:
                device = devices[number % 3]
                model[name] = CudaArray(device.put(data), dtype, tuple(shape), device=device.number)
                read[name] = lambda at=model[name].address, size=len(data), device=device: device.read(at, size)
        with verastore.attach(model, base=base("llama")) as live:
            self.assertEqual(live.swap(Path(adapter("llama/step-120"))).modules, 14)
            self.assertEqual({name: there() for name, there in read.items()}, wanted)
            live.detach()
            self.assertEqual({name: there() for name, there in read.items()},
                             {name: data for name, (_, _, data) in base_tensors("llama").items()})

    def test_a_swap_comes_after_what_the_stream_was_given(self):
        for order in (0, 1, 2, 77):
            device = self.device()
            stream = device.stream()
            model = self.model(device, "llama", stream=stream)
            _, _, data = base_tensors("llama")[QKV[0]]
            copy = device.memory(len(data))
            device.cuda.emulated_order(order)
            self.addCleanup(device.cuda.emulated_order, 0)
            with self.subTest(order=order), verastore.attach(model, base=base("llama")) as live:
                with live.reading():
                    device.queue_copy(copy, model[QKV[0]].address, len(data), stream)
                live.swap(Path(adapter("llama/step-120")))
                self.assertEqual(device.read(copy, len(data)), data)

    def test_a_gpu_that_fails_while_it_writes_leaves_a_mixture_and_says_so(self):
        device, wanted = self.device(), self.applied("llama/step-120", "llama")
        model = self.model(device, "llama")
        with verastore.attach(model) as live:
            live.swap(Path(adapter("llama/step-060")))  # all kernels are loaded
            device.fail("cudaLaunchKernel", 1, LAUNCH_FAILURE)
            error = self.fails(verastore.DeviceError, "", live.swap, Path(adapter("llama/step-120")))
            self.assertTrue(error.message)
            self.assertTrue(live.status().torn)
            self.assertFalse(live.swap(Path(adapter("llama/step-120"))).torn)
            self.assertFalse(live.status().torn)
            self.assertEqual(self.bits(device, model, "llama"), wanted)

    def test_a_socket_swaps_them(self):
        device, wanted = self.device(), self.applied("gpt2/step-040", "gpt2")
        model = self.model(device, "gpt2")
        with verastore.attach(model, base=base("gpt2")) as live:
            live.listen(self.path("socket"))
            self.vera("swap", adapter("gpt2/step-040"), "--socket", "socket")
            self.assertEqual(self.bits(device, model, "gpt2"), wanted)

    def test_a_socket_tells_of_a_mixture(self):
        device, wanted = self.device(), self.applied("gpt2/step-040", "gpt2")
        model, arguments = self.model(device, "gpt2"), ("swap", "--socket", "socket")
        with verastore.attach(model) as live:
            live.listen(self.path("socket"))
            self.vera(*arguments, adapter("gpt2/step-010"))
            device.fail("cudaLaunchKernel", 1, LAUNCH_FAILURE)
            error = self.vera(*arguments, adapter("gpt2/step-040"), "--json", code=1).json["error"]
            self.assertEqual(error["code"], "DEVICE")
            self.assertIn("the weights are a mixture", error["hint"])
            told = self.vera(*arguments, "--status", "--json")
            self.assertEqual((told.json["torn"], told.json["snapshot"], told.json["epoch"]), (True, None, 2))
            self.assertIn("vera: warning: torn", told.err)
            self.vera(*arguments, adapter("gpt2/step-040"))
            self.assertFalse(self.vera(*arguments, "--status", "--json").json["torn"])
            self.assertEqual(self.bits(device, model, "gpt2"), wanted)

    def test_weights_that_are_not_the_bases_are_named(self):
        device = self.device()
        model = self.model(device, "llama")
        device.write(model[QKV[0]].address + 5, b"\x3f")
        self.fails(verastore.Conflict, QKV[0], verastore.attach, model, base=base("llama"))

    def test_what_cannot_be_written_is_refused(self):
        device = self.device()
        there = device.put(bytes(64))
        cases = ((Array(there, "<f4", (4, 4), data=(there, True)), verastore.Invalid, "read-only"),
                 (Array(there, "<f4", (4, 4), stream=0), verastore.Invalid, "stream 0"),
                 (Array(there, "<f4", (4, 4), mask=7), verastore.Unsupported, "masked"),
                 (Array(there, "<f4", (3, 3), strides=(18, 4)), verastore.Invalid, "no multiples"),
                 (Array(there, "<f4", (4, 4), stream=PER_THREAD), verastore.Unsupported, "each thread's"),
                 (Array(there, "<f4", (4, 5)), verastore.Invalid, "'w'"),
                 (Array(there, "<f4", (4, 4), device=3), verastore.DeviceError, "3"),
                 (CudaArray(there, "F64", (4, 2)), verastore.Unsupported, "none of F32"),
                 (CudaArray(there, "F32", (4, 4), strides=(4,)), verastore.Invalid, "1 strides"),
                 (CudaArray(1 << 20, "F32", (4, 4)), verastore.Invalid, "'w'"))
        for value, kind, words in cases:
            with self.subTest(words):
                self.fails(kind, words, verastore.attach, {"w": value})


def packed(values, dtype):
    """Floats as bytes of that dtype; of bfloat16 the upper halves."""
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    whole = struct.pack(f"<{len(values)}f", *values)
    return whole if dtype == "F32" else b"".join(whole[at + 2:at + 4] for at in range(0, len(whole), 4))


class Batches(DeviceTest):
    def registry(self, device=None, **options):
        given = {"budget_bytes": 1 << 22, **options}
        registry = verastore.Registry(MODULES, Path(adapter(TENANTS[0])), device=device, **given)
        self.addCleanup(registry.close)
        return registry

    def rows(self, count, dtype="F32"):
        chosen = random.Random(7)
        return [packed([chosen.gauss(0, 1) for _ in range(count * width)], dtype) for width in (INPUTS, OUTPUTS)]

    def on_host(self, order, x, y, dtype="F32", **options):
        """What a registry in the host's memory makes of y."""
        registry, y = self.registry(**options), bytearray(y)
        ids = [registry.add(Path(adapter(name))) for name in TENANTS]
        rows = len(x) // INPUTS // len(packed([0], dtype))
        with registry.batch([None if number is None else ids[number] for number in order]) as batch:
            batch.forward(LAYER, Raw(bytearray(x), dtype, (rows, INPUTS)), Raw(y, dtype, (rows, OUTPUTS)))
        return bytes(y)

    def test_each_row_has_the_bits_that_it_has_in_the_hosts_memory(self):
        for dtype, vector_dtype, each in (("F32", "F32", 1), ("BF16", "BF16", 3), ("F16", "F32", 2)):
            with self.subTest(dtype, each=each):
                device, order = self.device(), [2, None, 0, 3, 1, 1]
                rows, stream = len(order) * each, device.stream()
                x, y = self.rows(rows, dtype)
                registry = self.registry(device=0, vector_dtype=vector_dtype)
                ids = [registry.add(Path(adapter(name))) for name in TENANTS]
                ours = CudaArray(device.put(y), dtype, (rows, OUTPUTS), stream=stream)
                given = CudaArray(device.memory(len(x)), dtype, (rows, INPUTS), stream=stream)
                device.queue_copy(given.address, device.put(x), len(x), stream)  # and not waited for
                with registry.batch([None if number is None else ids[number] for number in order]) as batch:
                    batch.forward(LAYER, given, ours)
                there = device.read(ours.address, len(y))
                self.assertEqual(there, self.on_host(order, x, y, dtype, vector_dtype=vector_dtype))
                row = len(y) // rows
                self.assertEqual(there[each * row:2 * each * row], y[each * row:2 * each * row])  # the base model's
                self.assertNotEqual(there[:row], y[:row])

    def test_rows_may_lie_apart_and_be_read_only(self):
        device, order = self.device(), [0, 1, 2]
        x, y = self.rows(3)
        wide = b"".join(x[at * 4 * INPUTS:][:4 * INPUTS] + bytes(64) for at in range(3))
        registry = self.registry(device=0)
        ids = [registry.add(Path(adapter(name))) for name in TENANTS]
        at = device.put(wide)
        given = Array(at, "<f4", (3, INPUTS), data=(at, True), strides=(4 * INPUTS + 64, 4))
        ours = Array(device.put(y), "<f4", (3, OUTPUTS), stream=1)  # the default stream, too
        with registry.batch([ids[number] for number in order]) as batch:
            batch.forward(LAYER, given, ours)
        self.assertEqual(device.read(ours.__cuda_array_interface__["data"][0], len(y)), self.on_host(order, x, y))

    def test_a_batch_that_is_queued_keeps_its_adapters(self):
        """They go as soon as it has ended, and others come in their place before a stream has come past it."""
        for order in (0, 2, 5):
            device = self.device()
            device.cuda.emulated_order(order)
            self.addCleanup(device.cuda.emulated_order, 0)
            x, y = self.rows(2)
            each = (14 * 32 + sum(outputs for _, outputs in MODULES.values())) * 4
            registry = self.registry(device=0, budget_bytes=self.registry().status().bytes + 2 * (each + 400))
            stream = device.stream()
            ours = CudaArray(device.put(y), "F32", (2, OUTPUTS), stream=stream)
            first = registry.add(Path(adapter(TENANTS[0])))
            with registry.batch([first, None]) as batch:
                batch.forward(LAYER, CudaArray(device.put(x), "F32", (2, INPUTS), stream=stream), ours)
            for step in range(20, 130, 10):
                registry.add(Path(adapter(f"llama/step-{step:03}")))
            with self.subTest(order=order):
                self.assertGreater(registry.status().evicted, 0)
                self.fails(verastore.NotFound, "", registry.pin, first)
                self.assertEqual(device.read(ours.address, len(y)), self.on_host([0, None], x, y))

    def test_what_is_elsewhere_is_refused_in_a_line(self):
        (first, second), (x, y) = self.two_devices(), self.rows(2)
        registry, host = self.registry(device=0), self.registry()
        ids = [of.add(Path(adapter(TENANTS[0]))) for of in (registry, host)]

        def there(device, data, width, **more):
            return CudaArray(device.put(data), "F32", (2, width), device=device.number, **more)
        given, ours = there(first, x, INPUTS), there(first, y, OUTPUTS)
        cases = ((Raw(bytearray(x), "F32", (2, INPUTS)), ours,
                  "x is in the host's memory, the registry on CUDA device 0"),
                 (given, Raw(bytearray(y), "F32", (2, OUTPUTS)),
                  "y is in the host's memory, the registry on CUDA device 0"),
                 (there(second, x, INPUTS), ours, "x is on CUDA device 1, the registry on CUDA device 0"),
                 (there(first, x, INPUTS, stream=first.stream()), ours, "different streams"),
                 (given, there(first, y, OUTPUTS, strides=(1, 2)), "side by side"))
        with registry.batch([ids[0], None]) as batch:
            for a, b, words in cases:
                self.fails(verastore.Invalid, words, batch.forward, LAYER, a, b)
        with host.batch([ids[1], None]) as batch:
            self.fails(verastore.Invalid, "x is on CUDA device 0, the registry in the host's memory", batch.forward,
                       LAYER, given, ours)
        self.assertEqual(first.read(ours.address, len(y)), y)
        with self.assertRaises(verastore.Invalid) as caught:
            with registry.batch([ids[0]], slots=array("i", [0])):
                pass
        self.assertIn("a torch tensor there", caught.exception.message)
        self.assertIn("7", self.fails(verastore.DeviceError, "", self.registry, device=7).message)


if __name__ == "__main__":
    unittest.main()
