"""verastore.attach(): models of the fixtures in plain buffers and numpy arrays; what is written is what `vera apply`
writes, and the base's bits are back after detach()."""
import hashlib
import os
import random
import socket
import subprocess
import threading
import unittest
from array import array
from pathlib import Path

from support import PackageTest, adapter, base, base_tensors, numpy, raw_bytes, raw_model, verastore

CASES = (("llama/step-120", "llama"), ("llama-half/step-030", "llama-half"), ("gpt2/step-040", "gpt2"),
         ("bert/step-040", "bert"))
QKV = [f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv"]


class Swapping(PackageTest):
    def test_a_swap_is_what_apply_writes_and_detach_is_the_base(self):
        for name, base_name in CASES:
            wanted, before = self.applied(name, base_name), {n: d for n, (_, _, d) in base_tensors(base_name).items()}
            for given in (base(base_name), None):
                with self.subTest(name, base=given):
                    model = raw_model(base_name)
                    with verastore.attach(model, base=given) as live:
                        state = live.swap(Path(adapter(name)))
                        self.assertEqual(raw_bytes(model), wanted)
                        self.assertTrue(state.attached)
                        self.assertEqual((state.epoch, state.previous), (1, None))
                        self.assertEqual(state, live.status())
                        self.assertEqual(live.swap(Path(adapter(name))).epoch, 1)  # it is there already
                        state = live.detach()
                        self.assertEqual((state.epoch, state.snapshot, state.attached), (2, None, False))
                        self.assertEqual(raw_bytes(model), before)

    def test_random_swaps_do_not_drift(self):
        names = [f"llama/step-{step:03}" for step in range(0, 130, 10)] + ["llama-perl/step-040", "llama-c/step-040"]
        wanted = {name: self.applied(name, "llama") for name in names}
        model = raw_model("llama")
        before, chosen = raw_bytes(model), random.Random(3)
        with verastore.attach(model, base=base("llama")) as live:
            for _ in range(60):
                name = chosen.choice(names)
                live.swap(Path(adapter(name)))
                self.assertEqual(raw_bytes(model), wanted[name])
            live.detach()
        self.assertEqual(raw_bytes(model), before)

    def test_a_revision_comes_through_a_pipe_and_its_base_is_compared(self):
        repo = self.repository("llama/step-120", "llama")
        model = raw_model("llama")
        with verastore.attach(model, base=base("llama")) as live:
            state = live.swap("main", repo=repo)
            self.assertTrue(state.pinned)
            self.assertEqual(state.snapshot, self.vera("-C", "store", "show", "--json").json["snapshot"])
            self.assertEqual(raw_bytes(model), self.applied("llama/step-120", "llama"))
            error = self.fails(verastore.NotFound, "nosuch", live.swap, "nosuch", repo=repo)
            self.assertTrue(error.hint)
            self.assertEqual(live.status(), state)

    def test_a_bundle_of_another_model_is_refused_and_the_adapter_stays(self):
        model = raw_model("llama")
        with verastore.attach(model, base=base("llama")) as live:
            live.swap(Path(adapter("llama/step-060")))
            there = raw_bytes(model)
            self.fails(verastore.Invalid, "matched 0 of 8 modules", live.swap, Path(adapter("gpt2/step-040")))
            with self.spawn(["export", adapter("minilm/step-320"), "-", "--as", "bundle"],
                            stdout=subprocess.PIPE) as process:
                bundle = process.communicate()[0]
            self.assertIsInstance(self.fails(verastore.VeraError, "", live.swap, bundle), verastore.VeraError)
            self.fails(verastore.Corrupt, "", live.swap, bundle[:-1])
            self.assertEqual(raw_bytes(model), there)

    def program(self, first):
        """In the place of vera: one that writes these bytes, and then others without an end."""
        with open(self.path("first"), "wb") as file:
            file.write(first)
        with open(self.path("vera"), "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\ncat {self.path('first')}\nexec yes\n")
        os.chmod(self.path("vera"), 0o755)
        os.environ["VERA"], real = self.path("vera"), os.environ["VERA"]
        self.addCleanup(os.environ.__setitem__, "VERA", real)

    def test_a_bundle_that_cannot_fit_is_refused_before_it_is_read(self):
        with self.spawn(["export", adapter("gpt2/step-040"), "-", "--as", "bundle"],
                        stdout=subprocess.PIPE) as process:
            header = bytearray(process.communicate()[0][:152])
        with verastore.attach(raw_model("gpt2")) as live:
            self.program(header)
            self.fails(verastore.Corrupt, "more follows behind its end", live.swap, "main")
            header[8 + 8 * 6:8 + 8 * 7] = (1 << 30).to_bytes(8, "little")  # the payload's length
            header[120:] = hashlib.sha256(header[:120]).digest()
            self.program(header)
            self.fails(verastore.Limit, "bundle", live.swap, "main")
            self.program(b"no bundle" * 20)
            self.fails(verastore.Corrupt, "bundle", live.swap, "main")

    def test_no_more_of_a_bundle_is_read_than_it_says_and_one_byte(self):
        asked = []

        class Pipe:
            def read(self, size=None):
                asked.append(size)
                return bytes(size)
        with self.assertRaises(verastore.Corrupt):
            verastore._program._read(Pipe(), lambda header: 1000)
        self.assertEqual(asked, [152, 1000 - 152 + 1])

    def test_weights_that_are_not_the_bases_are_named(self):
        model = raw_model("llama")
        model[QKV[0]].data[5] ^= 1
        error = self.fails(verastore.Conflict, QKV[0], verastore.attach, model, base=base("llama"))
        self.assertIn("checkpoint", error.hint)


class Arrays(PackageTest):
    def test_plain_buffers_and_types_are_taken_as_they_are(self):
        weights = {name: array("f", data) if dtype == "F32" else None for name, (dtype, _, data) in
                   base_tensors("gpt2").items()}
        for name, (_, shape, _) in base_tensors("gpt2").items():
            if len(shape) == 2:
                weights[name] = verastore.Raw(weights[name], "F32", tuple(shape))
        with verastore.attach(weights, base=base("gpt2")) as live:
            self.assertEqual(live.swap(Path(adapter("gpt2/step-040"))).modules, 8)

    def test_what_cannot_be_written_is_refused(self):
        cases = ((bytes(16), "read-only"), (verastore.Raw(bytes(16), "F32", (4,)), "read-only"),
                 (verastore.Raw(bytearray(15), "F32", (4,)), "15 bytes, its shape has 16"), (7, "is no array"),
                 (memoryview(bytearray(16))[::2], "not contiguous"))
        for value, words in cases:
            self.fails(verastore.Invalid, words, verastore.attach, {"w": value})
        self.fails(verastore.Unsupported, "none of F32", verastore.attach,
                   {"w": verastore.Raw(bytearray(8), "F64", (1,))})
        self.assertRaises(TypeError, verastore.attach, 7)

    def test_what_no_adapter_changes_is_left_out_and_said(self):
        weights = raw_model("gpt2")
        weights["position_ids"] = array("q", range(8))
        with verastore.attach(weights) as live:
            self.assertEqual(list(live.left_out), ["position_ids"])

    def test_one_tensor_under_two_names_is_registered_once(self):
        weights = raw_model("gpt2")
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
        with verastore.attach(weights, base=base("gpt2")) as live:
            self.assertEqual(live.tied, {"lm_head.weight": "transformer.wte.weight"})
            live.swap(Path(adapter("gpt2/step-040")))

    def fused(self, model):
        """q, k and v below each other in one tensor, as engines keep them."""
        rows = {name: model[name].shape[0] for name in QKV}
        fused = verastore.Raw(bytearray(b"".join(bytes(model.pop(name).data) for name in QKV)), "F32",
                              (sum(rows.values()), 64))
        model["model.layers.0.self_attn.qkv_proj.weight"] = fused
        return fused, {"model.layers.0.self_attn.qkv_proj.weight": verastore.stacked(rows)}

    def test_fused_weights_are_swapped_part_by_part(self):
        model, wanted = raw_model("llama"), self.applied("llama/step-120", "llama")
        fused, parts = self.fused(model)
        with verastore.attach(model, base=base("llama"), parts=parts) as live:
            self.assertEqual(live.swap(Path(adapter("llama/step-120"))).modules, 14)
            self.assertEqual(bytes(fused.data), b"".join(wanted[name] for name in QKV))

    def test_parts_that_are_not_there_are_refused(self):
        model = raw_model("llama")
        self.fails(verastore.Invalid, "no such tensor", verastore.attach, model, parts={"nothing": []})
        part = verastore.Part("x", rows=(0, 65))
        self.fails(verastore.Invalid, "it has no rows 0 to 65", verastore.attach, model, parts={QKV[0]: [part]})

    def test_names_can_be_changed_on_the_way(self):
        model = {name.replace("self_attn", "attention"): raw for name, raw in raw_model("llama").items()}
        with verastore.attach(model, base=base("llama"),
                              rename=lambda name: name.replace("attention", "self_attn")) as live:
            self.assertEqual(live.swap(Path(adapter("llama/step-120"))).modules, 14)

    def test_numpy_arrays_of_every_layout_are_written_in_place(self):
        if self.without_numpy():
            return
        kinds = {"F32": numpy.float32}
        tensors, wanted = base_tensors("llama"), self.applied("llama/step-120", "llama")
        layouts = {"plain": lambda x: x, "columns": numpy.asfortranarray,
                   "padded": lambda x: numpy.pad(x, [(0, 3)] * x.ndim)[tuple(slice(n) for n in x.shape)]}
        for layout, make in layouts.items():
            model = {name: make(numpy.frombuffer(bytearray(data), kinds[dtype]).reshape(shape))
                     for name, (dtype, shape, data) in tensors.items()}
            kept = {name: weight.view() for name, weight in model.items()}
            with self.subTest(layout), verastore.attach(model, base=base("llama")) as live:
                live.swap(Path(adapter("llama/step-120")))
                self.assertEqual({name: weight.tobytes() for name, weight in kept.items()}, wanted)
                live.detach()
                self.assertEqual({name: weight.tobytes() for name, weight in kept.items()},
                                 {name: data for name, (_, _, data) in tensors.items()})

    def test_numpy_arrays_that_cannot_be_written_are_refused(self):
        if self.without_numpy():
            return
        locked = numpy.zeros((4, 4), numpy.float32)
        locked.flags.writeable = False
        self.fails(verastore.Invalid, "read-only", verastore.attach, {"w": locked})
        self.fails(verastore.Invalid, "negative", verastore.attach, {"w": numpy.zeros((4, 4), numpy.float32)[::-1]})
        packed = numpy.zeros(4, numpy.dtype([("a", "<f4"), ("b", "<i2")]))["a"]
        self.fails(verastore.Invalid, "no multiples", verastore.attach, {"w": packed})


class Readers(PackageTest):
    def live(self, **options):
        model = raw_model("gpt2")
        live = verastore.attach(model, base=base("gpt2"), **options)
        self.addCleanup(live.close)
        return model, live

    def test_a_swap_waits_for_readers(self):
        model, live = self.live()
        before, done = raw_bytes(model), threading.Event()
        swapping = threading.Thread(target=lambda: (live.swap(Path(adapter("gpt2/step-040"))), done.set()))
        with live.reading(), live.reading():
            swapping.start()
            self.assertFalse(done.wait(0.2))
            self.assertEqual(raw_bytes(model), before)
        swapping.join(60)
        self.assertTrue(done.is_set())
        self.assertNotEqual(raw_bytes(model), before)

    def test_no_reader_sees_two_adapters(self):
        names = ("gpt2/step-010", "gpt2/step-040")
        model, live = self.live()
        wanted = [self.applied(name, "gpt2") for name in names] + [raw_bytes(model)]
        stop, seen, torn = threading.Event(), set(), []

        def read():
            while not stop.is_set():
                with live.reading():
                    there = raw_bytes(model)
                torn.append(there) if there not in wanted else seen.add(wanted.index(there))
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(100):
            live.swap(Path(adapter(names[number % 2])))
        stop.set()
        for thread in threads:
            thread.join(60)
        self.assertEqual(torn, [])
        self.assertTrue(seen & {0, 1})

    def test_a_reader_that_swaps_is_told_and_does_not_wait_for_itself(self):
        _, live = self.live()
        with live.reading():
            self.fails(verastore.Invalid, "would wait for itself", live.swap, Path(adapter("gpt2/step-040")))
            self.fails(verastore.Invalid, "would wait for itself", live.detach)
            self.assertEqual(live.status().epoch, 0)
        self.assertEqual(live.swap(Path(adapter("gpt2/step-040"))).epoch, 1)

    def test_a_model_in_use_cannot_be_closed(self):
        _, live = self.live()
        with live.reading():
            self.fails(verastore.Invalid, "cannot be closed", live.close)
        live.close()
        live.close()
        self.assertRaises(ValueError, live.status)
        self.assertRaises(ValueError, live.swap, Path(adapter("gpt2/step-040")))

    def test_pause_and_resume_stand_around_the_writing(self):
        order, model = [], None
        model, live = self.live(pause=lambda: order.append(raw_bytes(model)),
                                resume=lambda: order.append(raw_bytes(model)))
        before = raw_bytes(model)
        live.swap(Path(adapter("gpt2/step-040")))
        self.assertEqual(order, [before, raw_bytes(model)])
        self.assertNotEqual(order[0], order[1])
        self.fails(verastore.Invalid, "", live.swap, Path(adapter("llama/step-120")))
        self.assertEqual(len(order), 2)

    def test_what_pause_raises_ends_the_swap(self):
        class Busy(Exception):
            pass

        def pause():
            raise Busy("later")
        model, live = self.live(pause=pause)
        before = raw_bytes(model)
        error = self.fails(verastore.Conflict, "", live.swap, Path(adapter("gpt2/step-040")))
        self.assertIsInstance(error.__cause__, Busy)
        self.assertEqual(raw_bytes(model), before)

    def test_what_resume_raises_comes_after_the_swap(self):
        def resume():
            raise KeyError("resume")
        _, live = self.live(resume=resume)
        self.assertRaises(KeyError, live.swap, Path(adapter("gpt2/step-040")))
        self.assertEqual(live.status().epoch, 1)


class Listening(PackageTest):
    def listening(self, **options):
        model = raw_model("gpt2")
        live = verastore.attach(model, base=base("gpt2"), **options)
        self.addCleanup(live.close)
        live.listen(self.path("socket"))
        return model, live

    def test_vera_swaps_the_model_of_a_process_that_listens(self):
        order = []
        model, live = self.listening(pause=lambda: order.append("pause"), resume=lambda: order.append("resume"))
        before, wanted = raw_bytes(model), self.applied("gpt2/step-040", "gpt2")
        told = self.vera("swap", adapter("gpt2/step-040"), "--socket", "socket", "--json").json
        self.assertEqual(raw_bytes(model), wanted)
        self.assertEqual((told["epoch"], told["snapshot"]), (1, live.status().snapshot))
        self.assertEqual(order, ["pause", "resume"])
        self.vera("swap", "--detach", "--socket", "socket")
        self.assertEqual(raw_bytes(model), before)
        live.unlisten()
        self.assertFalse(os.path.exists(self.path("socket")))
        live.unlisten()

    def test_what_pause_raises_ends_the_swap_of_a_client_too(self):
        def pause():
            raise RuntimeError("not now")
        model, live = self.listening(pause=pause)
        before = raw_bytes(model)
        with self.assertLogs("verastore", "ERROR"):
            failed = self.vera("swap", adapter("gpt2/step-040"), "--socket", "socket", "--json", code=1)
        self.assertEqual(failed.json["error"]["code"], "CONFLICT")
        self.assertEqual(raw_bytes(model), before)
        self.assertEqual(live.status().epoch, 0)

    def test_one_socket_a_model_and_close_removes_it(self):
        _, live = self.listening()
        self.fails(verastore.Exists, "", live.listen, self.path("other"))
        with live.reading():
            self.fails(verastore.Invalid, "would wait for itself", live.unlisten)
        live.close()
        self.assertFalse(os.path.exists(self.path("socket")))

    def test_a_socket_can_be_handed_over(self):
        with verastore.attach(raw_model("gpt2"), base=base("gpt2")) as live:
            self.fails(verastore.NotFound, "", live.listen_inherited)
            given = socket.socket(socket.AF_UNIX)
            given.bind(self.path("given"))
            given.listen()
            live.listen_fd(given.detach())
            self.assertEqual(self.vera("swap", "--status", "--socket", "given", "--json").json["epoch"], 0)
            pair = socket.socketpair()
            self.addCleanup(lambda: [end.close() for end in pair])
        with verastore.attach(raw_model("gpt2"), base=base("gpt2")) as live:
            self.fails(verastore.Invalid, "", live.listen_fd, pair[0].fileno())


if __name__ == "__main__":
    unittest.main()
