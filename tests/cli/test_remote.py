"""remote, fetch, pull, clone and export URL@REV: over a path, file:// and real servers on the loopback."""
import os
import shutil
import unittest

from harness import adapter, tree
from proxy import Proxy
from remotes import STEPS, TRANSFER, RemoteTest
from servers import ADDRESS, GitDaemon, Nginx, Sshd, make_key, write


class Transfers:
    """The same over every kind of URL."""

    def test_a_clone_has_everything_and_is_plain_git(self):
        clone = self.clone()
        self.assertEqual(set(clone), TRANSFER | {"repository", "branch", "shallow"})
        self.assertEqual((clone["branch"], clone["shallow"], clone["digest"]), ("main", False, None))
        self.assertEqual([(ref["ref"], ref["old"], ref["status"]) for ref in clone["updated"]],
                         [("refs/remotes/origin/main", None, "created"),
                          ("refs/remotes/origin/side/one", None, "created"),
                          ("refs/tags/first", None, "created")])
        self.assertGreater(clone["bytes"], 1000)
        self.assertGreater(clone["objects"], 15)
        self.assert_whole("mine")
        self.assertEqual(self.at("mine", "branch", "--json").json["upstream"], "origin/main")
        logs = [[(entry["commit"], entry["snapshot"]) for entry in self.at(name, "log", "--all", "--json").lines]
                for name in ("mine", "theirs")]
        self.assertEqual(len(logs[0]), 3)
        self.assertEqual(logs[0], logs[1])
        for revision, step in (("HEAD", STEPS[2]), ("origin/side/one", STEPS[1]), ("first", STEPS[0])):
            self.assert_exported("mine", revision, step)
        self.git(f"--git-dir={self.path('mine')}/.vera", "log", "--oneline", "origin/main")

    def test_pull_brings_what_is_new_and_only_that(self):
        first = self.clone()
        new = self.commit_there("step-060")
        pull = self.at("mine", "pull", "--json").json
        self.assertEqual(set(pull), TRANSFER)
        self.assertEqual([(ref["ref"], ref["new"], ref["status"]) for ref in pull["updated"]],
                         [("refs/remotes/origin/main", new, "fast-forward"),
                          ("refs/heads/main", new, "fast-forward")])
        self.assertLess(pull["bytes"], first["bytes"])
        self.assertLess(pull["objects"], 8)
        self.assert_whole("mine")
        self.assert_exported("mine", "HEAD", "step-060")
        again = self.at("mine", "pull", "--json").json
        self.assertEqual((again["updated"], again["objects"]), ([], 0))
        self.assertIn("nothing new", self.at("mine", "fetch").out)

    def test_what_has_diverged_is_merged_and_not_overwritten(self):
        self.clone()
        theirs = self.commit_there("step-060")
        ours = self.at("mine", "commit", adapter("llama/step-070"), "--json").json["commit"]
        self.fails("-C", self.path("mine"), "pull", code="CONFLICT", says="both gone on",
                   hint="vera merge origin/main")
        refs = self.refs("mine")
        self.assertEqual((refs["refs/heads/main"], refs["refs/remotes/origin/main"]), (ours, theirs))
        self.at("mine", "merge", "origin/main", "--strategy", "theirs")
        self.assertEqual(self.at("mine", "pull", "--json").json["updated"], [])
        self.assert_whole("mine")

    def test_fetch_follows_branches_tags_and_what_is_gone(self):
        self.clone()
        self.at("theirs", "branch", "-d", "side/one")
        self.at("theirs", "branch", "side", "first")
        self.at("theirs", "tag", "second", "HEAD~1")
        self.git(self.there, "update-ref", "refs/heads/main", "HEAD~1")
        # A ref may be where a folder of refs was, once what was there is gone.
        self.fails("-C", self.path("mine"), "fetch", code="EXISTS", hint="--prune")
        fetch = self.at("mine", "fetch", "origin", "--prune", "--json").json
        self.assertEqual([(ref["ref"].partition("/")[2], ref["status"]) for ref in fetch["updated"]],
                         [("remotes/origin/main", "forced"), ("remotes/origin/side", "created"),
                          ("remotes/origin/side/one", "deleted"), ("tags/second", "created")])
        self.assertIsNone(fetch["updated"][2]["new"])
        self.assert_whole("mine")

    def test_a_tag_that_is_here_stays(self):
        self.clone()
        before = self.refs("mine")
        self.at("theirs", "tag", "-d", "first")
        self.at("theirs", "tag", "first", "HEAD")
        fetch = self.at("mine", "fetch", "--json")
        self.assertEqual([(ref["ref"], ref["status"]) for ref in fetch.json["updated"]],
                         [("refs/tags/first", "refused")])
        self.assertIn("warning: refs/tags/first stays", fetch.err)
        self.assertEqual(self.refs("mine"), before)

    def test_depth_1_takes_one_version_and_goes_on_from_there(self):
        clone = self.clone("mine", "--depth", "1")
        self.assertTrue(clone["shallow"])
        self.assertEqual([ref["ref"] for ref in clone["updated"]], ["refs/remotes/origin/main"])
        self.assertEqual(len(self.at("mine", "log", "--json").lines), 1)
        self.assert_exported("mine", "HEAD", STEPS[2])
        self.assert_whole("mine")
        new = self.commit_there("step-060")
        self.at("theirs", "commit", adapter("llama/step-070"), "--branch", "side/one")
        pull = self.at("mine", "pull", "--json").json
        self.assertEqual({ref["new"] for ref in pull["updated"]}, {new})
        self.assertEqual(len(self.at("mine", "log", "--json").lines), 2)
        self.assert_exported("mine", "HEAD", "step-060")
        self.assert_whole("mine")

    def test_export_of_a_version_there_keeps_nothing(self):
        places = {"TMPDIR": self.path("tmp")}
        os.mkdir(places["TMPDIR"])
        first = self.ids(self.theirs + "/.vera", "main~2")[0]
        for revision, step in (("main", STEPS[2]), ("HEAD", STEPS[2]), ("side/one", STEPS[1]), ("first", STEPS[0]),
                               ("main~1", STEPS[1]), (first[:12], STEPS[0])):
            shutil.rmtree(self.path("out"), ignore_errors=True)
            self.vera("export", f"{self.url()}@{revision}", "out", env=places)
            self.assertEqual(tree(self.path("out")), tree(adapter(f"llama/{step}")))
        self.fails("export", f"{self.url()}@nowhere", "none", code="NOTFOUND", says="nowhere", env=places)
        self.assertEqual(os.listdir(places["TMPDIR"]), [])

    def test_more_bytes_than_allowed_change_nothing(self):
        self.fails("clone", self.url(), "none", "--max-bytes", "3000", code="LIMIT", hint="--max-bytes")
        self.assertFalse(os.path.exists(self.path("none")))
        self.clone()
        self.commit_there("step-060")
        before = tree(self.path("mine"))
        self.fails("-C", self.path("mine"), "fetch", "--max-bytes", "3000", code="LIMIT", hint="--max-bytes")
        self.assertEqual(tree(self.path("mine")), before)
        self.at("mine", "fetch", "--max-bytes", "30000")

    def test_a_version_that_is_none_changes_nothing(self):
        self.clone()
        before = tree(self.path("mine"))
        self.git(self.there, "update-ref", "refs/heads/main",
                 self.git(self.there, "commit-tree", "-p", "main", "-m", "lie", "main:vectors").strip())
        self.fails("-C", self.path("mine"), "pull", code="CORRUPT")
        self.fails("clone", self.url(), "none", code="CORRUPT")
        self.assertFalse(os.path.exists(self.path("none")))
        self.assertEqual(tree(self.path("mine")), before)


class ByPath(Transfers, RemoteTest):
    pass


class ByFileUrl(Transfers, RemoteTest):
    def url(self):
        return "file://" + self.theirs


class Served(RemoteTest):
    """A server for all tests of a class; each has its own repository below the root."""

    def setUp(self):
        super().setUp()
        self.server = self.serve(self.path("server"), self.dir)
        self.addCleanup(self.server.close)

    def url(self):
        return self.server.url("theirs/.vera")


class ByGitDaemon(Transfers, Served):
    def serve(self, folder, root):
        return GitDaemon(folder, root)

    def test_without_the_program_git_the_whole_history_comes_and_that_is_said(self):
        os.mkdir(self.path("nothing"))
        without = {"PATH": self.path("nothing")}
        clone = self.vera("clone", "--depth", "1", self.url(), "whole", "--json", env=without)
        self.assertFalse(clone.json["shallow"])
        self.assertIn("the whole history came", clone.err)
        self.assertEqual(len(self.at("whole", "log", "--json").lines), 3)
        self.assert_whole("whole")
        self.vera("export", self.url() + "@main", "out", env=without)
        self.assertEqual(tree(self.path("out")), tree(adapter(f"llama/{STEPS[2]}")))
        self.clone("mine", "--depth", "1")
        self.fails("-C", self.path("mine"), "pull", code="UNSUPPORTED", says="git", hint="install git", env=without)
        self.assert_whole("mine")


class ByHttp(Transfers, Served):
    def serve(self, folder, root):
        return Nginx(folder, root)


class BySsh(Transfers, Served):
    # Connecting takes longest of all here, and these are not about how.
    test_more_bytes_than_allowed_change_nothing = test_a_version_that_is_none_changes_nothing = None
    test_a_tag_that_is_here_stays = test_export_of_a_version_there_keeps_nothing = None

    def serve(self, folder, root):
        server = Sshd(folder, root, ("ed25519",))
        os.mkdir(os.path.join(self.home, ".ssh"), 0o700)
        key = os.path.join(self.home, ".ssh", "id_ed25519")
        server.allow(make_key(key))
        known = write(os.path.join(self.home, ".ssh", "known_hosts"), server.known_hosts())
        # OpenSSH takes the home from the system's list of users.
        config = write(os.path.join(self.home, "ssh_config"),
                       f"UserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\nIdentityFile {key}\n")
        self.env["GIT_SSH_COMMAND"] = "ssh -F " + config
        return server


class Remotes(RemoteTest):
    """What is configured, which is git's own."""

    def test_a_remote_is_added_listed_and_removed(self):
        self.clone()
        added = self.at("mine", "remote", "add", "other", "../theirs", "--json").json
        self.assertEqual(added, {"name": "other", "url": self.theirs})
        self.assertEqual([remote["name"] for remote in self.at("mine", "remote", "--json").lines],
                         ["origin", "other"])
        self.assertEqual(self.git(f"--git-dir={self.path('mine')}/.vera", "remote").split(), ["origin", "other"])
        self.at("mine", "fetch", "other")
        self.assertIn("refs/remotes/other/main", self.refs("mine"))
        removed = self.at("mine", "remote", "remove", "origin", "--json").json
        self.assertEqual(removed, {"name": "origin", "url": self.theirs})
        self.assertEqual([name for name in self.refs("mine") if "/origin/" in name], [])
        self.assertIn("refs/remotes/other/main", self.refs("mine"))
        self.assertIsNone(self.at("mine", "branch", "--json").json["upstream"])
        self.assert_whole("mine")

    def test_what_can_be_no_remote_is_refused(self):
        self.clone()
        cases = (
            (("add", "origin", "elsewhere"), "EXISTS", "exists"),
            (("add", "a b", "x"), "INVALID", "cannot be a remote's name"),
            (("add", "../up", "x"), "INVALID", "cannot be a remote's name"),
            (("add", "x", "ext::sh -c true"), "UNSUPPORTED", "ext::"),
            (("add", "x", "gopher://host/x"), "UNSUPPORTED", "gopher://"),
            (("add", "x", ""), "INVALID", "no URL"),
            (("remove", "orign"), "NOTFOUND", "no remote 'orign'"),
        )
        before = tree(self.path("mine"))
        for arguments, code, says in cases:
            self.fails("-C", self.path("mine"), "remote", *arguments, code=code, says=says)
        self.fails("-C", self.path("mine"), "fetch", "orign", code="NOTFOUND", hint="origin")
        self.assertEqual(tree(self.path("mine")), before)

    def test_a_secret_in_a_url_is_neither_stored_nor_shown(self):
        self.clone()
        added = self.at("mine", "remote", "add", "x", "https://user:hunter2@host/x", "--json")
        self.assertNotIn("hunter2", added.out + added.err + self.at("mine", "remote").out)
        with open(self.path("mine", ".vera", "config"), encoding="utf-8") as file:
            self.assertNotIn("hunter2", file.read())
        self.git(f"--git-dir={self.path('mine')}/.vera", "config", "remote.x.url", "https://user:hunter2@host/x")
        self.assertNotIn("hunter2", self.at("mine", "remote", "--json").out)

    def test_pull_into_a_new_repository_names_what_it_needs(self):
        os.mkdir(self.path("new"))
        self.at("new", "init")
        self.fails("-C", self.path("new"), "pull", code="NOTFOUND", hint="vera remote add origin URL")
        self.at("new", "remote", "add", "origin", self.theirs)
        self.fails("-C", self.path("new"), "pull", "origin", "nowhere", code="NOTFOUND", says="no branch 'nowhere'")
        pull = self.at("new", "pull", "--json").json
        self.assertEqual(pull["updated"][-1]["status"], "created")
        self.assert_exported("new", "HEAD", STEPS[2])
        self.assert_whole("new")

    def test_clones_of_what_is_empty_or_none_and_into_what_is_there(self):
        os.mkdir(self.path("empty"))
        self.at("empty", "init")
        clone = self.vera("clone", "empty", "copy", "--json").json
        self.assertEqual((clone["branch"], clone["updated"]), (None, []))
        self.commit_into("empty")
        self.at("copy", "pull")
        self.assert_exported("copy", "HEAD", STEPS[0])
        self.fails("clone", "nowhere", "x", code="NOTFOUND", says="nowhere")
        self.fails("clone", "theirs", "copy", code="EXISTS", says="not empty")
        self.vera("clone", "theirs", "x", "--depth", "2", code=2)
        self.assertFalse(os.path.exists(self.path("x")))
        self.vera("clone", "work/theirs/.vera/", cwd=self.top)
        self.assertTrue(os.path.isdir(os.path.join(self.top, "theirs", ".vera")))

    def commit_into(self, name):
        self.at(name, "commit", adapter(f"llama/{STEPS[0]}"), "-m", "late")

    def test_a_shallow_clone_is_cloned_as_one_and_fetched_from_as_none(self):
        self.clone("mine", "--depth", "1")
        self.vera("clone", "mine", "again")
        self.assertEqual(len(self.at("again", "log", "--json").lines), 1)
        self.assert_whole("again")
        os.mkdir(self.path("new"))
        self.at("new", "init")
        self.at("new", "remote", "add", "origin", "../mine")
        self.fails("-C", self.path("new"), "fetch", code="UNSUPPORTED", says="shallow", hint="--unshallow")

    def test_many_refs_come_in_one_fetch(self):
        self.clone()
        tip = self.ids(self.theirs + "/.vera", "main")[0]
        names = "".join(f"create refs/heads/many/{number} {tip}\n" for number in range(1500))
        self.git(self.there, "update-ref", "--stdin", input=names.encode())
        self.assertEqual(len(self.at("mine", "fetch", "--json").json["updated"]), 1500)
        self.assertEqual(self.refs("mine")["refs/remotes/origin/many/1499"], tip)


class Cut(Served):
    """A connection that is lost."""

    def serve(self, folder, root):
        server = GitDaemon(folder, root)
        self.proxy = Proxy(server.port)
        self.addCleanup(self.proxy.close)
        return server

    def url(self):
        return f"git://{ADDRESS}:{self.proxy.port}/theirs/.vera"

    def test_one_that_is_lost_once_is_tried_again(self):
        for after in (10, 700, 5000, 15000):
            shutil.rmtree(self.path("mine"), ignore_errors=True)
            self.proxy.cut("down", after)
            self.clone()
            self.assert_whole("mine")
        self.assertEqual(self.proxy.cuts, 4)

    def test_one_that_is_lost_each_time_leaves_nothing(self):
        self.proxy.cut("down", 3000, times=100)
        self.fails("clone", self.url(), "none", code="IO")
        self.assertFalse(os.path.exists(self.path("none")))
        self.assertEqual(self.proxy.cuts, 4)
        self.proxy.heal()
        self.clone()


if __name__ == "__main__":
    unittest.main()
