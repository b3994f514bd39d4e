"""vera query, vera reindex, and the index as docs/format.md describes it."""
import hashlib
import os
import shutil
import sqlite3
import struct
import unittest

from harness import Terminal, adapter, needs_terminals
from versions import LOG, RepositoryTest


class Query(RepositoryTest):
    def prepare(self):
        """Three steps on main, one on a branch; a second apart, so that their order is known."""
        for step, (branch, metrics) in enumerate((
                ("main", ("rte=0.5", "loss=3")), ("main", ("rte=0.75",)), ("main", ()),
                ("run/1", ("rte=-1e-3", "f1.macro-avg_x=7")))):
            extra = [word for metric in metrics for word in ("--metric", metric)]
            self.vera("commit", adapter(f"llama/step-{step * 10:03}"), "--branch", branch, "-m",
                      f"step {step}", *extra,
                      env={"GIT_COMMITTER_DATE": f"2026-11-0{step + 1}T12:00:00+00:00"})

    def titles(self, *args, **kwargs):
        lines = self.vera("query", "--json", *args, **kwargs).lines
        return [version["message"].split("\n")[0] for version in lines]

    def test_without_an_expression_it_is_the_log_of_everything(self):
        everything = self.vera("log", "--all", "--oneline").out
        self.assertEqual(self.vera("query").out, everything)
        self.assertEqual(len(everything.splitlines()), 4)
        objects = self.vera("log", "--all", "--json").out
        self.assertEqual(self.vera("query", "--json").out, objects)
        for version in self.vera("query", "--json").lines:
            self.assertEqual(set(version), LOG)

    def test_what_commit_recorded_is_found(self):
        for expression, expected in (
                ("metric.rte>0", ["step 1", "step 0"]),
                ("metric.f1.macro-avg_x=7", ["step 3"]),
                ("metric.rte<=0.75 and not branch=main", ["step 3"]),
                ("branch=run/1", ["step 3", "step 2", "step 1", "step 0"]),
                ("branch=main", ["step 2", "step 1", "step 0"]),
                ("rank=32 and kind=vera and seed=0 and base=tiny/llama", ["step 3", "step 2",
                                                                          "step 1", "step 0"]),
                ("date>=2026-11-02 and date<=2026-11-03", ["step 2", "step 1"]),
                ("date=2026-11-02T12:00", ["step 1"]),
                ("rank>32", [])):
            with self.subTest(expression):
                self.assertEqual(self.titles(expression, env={"TZ": "UTC"}), expected)
        self.assertEqual(self.titles("date=2026-11-02T13:00", env={"TZ": "CET-1"}), ["step 1"])

    def test_sorted_and_limited(self):
        for args, expected in (
                (("--sort", "metric.rte"), ["step 3", "step 0", "step 1", "step 2"]),
                (("--sort", "-metric.rte"), ["step 1", "step 0", "step 3", "step 2"]),
                (("--sort=-metric.rte", "-n", "1"), ["step 1"]),
                (("--sort", "date", "-n2"), ["step 0", "step 1"]),
                (("-n", "0"), []),
                (("-n", "99", "metric.rte=0.5"), ["step 0"])):
            with self.subTest(args):
                self.assertEqual(self.titles(*args), expected)

    def test_nothing_found_is_no_failure(self):
        for args in ((), ("--table",), ("--json",)):
            self.assertEqual(self.vera("query", "rank=1", *args).out, "")

    def test_an_empty_repository_has_no_versions(self):
        os.mkdir(self.path("new"))
        self.vera("init", cwd=self.path("new"))
        self.assertEqual(self.vera("query", cwd=self.path("new")).out, "")
        self.assertEqual(self.vera("reindex", "--json", cwd=self.path("new")).json, {"versions": 0})

    @needs_terminals
    def test_the_table_has_what_was_asked_for_in_80_columns(self):
        self.vera("commit", adapter("llama/step-040"), "-m", "a long message " * 10,
                  env={"GIT_COMMITTER_DATE": "2026-11-09T12:00:00+00:00"})
        lines = self.vera("query", "seed=0 and metric.rte>0 or date>2026-11-08",
                          "--table").out.splitlines()
        self.assertEqual([line[9:] for line in lines], [
            "date              seed   rte  rank  loss  message",
            "2026-11-09 12:00     0     -    32     -  a long message a long mess...",
            "2026-11-02 12:00     0  0.75    32     -  step 1",
            "2026-11-01 12:00     0   0.5    32     3  step 0"])
        self.assertTrue(all(len(line) <= 80 for line in lines))
        table = self.vera("query", "targets=q_proj and base=tiny/llama", "--table",
                          "--sort", "branch", "-n", "1").out.splitlines()
        self.assertEqual(table[0][9:].split(),
                         ["date", "targets", "base", "message"])
        terminal = Terminal(self, "query", "targets=q_proj", "--table", columns=160)
        terminal.finish()
        while terminal.read():
            pass
        self.assertIn(b"f1.macro-avg_x", terminal.seen)

    def test_errors_show_the_place(self):
        result = self.vera("query", "rnak<=256 and metric.rte>0.78", code=2)
        self.assertEqual(result.err, "vera: query: there is no key 'rnak'\n"
                                     "  rnak<=256 and metric.rte>0.78\n"
                                     "  ^\n"
                                     "hint: did you mean 'rank'?\n")
        result = self.vera("query", "rank<=256 and metric.rte>much", code=2)
        self.assertEqual(result.err, "vera: query: expected a number, not 'much'\n"
                                     "  rank<=256 and metric.rte>much\n"
                                     "                           ^\n"
                                     "hint: 'vera query --help' tells its options and operands\n")
        self.assertEqual(result.out, "")
        error = self.fails("query", "rank=1 or", status=2, says="ends too early")
        self.assertIn("\n  rank=1 or\n           ^", error["message"])
        self.fails("query", "(" * 200 + "rank=1", code="LIMIT", says="more than 100")
        self.fails("query", "rank=1 or " * 10000 + "rank=1", code="LIMIT", says="65536")
        self.fails("query", "--sort", "rnak", status=2, says="no key 'rnak'", hint="rank")
        self.fails("query", "rank=1", "rank=2", status=2)
        self.vera("query", "rank=1 \x1b[31m", code=2)
        self.vera("query", "base=\udcff", code=0)

    def test_metrics_are_checked_when_they_are_given(self):
        for metric in ("rte", "=1", "rte=", "rte=much", "rte=nan", "rte=inf", "rte=1e999",
                       "a b=1", "a:b=1", "a\nb=1", "rte=0x10"):
            with self.subTest(metric):
                self.fails("commit", adapter("llama/step-050"), "--metric", metric, status=2)
        self.fails("commit", adapter("llama/step-050"), "--metric", "a=1", "--metric", "a=2",
                   status=2, says="before")

    def test_an_index_is_needed_for_nothing(self):
        before = [self.vera(*args).out for args in
                  (("query", "metric.rte>0"), ("log", "--all"), ("show",), ("branch",))]
        for command in (lambda path: os.remove(path),
                        lambda path: open(path, "wb").write(b"garbage" * 1000),
                        lambda path: (os.remove(path), os.mkdir(path))):
            command(self.path(".vera/index.sqlite"))
            after = [self.vera(*args).out for args in
                     (("query", "metric.rte>0"), ("log", "--all"), ("show",), ("branch",))]
            self.assertEqual(before, after)
        self.vera("commit", adapter("llama/step-060"), "-m", "step 6")
        self.assertEqual(self.titles("-n", "1"), ["step 6"])
        self.fails("reindex", code="IO", says="no regular file")
        shutil.rmtree(self.path(".vera/index.sqlite"))
        self.assertEqual(self.vera("reindex", "--json").json, {"versions": 5})
        self.assertIn("5 versions", self.vera("reindex").out)

    def test_git_takes_the_index_for_nothing(self):
        self.vera("query")
        self.assertTrue(os.path.exists(self.path(".vera/index.sqlite")))
        self.assertEqual(self.git("--git-dir=.vera", "fsck", "--strict", "--no-dangling"), "")
        self.git("clone", "-q", "--mirror", ".vera", "copy.git")
        self.assertEqual(self.titles("metric.rte=0.5", env={"VERA_REPO": self.path("copy.git")}),
                         ["step 0"])


def checksum(values):
    """I1 of docs/format.md."""
    data = b""
    for value in values:
        if value is None:
            data += bytes(9)
        elif isinstance(value, int):
            data += b"\1" + struct.pack("<q", value)
        elif isinstance(value, float):
            data += b"\2" + struct.pack("<d", value)
        else:
            text = value.encode() if isinstance(value, str) else value
            data += (b"\3" if isinstance(value, str) else b"\4") + struct.pack("<Q", len(text))
            data += text
    return struct.unpack(">q", hashlib.sha256(data).digest()[:8])[0]


class Index(RepositoryTest):
    def prepare(self):
        self.vera("commit", adapter("llama/step-000"), "-m", "a", "--metric", "b=2", "--metric",
                  "a=0.1")
        self.vera("commit", adapter("gpt2/step-000"), "-m", "b")

    def change(self, sql):
        database = sqlite3.connect(self.path(".vera/index.sqlite"))
        database.execute(sql)
        database.commit()
        database.close()

    def test_fsck_compares_it_with_git(self):
        self.assertEqual(self.vera("fsck", "--json").json["bad"], [])
        row = self.rows("SELECT * FROM versions ORDER BY time LIMIT 1")[0]
        self.forge(row, "time", row["time"] + 1)
        bad = self.vera("fsck", "--json", code=1).json["bad"]
        self.assertEqual(bad, [{"object": "index.sqlite", "problem":
                                f"{row['commit_id'].hex()}: its row is not what the commit says; "
                                "'vera reindex' makes it anew", "versions": [], "branches": []}])
        self.vera("reindex")
        self.assertEqual(self.vera("fsck", "--json").json["bad"], [])
        self.change("UPDATE versions SET time = time + 1")
        bad = self.vera("fsck", "--json", code=1).json["bad"]
        self.assertEqual([line["object"] for line in bad], ["index.sqlite"])
        self.assertIn("checksum", bad[0]["problem"])
        self.vera("query")  # it is made anew by itself
        self.assertEqual(self.vera("fsck", "--json").json["bad"], [])

    def test_a_forged_row_names_no_other_version(self):
        old, new = (self.vera("show", revision, "--json").json for revision in ("main~1", "main"))
        row = self.rows(f"SELECT * FROM versions WHERE commit_id = x'{new['commit']}'")[0]
        self.forge(row, "snapshot", bytes.fromhex(old["snapshot"].removeprefix("sha256:")))
        for version in (old, new):
            for digits in (len("sha256:") + 64, len("sha256:") + 12):
                found = self.vera("show", version["snapshot"][:digits], "--json").json
                self.assertEqual(found["commit"], version["commit"])

    def forge(self, row, column, value):
        """Change a row so that every checksum is right."""
        state = self.rows("SELECT * FROM state")[0]
        columns = {name: row[name] for name in row.keys() if name not in ("id", "checksum")}
        columns[column] = value
        forged = checksum(columns.values())
        total = (state["sum"] - row["checksum"] + forged) % 2**64
        total -= 2**64 if total >= 2**63 else 0
        value = f"x'{value.hex()}'" if isinstance(value, bytes) else value
        self.change(f"UPDATE versions SET {column} = {value}, checksum = {forged} "
                    f"WHERE id = {row['id']}")
        self.change(f"UPDATE state SET sum = {total}, checksum = {checksum((2, total))}")

    def rows(self, sql):
        database = sqlite3.connect(self.path(".vera/index.sqlite"))
        self.addCleanup(database.close)
        database.row_factory = sqlite3.Row
        return database.execute(sql).fetchall()

    def blob(self, path):
        return self.git("--git-dir=.vera", "rev-parse", path).strip()

    def test_rows_are_as_described(self):
        versions = self.rows("SELECT * FROM versions ORDER BY time, parents")
        self.assertEqual(len(versions), 2)
        for revision, row in zip(("main~1", "main"), versions):
            shown = self.vera("show", revision, "--json").json
            self.assertEqual(row["commit_id"].hex(), shown["commit"])
            self.assertEqual(row["id"], struct.unpack(">q", row["commit_id"][:8])[0])
            self.assertEqual(row["parents"].hex(), "".join(shown["parents"]))
            self.assertEqual("sha256:" + row["snapshot"].hex(), shown["snapshot"])
            self.assertEqual(row["payload_bytes"], shown["payload_bytes"])
            self.assertEqual(row["layout"].hex(), self.blob(revision + ":layout"))
            self.assertEqual(row["vectors"].hex(), self.blob(revision + ":vectors"))
            self.assertEqual({"codec": row["codec"], "depth": row["depth"],
                              "bytes": row["frame_bytes"]}, shown["frame"])
            recipe = self.git("--git-dir=.vera", "show", revision + ":recipe").split()
            self.assertEqual(row["payload"].hex(), recipe[recipe.index("payload") + 1])
            self.assertEqual(row["checksum"], checksum(row[1:-1]))
        self.assertEqual([row["metrics"] for row in versions], ['{"a":0.1,"b":2}', "{}"])
        state = self.rows("SELECT * FROM state")
        self.assertEqual(len(state), 1)
        total = sum(row["checksum"] for row in versions)
        self.assertEqual(tuple(state[0])[:2], (1, 2))
        self.assertEqual((state[0]["sum"] - total) % 2**64, 0)
        self.assertEqual(state[0]["checksum"], checksum(state[0][1:3]))

    def test_adapters_are_as_described(self):
        names = {row["base"]: row for row in self.rows("SELECT * FROM adapters")}
        for revision, row in (("main~1", names["tiny/llama"]), ("main", names["tiny/gpt2"])):
            shown = self.vera("show", revision, "--json").json
            self.assertEqual(row["id"], checksum(row[1:]))
            self.assertEqual((row["kind"], row["rank"], row["modules"], int(row["seed"])),
                             ("vera", shown["rank"], shown["modules"], shown["basis"]["seed"]))
            for key in ("state", "variant", "rounding"):
                self.assertEqual(row[key], shown["basis"][key])
            for key in ("sha256_a", "sha256_b"):
                self.assertEqual(row[key] and row[key].hex(), shown["basis"][key])
        self.assertEqual(names["tiny/llama"]["targets"],
                         "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj")
        self.assertEqual(names["tiny/llama"]["layers"], 2)
        self.assertEqual(names["tiny/llama"]["params"], 1664)


if __name__ == "__main__":
    unittest.main(buffer=True)
