"""vera diff --html: the page in a real browser, and the file that it becomes."""
import html
import json
import math
import os
import random
import re
import shutil
import struct
import tempfile
import unittest
from urllib.parse import quote

from browser import Browser
from harness import FOLDER, VeraTest, adapter, base, read_tensors, tree, write_tensors

PREFIX = "base_model.model."
WIDTHS = (1280, 400)
BINS = 40
SIZE, RANK = 8, 4  # of the modules that are made here
HIT = "document.title='hit'"
HOSTILE = [
    f"model.layers.0.</script><script>{HIT}</script>", f"model.layers.0.<!--<script>{HIT}",
    f"model.layers.0.\"onmouseover=\"{HIT}\" x=\"", f"model.layers.0.'><img src=x onerror={HIT}>",
    "model.layers.1.&lt;b&gt;", "model.layers.1.\u202egnp", "model.layers.1." + "y" * 200,
    "model.layers.99999999999999999999999.q", "model.layers.10.q", "model.layers.9.q",
    "other.9.q", "0.q", "层.0.注意", "heads.0", "lm_head", "a" * 300,
]
OPEN = "<!DOCTYPE html>\n"


def numbers(count, generator, spread):
    return struct.pack(f"<{count}f", *(generator.gauss(0, spread) for _ in range(count)))


def floats(data):
    return struct.unpack(f"<{len(data) // 4}f", data)


class ReportTest(VeraTest):
    def write_base(self, names):
        path = self.path("model")
        os.mkdir(path)
        weight = numbers(SIZE * SIZE, random.Random(0), 1)
        write_tensors(os.path.join(path, "model.safetensors"),
                      {name + ".weight": ("F32", [SIZE, SIZE], weight) for name in names})
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
            file.write("{}")
        return path

    def write_adapter(self, directory, names, seed=1, still=(), **config):
        """An adapter for a model of write_base(): b is zero where the module is `still`."""
        path, generator, tensors = self.path(directory), random.Random(seed), {}
        os.mkdir(path)
        for name in names:
            b = numbers(SIZE, generator, 0 if name in still else 1)
            tensors[PREFIX + name + ".vera_lambda_b"] = "F32", [SIZE], b
            tensors[PREFIX + name + ".vera_lambda_d"] = "F32", [RANK], numbers(RANK, generator, 1)
        write_tensors(os.path.join(path, "adapter_model.safetensors"), tensors)
        facts = {"peft_type": "VERA", "r": RANK, "projection_prng_key": 0, "save_projection": False,
                 "target_modules": sorted({name.rsplit(".", 1)[-1] for name in names}), **config}
        with open(os.path.join(path, "adapter_config.json"), "w", encoding="utf-8") as file:
            json.dump(facts, file)
        return path

    def page(self, *args, to="page.html"):
        """The path of the page of a diff, and the diff's JSON."""
        result = json.loads(self.vera("diff", *args, "--html", to, "--json").out)
        return self.path(to), result


class InBrowser(ReportTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.mkdtemp(prefix="vera-browser-", dir=FOLDER)
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        cls.browser = Browser(os.path.join(folder, "browser"))
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        super().setUp()
        self.browser.open("about:blank")
        self.browser.resize(WIDTHS[0])
        self.browser.log()
        self.browser.requests()

    def open(self, path):
        """Nothing but the page itself may be asked for, nothing may be complained of."""
        url = "file://" + quote(path)
        self.browser.open(url)
        self.check_quiet([url])

    def check_quiet(self, urls=()):
        self.assertEqual(self.browser.log(), [])
        self.assertEqual(self.browser.requests(), list(urls))

    def check_fits(self, path):
        for scheme in ("light", "dark"):
            self.browser.devtools("Emulation.setEmulatedMedia",
                                  features=[{"name": "prefers-color-scheme", "value": scheme}])
            for width in WIDTHS:
                self.browser.resize(width)
                self.open(path)
                self.assertEqual(self.browser.run("return innerWidth"), width)
                self.assertLessEqual(self.browser.run("return document.documentElement.scrollWidth"), width)

    def look(self, script, *args):
        """`script` is an expression in which $() finds all elements of a selector."""
        return self.browser.run("const $ = s => Array.from(document.querySelectorAll(s)); return " + script, *args)

    def check_cells(self, result):
        """A cell of the map for each module, with its name, and its row in the table."""
        cells = self.look("$('a.cell').map(c => [c.title, document.querySelector(c.getAttribute('href'))"
                          ".cells[0].textContent, c.offsetWidth > 0])")
        names = [module["name"] for module in result["modules"]]
        self.assertEqual(sorted(name for _, name, _ in cells), names)
        for title, name, is_seen in cells:
            self.assertTrue(title.startswith(name + ": ") and is_seen, title)

    def test_the_check_sees_what_a_page_loads_and_complains_of(self):
        with open(self.path("bad.html"), "w", encoding="utf-8") as file:
            file.write(OPEN + '<img src="other.png"><script>nothing()</script>')
        url = "file://" + quote(self.path("bad.html"))
        self.browser.open(url)
        self.assertEqual(self.browser.requests(), [url, url.replace("bad.html", "other.png")])
        self.assertIn("nothing is not defined", json.dumps(self.browser.log()))

    def test_two_versions(self):
        self.vera("init")
        for number in ("060", "120"):
            self.vera("commit", adapter("llama/step-" + number), "--base", base("llama"),
                      "-m", f"step <b>{number}</b>")
        path, result = self.page("main~1", "main")
        self.check_fits(path)
        self.check_cells(result)
        header = self.look("$('header')[0].innerText")
        commits = self.vera("log", "--json").lines
        for text in ("main~1", "step <b>060</b>", "step <b>120</b>", commits[0]["commit"], commits[1]["commit"],
                     commits[0]["time"][:10], f"{result['total']['norm_a']:.6g}", f"{result['total']['norm_b']:.6g}",
                     f"{100 * result['total']['relative']:.2f}%", f"{result['total']['cosine']:.6f}", "14 of 14"):
            self.assertIn(text, header)

    def test_layers_are_rows_and_types_are_columns(self):
        path, result = self.page(adapter("llama/step-060"), adapter("llama/step-120"), "--base", base("llama"))
        self.open(path)
        columns = self.look("$('.map thead th').slice(1).map(h => h.textContent)")
        rows = self.look("$('.map tbody tr:not(.stack)').map(r => Array.from(r.cells, c => c.textContent))")
        self.assertEqual([row[0] for row in rows], ["0", "1"])
        modules = {module["name"]: module["relative"] for module in result["modules"]}
        for row in rows:
            for kind, cell in zip(columns, row[1:], strict=True):
                self.assertEqual(cell, f"{100 * modules.pop(f'model.layers.{row[0]}.{kind}'):.0f}")
        self.assertEqual(modules, {})
        steps = self.look("$('a.cell').map(c => [Number(c.textContent), Number(c.className.match(/q(.)/)[1])])")
        self.assertEqual(sorted(step for _, step in sorted(steps)), [step for _, step in sorted(steps)])
        self.assertEqual(max(steps)[1], 9)
        colours = self.look("new Set($('.ramp .key').map(k => getComputedStyle(k).backgroundColor)).size")
        self.assertEqual(colours, 9)

    def column(self, number):
        return self.look("$('#modules tbody tr').map(r => r.cells[arguments[0]].dataset.v)", number)

    def sorting(self):
        return self.look("$('#modules thead th').map(h => h.getAttribute('aria-sort'))")

    def test_a_click_or_a_key_on_a_head_sorts(self):
        names = [f"model.layers.{layer}.q" for layer in range(12)]
        model = self.write_base(names)
        still = names[3:5]
        path, result = self.page(self.write_adapter("one", names, 1, still), self.write_adapter("two", names, 2),
                                 "--base", model)
        self.open(path)
        self.assertEqual(self.sorting(), [None, "descending"] + 6 * [None])
        changes = sorted(m["relative"] for m in result["modules"] if m["relative"] is not None)
        self.assertEqual([float(v) for v in self.column(1)], 2 * [math.inf] + changes[::-1])
        cosines = sorted(m["cosine"] for m in result["modules"] if m["cosine"] is not None)
        self.browser.click("#modules th:nth-child(6) button")
        self.assertEqual(self.sorting(), 5 * [None] + ["descending"] + 2 * [None])
        self.assertEqual([float(v) for v in self.column(5)[:-2]], cosines[::-1])
        self.assertEqual(self.column(5)[-2:], ["", ""])
        self.browser.press("#modules th:nth-child(6) button", "\ue007")  # Enter
        self.assertEqual(self.sorting()[5], "ascending")
        self.assertEqual([float(v) for v in self.column(5)[:-2]], cosines)
        self.assertEqual(self.column(5)[-2:], ["", ""])
        for order in (sorted(names), sorted(names)[::-1]):
            self.browser.press("#modules th:nth-child(1) button", " ")
            self.assertEqual(self.look("$('#modules tbody tr').map(r => r.cells[0].textContent)"), order)
        self.check_quiet()

    def bins(self, before, after):
        low, high = min(before + after), max(before + after)
        found = [[0] * BINS, [0] * BINS]
        for side, values in zip(found, (before, after)):
            for value in values:
                side[min(BINS - 1, math.floor((value - low) / (high - low) * BINS))] += 1
        return found

    def heights(self, where, vector):
        """The shape of each panel: heights of its bins, beside the highest one's."""
        paths = self.look(f"$('{where} [data-vector={vector}] path').map(p => p.getAttribute('d'))")
        return [[1 - float(y) / 100 for y in re.findall(r"V([\d.e+-]+)H", path)] for path in paths]

    def check_heights(self, got, sides):
        self.assertEqual(len(got), len(sides))
        for heights, side in zip(got, sides):
            self.assertEqual(len(heights), BINS)
            for height, count in zip(heights, side):
                self.assertAlmostEqual(height, count / max(side), places=3)

    def test_histograms_of_all_and_of_the_module_that_is_chosen(self):
        paths = adapter("llama/step-060"), adapter("llama/step-120")
        path, result = self.page(*paths, "--base", base("llama"))
        tensors = [read_tensors(os.path.join(where, "adapter_model.safetensors")) for where in paths]
        self.open(path)
        for vector in "db":
            values = [sum((floats(side[name][2]) for name in side if name.endswith("vera_lambda_" + vector)), ())
                      for side in tensors]
            self.check_heights(self.heights("#all", vector), self.bins(*values))
        largest = max(result["modules"], key=lambda module: module["relative"])["name"]
        for name, click in ((largest, None), ("model.layers.0.mlp.up_proj", "#m2 button"),
                            ("model.layers.1.self_attn.k_proj", "a.cell[href='#m10']")):
            if click:
                self.browser.click(click)
            self.assertEqual(self.look("$('#one h3')[0].innerText"), name)
            self.assertEqual(self.look("$('tr.chosen th').map(h => h.textContent)"), [name])
            self.assertEqual(self.look("$('[aria-pressed=true]').map(b => b.textContent)"), [name])
            self.assertEqual(self.look("$('a.cell.chosen').map(c => c.title.split(':')[0])"), [name])
            for vector in "db":
                values = [floats(side[f"{PREFIX}{name}.vera_lambda_{vector}"][2]) for side in tensors]
                self.check_heights(self.heights("#one", vector), self.bins(*values))
        self.check_quiet()

    def test_hostile_names_stay_text(self):
        model = self.write_base(HOSTILE)
        key, value = f"</script><script>{HIT}</script>", f"<img src=x onerror={HIT}> \x01\x85 \"'&"
        one, two = (self.write_adapter(name, HOSTILE, seed, **config) for name, seed, config in
                    ((f"<img src=x onerror={HIT}>", 1, {}), ("<!--", 2, {key: value})))
        file = f"<img src=x onerror={HIT}>.txt"
        with open(os.path.join(two, file), "w", encoding="utf-8") as notes:
            notes.write("x")
        path, result = self.page(one, two, "--base", model)
        self.check_fits(path)
        self.check_cells(result)
        self.assertNotEqual(self.look("document.title"), "hit")
        self.assertEqual(self.look("[$('script').length, $('img').length, $('[onmouseover]').length]"), [2, 0, 0])
        self.assertEqual(self.look("$('#config tbody th').map(h => h.textContent)"), [key])
        shown = self.look("$('#config code').map(c => c.textContent)")
        self.assertEqual(shown, [json.dumps(value, ensure_ascii=False).replace("\x85", "\\xc2\\x85")])
        self.assertIn(file, self.look("$('#files tbody th').map(h => h.textContent)"))
        for number in range(len(HOSTILE)):
            self.browser.press(f"#m{number} button", " ")
            self.assertEqual(self.look("$('tr.chosen').map(r => r.id)"), [f"m{number}"])
        rows = self.look("$('.map tbody tr').map(r => r.cells[0].textContent)")
        self.assertEqual(rows, ["layers", "0", "model.layers", "0", "1", "9", "10", "9" * 23, "other", "9",
                                "层", "0"])
        self.assertEqual(self.look("$('.others span').map(s => s.textContent)"), sorted(["heads.0", "lm_head", "a" * 300]))
        self.check_quiet()

    def test_many_layers_new_and_missing_modules(self):
        kinds = ("down", "gate", "k", "o", "q", "up", "v")
        names = [f"model.layers.{layer}.mlp.{kind}_proj" for layer in range(32) for kind in kinds]
        model = self.write_base(names)
        path, result = self.page(self.write_adapter("one", names[:-1], 1, names[3:5]),
                                 self.write_adapter("two", names[1:], 1), "--base", model)
        self.check_fits(path)
        self.check_cells(result)
        self.assertEqual(self.look("$('a.cell.qn').map(c => c.textContent)"), ["new"] * 3)
        self.browser.click("#m0 button")
        self.assertEqual(self.look("$('#one .panel').map(p => p.hidden)"), [False, True] * 2)
        self.assertLess(os.path.getsize(path), 2000 * len(names) + 30000)

    def test_biases_whole_modules_and_configuration(self):
        paths = adapter("bert/step-000"), adapter("bert/step-040")
        path, result = self.page(*paths, "--base", base("bert"))
        self.check_fits(path)
        self.check_cells(result)
        rows = self.look("$('#tensors tbody tr').map(r => Array.from(r.cells, c => c.textContent))")
        self.assertEqual([row[:2] for row in rows], [[t["name"], t["change"]] for t in result["tensors"]])
        self.assertIn("classifier.weight", [row[0] for row in rows])

    def test_against_no_adapter(self):
        path, result = self.page(adapter("llama/step-060"), "--zero", "--base", base("llama"))
        self.check_fits(path)
        self.check_cells(result)
        self.assertEqual(self.look("$('#all .panel b').map(p => p.textContent)"), ["values", "values"])
        self.assertEqual(self.look("$('#files').length"), 0)
        norms = sorted(m["norm_a"] for m in result["modules"])
        self.browser.click("#modules th:nth-child(2) button")
        self.assertEqual([float(value) for value in self.column(1)], norms)
        self.check_quiet()

    def test_identical_without_sizes(self):
        path, _ = self.page(adapter("llama/step-060"), adapter("llama/step-060"))
        self.check_fits(path)
        self.assertIn("Identical", self.look("$('header')[0].innerText"))

    def test_without_scripts_only_sorting_and_choosing_are_missing(self):
        path, result = self.page(adapter("llama/step-060"), adapter("llama/step-120"), "--base", base("llama"))
        self.browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
        self.addCleanup(self.browser.devtools, "Emulation.setScriptExecutionDisabled", value=False)
        self.check_fits(path)
        self.check_cells(result)
        self.assertEqual(self.look("$('button').length"), 0)
        self.assertEqual(self.look("$('#one').map(o => o.hidden)"), [True])
        self.assertEqual(self.look("$('#all path').length"), 4)
        self.browser.click("a.cell[href='#m10']")
        self.assertEqual(self.look("location.hash"), "#m10")


class AsFile(ReportTest):
    ARGS = ("diff", adapter("llama/step-060"), adapter("llama/step-120"), "--base", base("llama"))

    def test_a_page_names_nothing_outside_it(self):
        path, _ = self.page(*self.ARGS[1:])
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertTrue(text.startswith(OPEN))
        self.assertNotRegex(text, r"(?i)https?:|//[a-z]|@import|url\(")
        policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
        self.assertRegex(policy, r"^default-src 'none'; base-uri 'none'; form-action 'none'; "
                                 r"style-src 'sha256-[\w+/]{43}='; script-src 'sha256-[\w+/]{43}='$")

    def test_standard_output_gets_the_same_page_and_only_it(self):
        path, _ = self.page(*self.ARGS[1:])
        with open(path, encoding="utf-8") as file:
            text = file.read()
        result = self.vera(*self.ARGS, "--html", "-")
        self.assertEqual(result.out, text)
        self.assertIn("14 of 14 changed", result.err)
        self.assertIn("14 of 14 changed", self.vera(*self.ARGS, "--html", "again.html").out)
        self.fails(*self.ARGS, "--html", "-", status=2, says="standard output")

    def test_only_a_page_is_replaced(self):
        self.vera(*self.ARGS, "--html", "page.html")
        first = tree(self.dir)
        self.vera("diff", self.ARGS[1], "--zero", "--base", base("llama"), "--html", "page.html")
        self.assertNotEqual(tree(self.dir), first)
        self.vera(*self.ARGS, "--html", "page.html")
        self.assertEqual(tree(self.dir), first)
        with open(self.path("empty"), "wb"):
            pass
        self.vera(*self.ARGS, "--html", "empty")
        with open(self.path("notes"), "w", encoding="utf-8") as file:
            file.write("mine")
        os.mkdir(self.path("folder"))
        os.symlink("page.html", self.path("link"))
        os.symlink("nothing", self.path("dangling"))
        os.mkfifo(self.path("pipe"))
        before = tree(os.path.join(self.dir, "folder")), os.listdir(self.dir)
        for target in ("notes", "folder", "link", "dangling", "pipe", "/dev/null"):
            self.fails(*self.ARGS, "--html", target, code="EXISTS", says=target, hint="'-'")
        self.assertEqual((tree(os.path.join(self.dir, "folder")), os.listdir(self.dir)), before)
        self.fails(*self.ARGS, "--html", "no/such/page.html", code="NOTFOUND", says="no/such")

    def test_a_full_disk_leaves_the_older_page_and_nothing_else(self):
        self.vera("diff", self.ARGS[1], "--zero", "--base", base("llama"), "--html", "page.html")
        before = tree(self.dir)
        result = self.fails(*self.ARGS, "--html", "page.html", code="IO", env=self.preload(SPACE=4096))
        self.assertIn("page.html", result["message"])
        self.assertEqual(tree(self.dir), before)

    def test_a_failure_before_the_page_leaves_no_page(self):
        self.fails("diff", self.ARGS[1], self.ARGS[2], "--html", "page.html", hint="--base MODEL")
        self.assertEqual(os.listdir(self.dir), [])


if __name__ == "__main__":
    unittest.main()
