"""export --as lora, export --as gguf, publish: the factors bit for bit, what a form cannot hold, nothing by
halves."""
import hashlib
import json
import os
import shutil
import struct
import unittest

from gguf_reader import Gguf
from harness import adapter, base, read_tensors, tree, write_tensors
from lora_factors import LLAMA_NAMES, NAMES, PREFIX, Adapter, base_inputs, fixture
from versions import RepositoryTest

FIXTURES = ("llama/step-120", "llama-half/step-030", "llama-half-vectors", "gpt2/step-040", "bert/step-040")
MODEL, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DTYPES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
BERT_OTHERS = ["bert.encoder.layer.1.attention.self.query.base_layer.bias",
               "bert.encoder.layer.1.attention.self.value.base_layer.bias", "classifier.bias", "classifier.weight"]

# MiniLM's 22.7 million weights are not among the fixtures; all that an export needs of them is their shapes.
MINILM = {"query": (384, 384), "key": (384, 384), "value": (384, 384), "attention.output.dense": (384, 384),
          "intermediate.dense": (1536, 384), "output.dense": (384, 1536)}


def read_json(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


class ExportTest(RepositoryTest):
    def export(self, source, form, *args, out=None, **kwargs):
        """Its directory's path, and the JSON."""
        out = out or self.path(f"out-{len(os.listdir(self.dir))}")
        done = self.vera("export", source, out, "--as", form, "--json", *args, **kwargs).json
        self.assertEqual(set(done), {"files", "dropped"})
        listed = {file["path"]: (file["sha256"], file["bytes"]) for file in done["files"]}
        self.assertEqual({path: digest for path, (digest, _) in listed.items()}, tree(out))
        for path, (_, size) in listed.items():
            self.assertEqual(size, os.path.getsize(os.path.join(out, path)))
        return out, done

    def gguf(self, source, *args, **kwargs):
        out, done = self.export(source, "gguf", *args, **kwargs)
        self.assertEqual(os.listdir(out), ["adapter.gguf"])
        return Gguf(os.path.join(out, "adapter.gguf")), done

    def minilm_base(self):
        """A model of zeros with MiniLM's shapes, and MiniLM's lack of `bert.`."""
        path = self.path("minilm-base")
        os.mkdir(path)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
            json.dump({"model_type": "bert", "num_attention_heads": 12}, file)
        tensors, at = {}, 0
        for layer in range(6):
            for name, (rows, columns) in MINILM.items():
                place = f"encoder.layer.{layer}." + ("" if "." in name else "attention.self.") + name + ".weight"
                tensors[place] = {"dtype": "F32", "shape": [rows, columns],
                                  "data_offsets": [at, at + 4 * rows * columns]}
                at += 4 * rows * columns
        header = json.dumps(tensors).encode()
        with open(os.path.join(path, "model.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + at)
        return path

    def little(self, weights, kind="bert", **config):
        """A base model of these weights, name to [out, in], and an adapter of rank 2 that targets all of them."""
        model, path = self.path("little-base"), self.path("little")
        os.mkdir(model)
        os.mkdir(path)
        write_tensors(os.path.join(model, "model.safetensors"), {
            name + ".weight": ("F32", shape, bytes(4 * shape[0] * shape[1])) for name, shape in weights.items()})
        with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
            json.dump({"model_type": kind, **config}, file)
        tensors = {}
        for name, (rows, _) in weights.items():
            tensors[f"{PREFIX}{name}.vera_lambda_b"] = ("F32", [rows], struct.pack(f"<{rows}f", *range(rows)))
            tensors[f"{PREFIX}{name}.vera_lambda_d"] = ("F32", [2], struct.pack("<2f", 1, 2))
        write_tensors(os.path.join(path, MODEL), tensors)
        with open(os.path.join(path, CONFIG), "w", encoding="utf-8") as file:
            json.dump({"peft_type": "VERA", "r": 2, "save_projection": False, "projection_prng_key": 0}, file)
        return path, model


class Lora(ExportTest):
    def test_every_product_is_rounded_once(self):
        for name in FIXTURES:
            directory, model, expected = fixture(name)
            for option, dtype in DTYPES.items():
                with self.subTest(name, dtype=dtype):
                    out, done = self.export(directory, "lora", "--base", model, "--dtype", option)
                    write_tensors(self.path("expected"), expected.lora(dtype))
                    with open(self.path("expected"), "rb") as file:
                        self.assertEqual(hashlib.sha256(file.read()).hexdigest(), tree(out)[MODEL])
                    self.assertEqual(done["dropped"], [])
                    self.assertEqual(sorted(os.listdir(out)), [CONFIG, MODEL])

    def test_minilm_whose_matrices_come_from_their_seed(self):
        model = self.minilm_base()
        inputs = base_inputs(model)
        expected = Adapter(adapter("minilm/step-320"),
                           lambda name, outputs: inputs(name.removeprefix("bert."), outputs), seed=0)
        out, _ = self.export(adapter("minilm/step-320"), "lora", "--base", model)
        found, wanted = read_tensors(os.path.join(out, MODEL)), expected.lora()
        self.assertEqual(list(found), list(wanted))
        for name, tensor in wanted.items():
            self.assertTrue(found[name] == tensor, name)

    def test_fp32_is_what_nobody_asked_for(self):
        a, _ = self.export(adapter("llama-half-vectors"), "lora", "--base", base("llama-half"))
        b, _ = self.export(adapter("llama-half-vectors"), "lora", "--base", base("llama-half"), "--dtype", "fp32")
        self.assertEqual(tree(a), tree(b))

    def test_the_pin_knows_what_a_model_at_hand_would_tell(self):
        for name in FIXTURES:
            directory, model, _ = fixture(name)
            self.commit(directory, "--base", model, "--allow-empty")
            for form in ("lora", "gguf"):
                a, _ = self.export("HEAD", form, "--drop")
                b, _ = self.export(directory, form, "--drop", "--base", model)
                c, _ = self.export("HEAD", form, "--drop", "--base", model)
                self.assertEqual(tree(a), tree(b), name)
                self.assertEqual(tree(a), tree(c), name)

    def test_the_configuration_is_loras(self):
        out, _ = self.export(adapter("llama/step-120"), "lora", "--base", base("llama"))
        own = read_json(adapter("llama/step-120"), CONFIG)
        with open(os.path.join(out, CONFIG), encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(json.loads(text), {
            "auto_mapping": None, "base_model_name_or_path": "tiny/llama", "bias": "none", "fan_in_fan_out": False,
            "inference_mode": True, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None,
            "lora_alpha": 32, "lora_dropout": 0.0, "modules_to_save": None, "peft_type": "LORA", "r": 32,
            "revision": None, "target_modules": own["target_modules"], "task_type": "CAUSAL_LM",
            "use_dora": False, "use_rslora": False})
        # As PEFT lays it out: sorted, indented by two, no newline at the end.
        self.assertEqual(text, json.dumps(json.loads(text), indent=2, sort_keys=True))

    def test_what_chose_the_modules_is_carried_over(self):
        out, _ = self.export(adapter("bert/step-040"), "lora", "--base", base("bert"))
        config = read_json(out, CONFIG)
        self.assertEqual(config["layers_to_transform"], [1])
        self.assertEqual(config["modules_to_save"], ["classifier", "score"])
        self.assertEqual((config["bias"], config["task_type"]), ("lora_only", "SEQ_CLS"))
        out, _ = self.export(adapter("gpt2/step-040"), "lora", "--base", base("gpt2"))
        self.assertTrue(read_json(out, CONFIG)["fan_in_fan_out"])

    def test_modules_that_no_list_names_are_named_one_by_one(self):
        path, model = self.little({"bert.encoder.layer.0.attention.self.query": (8, 4), "other": (4, 8)})
        own = read_json(path, CONFIG)
        for targets in (..., None, "all-linear", ".*(query|other)"):
            config = {**own, "layers_to_transform": [5], "layers_pattern": "x"}
            if targets is not ...:
                config["target_modules"] = targets
            with open(os.path.join(path, CONFIG), "w", encoding="utf-8") as file:
                json.dump(config, file)
            out, _ = self.export(path, "lora", "--base", model)
            config = read_json(out, CONFIG)
            self.assertEqual(config["target_modules"], ["bert.encoder.layer.0.attention.self.query", "other"])
            self.assertEqual((config["layers_to_transform"], config["layers_pattern"]), (None, None))

    def test_biases_and_whole_modules_are_kept_and_drop_leaves_them_out(self):
        directory, model, expected = fixture("bert/step-040")
        out, done = self.export(directory, "lora", "--base", model, "--drop")
        self.assertEqual(done["dropped"], BERT_OTHERS)
        write_tensors(self.path("expected"), expected.lora(bare=True))
        with open(self.path("expected"), "rb") as file:
            self.assertEqual(hashlib.sha256(file.read()).hexdigest(), tree(out)[MODEL])
        config = read_json(out, CONFIG)
        # PEFT would look for a classifier in any adapter for this task.
        self.assertEqual((config["bias"], config["modules_to_save"], config["task_type"]), ("none", None, None))
        said = self.vera("export", directory, "kept", "--as", "lora", "--base", model)
        self.assertIn("SGLang nothing, and --drop", said.err)
        said = self.vera("export", directory, "dropped", "--as", "lora", "--base", model, "--drop")
        self.assertEqual(said.err, "")
        self.assertIn("dropped", said.out)
        self.assertIn(BERT_OTHERS[0], said.out)

    def test_a_task_stays_where_nothing_is_dropped(self):
        path, model = self.little({"bert.encoder.layer.0.attention.self.query": (8, 4)})
        config = read_json(path, CONFIG)
        config.update(task_type="SEQ_CLS", bias="vera_only", modules_to_save=["x"])
        with open(os.path.join(path, CONFIG), "w", encoding="utf-8") as file:
            json.dump(config, file)
        out, _ = self.export(path, "lora", "--base", model, "--drop")
        config = read_json(out, CONFIG)
        self.assertEqual((config["bias"], config["modules_to_save"], config["task_type"]), ("none", None, "SEQ_CLS"))

    def test_without_inputs_it_asks_for_the_base(self):
        self.commit(adapter("llama/step-120"))
        for form in ("lora", "gguf"):
            self.fails("export", "HEAD", "out", "--as", form, says="inputs", hint="--base MODEL")
        self.fails("publish", "HEAD", "out", says="inputs", hint="--base MODEL")
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_another_base_is_refused(self):
        self.commit(adapter("llama/step-120"), "--base", base("llama"))
        self.fails("export", "HEAD", "out", "--as", "lora", "--base", base("gpt2"), says="matched 0 of 14")
        self.fails("export", "HEAD", "out", "--as", "lora", "--base", base("llama-half"), code="CONFLICT")
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_values_that_are_no_numbers_are_refused(self):
        path = self.copy("llama/step-110")
        tensors = self.tensors(path)
        name = next(name for name in tensors.entries if name.endswith("q_proj.vera_lambda_b"))
        module = name[len(PREFIX):-len(".vera_lambda_b")]
        own = tensors.bytes(name)
        tensors.set(name, struct.pack("<f", float("nan")))
        for form in ("lora", "gguf"):
            self.fails("export", path, "out", "--as", form, "--base", base("llama"), says=module)
        tensors.set(name, struct.pack("<f", 3e6))
        self.fails("export", path, "out", "--as", "lora", "--base", base("llama"), "--dtype", "fp16",
                   says=[module, "lora_B[0, ", "F16"], hint="bf16")
        self.export(path, "lora", "--base", base("llama"), "--dtype", "bf16", out=self.path("wide"))
        tensors.set(name, own)
        name = name.replace("lambda_b", "lambda_d")
        tensors.set(name, struct.pack("<f", 3e38))
        a = self.tensors(path)
        a.set("base_model.vera_A", struct.pack("<f", 2.0))  # 6e38: no float32
        self.fails("export", path, "out", "--as", "lora", "--base", base("llama"), says=[module, "lora_A[0, 0]"])
        self.assertFalse(os.path.exists(self.path("out")))

    def test_float64_is_refused(self):
        path, model = self.little({"bert.encoder.layer.0.attention.self.query": (8, 4)})
        tensors = read_tensors(os.path.join(path, MODEL))
        tensors = {name: ("F64", shape, bytes(8 * shape[0])) for name, (_, shape, _) in tensors.items()}
        write_tensors(os.path.join(path, MODEL), tensors)
        self.fails("export", path, "out", "--as", "lora", "--base", model, code="UNSUPPORTED", says="F64")

    def test_a_part_of_lora_in_a_vera_adapter_is_refused(self):
        path, model = self.little({"bert.encoder.layer.0.attention.self.query": (8, 4)})
        tensors = read_tensors(os.path.join(path, MODEL))
        name = PREFIX + "bert.encoder.layer.0.attention.self.query.lora_A.weight"
        write_tensors(os.path.join(path, MODEL), {**tensors, name: ("F32", [2, 4], bytes(32))})
        self.fails("export", path, "out", "--as", "lora", "--base", model, says=name)
        self.assertFalse(os.path.exists(self.path("out")))

    def test_called_wrongly(self):
        for args in (("--dtype", "bf16"), ("--drop",), ("--base", base("llama"))):
            self.fails("export", adapter("llama/step-120"), "out", *args, status=2, says=args[0])
        self.fails("export", adapter("llama/step-120"), "out", "--as", "onnx", status=2)
        self.fails("export", adapter("llama/step-120"), "out", "--as", "lora", "--dtype", "fp64", status=2)
        for form in ("peft", "lora", "gguf"):
            self.fails("export", adapter("llama/step-120"), "-", "--as", form, status=2)
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_a_full_disk_leaves_nothing(self):
        for form in ("lora", "gguf"):
            out, done = self.export(adapter("llama/step-120"), form, "--base", base("llama"), out=self.path(form))
            whole = sum(file["bytes"] for file in done["files"])
            shutil.rmtree(out)
            before = os.listdir(self.dir)
            for space in (0, 100, 600, 4096, 100000, whole - 1):
                self.fails("export", adapter("llama/step-120"), out, "--as", form, "--base", base("llama"),
                           code="IO", says="No space left", env=self.preload(SPACE=space))
                self.assertEqual(os.listdir(self.dir), before)
            self.vera("export", adapter("llama/step-120"), out, "--as", form, "--base", base("llama"),
                      env=self.preload(SPACE=whole))

    def test_a_directory_that_is_there_stays(self):
        os.mkdir(self.path("out"))
        with open(self.path("out", "mine"), "w", encoding="utf-8") as file:
            file.write("mine")
        for form in ("lora", "gguf"):
            self.fails("export", adapter("llama/step-120"), "out", "--as", form, "--base", base("llama"),
                       code="EXISTS", hint="--force")
            self.assertEqual(os.listdir(self.path("out")), ["mine"])
        self.vera("export", adapter("llama/step-120"), "out", "--as", "gguf", "--base", base("llama"), "--force")
        self.assertEqual(os.listdir(self.path("out")), ["adapter.gguf"])


class GgufFiles(ExportTest):
    def model(self, source, **config):
        """A copy of a base model with another config.json."""
        path = self.path(f"model-{len(os.listdir(self.dir))}")
        shutil.copytree(base(source), path)
        own = read_json(path, "config.json")
        own.update(config)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
            json.dump({key: value for key, value in own.items() if value is not ...}, file)
        return path

    def check(self, gguf, expected, names, heads=None, dtype="F32"):
        """Every tensor."""
        wanted = expected.gguf(names, heads, dtype)
        self.assertEqual(list(gguf.tensors), sorted(wanted))
        for name, tensor in wanted.items():
            self.assertTrue(gguf.tensors[name] == tensor, name)

    HEADS = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}

    def test_llama_has_queries_and_keys_reordered(self):
        for name in ("llama/step-120", "llama-half/step-030", "llama-half-vectors"):
            directory, model, expected = fixture(name)
            for option, dtype in DTYPES.items():
                gguf, done = self.gguf(directory, "--base", model, "--dtype", option)
                self.assertEqual(done["dropped"], [])
                self.check(gguf, expected, LLAMA_NAMES, self.HEADS, dtype)
                self.assertEqual(gguf.values["general.file_type"], {"F32": 0, "F16": 1, "BF16": 32}[dtype])

    def test_values_say_what_it_is(self):
        made = self.commit(adapter("llama/step-120"), "--base", base("llama"))
        gguf, _ = self.gguf("main")
        self.assertEqual(gguf.values, {
            "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora",
            "adapter.lora.alpha": 32.0, "general.file_type": 0, "verastore.snapshot": made["snapshot"],
            "general.base_model.count": 1, "general.base_model.0.name": "tiny/llama"})

    def test_every_architecture_has_its_name_and_its_order(self):
        directory, _, expected = fixture("llama/step-120")
        for kind, architecture, heads in (("llama", "llama", self.HEADS), ("mistral", "llama", self.HEADS),
                                          ("qwen2", "qwen2", None), ("qwen3", "qwen3", None)):
            with self.subTest(kind):
                gguf, _ = self.gguf(directory, "--base", self.model("llama", model_type=kind))
                self.assertEqual(gguf.values["general.architecture"], architecture)
                self.check(gguf, expected, LLAMA_NAMES, heads)

    def test_without_key_value_heads_there_are_as_many_as_heads(self):
        directory, _, expected = fixture("llama/step-120")
        for value in (None, ...):
            gguf, _ = self.gguf(directory, "--base", self.model("llama", num_key_value_heads=value))
            self.check(gguf, expected, LLAMA_NAMES, {"self_attn.q_proj": 4, "self_attn.k_proj": 4})

    def test_gpt2_is_not_transposed(self):
        directory, model, expected = fixture("gpt2/step-040")
        gguf, _ = self.gguf(directory, "--base", model)
        self.assertEqual(gguf.values["general.architecture"], "gpt2")
        self.check(gguf, expected, NAMES["gpt2"])

    def test_bert_is_refused_by_name_and_written_with_drop(self):
        directory, model, expected = fixture("bert/step-040")
        error = self.fails("export", directory, "out", "--as", "gguf", "--base", model, code="UNSUPPORTED",
                           says=["llama.cpp", *BERT_OTHERS], hint="--drop")
        self.assertEqual(error["message"].count("\n"), 4)
        self.assertFalse(os.path.exists(self.path("out")))
        gguf, done = self.gguf(directory, "--base", model, "--drop")
        self.assertEqual(done["dropped"], BERT_OTHERS)
        self.assertEqual(gguf.values["general.architecture"], "bert")
        self.check(gguf, expected, NAMES["bert"])

    def test_minilm(self):
        model = self.minilm_base()
        gguf, done = self.gguf(adapter("minilm/step-320"), "--base", model, "--drop", "--dtype", "bf16")
        self.assertEqual(done["dropped"], ["classifier.bias", "classifier.weight"])
        self.assertEqual({name.split(".", 2)[2] for name in gguf.tensors},
                         {f"{name}.weight.lora_{half}" for name in NAMES["bert"].values() for half in "ab"})
        self.assertEqual(len(gguf.tensors), 72)
        self.assertEqual(gguf.tensors["blk.5.ffn_down.weight.lora_a"][1], [256, 1536])

    def test_a_module_that_llama_cpp_has_no_weight_for_is_refused_by_name(self):
        path, model = self.little({"bert.encoder.layer.0.attention.self.query": (8, 4), "bert.pooler.dense": (4, 4),
                                   "bert.encoder.layer.00.attention.self.key": (4, 4),
                                   "bert.encoder.layer.1234567.attention.self.key": (4, 4),
                                   "encoder.layer.1.attention.self.key": (4, 4)})
        left = ["bert.encoder.layer.00.attention.self.key", "bert.encoder.layer.1234567.attention.self.key",
                "bert.pooler.dense"]
        error = self.fails("export", path, "out", "--as", "gguf", "--base", model, code="UNSUPPORTED", says=left)
        self.assertEqual(error["message"].count("\n"), 3)
        gguf, done = self.gguf(path, "--base", model, "--drop")
        self.assertEqual(done["dropped"], left)
        self.assertEqual(set(gguf.tensors), {f"blk.{name}.weight.lora_{half}" for name in ("0.attn_q", "1.attn_k")
                                             for half in "ab"})

    def test_tensors_of_any_size_begin_at_multiples_of_32(self):
        path, model = self.little({f"encoder.layer.{layer}.attention.self.query": (layer + 1, 2 * layer + 1)
                                   for layer in range(8)})
        inputs = base_inputs(model)
        expected = Adapter(path, inputs, seed=0)
        for option, dtype in DTYPES.items():
            gguf, _ = self.gguf(path, "--base", model, "--dtype", option)  # Gguf looks at every byte between
            self.check(gguf, expected, NAMES["bert"], dtype=dtype)
            self.assertNotIn("general.base_model.count", gguf.values)

    def test_an_adapter_of_which_nothing_is_left_is_refused(self):
        path, model = self.little({"bert.pooler.dense": (4, 4)})
        self.fails("export", path, "out", "--as", "gguf", "--base", model, "--drop", says="nothing")
        self.assertFalse(os.path.exists(self.path("out")))

    def test_an_output_layer_of_its_own(self):
        weights = {"model.layers.0.self_attn.v_proj": (8, 4), "lm_head": (8, 4)}
        path, model = self.little(weights, "qwen2", tie_word_embeddings=False)
        gguf, _ = self.gguf(path, "--base", model)
        self.assertEqual(gguf.tensors["output.weight.lora_b"][1], [8, 2])

    def test_two_modules_with_one_name_are_refused(self):
        path, model = self.little({"model.layers.0.self_attn.v_proj": (8, 4), "layers.0.self_attn.v_proj": (8, 4)},
                                  "qwen2")
        self.fails("export", path, "out", "--as", "gguf", "--base", model, says="one weight")

    def test_rows_that_make_no_heads_are_refused(self):
        for heads in (3, 5, 64, 2**63, 2**64 - 1):
            model = self.model("llama", num_attention_heads=heads)
            self.fails("export", adapter("llama/step-120"), "out", "--as", "gguf", "--base", model, says="heads")
        for heads in (0, -1, 1.5, "4"):
            model = self.model("llama", num_attention_heads=heads)
            self.fails("export", adapter("llama/step-120"), "out", "--as", "gguf", "--base", model, says="heads")
        self.fails("export", adapter("llama/step-120"), "out", "--as", "gguf", "--base",
                   self.model("llama", num_attention_heads=...), says="num_attention_heads")

    def test_other_architectures_are_refused_by_name(self):
        for kind in ("phi3", "llama4", "gemma2", "llav\x1ba", "x" * 100, 7, ...):
            model = self.model("llama", model_type=kind)
            says = f"'{kind}'" if kind in ("phi3", "llama4", "gemma2") else "GGUF"
            self.fails("export", adapter("llama/step-120"), "out", "--as", "gguf", "--base", model,
                       code="UNSUPPORTED", says=says, hint="qwen3")
        self.assertFalse(os.path.exists(self.path("out")))

    def test_without_config_json_the_architecture_is_unknown(self):
        model = self.model("llama")
        os.remove(os.path.join(model, "config.json"))
        self.fails("export", adapter("llama/step-120"), "out", "--as", "gguf", "--base", model, says="config.json",
                   hint="--base MODEL")
        self.commit(adapter("llama/step-120"), "--base", model)
        self.fails("export", "HEAD", "out", "--as", "gguf", says="recorded", hint="--base MODEL")
        self.gguf("HEAD", "--base", base("llama"))


class Publish(ExportTest):
    def prepare(self):
        type(self).made = self.commit(adapter("llama/step-120"), "--base", base("llama"))

    def setUp(self):
        super().setUp()
        self.digits = self.made["snapshot"][len("sha256:"):][:12]

    def publish(self, *args, code=0, **kwargs):
        result = self.vera("publish", *args, "--json", code=code, **kwargs)
        self.assertEqual(set(result.json), {"path", "name", "files", "dropped"})
        return result.json

    def test_it_is_the_lora_export_under_a_name_of_its_own(self):
        done = self.publish("main", "served")
        self.assertEqual(done["name"], f"main@{self.digits}")
        self.assertEqual(done["path"], f"served/main@{self.digits}")
        self.assertEqual(os.listdir(self.path("served")), [done["name"]])
        out, exported = self.export("main", "lora")
        self.assertEqual(tree(self.path(done["path"])), tree(out))
        self.assertEqual(done["files"], exported["files"])

    def test_again_it_is_there_already(self):
        for dtype in ("fp32", "bf16"):
            served = f"served-{dtype}"
            done = self.publish("main", served, "--dtype", dtype)
            stamp = os.stat(self.path(done["path"], MODEL)).st_ino
            self.assertEqual(self.publish("main", served, "--dtype", dtype), done)
            self.assertIn("there already", self.vera("publish", "main", served, "--dtype", dtype).out)
            self.assertEqual(os.stat(self.path(done["path"], MODEL)).st_ino, stamp)

    def test_other_files_under_its_name_are_in_the_way(self):
        done = self.publish("main", "served")
        before = tree(self.dir)
        for args in (("--dtype", "bf16"), ("--base-name", "other")):
            self.fails("publish", "main", "served", *args, code="EXISTS", says="other files", hint="--force")
            self.assertEqual(tree(self.dir), before)
        os.remove(self.path(done["path"], CONFIG))
        self.fails("publish", "main", "served", code="EXISTS", says="other files")
        self.publish("main", "served", "--force")
        self.assertEqual(tree(self.dir), before)
        with open(self.path(done["path"], MODEL), "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")
        self.fails("publish", "main", "served", code="EXISTS")

    def test_the_branch_names_it(self):
        self.vera("branch", "team/french/v2")
        self.assertEqual(self.publish("team/french/v2", "served")["name"], f"team-french-v2@{self.digits}")
        self.assertEqual(self.publish("HEAD", "served")["name"], f"main@{self.digits}")
        self.assertEqual(self.publish("main", "served", "--name", "x y")["name"], f"x y@{self.digits}")

    def test_what_is_no_branch_needs_a_name(self):
        self.vera("tag", "v1")
        for revision in ("v1", "main~0", self.made["commit"], self.made["snapshot"], adapter("llama/step-120")):
            self.fails("publish", revision, "served", status=2, says="--name")
            args = ("--base", base("llama")) if revision.startswith("/") else ()
            self.assertEqual(self.publish(revision, "served", "--name", "n", *args)["name"], f"n@{self.digits}")
        self.assertEqual(os.listdir(self.path("served")), [f"n@{self.digits}"])

    def test_names_that_lead_elsewhere_are_refused(self):
        for name in ("", ".", "..", "../x", "a/b", ".hidden", "a\nb", "\x1b[2J", "a\\b", "x" * 250):
            self.vera("publish", "main", "served", "--name", name, code=None if len(name) > 200 else 2)
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_a_directory_is_made_and_not_its_parents(self):
        self.fails("publish", "main", "a/b", code="NOTFOUND", hint="mkdir -p")
        self.assertEqual(os.listdir(self.dir), [".vera"])
        self.fails("publish", "nobody", "served", "--name", "n", code="NOTFOUND")
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_the_base_is_called_as_the_engine_calls_it(self):
        done = self.publish("main", "served", "--base-name", "meta-llama/Llama \"3\"")
        self.assertEqual(read_json(self.path(done["path"]), CONFIG)["base_model_name_or_path"],
                         "meta-llama/Llama \"3\"")
        path, model = self.little({"bert.encoder.layer.0.attention.self.query": (8, 4)})
        self.fails("publish", path, "served", "--name", "n", "--base", model, says="base model", hint="--base-name")
        self.publish(path, "served", "--name", "n", "--base", model, "--base-name", "b")

    def test_what_engines_cannot_hold_is_refused_by_name(self):
        bert = ("--name", "bert", "--base", base("bert"))
        self.fails("publish", adapter("bert/step-040"), "served", *bert, code="UNSUPPORTED",
                   says=["vLLM", *BERT_OTHERS], hint="--drop")
        self.assertEqual(os.listdir(self.dir), [".vera"])
        done = self.publish(adapter("bert/step-040"), "served", *bert, "--drop")
        self.assertEqual(done["dropped"], BERT_OTHERS)
        names = read_tensors(self.path(done["path"], MODEL))
        self.assertEqual({name.rpartition(".lora_")[2] for name in names}, {"A.weight", "B.weight"})

    def test_a_rank_that_vllm_has_no_room_for_is_told(self):
        path, model = self.little({"bert.encoder.layer.0.attention.self.query": (8, 4)})
        tensors = read_tensors(os.path.join(path, MODEL))
        for name in tensors:
            if name.endswith("lambda_d"):
                tensors[name] = ("F32", [513], bytes(4 * 513))
        write_tensors(os.path.join(path, MODEL), tensors)
        config = read_json(path, CONFIG)
        config["r"] = 513
        with open(os.path.join(path, CONFIG), "w", encoding="utf-8") as file:
            json.dump(config, file)
        said = self.vera("publish", path, "served", "--name", "n", "--base", model, "--base-name", "b")
        self.assertIn("up to rank 512, this one has 513", said.err)
        self.assertEqual(self.vera("publish", "main", "served").err, "")

    def test_modules_that_sglang_loads_only_beside_others_are_told(self):
        cases = (("q_proj", "q_proj only beside v_proj"), ("v_proj", "v_proj only beside q_proj"),
                 ("k_proj v_proj", "k_proj only beside q_proj", "v_proj only beside q_proj"),
                 ("q_proj k_proj", "q_proj only beside v_proj"), ("up_proj", "up_proj only beside gate_proj"),
                 ("q_proj v_proj",), ("q_proj k_proj v_proj",), ("gate_proj",), ("gate_proj up_proj",),
                 ("o_proj down_proj",), ("qq_proj",))
        for number, (targets, *warnings) in enumerate(cases):
            with self.subTest(targets):
                names = [f"model.layers.{layer}.part.{name}" for layer in (0, 10) for name in targets.split()]
                path, model = self.little({name: (8, 4) for name in names}, "llama")
                said = self.vera("publish", path, f"served-{number}", "--name", "n", "--base", model,
                                 "--base-name", "b")
                self.assertEqual(said.err.count("SGLang"), len(warnings))
                for warning in warnings:
                    first = f"model.layers.0.part.{warning.split()[0]}"
                    self.assertIn(f"SGLang loads {warning} of the same layer, which 2 modules lack ({first})", said.err)
                shutil.rmtree(path)
                shutil.rmtree(model)

    def test_the_same_layer_is_looked_at(self):
        path, model = self.little({"model.layers.0.a.q_proj": (8, 4), "model.layers.1.a.q_proj": (8, 4),
                                   "model.layers.1.a.v_proj": (8, 4), "v_proj": (8, 4)}, "llama")
        said = self.vera("publish", path, "served", "--name", "n", "--base", model, "--base-name", "b")
        for part, other, module in (("q_proj", "v_proj", "model.layers.0.a.q_proj"), ("v_proj", "q_proj", "v_proj")):
            self.assertIn(f"{part} only beside {other} of the same layer, which 1 module lacks ({module})", said.err)

    def test_a_full_disk_leaves_nothing(self):
        for space in (0, 600, 100000):
            self.fails("publish", "main", "served", code="IO", says="No space left",
                       env=self.preload(SPACE=space))
            self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_killed_anywhere_it_is_there_whole_or_not_at_all(self):
        name = f"main@{self.digits}"
        self.publish("main", "whole")
        whole, step, seen = tree(self.path("whole", name)), 0, set()
        while True:
            step += 1
            served = self.path(f"served-{step}")
            done = self.vera("publish", "main", served, code=None, env=self.preload(KILL=step))
            there = os.path.isdir(os.path.join(served, name))
            seen.add((done.code, there))
            if there:
                self.assertEqual(tree(os.path.join(served, name)), whole)
            if done.code == 0:
                break
            # What was left is hidden, and the next one does not stumble over it.
            self.vera("publish", "main", served)
            visible = [entry for entry in os.listdir(served) if not entry.startswith(".")]
            self.assertEqual(visible, [name])
            self.assertEqual(tree(os.path.join(served, name)), whole)
        self.assertGreater(step, 5)
        self.assertIn((-9, False), seen)


if __name__ == "__main__":
    unittest.main()
