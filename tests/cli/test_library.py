"""libvera_apply from outside: what it exports, as it is installed, from C, from C++, and through ctypes."""
import ctypes
import os
import struct
import subprocess
import sys
import threading
import unittest

from harness import FIXTURES, PATIENCE, VeraTest, adapter, read_tensors, tree, write_tensors

BUILD = os.environ["BUILD"]
LIBRARY = os.environ["LIBRARY"]
EXAMPLE = os.environ["EXAMPLE"]
SANITIZE = os.environ["SANITIZE"]
TOP = os.path.dirname(os.path.dirname(FIXTURES))
HEADER = os.path.join(TOP, "apply", "vera_apply.h")
FLAGS = [] if SANITIZE == "none" else [f"-fsanitize={SANITIZE}"]

GPT2 = {"attn.c_attn": (48, 144), "attn.c_proj": (48, 48), "mlp.c_fc": (48, 192), "mlp.c_proj": (192, 48)}
NAMES = {f"transformer.h.{block}.{module}.weight": shape
         for block in range(2) for module, shape in GPT2.items()}

LLAMA = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
         "self_attn.o_proj": (64, 64), "mlp.gate_proj": (176, 64), "mlp.up_proj": (176, 64),
         "mlp.down_proj": (64, 176)}


class RegistryOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("names", ctypes.POINTER(ctypes.c_char_p)),
                ("rows_in", ctypes.POINTER(ctypes.c_uint64)), ("rows_out", ctypes.POINTER(ctypes.c_uint64)),
                ("modules", ctypes.c_uint64), ("directory", ctypes.c_char_p), ("bundle", ctypes.c_void_p),
                ("bundle_bytes", ctypes.c_size_t), ("budget", ctypes.c_uint64), ("base_dtype", ctypes.c_int32),
                ("vector_dtype", ctypes.c_int32), ("reserved", ctypes.c_uint32 * 2)]


class RegistryState(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)] + [(name, ctypes.c_uint64) for name in (
        "adapters", "capacity", "pinned", "held", "evicted", "bytes", "budget")]


class Batch(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("slots", ctypes.POINTER(ctypes.c_int32)), ("x", ctypes.c_void_p),
                ("y", ctypes.c_void_p), ("rows", ctypes.c_uint64), ("x_stride", ctypes.c_uint64),
                ("y_stride", ctypes.c_uint64), ("dtype", ctypes.c_int32), ("threads", ctypes.c_uint32)]


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("base", ctypes.c_char_p), ("pause", ctypes.c_void_p),
                ("resume", ctypes.c_void_p), ("context", ctypes.c_void_p),
                ("basis_bytes", ctypes.c_uint64), ("threads", ctypes.c_uint32),
                ("reserved", ctypes.c_uint32), ("kept_bytes", ctypes.c_uint64)]


class Tensor(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("name", ctypes.c_char_p), ("data", ctypes.c_void_p),
                ("rows", ctypes.c_uint64), ("columns", ctypes.c_uint64),
                ("row_stride", ctypes.c_int64), ("column_stride", ctypes.c_int64),
                ("row_begin", ctypes.c_uint64), ("row_count", ctypes.c_uint64),
                ("column_begin", ctypes.c_uint64), ("column_count", ctypes.c_uint64),
                ("stream", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("layer", ctypes.c_int32),
                ("memory", ctypes.c_int32), ("device", ctypes.c_int32),
                ("reserved", ctypes.c_uint32 * 2)]


class State(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("epoch", ctypes.c_uint64), ("modules", ctypes.c_uint64),
                ("snapshot", ctypes.c_uint8 * 32), ("previous", ctypes.c_uint8 * 32),
                ("attached", ctypes.c_int32), ("pinned", ctypes.c_int32),
                ("had_previous", ctypes.c_int32), ("torn", ctypes.c_int32),
                ("seconds", ctypes.c_double), ("stopped", ctypes.c_double)]


def load():
    library = ctypes.CDLL(LIBRARY)
    for name in ("vera_error_message", "vera_error_hint", "vera_error_name", "vera_version"):
        getattr(library, name).restype = ctypes.c_char_p
    library.vera_model_free.restype = library.vera_read_begin.restype = library.vera_read_end.restype = None
    library.vera_model_free.argtypes = [ctypes.c_void_p]
    library.vera_swap_bundle.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t,
                                         ctypes.POINTER(State)]
    library.vera_bundle_bytes.argtypes = [ctypes.POINTER(ctypes.c_uint64), ctypes.c_void_p,
                                          ctypes.c_char_p, ctypes.c_size_t]
    return library


def new_state():
    return State(size=ctypes.sizeof(State))


class Model:
    """A GPT-2 of zeros in memory."""

    def __init__(self, library, **options):
        self.library, self.handle = library, ctypes.c_void_p()
        given = Options(size=ctypes.sizeof(Options), threads=2, **options)
        self.check(library.vera_model_new(ctypes.byref(self.handle), ctypes.byref(given)))
        self.memory = {name: (ctypes.c_float * (rows * columns))()
                       for name, (rows, columns) in NAMES.items()}
        for name, (rows, columns) in NAMES.items():
            tensor = Tensor(size=ctypes.sizeof(Tensor), name=name.encode(), rows=rows, columns=columns,
                            data=ctypes.addressof(self.memory[name]), dtype=1, layer=2, memory=1)
            self.check(library.vera_model_register(self.handle, ctypes.byref(tensor)))
        self.check(library.vera_model_seal(self.handle))

    def check(self, code):
        if code:
            raise RuntimeError(self.library.vera_error_message().decode())

    def free(self):
        self.library.vera_model_free(self.handle)

    def bytes(self):
        return {name: bytes(memory) for name, memory in self.memory.items()}


def in_process(function):
    """Run it in a process of its own, into which the library is loaded, with the sanitizers' own
    libraries before all others where it is built with them. Whatever it prints is an error."""
    def test(self):
        env = {**self.env, "BUILD": BUILD, "LIBRARY": LIBRARY, "EXAMPLE": EXAMPLE, "SANITIZE": SANITIZE,
               "VERA": os.environ["VERA"], "PRELOAD": os.environ["PRELOAD"], "IN_PROCESS": "1"}
        if SANITIZE != "none":
            env["LD_PRELOAD"] = subprocess.run(["cc", "-print-file-name=libasan.so"], check=True,
                                               capture_output=True, text=True).stdout.strip()
            env["ASAN_OPTIONS"] = "detect_leaks=0:allocator_may_return_null=1"
        done = subprocess.run([sys.executable, __file__, self.id().removeprefix("__main__.")], env=env,
                              capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        self.assertRegex(done.stderr, r"^\.\n-+\nRan 1 test in [0-9.]+s\n\nOK\n$")
    return function if "IN_PROCESS" in os.environ else test


class Through(VeraTest):
    def setUp(self):
        super().setUp()
        if "IN_PROCESS" in os.environ:
            os.environ.pop("LD_PRELOAD", None)  # not for the programs that a test runs
            self.library = load()

    def bundle(self, name):
        with self.spawn(["export", adapter(name), "-", "--as", "bundle"],
                        stdout=subprocess.PIPE) as process:
            out, _ = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0)
        return out

    def applied(self, name):
        """The weights as `vera apply` writes them onto zeros."""
        base = self.path("zeros")
        os.makedirs(base, exist_ok=True)
        write_tensors(os.path.join(base, "model.safetensors"),
                      {tensor: ("F32", list(shape), bytes(4 * shape[0] * shape[1]))
                       for tensor, shape in NAMES.items()})
        with open(os.path.join(base, "config.json"), "w", encoding="utf-8") as file:
            file.write('{"model_type": "gpt2"}')
        self.vera("apply", adapter(name), "--base", base, "--out", "merged", "--force")
        return {tensor: data for tensor, (_, _, data)
                in read_tensors(self.path("merged", "model.safetensors")).items()}

    @in_process
    def test_swaps_are_what_apply_writes_and_detach_is_the_base(self):
        wanted = {name: self.applied(name) for name in ("gpt2/step-040", "gpt2/step-010")}
        model, state = Model(self.library), new_state()
        zeros = model.bytes()
        for number, name in enumerate(("gpt2/step-040", "gpt2/step-010", "gpt2/step-040")):
            if number == 1:
                code = self.library.vera_swap_directory(model.handle, adapter(name).encode(),
                                                        ctypes.byref(state))
            else:
                bundle = self.bundle(name)
                code = self.library.vera_swap_bundle(model.handle, bundle, len(bundle), state)
            model.check(code)
            self.assertEqual(model.bytes(), wanted[name])
            self.assertEqual((state.epoch, state.attached, state.modules), (number + 1, 1, 8))
            shown = self.vera("show", adapter(name), "--json").json["snapshot"]
            self.assertEqual("sha256:" + bytes(state.snapshot).hex(), shown)
        model.check(self.library.vera_detach(model.handle, ctypes.byref(state)))
        self.assertEqual((state.epoch, state.attached, state.had_previous), (4, 0, 1))
        self.assertEqual(model.bytes(), zeros)
        model.free()

    @in_process
    def test_errors_are_codes_and_a_threads_own_message(self):
        model, state = Model(self.library), new_state()
        bundle = self.bundle("gpt2/step-040")
        bert = self.bundle("bert/step-040")
        before = model.bytes()
        for data, code, says in [(bundle[:-1], "CORRUPT", "ends early"), (b"", "CORRUPT", "0 bytes"),
                                 (bert, "INVALID", "matched 0 of 2 modules\n  bert.")]:
            got = self.library.vera_swap_bundle(model.handle, data, len(data), state)
            self.assertEqual(self.library.vera_error_name(got).decode(), code)
            self.assertIn(says, self.library.vera_error_message().decode())
        seen = []
        thread = threading.Thread(target=lambda: seen.append(self.library.vera_error_message()))
        thread.start()
        thread.join()
        self.assertNotIn(b"matched", seen[0] or b"")
        self.assertIn(b"matched", self.library.vera_error_message())
        self.assertEqual(self.library.vera_swap_directory(model.handle, b"/no/such", None), -1)
        self.assertEqual(model.bytes(), before)
        model.free()

    @in_process
    def test_structures_tell_their_size(self):
        model, handle = Model(self.library), ctypes.c_void_p()
        first = Options.kept_bytes.offset  # what programs know that were built with the first library
        model.check(self.library.vera_model_new(ctypes.byref(handle), ctypes.byref(Options(size=first))))
        self.library.vera_model_free(handle)
        handle = ctypes.c_void_p()
        for size in (0, 8, first - 1, 1 << 20):
            options = Options(size=size)
            code = self.library.vera_model_new(ctypes.byref(handle), ctypes.byref(options))
            self.assertEqual(code, -3)
            self.assertIsNone(handle.value)
        for size in (0, ctypes.sizeof(State) - 1):
            state = State(size=size)
            self.assertEqual(self.library.vera_status(model.handle, ctypes.byref(state)), -3)
        longer = (ctypes.c_uint8 * (ctypes.sizeof(Options) + 8))()
        ctypes.memmove(longer, ctypes.byref(Options(size=len(longer))), ctypes.sizeof(Options))
        model.check(self.library.vera_model_new(ctypes.byref(handle), longer))
        self.library.vera_model_free(handle)
        longer[-1] = 1  # a field of a later version is set
        self.assertEqual(self.library.vera_model_new(ctypes.byref(handle), longer), -7)
        model.free()
        self.library.vera_model_free(None)

    @in_process
    def test_what_cannot_be_registered(self):
        handle, data = ctypes.c_void_p(), (ctypes.c_float * 24)()
        self.assertEqual(self.library.vera_model_new(ctypes.byref(handle), None), 0)
        good = {"size": ctypes.sizeof(Tensor), "name": b"w", "rows": 4, "columns": 6, "dtype": 1,
                "data": ctypes.addressof(data)}
        for change, code, says in [({"memory": 2}, -10, b"GPU"), ({"memory": 3}, -3, b"vera_memory"),
                                   ({"dtype": 0}, -7, b"dtype"), ({"dtype": 4}, -7, b"dtype"),
                                   ({"layer": 3}, -3, b"layer"), ({"layer": -1}, -3, b"layer"),
                                   ({"size": 8}, -3, b"size"), ({"rows": 0}, -3, b"dimension"),
                                   ({"name": None}, -3, b"name"), ({"row_stride": 5}, -3, b"strides"),
                                   ({"reserved": (0, 1)}, -3, b"reserved")]:
            tensor = Tensor(**{**good, **change})
            got = self.library.vera_model_register(handle, ctypes.byref(tensor))
            self.assertEqual(got, code, change)
            self.assertIn(says, self.library.vera_error_message())
        self.assertEqual(self.library.vera_model_register(handle, ctypes.byref(Tensor(**good))), 0)
        self.library.vera_model_free(handle)

    @in_process
    def test_a_bundles_length_is_known_from_its_head(self):
        model, length = Model(self.library), ctypes.c_uint64()
        for name in ("gpt2/step-040", "bert/step-040"):
            bundle = self.bundle(name)
            model.check(self.library.vera_bundle_bytes(length, model.handle, bundle, 152))
            self.assertEqual(length.value, len(bundle))
        self.assertEqual(self.library.vera_bundle_bytes(length, model.handle, bundle, 151), -4)
        self.assertEqual(self.library.vera_bundle_bytes(length, model.handle, b"x" * 152, 152), -4)
        model.free()

    @in_process
    def test_pause_and_resume_are_called_around_the_writing(self):
        calls, answer = [], [0]
        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
        pause = function(lambda _: calls.append(("pause", model.bytes() == before)) or answer[0])
        resume = function(lambda _: calls.append(("resume", model.bytes() == before)) or 0)
        model = Model(self.library, pause=ctypes.cast(pause, ctypes.c_void_p),
                      resume=ctypes.cast(resume, ctypes.c_void_p))
        before, bundle = model.bytes(), self.bundle("gpt2/step-040")
        model.check(self.library.vera_swap_bundle(model.handle, bundle, len(bundle), None))
        self.assertEqual(calls, [("pause", True), ("resume", False)])
        before, answer[0] = model.bytes(), 1
        self.assertEqual(self.library.vera_detach(model.handle, None), -5)
        self.assertEqual(calls[2:], [("pause", True)])
        self.assertEqual(model.bytes(), before)
        model.free()


class Library(VeraTest):
    def run_tool(self, *command, **kwargs):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              cwd=self.dir, timeout=PATIENCE * 2, check=False, **kwargs)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_it_exports_what_its_header_declares_and_nothing_else(self):
        symbols = self.run_tool("nm", "-D", "--defined-only", LIBRARY).splitlines()
        names = {line.split()[-1].split("@")[0] for line in symbols}
        versions = {line.split()[-1].split("@@")[-1] for line in symbols}
        self.assertEqual(versions, {"VERA_APPLY_1"})
        with open(HEADER, encoding="utf-8") as file:
            words = file.read().replace("(", " ").split()
        declared = {word.lstrip("*") for word in words if word.lstrip("*").startswith("vera_")}
        functions = {name for name in names if name != "VERA_APPLY_1"}
        self.assertTrue(functions <= declared, functions - declared)
        self.assertEqual(len(functions), 34)

    def example(self, program, env=None):
        return subprocess.run([program, adapter("gpt2/step-040"), adapter("gpt2/step-010")],
                              env={**self.env, **(env or {})}, stdout=subprocess.PIPE, text=True,
                              timeout=PATIENCE, check=True).stdout

    def test_the_example_does_what_the_guide_shows(self):
        lines = self.example(EXAMPLE).splitlines()
        self.assertEqual(lines[0], "epoch 0: no adapter, norm of the weights 0.000000")
        self.assertEqual(lines[3], "epoch 3: no adapter, norm of the weights 0.000000")
        for number, name in [(1, "gpt2/step-040"), (2, "gpt2/step-010")]:
            snapshot = self.vera("show", adapter(name), "--json").json["snapshot"][7:19]
            self.assertRegex(lines[number], rf"^epoch {number}: {snapshot}, norm of the weights [0-9.]+$")
        with open(os.path.join(TOP, "docs", "guide.md"), encoding="utf-8") as file:
            self.assertIn("\n".join(lines), file.read())

    def test_a_bundle_in_a_file_and_what_goes_wrong(self):
        self.vera("export", adapter("gpt2/step-040"), "x.bundle", "--as", "bundle")
        done = subprocess.run([EXAMPLE, "x.bundle"], cwd=self.dir, env=self.env, stdout=subprocess.PIPE,
                              text=True, timeout=PATIENCE, check=True)
        self.assertEqual(done.stdout.splitlines()[1], self.example(EXAMPLE).splitlines()[1])
        done = subprocess.run([EXAMPLE, adapter("bert/step-040")], cwd=self.dir, env=self.env,
                              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                              timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("live: the live model: matched 0 of 2 modules\n", done.stderr)
        self.assertIn("\nhint: ", done.stderr)

    def test_as_it_is_installed(self):
        top = self.path("installed")
        self.run_tool("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", top)
        files = tree(top)
        pkgconfig = [path for path in files if path.endswith("/pkgconfig/vera_apply.pc")]
        self.assertEqual(len(pkgconfig), 1, files)
        for wanted in ("/include/vera_apply.h", "/man/man3/vera_apply.3", "/libvera_apply.so",
                       "/libvera_apply.so.1"):
            self.assertTrue(any(path.endswith(wanted) for path in files), wanted)
        folder = os.path.join(top, os.path.dirname(pkgconfig[0]))
        prefix = os.path.join(top, os.path.relpath(self.run_tool(
            "pkg-config", "--variable=prefix", "vera_apply",
            env={**os.environ, "PKG_CONFIG_PATH": folder}).strip(), "/"))
        flags = self.run_tool("pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs",
                              "vera_apply", env={**os.environ, "PKG_CONFIG_PATH": folder}).split()
        source = os.path.join(TOP, "docs", "examples", "live.c")
        self.run_tool("cc", "-Wall", "-Werror", *FLAGS, source, *flags, "-lm", "-o", self.path("live"))
        libraries = os.path.dirname(folder)
        self.assertEqual(self.example(self.path("live"), {"LD_LIBRARY_PATH": libraries}),
                         self.example(EXAMPLE))
        with open(self.path("live.cc"), "w", encoding="utf-8") as file:
            file.write("#include <vera_apply.h>\nint main() { return vera_version()[0] == 0; }\n")
        self.run_tool("c++", "-Wall", "-Werror", *FLAGS, self.path("live.cc"), *flags, "-o",
                      self.path("plus"))
        self.run_tool(self.path("plus"), env={**os.environ, **self.env, "LD_LIBRARY_PATH": libraries})

    def test_the_manual_page_names_every_function(self):
        with open(os.path.join(TOP, "docs", "vera_apply.3"), encoding="ascii") as file:
            text = file.read()
        for line in self.run_tool("nm", "-D", "--defined-only", LIBRARY).splitlines():
            name = line.split()[-1].split("@")[0]
            if name != "VERA_APPLY_1":
                self.assertIn(name, text)

    @in_process
    def test_a_mixed_batch_through_ctypes_is_what_peft_gives(self):
        library = load()
        modules = [(f"model.layers.{layer}.{name}", shape) for layer in range(2) for name, shape in LLAMA.items()]
        names = (ctypes.c_char_p * len(modules))(*(name.encode() for name, _ in modules))
        rows_out, rows_in = ((ctypes.c_uint64 * len(modules))(*(shape[i] for _, shape in modules)) for i in (0, 1))
        options = RegistryOptions(size=ctypes.sizeof(RegistryOptions), names=names, rows_in=rows_in, rows_out=rows_out,
                                  modules=len(modules), directory=adapter("llama/step-120").encode(), budget=1 << 20)
        registry = ctypes.c_void_p()
        self.assertEqual(library.vera_registry_new(ctypes.byref(registry), ctypes.byref(options)), 0)
        snapshot, held, slots = (ctypes.c_uint8 * 32)(), ctypes.c_int32(), {}
        for number, name in enumerate(["llama/step-060", "llama/step-120", "llama-c/step-040", "llama-perl/step-040"]):
            if number % 2:
                self.vera("export", adapter(name), f"{number}.bundle", "--as", "bundle")
                with open(self.path(f"{number}.bundle"), "rb") as file:
                    data = file.read()
                err = library.vera_registry_add_bundle(registry, data, ctypes.c_size_t(len(data)), 1, snapshot,
                                                       ctypes.byref(held))
            else:
                err = library.vera_registry_add_directory(registry, adapter(name).encode(), 0, snapshot,
                                                          ctypes.byref(held))
            self.assertEqual(err, 0, library.vera_error_message())
            self.assertEqual(bytes(snapshot).hex(), self.vera("show", adapter(name), "--json").json["snapshot"][7:])
            slots[number] = held.value
        tensors = read_tensors(os.path.join(FIXTURES, "expected", "forward", "down_proj.safetensors"))
        which = struct.unpack("<12q", tensors["adapter"][2])
        weight = struct.unpack(f"<{64 * 176}f", self.base_weight("model.layers.1.mlp.down_proj.weight"))
        x, wanted = (struct.unpack(f"<{len(tensors[name][2]) // 4}f", tensors[name][2]) for name in "xy")
        y = (ctypes.c_float * (12 * 64))(*(
            sum(a * b for a, b in zip(x[176 * n:176 * n + 176], weight[176 * i:176 * i + 176]))
            for n in range(12) for i in range(64)))
        batch = Batch(size=ctypes.sizeof(Batch), slots=(ctypes.c_int32 * 12)(*(slots[n] for n in which)),
                      x=ctypes.cast((ctypes.c_float * len(x))(*x), ctypes.c_void_p),
                      y=ctypes.cast(y, ctypes.c_void_p), rows=12, dtype=1)
        number = [name for name, _ in modules].index("model.layers.1.mlp.down_proj")
        forward = library.vera_registry_forward
        self.assertEqual(forward(registry, ctypes.c_uint64(number), ctypes.byref(batch)), 0)
        largest = max(map(abs, wanted))
        self.assertLessEqual(max(abs(a - b) for a, b in zip(y, wanted)), 1e-6 * largest)
        state = RegistryState(size=ctypes.sizeof(RegistryState))
        self.assertEqual(library.vera_registry_status(registry, ctypes.byref(state)), 0)
        self.assertEqual((state.adapters, state.pinned, state.held, state.evicted), (4, 2, 4, 0))
        self.refusals(library, registry, snapshot, slots, batch)
        library.vera_registry_free(registry)

    def refusals(self, library, registry, snapshot, slots, batch):
        """And then none of what was held is."""
        forward = library.vera_registry_forward
        self.assertEqual(forward(registry, ctypes.c_uint64(14), ctypes.byref(batch)), -3)
        for field, value in [("dtype", 4), ("size", 8), ("x", None), ("x_stride", 1)]:
            wrong = Batch.from_buffer_copy(batch)
            setattr(wrong, field, value)
            self.assertIn(forward(registry, ctypes.c_uint64(0), ctypes.byref(wrong)), (-3, -7), field)
        self.assertEqual(library.vera_registry_add_directory(registry, b"nowhere", 0, None, None), -1)
        self.assertEqual(library.vera_registry_add_directory(registry, b"nowhere", 4, None, None), -7)
        self.assertEqual(library.vera_registry_remove(registry, snapshot), 0)
        self.assertEqual(library.vera_registry_pin(registry, snapshot, 1), -1)
        self.assertEqual(library.vera_registry_hold(registry, snapshot, ctypes.byref(ctypes.c_int32())), -1)
        for slot in slots.values():
            self.assertEqual(library.vera_registry_drop(registry, slot), 0)
            self.assertEqual(library.vera_registry_drop(registry, slot), -3)
        self.assertEqual(forward(registry, ctypes.c_uint64(0), ctypes.byref(batch)), -3)
        self.assertIn(b"is not held", library.vera_error_message())

    @staticmethod
    def base_weight(name):
        folder = os.path.join(FIXTURES, "base", "llama")
        for file in sorted(os.listdir(folder)):
            if file.endswith(".safetensors"):
                tensors = read_tensors(os.path.join(folder, file))
                if name in tensors:
                    return tensors[name][2]
        raise KeyError(name)


if __name__ == "__main__":
    unittest.main()
