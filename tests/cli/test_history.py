"""log, branch, switch, tag, reset: history and the names in it."""
import os
import re
import shutil
import unittest

from harness import adapter, tree
from versions import BRANCH, LOG, REF, RepositoryTest


class History(RepositoryTest):
    """Three versions of llama on main: first, second, third."""

    NAMES = ("first", "second", "third")

    def prepare(self):
        type(self).commits = [self.commit(adapter(f"llama/step-{10 * i:03}"), "-m", name,
                                          "--metric", f"loss={i}")
                              for i, name in enumerate(self.NAMES)]
        type(self).ids = [commit["commit"] for commit in self.commits]


class Log(History):
    def test_a_message_with_control_characters_is_escaped_and_whole(self):
        message = "bell \x07 delete \x7f csi \u009b31m umlaut \u00fc end"
        commit = self.commit(adapter("llama/step-100"), "-m", message, "--branch", "odd")["commit"]
        result = self.vera("show", "odd", "--json")
        self.assertTrue(result.out.rstrip("\n").isprintable(), repr(result.out))
        self.assertEqual((result.json["commit"], result.json["message"].rstrip("\n")), (commit, message))

    def test_json_is_a_line_for_each_version(self):
        log = self.vera("log", "--json").lines
        self.assertEqual([entry["commit"] for entry in log], self.ids[::-1])
        for entry, commit in zip(log, self.commits[::-1]):
            self.assertEqual(set(entry), LOG)
            self.assertEqual(entry["snapshot"], commit["snapshot"])
            self.assertEqual(entry["author"], "Ada <ada@example.org>")
        self.assertEqual(log[0]["parents"], [self.ids[1]])
        self.assertEqual(log[2]["parents"], [])
        self.assertEqual(log[0]["metrics"], {"loss": 2})
        self.assertEqual([entry["branches"] for entry in log], [["main"], [], []])

    def test_order_and_messages_are_those_of_git(self):
        git = self.git("--git-dir=.vera", "log", "--format=%H %s").splitlines()
        log = self.vera("log", "--json").lines
        self.assertEqual([f"{entry['commit']} {entry['message'].splitlines()[0]}" for entry in log],
                         git)

    def test_words(self):
        out = self.vera("log").out
        self.assertIn(f"commit {self.ids[2]} (HEAD -> main)\n", out)
        self.assertIn("snapshot " + self.commits[0]["snapshot"][7:19], out)
        self.assertIn("Metrics: loss 2\n\n    third\n\ncommit ", out)
        self.assertTrue(out.endswith("    first\n"), out)
        self.assertNotIn("Metric-", out)

    def test_oneline_and_limit(self):
        out = self.vera("log", "--oneline", "-n", "2").out
        self.assertEqual(out, "".join(
            f"{self.ids[i][:7]} {self.commits[i]['snapshot'][7:19]}{names} {self.NAMES[i]}"
            f"  [loss {i}]\n" for i, names in ((2, " (HEAD -> main)"), (1, ""))))
        self.assertEqual(len(self.vera("log", "-n1", "--json").lines), 1)
        self.assertEqual(self.vera("log", "-n", "0").out, "")
        self.fails("log", "-n", "x", status=2)

    def test_revisions(self):
        for revision, count in (("HEAD~1", 2), ("main^^", 1), (self.ids[1][:6], 2),
                                (self.commits[0]["snapshot"], 1), ("main@{1}", 2)):
            with self.subTest(revision):
                self.assertEqual(len(self.vera("log", revision, "--json").lines), count)
        self.fails("log", "mian", code="NOTFOUND", says="mian")
        self.fails("log", "HEAD~9", code="NOTFOUND")
        self.fails("log", "a", "b", status=2)

    def test_all_takes_every_branch(self):
        self.vera("branch", "side", "HEAD~2")
        self.commit(adapter("gpt2/step-010"), "--branch", "side", "-m", "side")
        self.assertEqual(len(self.vera("log", "--json").lines), 3)
        log = self.vera("log", "--all", "--json").lines
        self.assertEqual({entry["commit"] for entry in log if entry["branches"] == ["side"]},
                         {self.vera("show", "side", "--json").json["commit"]})
        self.assertEqual(len(log), 4)
        self.fails("log", "--all", "main", status=2)

    def test_the_current_branch_goes_before_others(self):
        self.vera("branch", "before")
        self.vera("tag", "a")
        self.assertIn(" (HEAD -> main, before, tag: a) third", self.vera("log", "--oneline").out)
        self.assertEqual(self.vera("log", "-n1", "--json").json["branches"], ["main", "before"])
        self.assertEqual(self.vera("show", "--json").json["branch"], "main")

    def test_an_empty_repository(self):
        os.mkdir(self.path("new"))
        self.vera("init", cwd=self.path("new"))
        self.fails("log", code="NOTFOUND", cwd=self.path("new"))
        self.assertEqual(self.vera("log", "--all", cwd=self.path("new")).out, "")
        self.assertEqual(self.vera("branch", cwd=self.path("new")).out, "* main (no version yet)\n")
        self.assertEqual(self.vera("branch", "--json", cwd=self.path("new")).out, "")

    def test_a_title_that_looks_like_a_metric_is_shown(self):
        self.commit(adapter("gpt2/step-000"), "-m", "Metric-x: 1")
        self.assertIn("    Metric-x: 1\n", self.vera("log", "-n1").out)
        self.assertEqual(self.vera("show", "--json").json["metrics"], {})

    def test_messages_reach_a_terminal_as_text(self):
        self.commit(adapter("gpt2/step-000"), "-m", "red \x1b[31m\n\nbody\ttab", "--author",
                    "Ada <a@b>")
        self.assertIn(r"red \x1b[31m", self.vera("log").out)
        self.assertIn(r"red \x1b[31m", self.vera("log", "--oneline").out)
        self.assertIn(r"red \x1b[31m", self.vera("branch").out)
        self.assertIn("red \x1b[31m", self.vera("log", "-n1", "--json").json["message"])


class Graph(History):
    def graph(self, *args):
        """The graph's columns, and of each version its title."""
        out = self.vera("log", "--graph", "--oneline", "--all", *args).out
        return [line if "*" not in line else
                re.sub(r" [0-9a-f]{7} .* (\w+)(  \[.*\])?$", r" \1", line)
                for line in out.splitlines()]

    def merge(self, message, *parents):
        """A commit with these parents, made by git: the tree of the first one."""
        args = [word for parent in parents for word in ("-p", parent)]
        return self.git("--git-dir=.vera", "commit-tree", *args, "-m", message,
                        parents[0] + "^{tree}").strip()

    def test_one_line_of_history(self):
        self.assertEqual(self.graph(), ["* third", "* second", "* first"])

    def test_a_branch_and_its_merge(self):
        self.env["GIT_COMMITTER_DATE"] = "2030-01-01T00:00:00Z"
        side = self.merge("side", self.ids[1])
        self.env["GIT_COMMITTER_DATE"] = "2031-01-01T00:00:00Z"
        merged = self.merge("merged", self.ids[2], side)
        self.git("--git-dir=.vera", "update-ref", "refs/heads/main", merged)
        self.assertEqual(self.graph(), ["* merged", "|\\", "| * side", "* | third", "|/",
                                        "* second", "* first"])
        self.assertEqual(self.vera("log", "-n1", "--json").json["parents"], [self.ids[2], side])
        whole = self.vera("log", "--graph").out.splitlines()
        self.assertRegex(whole[0], r"^\* commit [0-9a-f]{40} \(HEAD -> main\)$")
        self.assertRegex(whole[1], r"^\|\\ snapshot ")
        self.assertRegex(whole[2], r"^\| \| Merge:   [0-9a-f]{7} [0-9a-f]{7}$")

    def test_branches_that_never_meet(self):
        other = self.git("--git-dir=.vera", "commit-tree", "-m", "root",
                         self.ids[0] + "^{tree}").strip()
        self.git("--git-dir=.vera", "update-ref", "refs/heads/other", other)
        lines = self.graph()
        self.assertEqual(sum("*" in line for line in lines), 4)
        self.assertEqual(lines[-1][-5:], "first")

    def test_many_branches_from_one_version(self):
        for number in range(4):
            self.vera("branch", f"b{number}", "HEAD~1")
            self.commit(adapter(f"gpt2/step-0{number}0"), "--branch", f"b{number}", "-m",
                        f"b{number}", "--metric", "loss=0")
        lines = self.graph()
        self.assertEqual([line.split()[-1] for line in lines if "*" in line][-2:],
                         ["second", "first"])
        self.assertEqual(lines[-2:], ["* second", "* first"])
        self.assertEqual(lines[-3], "|/")


class Branch(History):
    def test_list(self):
        self.vera("branch", "old", "HEAD~2")
        self.assertEqual(self.vera("branch").out,
                         f"* main {self.ids[2][:7]} third\n  old  {self.ids[0][:7]} first\n")
        listed = self.vera("branch", "--json").lines
        self.assertTrue(all(set(branch) == BRANCH for branch in listed))
        self.assertEqual(listed[0], {"name": "main", "commit": self.ids[2], "current": True,
                                     "snapshot": self.commits[2]["snapshot"], "upstream": None})
        self.assertEqual((listed[1]["name"], listed[1]["current"]), ("old", False))

    def test_create(self):
        made = self.vera("branch", "run/1", "main~1", "--json").json
        self.assertEqual(made, {"name": "run/1", "commit": self.ids[1], "current": False,
                                "snapshot": self.commits[1]["snapshot"], "upstream": None})
        self.fails("branch", "run/1", code="EXISTS", says="run/1")
        self.fails("branch", "a..b", code="INVALID")
        self.fails("branch", "x", "nowhere", code="NOTFOUND", says="nowhere")
        self.check_git()

    def test_delete_and_bring_back(self):
        self.vera("branch", "run", "main~1")
        gone = self.vera("branch", "-d", "run", "--json")
        self.assertEqual((gone.json["name"], gone.json["commit"]), ("run", self.ids[1]))
        self.assertIn(f"vera branch run {self.ids[1][:7]}", gone.err)
        self.fails("log", "run", code="NOTFOUND")
        (deleted,) = self.vera("branch", "--deleted", "--json").lines
        self.assertEqual(set(deleted), BRANCH | {"deleted"})
        self.assertEqual((deleted["name"], deleted["commit"]), ("run", self.ids[1]))
        self.assertRegex(self.vera("branch", "--deleted").out, f"^  run {self.ids[1][:7]} second ")
        self.git("--git-dir=.vera", "gc", "-q", "--prune=now")
        self.vera("branch", "run", deleted["commit"])
        self.assertEqual(len(self.vera("log", "run", "--json").lines), 2)
        self.fails("branch", "-d", "main", code="INVALID", says="main")
        self.fails("branch", "-d", "nobody", code="NOTFOUND", says="nobody")
        self.fails("branch", "-d", status=2)
        self.check_git()

    def test_rename(self):
        moved = self.vera("branch", "-m", "main", "best", "--json").json
        self.assertEqual((moved["name"], moved["current"]), ("best", True))
        self.commit(adapter("gpt2/step-000"))
        self.assertEqual([branch["name"] for branch in self.vera("branch", "--json").lines],
                         ["best"])
        self.vera("branch", "other")
        self.fails("branch", "-m", "other", "best", code="EXISTS", says="best")
        self.fails("branch", "-m", "nobody", "x", code="NOTFOUND")
        self.fails("branch", "-m", "other", status=2)
        self.check_git()


class Switch(History):
    def test_to_a_branch(self):
        self.vera("branch", "side", "HEAD~1")
        done = self.vera("switch", "side", "--json").json
        self.assertEqual(done, {"name": "side", "commit": self.ids[1], "previous": "main"})
        self.assertEqual(self.commit(adapter("gpt2/step-000"))["branch"], "side")
        self.assertEqual(self.vera("show", "main", "--json").json["commit"], self.ids[2])
        self.assertIn("switched to branch 'main'", self.vera("switch", "main").out)
        self.fails("switch", "sdie", code="NOTFOUND", says="sdie")
        self.fails("switch", "side", "main", status=2)

    def test_create(self):
        self.assertEqual(self.vera("switch", "-c", "a", "--json").json["commit"], self.ids[2])
        self.assertEqual(self.vera("switch", "-c", "b", "main~2", "--json").json,
                         {"name": "b", "commit": self.ids[0], "previous": "a"})
        self.fails("switch", "-c", "a", code="EXISTS")
        self.assertEqual(self.vera("show", "--json").json["commit"], self.ids[0])

    def test_before_the_first_version(self):
        os.mkdir(self.path("new"))
        self.vera("init", cwd=self.path("new"))
        done = self.vera("switch", "-c", "first", "--json", cwd=self.path("new")).json
        self.assertEqual(done, {"name": "first", "commit": None, "previous": "main"})
        made = self.vera("commit", adapter("llama/step-000"), "--json", cwd=self.path("new")).json
        self.assertEqual(made["branch"], "first")


class Tag(History):
    def test_create_list_delete(self):
        made = self.vera("tag", "v1", "HEAD~1", "-m", "we serve this", "--json").json
        self.assertEqual(made, {"name": "v1", "commit": self.ids[1], "previous": None})
        self.vera("tag", "light")
        self.assertEqual(self.vera("tag").out, f"light {self.ids[2][:7]} third\n"
                                               f"v1    {self.ids[1][:7]}: we serve this\n")
        listed = self.vera("tag", "--json").lines
        self.assertTrue(all(set(tag) == REF for tag in listed))
        self.assertEqual([(tag["name"], tag["commit"]) for tag in listed],
                         [("light", self.ids[2]), ("v1", self.ids[1])])
        self.assertIn("tag: light", self.vera("log").out)
        self.assertEqual(self.vera("show", "v1", "--json").json["commit"], self.ids[1])
        self.check_git()
        gone = self.vera("tag", "-d", "v1", "--json").json
        self.assertEqual(gone, {"name": "v1", "commit": None, "previous": self.ids[1]})
        self.fails("tag", "-d", "v1", code="NOTFOUND", says="v1")

    def test_refused(self):
        self.vera("tag", "v1")
        self.fails("tag", "v1", "HEAD~1", code="EXISTS", says="v1")
        self.fails("tag", "bad name", code="INVALID")
        self.fails("tag", "-d", status=2)
        self.fails("tag", "-m", "x", status=2)
        self.fails("tag", "a", "b", "c", status=2)


class Reset(History):
    def test_the_old_tip_is_kept(self):
        done = self.vera("reset", "HEAD~2", "--json")
        self.assertEqual(done.json, {"name": "main", "commit": self.ids[0],
                                     "previous": self.ids[2]})
        self.assertEqual(len(self.vera("log", "--json").lines), 1)
        (old,) = self.vera("branch", "--deleted", "--json").lines
        self.assertEqual((old["name"], old["commit"]), ("main", self.ids[2]))
        self.git("--git-dir=.vera", "gc", "-q", "--prune=now")
        self.vera("export", old["commit"], "out")
        self.assertEqual(tree(self.path("out")), tree(adapter("llama/step-020")))
        self.vera("reset", old["commit"])
        self.assertEqual(len(self.vera("log", "--json").lines), 3)
        self.fails("reset", "nowhere", code="NOTFOUND", says="nowhere")
        self.fails("reset", status=2)
        self.check_git()


if __name__ == "__main__":
    unittest.main()
