"""Bad input, bad disks, bad neighbours: each gets one clear message, the right code and a hint where
there is something to do; nothing is left behind, and no earlier version is lost."""
import json
import os
import shutil
import struct
import unittest

from harness import RepositoryTest, VeraTest, adapter, base, read_tensors, tree, write_tensors

MODEL = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
FIRST, SECOND = adapter("llama-half/step-000"), adapter("llama-half/step-010")
BASE = base("llama-half")
Q_PROJ = "model.layers.0.self_attn.q_proj"
LAMBDA_B = f"base_model.model.{Q_PROJ}.vera_lambda_b"


def edit_config(path, **changes):
    with open(os.path.join(path, CONFIG), encoding="utf-8") as file:
        config = json.load(file)
    config.update(changes)
    with open(os.path.join(path, CONFIG), "w", encoding="utf-8") as file:
        json.dump(config, file)


def put(path, name, data):
    with open(os.path.join(path, name), "wb") as file:
        file.write(data)


def get(path, name):
    with open(os.path.join(path, name), "rb") as file:
        return file.read()


def edit_tensor(path, name, change, file=MODEL):
    """`change` makes (dtype, shape, data) of the old one, or None: the tensor is gone."""
    tensors = read_tensors(os.path.join(path, file))
    tensors[name] = change(*tensors[name])
    if tensors[name] is None:
        del tensors[name]
    write_tensors(os.path.join(path, file), tensors)


def flip(path, name, at, bit=0):
    data = bytearray(get(path, name))
    data[at] ^= 1 << bit
    put(path, name, bytes(data))


def header(text, data=b""):
    return struct.pack("<Q", len(text)) + text + data


class Repository(RepositoryTest):
    """Two versions on main, which must survive whatever a test does."""
    adapters = (FIRST, SECOND)

    def setUp(self):
        super().setUp()
        self.tip = self.vera("log", "--json").lines[0]["commit"]

    def assert_untouched(self):
        self.assertEqual(tree(self.dir), self.before)

    def assert_versions_are_there(self):
        """Both versions come back byte for byte, and git finds nothing wrong."""
        log = [line["commit"] for line in self.vera("log", "--json").lines]
        self.assertIn(self.tip, log)
        for number, (rev, original) in enumerate([(self.tip + "~1", FIRST), (self.tip, SECOND)]):
            out = os.path.join(self.top, f"back-{number}")
            self.vera("export", rev, out)
            self.assertEqual(tree(out), tree(original))
            shutil.rmtree(out)
        self.git("--git-dir", self.path(".vera"), "fsck", "--strict", "--no-dangling")

    def copy(self, source, name):
        path = os.path.join(self.top, name)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source, path)
        return path


# What is done to a copy of a good adapter directory; code, words of the message, words of the hint.
ADAPTERS = {
    "no config": (lambda d: os.remove(os.path.join(d, CONFIG)), "NOTFOUND", CONFIG, "save_pretrained"),
    "no tensors": (lambda d: os.remove(os.path.join(d, MODEL)), "NOTFOUND", MODEL, None),
    "empty config": (lambda d: put(d, CONFIG, b""), "INVALID", CONFIG, None),
    "config that is no JSON": (lambda d: put(d, CONFIG, b"peft_type: VERA\n"), "INVALID", CONFIG, None),
    "config that ends early": (lambda d: put(d, CONFIG, get(d, CONFIG)[:-1]), "INVALID", CONFIG, None),
    "config with two ranks": (lambda d: put(d, CONFIG, b'{"r":4,' + get(d, CONFIG)[1:]), "INVALID",
                              CONFIG, None),
    "config of a list": (lambda d: put(d, CONFIG, b"[]"), "INVALID", CONFIG, None),
    "deep config": (lambda d: put(d, CONFIG, b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"), "LIMIT",
                    CONFIG, None),
    "another rank": (lambda d: edit_config(d, r=31), "INVALID", "31", None),
    "rank 0": (lambda d: edit_config(d, r=0), "INVALID", "r", None),
    "absurd rank": (lambda d: edit_config(d, r=2**62), "LIMIT", "r", None),
    "no peft_type": (lambda d: put(d, CONFIG, b'{"r":32}'), "INVALID", "peft_type", None),
    "LoRA": (lambda d: edit_config(d, peft_type="LORA"), "UNSUPPORTED", "LORA", "VeraConfig"),
    "IA3": (lambda d: edit_config(d, peft_type="IA3"), "UNSUPPORTED", "IA3", "VeraConfig"),
    "pickle": (lambda d: os.rename(os.path.join(d, MODEL), os.path.join(d, "adapter_model.bin")),
               "UNSUPPORTED", "adapter_model.bin", ("python", "save_file", ".safetensors")),
    "empty tensors": (lambda d: put(d, MODEL, b""), "INVALID", MODEL, "not whole"),
    "truncated length": (lambda d: put(d, MODEL, get(d, MODEL)[:7]), "INVALID", MODEL, "not whole"),
    "truncated header": (lambda d: put(d, MODEL, get(d, MODEL)[:100]), "INVALID", MODEL, "not whole"),
    "truncated data": (lambda d: put(d, MODEL, get(d, MODEL)[:-1]), "INVALID", MODEL, "not whole"),
    "data too long": (lambda d: put(d, MODEL, get(d, MODEL) + b"\0"), "INVALID", MODEL, None),
    "flipped brace": (lambda d: flip(d, MODEL, 8), "INVALID", MODEL, None),
    "header larger than the file": (lambda d: put(d, MODEL, struct.pack("<Q", 20_000_000) + b"{}"),
                                    "INVALID", MODEL, "not whole"),
    "git-lfs pointer": (lambda d: put(d, MODEL, b"version https://git-lfs.github.com/spec/v1\n"),
                        "INVALID", "git-lfs", "git lfs pull"),
    "header above the limit": (lambda d: put(d, MODEL, struct.pack("<Q", 25_000_001) + b"{}"),
                               "LIMIT", MODEL, None),
    "header of 2^64-1 bytes": (lambda d: put(d, MODEL, b"\xff" * 8 + b"{}"), "LIMIT", MODEL, None),
    "absurd shape": (lambda d: put(d, MODEL, header(
        b'{"x":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}}', b"1234")),
        "INVALID", MODEL, None),
    "absurd offsets": (lambda d: put(d, MODEL, header(
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]}}', b"1234")),
        "INVALID", MODEL, None),
    "unknown dtype": (lambda d: put(d, MODEL, header(
        b'{"x":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}', b"1234")), "INVALID", MODEL, None),
    "no vectors": (lambda d: put(d, MODEL, header(b"{}")), "INVALID", MODEL, None),
    "a module without d": (lambda d: edit_tensor(d, LAMBDA_B[:-1] + "d", lambda *_: None), "INVALID",
                           Q_PROJ, None),
    "b of another length than B has rows": (
        lambda d: edit_tensor(d, LAMBDA_B, lambda t, s, b: (t, [4096], b"\0" * 4096 * 4)), "INVALID",
        (), None),
    "a FIFO": (lambda d: os.mkfifo(os.path.join(d, "notes.txt")), "INVALID", "notes.txt", None),
    "a name with a line feed": (lambda d: put(d, "a\nb.txt", b""), "INVALID", "b.txt", None),
}


class Adapters(Repository):
    def test_what_is_no_adapter_is_refused(self):
        for name, (damage, code, says, hint) in ADAPTERS.items():
            with self.subTest(adapter=name):
                path = self.copy(SECOND, "adapter")
                damage(path)
                error = self.fails("commit", path, code=code, says=says, hint=hint or ())
                self.assertIn(path, error["message"])
                self.assert_untouched()
        self.assert_versions_are_there()

    def test_every_truncation_of_the_tensors_is_refused(self):
        path = self.copy(SECOND, "adapter")
        data = get(path, MODEL)
        for size in [*range(0, len(data), len(data) // 12), len(data) - 1]:
            put(path, MODEL, data[:size])
            self.fails("commit", path, says=MODEL)
        self.assert_untouched()

    def test_a_flipped_bit_in_the_basis_is_stored_and_comes_back(self):
        tensors = read_tensors(os.path.join(SECOND, MODEL))
        path = self.copy(SECOND, "adapter")
        flip(path, MODEL, os.path.getsize(os.path.join(path, MODEL)) - 2000)
        self.assertNotEqual(read_tensors(os.path.join(path, MODEL)), tensors)
        self.assertEqual(self.vera("commit", path, "--json").json["basis"]["state"], "stored")
        self.vera("export", "HEAD", "out")
        self.assertEqual(tree(self.path("out")), tree(path))
        self.assert_versions_are_there()

    def test_paths_that_are_no_adapter_directory(self):
        outer = os.path.join(self.top, "outer")
        shutil.copytree(SECOND, os.path.join(outer, "checkpoint-10"))
        for path, code, says, hint in [
                ("nowhere", "NOTFOUND", "nowhere", None),
                (os.path.join(SECOND, CONFIG), "INVALID", "not a directory", CONFIG),
                (self.home, "NOTFOUND", CONFIG, "save_pretrained"),
                (outer, "NOTFOUND", CONFIG, "checkpoint-10 has one: give that directory")]:
            with self.subTest(path=path):
                self.fails("commit", path, code=code, says=says, hint=hint or ())
        self.assert_untouched()

    def test_the_tip_again_is_refused_with_its_id(self):
        self.fails("commit", SECOND, code="EXISTS", says=self.tip[:12], hint="--allow-empty")
        self.assertEqual(self.vera("commit", SECOND, "--if-changed", "--json").json["commit"], self.tip)
        self.assert_untouched()

    def test_names_that_cannot_be_a_branch_tag_or_author(self):
        for args in (["commit", FIRST, "--branch", "a..b"], ["branch", "-x y"], ["branch", "x~1"],
                     ["tag", "a b"], ["tag", "x.lock"], ["switch", "-c", "@{1}"],
                     ["commit", FIRST, "--author", "<>"], ["commit", FIRST, "--metric", "loss"],
                     ["commit", FIRST, "--metric", "loss=low"]):
            with self.subTest(args=args):
                result = self.vera(*args, "--json", code=None)
                self.assertIn(result.code, (1, 2))
                self.assertEqual(result.json["error"]["code"], "INVALID")
        self.assert_untouched()


# What is done to a copy of the base model, and what apply says of it.
WEIGHT = Q_PROJ + ".weight"
MODEL_FILE = "model.safetensors"


def edit_weight(change):
    return lambda d: edit_tensor(d, WEIGHT, change, MODEL_FILE)


BASES = {
    "a module is missing": (edit_weight(lambda *_: None), "INVALID", ("matched 13 of 14", Q_PROJ), None),
    "a module is wider than A": (edit_weight(lambda t, s, d: (t, [s[0], s[1] * 4], d * 4)), "INVALID",
                                 (), None),
    "a module is longer": (edit_weight(lambda t, s, d: (t, [s[0] * 2, s[1]], d * 2)), "INVALID",
                           (Q_PROJ,), None),
    "a module is a vector": (edit_weight(lambda t, s, d: (t, [s[0] * s[1]], d)), "INVALID",
                             (Q_PROJ,), None),
    "float64": (edit_weight(lambda t, s, d: ("F64", s, d * 4)), "UNSUPPORTED", (Q_PROJ, "F64"), "F32"),
    "int8": (edit_weight(lambda t, s, d: ("I8", s, d[::2])), "UNSUPPORTED", (Q_PROJ, "I8"), "unmerged"),
    "float8": (edit_weight(lambda t, s, d: ("F8_E4M3", s, d[::2])), "UNSUPPORTED", (Q_PROJ,), "unmerged"),
    "no weights": (lambda d: os.remove(os.path.join(d, MODEL_FILE)), "NOTFOUND", MODEL_FILE, "safetensors"),
    "pickled weights": (lambda d: os.rename(os.path.join(d, MODEL_FILE),
                                            os.path.join(d, "pytorch_model.bin")),
                        "UNSUPPORTED", "pytorch_model.bin", "save_pretrained"),
    "truncated": (lambda d: put(d, MODEL_FILE, get(d, MODEL_FILE)[:-1]), "CORRUPT", MODEL_FILE, None),
    "truncated header": (lambda d: put(d, MODEL_FILE, get(d, MODEL_FILE)[:50]), "CORRUPT", MODEL_FILE,
                         None),
    "absurd header": (lambda d: put(d, MODEL_FILE, b"\xff" * 8 + b"{}"), "LIMIT", MODEL_FILE, None),
    "git-lfs pointer": (lambda d: put(d, MODEL_FILE, b"version https://git-lfs.github.com/spec/v1\n"
                                      b"oid sha256:" + b"0" * 64 + b"\nsize 12345\n"),
                        "CORRUPT", "git-lfs", "git lfs pull"),
}


class Apply(Repository):
    def apply(self, rev, model, **kwargs):
        error = self.fails("apply", rev, "--base", model, "--out", "out", **kwargs)
        self.assert_untouched()
        return error

    def test_models_that_do_not_fit_are_refused(self):
        for name, (damage, code, says, hint) in BASES.items():
            with self.subTest(base=name):
                model = self.copy(BASE, "model")
                damage(model)
                shutil.rmtree(self.path("out"), ignore_errors=True)
                self.apply(self.tip, model, code=code, says=says, hint=hint or ())
        self.assert_versions_are_there()

    def test_another_model_is_named_as_such(self):
        self.apply(self.tip, base("bert"), says="matched 0 of 14 modules", hint="tiny/llama-half")
        self.apply(self.tip, base("gpt2"), says="matched 0 of 14 modules", hint="tiny/llama-half")

    def test_a_model_that_differs_from_the_pin_is_a_conflict(self):
        model = self.copy(BASE, "model")
        self.vera("commit", SECOND, "--branch", "pinned", "--base", model, "--allow-empty")
        self.before = tree(self.dir)
        data = get(model, MODEL_FILE)
        tensors = read_tensors(os.path.join(model, MODEL_FILE))
        flip(model, MODEL_FILE, data.index(tensors[WEIGHT][2]) + 100)
        self.apply("pinned", model, code="CONFLICT", says=Q_PROJ)
        self.assertEqual(self.vera("apply", "main", "--base", model, "--out", "out", "--json").json["pinned"],
                         False)

    def test_the_pin_is_not_asked_for_what_the_adapter_leaves_alone(self):
        model = self.copy(BASE, "model")
        self.vera("commit", SECOND, "--branch", "pinned", "--base", model, "--allow-empty")
        edit_tensor(model, "model.norm.weight", lambda t, s, d: (t, s, d[::-1]), MODEL_FILE)
        self.assertTrue(self.vera("apply", "pinned", "--base", model, "--out", "out", "--json").json["pinned"])

    def test_values_that_are_not_finite_are_kept_but_not_applied(self):
        for value in (float("nan"), float("inf"), float("-inf")):
            path = self.copy(SECOND, "adapter")
            edit_tensor(path, LAMBDA_B, lambda t, s, d, v=value: (t, s, d[:8] + struct.pack("<f", v) + d[12:]))
            rev = self.vera("commit", path, "--branch", f"bad/{value}".replace("-", "minus"), "--json").json
            self.before = tree(self.dir)
            self.apply(rev["commit"], BASE, says=Q_PROJ, hint="earlier version")
            self.vera("export", rev["commit"], "back")
            self.assertEqual(tree(self.path("back")), tree(path))
            shutil.rmtree(self.path("back"))

    def test_a_basis_that_is_not_finite_is_not_applied(self):
        path = self.copy(SECOND, "adapter")
        edit_tensor(path, "base_model.vera_A",
                    lambda t, s, d: (t, s, struct.pack("<f", float("inf")) + d[4:]))
        self.apply(path, BASE, says="not finite")

    def test_targets_that_are_there_stay(self):
        for name, make in [("file", lambda p: put(self.dir, "out", b"mine")),
                           ("directory", lambda p: (os.mkdir(p), put(p, "mine", b"mine")))]:
            with self.subTest(name):
                make(self.path("out"))
                self.before = tree(self.dir)
                self.apply(self.tip, BASE, code="EXISTS", says="out")
                self.fails("export", self.tip, "out", code="EXISTS", says="out")
                self.assert_untouched()
                if name == "file":
                    os.remove(self.path("out"))
        self.fails("export", self.tip, "no/such/folder/out", code="NOTFOUND", says="no/such/folder")
        self.assert_untouched()

    def test_nothing_is_written_into_the_base(self):
        model = self.copy(BASE, "model")
        before = tree(model)
        for out in (model, os.path.join(model, "out")):
            for force in ([], ["--force"]):
                self.fails("apply", self.tip, "--base", model, "--out", out, *force, says=out,
                           hint="beside the base")
        self.assertEqual(tree(model), before)

    def test_verify_tells_the_first_tensor_that_differs(self):
        self.vera("apply", self.tip, "--base", BASE, "--out", "out")
        verify = ["verify", "out", "--rev", self.tip, "--base", BASE, "--json"]
        self.assertEqual(self.vera(*verify).json, {"ok": True, "first_difference": None})
        edit_tensor(self.path("out"), WEIGHT, lambda t, s, d: (t, s, d[:-1] + bytes([d[-1] ^ 1])), MODEL_FILE)
        self.assertEqual(self.vera(*verify, code=1).json, {"ok": False, "first_difference": WEIGHT})
        self.fails("verify", "nowhere", "--rev", self.tip, "--base", BASE, code="NOTFOUND", says="nowhere")


class Revisions(Repository):
    def test_what_does_not_exist_is_named_with_what_is_near(self):
        self.vera("branch", "sweep/seven")
        self.before = tree(self.dir)
        for rev, code, says in [("mian", "NOTFOUND", "mian"), ("sweep/sevn", "NOTFOUND", "sweep/sevn"),
                                ("main~9", "NOTFOUND", "main~9"), ("main@{9}", "NOTFOUND", "main@{9}"),
                                ("deadbeef", "NOTFOUND", "deadbeef"), ("sha256:" + "0" * 64, "NOTFOUND", "0000"),
                                ("sha256:xyz", "INVALID", "xyz"), ("main~x", "INVALID", "main~x"),
                                ("", "INVALID", "")]:
            with self.subTest(rev=rev):
                self.fails("log", rev, code=code, says=says)
                self.fails("export", rev, "out", code=code, says=says)
        self.assertIn("sweep/seven", json.dumps(self.fails("log", "sweep/sevn", code="NOTFOUND")))
        self.fails("branch", "-d", "main", says="main", hint="switch")
        self.fails("branch", "-d", "nope", code="NOTFOUND", says="nope")
        self.fails("branch", "main", code="EXISTS", says="main")
        self.fails("switch", "nope", code="NOTFOUND", says="nope")
        self.fails("reset", "nope", code="NOTFOUND", says="nope")
        self.assert_untouched()

    def test_an_empty_repository_says_so(self):
        os.mkdir(self.path("empty"))
        self.vera("init", "empty")
        self.assertEqual(self.vera("-C", "empty", "branch", "--json").out, "")
        self.fails("-C", "empty", "export", "HEAD", "out", code="NOTFOUND")
        self.fails("-C", "empty", "reset", "HEAD", code="NOTFOUND")


class NoRepository(VeraTest):
    COMMANDS = (["log"], ["show"], ["stats"], ["fsck"], ["branch"], ["tag"], ["basis"], ["commit", FIRST],
                ["export", "main", "out"], ["reset", "main"], ["switch", "main"])

    def test_a_directory_that_is_in_no_repository(self):
        for args in self.COMMANDS:
            with self.subTest(args=args):
                self.fails(*args, code="NOTFOUND", says="no repository", hint="vera init")
        self.assertEqual(tree(self.dir), {})

    def test_vera_repo_that_names_none(self):
        self.env["VERA_REPO"] = self.path("nowhere")
        for args in self.COMMANDS:
            self.fails(*args, code="NOTFOUND", says="nowhere", hint="VERA_REPO")

    def test_a_directory_of_that_name_that_is_no_repository(self):
        os.mkdir(self.path(".vera"))
        for args in self.COMMANDS:
            with self.subTest(args=args):
                self.fails(*args, code="CORRUPT", says=".vera", hint="vera init")
        self.fails("init", code="EXISTS", says=".vera")
        self.assertEqual(tree(self.dir), {".vera": None})

    def test_a_directory_is_applied_without_a_repository(self):
        self.vera("apply", SECOND, "--base", BASE, "--out", "out")
        self.vera("verify", "out", "--rev", SECOND, "--base", BASE)
        self.fails("apply", "main", "--base", BASE, "--out", "other", code="NOTFOUND", says="main")

    def test_a_second_init_is_refused(self):
        self.vera("init")
        before = tree(self.dir)
        self.fails("init", code="EXISTS", says=".vera")
        self.assertEqual(tree(self.dir), before)


class Disks(Repository):
    def leftovers(self):
        """Files that nobody wants: temporary ones, and whatever appeared beside the repository."""
        now = tree(self.dir)
        return [path for path in now if path not in self.before
                and not path.startswith((".vera/objects/", ".vera/logs/", ".vera/refs/"))
                or "tmp_" in path or ".vera-" in path or path.endswith(".lock")
                and path != ".vera/vera.lock"]

    def fill(self, *args):
        """Run it on disks that are full after 0, then ever more bytes, until it passes."""
        space, failures = 0, 0
        while True:
            result = self.vera(*args, "--json", code=None, env=self.preload(SPACE=space))
            if result.code == 0:
                return failures
            error = result.json["error"]
            self.assertEqual((result.code, error["code"]), (1, "IO"), result)
            self.assertIn("free some space", error["hint"] or "", result)
            self.assertEqual(self.leftovers(), [], result)
            failures += 1
            space += max(61, space // 5)

    def test_a_full_disk_leaves_nothing_of_an_export(self):
        self.assertGreater(self.fill("export", self.tip, "out"), 12)
        self.assertEqual(tree(self.path("out")), tree(SECOND))

    def test_a_full_disk_leaves_nothing_of_a_model(self):
        self.assertGreater(self.fill("apply", self.tip, "--base", BASE, "--out", "out"), 12)
        self.vera("verify", "out", "--rev", self.tip, "--base", BASE)

    def test_a_full_disk_loses_no_version(self):
        self.assertGreater(self.fill("commit", adapter("llama-half/step-020"), "-m", "third"), 6)
        self.assertEqual(len(self.vera("log", "--json").lines), 3)
        self.assert_versions_are_there()

    def test_a_full_disk_leaves_no_half_repository(self):
        self.before = tree(self.dir)
        self.assertGreater(self.fill("init", "deep/new"), 2)
        self.vera("-C", "deep/new", "commit", FIRST)

    def test_a_full_disk_loses_no_branch(self):
        for args in (["branch", "x"], ["tag", "t", "-m", "text"], ["branch", "-m", "x", "y"],
                     ["branch", "-d", "y"], ["switch", "z"], ["reset", self.tip + "~1"]):
            with self.subTest(args=args):
                if args[0] == "switch":
                    self.vera("branch", "z")
                self.assertGreater(self.fill(*args), 0)
                self.assert_versions_in_all_refs()

    def test_a_full_disk_between_a_new_branch_and_the_switch_to_it_is_told(self):
        said = []
        for number, space in enumerate(range(0, 4000, 50)):
            result = self.vera("switch", "-c", f"b{number}", "--json", code=None,
                               env=self.preload(SPACE=space))
            if result.code == 0:
                break
            self.assertIn("free some space", result.json["error"]["hint"])
            said.append(result.json["error"]["message"])
            made = f"branch 'b{number}' was made, but not switched to" in said[-1]
            self.assertEqual(f"b{number}" in [b["name"] for b in self.vera("branch", "--json").lines], made)
        self.assertTrue([text for text in said if "was made" in text])
        self.assertTrue([text for text in said if "was made" not in text])

    def assert_versions_in_all_refs(self):
        self.assertIn(self.tip, [line["commit"] for line in self.vera("log", "--all", "--json").lines] +
                      [line["commit"] for line in self.vera("branch", "--deleted", "--json").lines])

    def test_a_read_only_repository_is_read_and_not_changed(self):
        env = self.preload(READONLY=self.path(".vera"))
        for args in (["log"], ["show"], ["stats"], ["fsck"], ["branch"], ["tag"], ["basis"], ["basis", "verify"]):
            self.vera(*args, env=env)
        self.vera("export", self.tip, "out", env=env)
        shutil.rmtree(self.path("out"))
        for args in (["commit", adapter("llama-half/step-020")], ["branch", "x"], ["tag", "t"], ["switch", "-c", "y"],
                     ["reset", self.tip + "~1"]):
            with self.subTest(args=args):
                self.fails(*args, code="IO", says="Read-only file system", hint="read-only", env=env)
        self.assert_untouched()

    def test_a_target_on_a_read_only_disk(self):
        os.mkdir(self.path("disk"))
        self.before = tree(self.dir)
        env = self.preload(READONLY=self.path("disk"))
        for args in (["export", self.tip, "disk/out"], ["apply", self.tip, "--base", BASE, "--out", "disk/out"],
                     ["init", "disk/new"]):
            self.fails(*args, code="IO", says="disk", hint="read-only", env=env)
        self.assert_untouched()

    def test_another_owners_repository_needs_trust(self):
        env = self.preload(UID=os.getuid() + 4321)
        for args in (["log"], ["commit", FIRST], ["export", self.tip, "out"]):
            self.fails(*args, code="IO", says="another user", hint="safe.directory", env=env)
        self.git("config", "--global", "--add", "safe.directory", self.path(".vera"))
        self.vera("log", env=env)
        self.assert_untouched()

    def test_damage_is_named_and_nothing_damaged_is_exported(self):
        """Each object is cut, or changed, or emptied."""
        objects = self.path(".vera", "objects")
        for number, path in enumerate(sorted(p for p in tree(objects) if len(p) == 41)):
            folder, name = os.path.split(os.path.join(objects, path))
            data = get(folder, name)
            half = len(data) // 2
            damaged = (data[:-3], data[:half] + bytes([data[half] ^ 1]) + data[half + 1:], b"")[number % 3]
            with self.subTest(object=path, damage=number % 3):
                os.chmod(os.path.join(folder, name), 0o644)
                put(folder, name, damaged)
                self.assert_damage_is_named(path.replace("/", ""))
            put(folder, name, data)
        self.assert_versions_are_there()

    def test_nothing_is_committed_onto_a_commit_that_is_missing(self):
        os.remove(self.path(".vera", "objects", self.tip[:2], self.tip[2:]))
        self.fails("commit", adapter("llama-half/step-020"), code="CORRUPT", says=self.tip, hint="vera reset")
        self.assertEqual(self.git("--git-dir=.vera", "rev-parse", "main").strip(), self.tip)

    def assert_damage_is_named(self, name):
        report = self.vera("fsck", "--json", code=1).json
        self.assertIn(name, [bad["object"] for bad in report["bad"]])
        refused = 0
        for rev, original in (("HEAD~1", FIRST), ("HEAD", SECOND)):
            result = self.vera("export", rev, "out", "--json", code=None)
            if result.code == 0:
                self.assertEqual(tree(self.path("out")), tree(original))
                shutil.rmtree(self.path("out"))
                continue
            self.assertEqual(result.json["error"]["code"], "CORRUPT", result)
            self.assertTrue(result.json["error"]["hint"], result)
            self.assertFalse(os.path.exists(self.path("out")))
            refused += 1
        self.assertGreater(refused, 0)


class Crashes(Repository):
    def test_a_commit_that_dies_anywhere_leaves_the_old_state_or_the_new(self):
        """Killed before each change that it makes to the disk."""
        third = adapter("llama-half/step-020")
        start = self.copy(self.path(".vera"), "start")
        change, new = 1, 0
        while True:
            shutil.rmtree(self.path(".vera"))
            shutil.copytree(start, self.path(".vera"), symlinks=True)
            result = self.vera("commit", third, code=None, env=self.preload(KILL=change))
            if result.code == 0:
                break
            self.assertEqual(result.code, -9, result)
            versions = len(self.vera("log", "--json").lines)
            self.assertIn(versions, (2, 3))
            new += versions == 3
            self.assert_versions_are_there()
            self.vera("fsck")
            self.vera("commit", third, "--if-changed")
            self.assertEqual(len(self.vera("log", "--json").lines), 3)
            change += 1 + change // 5
        self.assertGreater(change, 20)


if __name__ == "__main__":
    unittest.main()
