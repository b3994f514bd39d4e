"""clone, push, pull, diverge, merge, tag, delete: over every kind of remote, against real servers, with two
clones; and what cut connections and pushes at the same time leave."""
import os
import random
import shutil
import subprocess
import tempfile
import unittest

import servers
from harness import FOLDER, VERA, VeraTest, adapter, base
from proxy import Proxy
from servers import ADDRESS, write

SEED = int(os.environ.get("VERA_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
CUTS = 100
AT_ONCE = 50


class ServersTest(VeraTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.mkdtemp(prefix="vera-test-", dir=FOLDER)
        cls.addClassCleanup(shutil.rmtree, cls.shared, ignore_errors=True)
        cls.root = os.path.join(cls.shared, "root")
        os.mkdir(cls.root)

    @classmethod
    def serve(cls, kind, name, *args, **kwargs):
        server = kind(os.path.join(cls.shared, name), *args, **kwargs)
        cls.addClassCleanup(server.close)
        return server

    def bare(self, name):
        path = os.path.join(self.root, name)
        shutil.rmtree(path, ignore_errors=True)
        self.git("init", "-q", "--bare", "-b", "main", path)
        return path

    def commit(self, where, step, *args):
        return self.vera("-C", where, "commit", adapter(step), "--base", base("llama"), "--json", *args).json["commit"]

    def snapshots(self, where):
        lines = self.vera("-C", where, "log", "--all", "--json").lines
        return {line["commit"]: line["snapshot"] for line in lines}

    def updated(self, result):
        return {entry["ref"]: entry["status"] for entry in result.json["updated"]}


class EveryKind(ServersTest):
    def round_trip(self, url, path):
        """What two people do who share a repository."""
        self.vera("init", "ada")
        self.vera("-C", "ada", "remote", "add", "origin", url)
        first = self.commit("ada", "llama/step-060", "-m", "base")
        pushed = self.vera("-C", "ada", "push", "origin", "main", "--json")
        self.assertEqual(self.updated(pushed), {"refs/heads/main": "created"})
        self.assertEqual(set(pushed.json), {"updated", "bytes", "objects", "digest"})
        self.vera("clone", url, "bob")
        self.assertEqual(self.snapshots("bob"), self.snapshots("ada"))
        self.assertEqual(self.vera("-C", "bob", "branch", "--json").json["upstream"], "origin/main")
        self.diverge()
        self.vera("-C", "bob", "tag", "served", "-m", "what we serve")
        self.vera("-C", "bob", "branch", "side", first)
        pushed = self.vera("-C", "bob", "push", "origin", "--all", "--tags", "--json")
        self.assertEqual(self.updated(pushed), {"refs/heads/main": "up-to-date", "refs/heads/side": "created",
                                                "refs/tags/served": "created"})
        self.vera("-C", "ada", "pull")
        self.assertEqual(self.snapshots("ada"), self.snapshots("bob"))
        self.assertIn("served", self.vera("-C", "ada", "tag").out)
        self.vera("-C", "ada", "push", "origin", "side", "--delete")
        self.vera("-C", "bob", "fetch", "--prune")
        self.assertNotIn("side", self.git("--git-dir=" + path, "branch"))
        for where in ("ada", "bob"):
            self.vera("-C", where, "fsck")
            self.git("--git-dir=" + self.path(where, ".vera"), "fsck", "--strict")
        self.git("--git-dir=" + path, "fsck", "--strict")
        self.git("clone", "-q", "--bare", path, "plain.git")
        self.assertEqual(self.git("--git-dir=plain.git", "rev-parse", "main"),
                         self.git("--git-dir=" + self.path("ada", ".vera"), "rev-parse", "main"))

    def diverge(self):
        """Both commit; the second to push is refused, merges, and pushes."""
        self.commit("ada", "llama-c/step-040", "-m", "c")
        self.commit("bob", "llama-perl/step-040", "-m", "perl")
        self.vera("-C", "ada", "push")
        refused = self.vera("-C", "bob", "push", "--json", code=1).json
        self.assertEqual(refused["error"]["code"], "CONFLICT")
        self.assertIn("pull", refused["error"]["hint"])
        self.assertEqual([entry["status"] for entry in refused["updated"]], ["refused"])
        self.vera("-C", "bob", "fetch")
        self.vera("-C", "bob", "merge", "origin/main")
        self.assertEqual(self.updated(self.vera("-C", "bob", "push", "--json")), {"refs/heads/main": "fast-forward"})

    def test_paths(self):
        path = self.bare("path.git")
        self.round_trip(path, path)

    def test_file_urls(self):
        path = self.bare("a file.git")
        self.round_trip("file://" + path.replace(" ", "%20"), path)

    def test_a_vera_repository(self):
        self.vera("init", "central")
        self.round_trip(self.path("central"), self.path("central", ".vera"))

    def test_git_daemon(self):
        path = self.bare("daemon.git")
        self.round_trip(self.serve(servers.GitDaemon, "daemon", self.root).url("daemon.git"), path)

    def test_ssh(self):
        path = self.bare("ssh.git")
        server = self.serve(servers.Sshd, "sshd", self.root, kinds=("ed25519",))
        os.mkdir(os.path.join(self.home, ".ssh"), 0o700)
        server.allow(servers.make_key(os.path.join(self.home, ".ssh", "id_ed25519")))
        hosts = write(os.path.join(self.home, ".ssh", "known_hosts"), server.known_hosts())
        config = write(os.path.join(self.home, "ssh_config"), f"UserKnownHostsFile {hosts}\n")
        self.env["GIT_SSH_COMMAND"] = "ssh -F " + config
        self.round_trip(server.url("ssh.git"), path)

    def test_http_with_a_password(self):
        path = self.bare("http.git")
        server = self.serve(servers.Nginx, "http", self.root, login=("ada", "s3cret"))
        write(os.path.join(self.home, ".netrc"), f"machine {ADDRESS} login ada password s3cret\n", 0o600)
        self.round_trip(server.url("http.git"), path)

    def test_https_with_an_authority_of_its_own(self):
        path = self.bare("https.git")
        authority = servers.Authority(os.path.join(self.shared, "authority"))
        server = self.serve(servers.Nginx, "https", self.root, certificate=authority.sign(["localhost", ADDRESS]))
        self.env["GIT_SSL_CAINFO"] = authority.path
        self.round_trip(server.url("https.git"), path)


class AtOnce(ServersTest):
    def race(self, url, path):
        """Two push their own version of one branch, again and again: one is told to pull first, and does."""
        self.vera("init", "ada")
        self.vera("-C", "ada", "remote", "add", "origin", url)
        self.commit("ada", "llama/step-000", "-m", "begin")
        self.vera("-C", "ada", "push", "origin", "main")
        self.vera("clone", url, "bob")
        for number in range(AT_ONCE):
            for who in ("ada", "bob"):
                self.vera("-C", who, "commit", adapter("llama/step-000"), "--allow-empty", "-m", f"{who} {number}")
            running = [self.spawn(["-C", who, "push", "origin", "main", "--json"], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) for who in ("ada", "bob")]
            results = [process.communicate(timeout=60) + (process.returncode,) for process in running]
            self.assertEqual(sorted(code for _, _, code in results), [0, 1], results)
            loser = ("ada", "bob")[results[0][2] == 0]
            self.assertIn(b"CONFLICT", results[loser == "bob"][0])
            self.vera("-C", loser, "fetch")
            self.vera("-C", loser, "reset", "origin/main")
        self.assertEqual(self.git("--git-dir=" + path, "rev-list", "--count", "main").strip(), str(AT_ONCE + 1))
        self.git("--git-dir=" + path, "fsck", "--strict")

    def test_to_a_path(self):
        path = self.bare("race.git")
        self.race(path, path)

    def test_to_git_daemon(self):
        path = self.bare("race-daemon.git")
        self.race(self.serve(servers.GitDaemon, "race-daemon", self.root).url("race-daemon.git"), path)


class Cut(ServersTest):
    """Connections lost at any byte leave both sides as they were, and the next try goes on."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.daemon = cls.serve(servers.GitDaemon, "daemon", cls.root)
        cls.proxy = Proxy(cls.daemon.port)
        cls.addClassCleanup(cls.proxy.close)

    def url(self, name):
        return f"git://{ADDRESS}:{self.proxy.port}/{name}"

    def test_a_lost_connection_is_tried_again(self):
        path = self.bare("again.git")
        self.vera("init", "ada")
        self.commit("ada", "llama/step-000")
        self.vera("-C", "ada", "push", path, "main")
        self.proxy.cut("down", 900)
        cuts = self.proxy.cuts
        self.vera("clone", self.url("again.git"), "bob")
        self.assertEqual(self.proxy.cuts, cuts + 1)
        self.assertEqual(self.snapshots("bob"), self.snapshots("ada"))

    def test_one_new_version_moves_little_more_than_its_frame(self):
        path = self.bare("little.git")
        self.vera("init", "ada")
        for step in (300, 310):
            self.vera("-C", "ada", "commit", adapter(f"minilm/step-{step}"))
        self.vera("-C", "ada", "push", path, "main")
        self.vera("clone", self.url("little.git"), "bob")
        frame = self.vera("-C", "ada", "commit", adapter("minilm/step-320"), "--json").json["frame"]
        self.assertGreater(frame["depth"], 1)
        self.vera("-C", "ada", "push", path, "main")
        before = self.proxy.up + self.proxy.down
        self.vera("-C", "bob", "pull")
        self.assertLessEqual(self.proxy.up + self.proxy.down - before, 1.3 * frame["bytes"] + 4096)
        self.assertEqual(self.snapshots("bob"), self.snapshots("ada"))

    def test_fetching(self):
        path = self.bare("down.git")
        self.env["VERA_RETRIES"] = "0"
        chance = random.Random(SEED)
        self.vera("init", "ada")
        for step in (0, 10, 20):
            self.commit("ada", f"llama/step-{step:03}")
        self.vera("-C", "ada", "push", path, "main")
        self.vera("init", "bob")
        self.vera("-C", "bob", "remote", "add", "origin", self.url("down.git"))
        before = self.proxy.down
        self.vera("clone", self.url("down.git"), "whole")
        size = self.proxy.down - before
        for number in range(CUTS):
            way, most = (("down", size), ("up", 600))[number % 3 == 2]
            self.proxy.cut(way, chance.randrange(most))
            with self.subTest(seed=SEED, number=number):
                result = self.vera("-C", "bob", "fetch", "--json", code=None)
                self.proxy.heal()
                if result.code:
                    self.assertEqual(result.json["error"]["code"], "IO", result)
                    self.assertEqual(self.git("--git-dir=bob/.vera", "for-each-ref"), "")
                    self.assertEqual([n for n in os.listdir(self.path("bob", ".vera", "objects")) if "tmp" in n], [])
                else:
                    self.vera("-C", "bob", "fsck")
                    shutil.rmtree(self.path("bob"))
                    self.vera("init", "bob")
                    self.vera("-C", "bob", "remote", "add", "origin", self.url("down.git"))
        self.vera("-C", "bob", "fetch")
        self.assertEqual(set(self.snapshots("bob")), set(self.snapshots("ada")))

    def test_pushing(self):
        path = self.bare("up.git")
        chance = random.Random(SEED + 1)
        self.vera("init", "ada")
        self.vera("-C", "ada", "remote", "add", "origin", self.url("up.git"))
        self.commit("ada", "llama/step-000")
        before = self.proxy.up
        self.vera("-C", "ada", "push", "origin", "main")
        size = self.proxy.up - before
        for number in range(CUTS):
            self.vera("-C", "ada", "commit", adapter(f"llama/step-{10 * (number % 12 + 1):03}"))
            ours = self.git("--git-dir=ada/.vera", "rev-parse", "main").strip()
            theirs = self.git("--git-dir=" + path, "rev-parse", "main").strip()
            way, most = (("up", size), ("down", 400))[number % 3 == 2]
            self.proxy.cut(way, chance.randrange(most))
            with self.subTest(seed=SEED, number=number):
                result = self.vera("-C", "ada", "push", "origin", "main", "--json", code=None)
                self.proxy.heal()
                # A push may have been taken though its answer was lost.
                self.assertIn(self.git("--git-dir=" + path, "rev-parse", "main").strip(),
                              (ours,) if result.code == 0 else (ours, theirs))
                self.vera("-C", "ada", "push", "origin", "main")
                self.assertEqual(self.git("--git-dir=" + path, "rev-parse", "main").strip(), ours)
        self.git("--git-dir=" + path, "fsck", "--strict")
        self.vera("-C", "ada", "fsck")


if __name__ == "__main__":
    unittest.main()
