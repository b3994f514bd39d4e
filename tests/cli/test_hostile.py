"""Remotes that mean harm: versions that vera would not make, and servers that are none. Nothing of ours
changes, in bounded time and memory."""
import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
import unittest
import zlib

from harness import tree
from remotes import RemoteTest
from servers import ADDRESS, GitDaemon


class Hostile(RemoteTest):
    """Versions made with git's plumbing that vera would not make."""

    def entries(self, revision="main"):
        found = {}
        for line in self.git(self.there, "ls-tree", revision).splitlines():
            head, name = line.split("\t")
            found[name] = head
        return found

    def blob(self, data):
        return self.git(self.there, "hash-object", "-w", "--stdin", input=data).strip()

    def text(self, name):
        return self.git(self.there, "cat-file", "blob", "main:" + name)

    def put(self, entries, branch="main"):
        """A commit of such a tree on a branch there; git itself would not make every such tree."""
        data = b"".join(b"%s %s\0%s" % (head.split()[0].lstrip("0").encode(), name.encode(),
                                         bytes.fromhex(head.split()[2])) for name, head in entries)
        made = self.git(self.there, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", input=data).strip()
        commit = f"tree {made}\nparent {self.ids(self.theirs + '/.vera', 'main')[0]}\n" \
                 "author A <a@b> 1700000000 +0000\ncommitter A <a@b> 1700000000 +0000\n\nlie\n"
        lie = self.git(self.there, "hash-object", "-t", "commit", "-w", "--literally", "--stdin",
                       input=commit.encode()).strip()
        self.git(self.there, "update-ref", "refs/heads/" + branch, lie)

    def sorted(self, entries):
        return sorted(entries.items(), key=lambda item: item[0] + ("/" if item[1].startswith("040000") else ""))

    def setUp(self):
        super().setUp()
        self.clone()
        self.whole = os.path.join(self.top, "whole")
        shutil.copytree(self.theirs, self.whole)
        self.mine = tree(self.path("mine"))

    def assert_refused(self, *codes):
        result = self.at("mine", "pull", "--json", code=1)
        self.assertIn(result.lines[-1]["error"]["code"], codes, result)
        self.assertEqual(tree(self.path("mine")), self.mine, result)
        self.fails("clone", self.url(), "none", code=result.lines[-1]["error"]["code"])
        self.assertFalse(os.path.exists(self.path("none")))
        shutil.rmtree(self.theirs)
        shutil.copytree(self.whole, self.theirs)

    def test_manifests_that_lie_or_lead_elsewhere(self):
        manifest = self.text("manifest")
        names = ("../README.md", "/etc/passwd", "a/../../b", ".git/config", "a\tb", "./README.md",
                 "a//b", "..", ".", "README.md/", "COM1/../x", "\udcff")
        changes = [("README.md", name) for name in names]
        changes += [("kind vera", "kind lora"), ("manifest 1", "manifest 2")]
        for old, new in changes:
            self.assertIn(old, manifest)
            changed = manifest.replace(old, new).encode("utf-8", "surrogateescape")
            with self.subTest(new):
                self.put(self.sorted({**self.entries(), "manifest": "100644 blob " + self.blob(changed)}))
                self.assert_refused("CORRUPT")
        lines = manifest.splitlines(keepends=True)
        for changed in (lines + lines[-1:], lines[:-1], lines[:2] + lines[:1:-1]):
            self.put(self.sorted({**self.entries(), "manifest": "100644 blob " + self.blob("".join(changed).encode())}))
            self.assert_refused("CORRUPT")

    def test_trees_that_no_version_has(self):
        usual = self.entries()
        files = usual["files"].split()[2]
        readme = "100644 blob " + self.blob(b"x")
        link = "120000 blob " + self.blob(b"/etc/passwd")
        missing = "100644 blob " + "1234567890" * 4
        cases = {
            "no manifest": {name: head for name, head in usual.items() if name != "manifest"},
            "no vectors": {name: head for name, head in usual.items() if name != "vectors"},
            "a symlink": {**usual, "layout": link},
            "a symlink for the frame": {**usual, "vectors": "120000 blob " + usual["layout"].split()[2]},
            "one more": {**usual, "more": readme},
            "missing": {**usual, "recipe": missing},
            "a file for a folder": {**usual, "files": readme},
            "a folder for a file": {**usual, "layout": "040000 tree " + files},
            "a name of git's": {**usual, ".git": readme},
            "upwards": {**usual, "..": "040000 tree " + files},
            "a slash": {**usual, "a/b": readme},
            "a submodule for the frame": {**usual, "vectors": "160000 commit " + usual["layout"].split()[2]},
        }
        for name, entries in cases.items():
            with self.subTest(name):
                self.put(self.sorted(entries))
                self.assert_refused("CORRUPT")
        with self.subTest("one twice"):
            entries = self.sorted(usual)
            self.put(entries[:1] + entries)
            self.assert_refused("CORRUPT")
        with self.subTest("out of order"):
            self.put(self.sorted(usual)[::-1])
            self.assert_refused("CORRUPT")

    def test_frames_that_lie(self):
        frame = self.git_bytes("cat-file", "blob", "main:vectors/frame")
        base = self.git_bytes("cat-file", "blob", "main~1:vectors/frame")
        vectors = {line.split("\t")[1]: line.split("\t")[0]
                   for line in self.git(self.there, "ls-tree", "main:vectors").splitlines()}
        huge = frame[:8] + b"\xff" * 32 + frame[40:]
        flipped = frame[:-1] + bytes([frame[-1] ^ 1])
        for data in (b"", frame[:40], frame[:-1], frame + b"x", huge, flipped, base, b"\0" * 1000, os.urandom(5000)):
            folder = {**vectors, "frame": "100644 blob " + self.blob(data)}
            made = self.git(self.there, "mktree", input="".join(
                f"{head}\t{name}\n" for name, head in sorted(folder.items())).encode()).strip()
            with self.subTest(data[:40]):
                self.put(self.sorted({**self.entries(), "vectors": "040000 tree " + made}))
                self.assert_refused("CORRUPT", "LIMIT")

    def git_bytes(self, *args):
        return subprocess.run(["git", self.there, *args], env=self.env, check=True, stdout=subprocess.PIPE).stdout

    def test_a_chain_that_is_too_deep(self):
        vectors = self.git(self.there, "rev-parse", "main:vectors").strip()
        frame = self.git(self.there, "rev-parse", "main:vectors/frame").strip()
        for _ in range(100):
            vectors = self.git(self.there, "mktree", input=(
                f"040000 tree {vectors}\tbase\n100644 blob {frame}\tframe\n").encode()).strip()
        self.put(self.sorted({**self.entries(), "vectors": "040000 tree " + vectors}))
        self.assert_refused("CORRUPT", "LIMIT")

    def test_refs_to_what_is_none(self):
        missing = "1234567890" * 4
        blob = self.git(self.there, "rev-parse", "main:manifest").strip()
        for target in (missing, blob, self.git(self.there, "rev-parse", "main^{tree}").strip()):
            with open(os.path.join(self.theirs, ".vera", "refs", "heads", "lie"), "w", encoding="utf-8") as file:
                file.write(target + "\n")
            self.assert_refused("CORRUPT")

    def test_one_bad_version_among_good_ones_stops_all(self):
        self.commit_there("step-060")
        usual = self.entries()
        self.put(self.sorted({**usual, "recipe": "100644 blob " + self.blob(b"none")}))
        self.git(self.there, "update-ref", "refs/heads/main", self.git(
            self.there, "commit-tree", "-p", "main", "-m", "after", "main~1^{tree}").strip())
        self.assert_refused("CORRUPT")


class HostileServed(Hostile):
    """The same through a server: libgit2 takes what it sends."""

    def setUp(self):
        RemoteTest.setUp(self)
        self.server = GitDaemon(self.path("server"), self.dir)
        self.addCleanup(self.server.close)
        self.clone()
        self.whole = os.path.join(self.top, "whole")
        shutil.copytree(self.theirs, self.whole)
        self.mine = tree(self.path("mine"))

    def url(self):
        return self.server.url("theirs/.vera")

    # What git's own server does not send.
    test_trees_that_no_version_has = test_refs_to_what_is_none = test_a_chain_that_is_too_deep = None


def line(text):
    data = text if isinstance(text, bytes) else text.encode()
    return b"%04x" % (len(data) + 4) + data


class FakeServer:
    """git:// that names one branch, then answers with what `answer(connection)` sends."""

    def __init__(self, answer, tip="12" * 20):
        self.answer, self.tip = answer, tip
        self.listener = socket.create_server((ADDRESS, 0))
        self.url = f"git://{ADDRESS}:{self.listener.getsockname()[1]}/x"
        self.reached = threading.Event()
        self.done = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            try:
                connection.recv(65536)
                self.talk(connection)
            except OSError:
                pass

    def talk(self, connection):
        connection.sendall(line(f"{self.tip} refs/heads/main\0ofs-delta\n") + b"0000")
        connection.recv(65536)
        self.reached.set()
        self.answer(connection)

    def close(self):
        self.done.set()
        self.listener.close()


class HostileServer(RemoteTest):
    """What no repository is behind."""

    def fake(self, answer):
        server = FakeServer(answer)
        self.addCleanup(server.close)
        self.clone()
        self.at("mine", "remote", "add", "fake", server.url)
        self.mine = tree(self.path("mine"))
        return server

    def refused(self, answer, *codes):
        shutil.rmtree(self.path("mine"), ignore_errors=True)
        self.fake(answer)
        result = self.at("mine", "fetch", "fake", "--max-bytes", "3000000", "--json", code=1)
        self.assertIn(result.lines[-1]["error"]["code"], codes, result)
        self.assertEqual(tree(self.path("mine")), self.mine)

    def test_garbage_in_place_of_a_pack(self):
        self.refused(lambda there: there.sendall(line("NAK\n") + b"garbage" * 1000), "CORRUPT", "IO")

    def test_a_pack_that_claims_ten_gigabytes(self):
        head = b"PACK" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big")
        size, coded = 10 << 30, []
        byte = 0x30 | (size & 15)
        size >>= 4
        while size:
            coded.append(byte | 0x80)
            byte, size = size & 127, size >> 7
        coded.append(byte)
        self.refused(lambda there: there.sendall(line("NAK\n") + head + bytes(coded) + b"x\x9c" + b"\0" * 1000),
                     "CORRUPT", "IO", "LIMIT")

    def test_a_pack_that_claims_billions_of_objects(self):
        head = b"PACK" + (2).to_bytes(4, "big") + b"\xff" * 4
        self.refused(lambda there: there.sendall(line("NAK\n") + head), "CORRUPT", "IO", "LIMIT")

    def test_a_stream_without_an_end(self):
        def endless(there):
            there.sendall(line("NAK\n") + b"PACK" + (2).to_bytes(4, "big") + b"\x7f" + b"\xff" * 3)
            piece = (b"\x3f" + zlib.compress(os.urandom(15))) * 1000
            while True:
                there.sendall(piece)
        self.refused(endless, "LIMIT", "CORRUPT", "IO")

    def test_refs_without_an_end(self):
        class Endless(FakeServer):
            def talk(self, connection):
                for number in itertools.count(0, 1000):
                    connection.sendall(b"".join(
                        line(f"{self.tip} refs/heads/{number + i}\n") for i in range(1000)))

        endless = Endless(None)
        self.addCleanup(endless.close)
        self.clone()
        self.at("mine", "remote", "add", "endless", endless.url)
        self.git(f"--git-dir={self.path('mine')}/.vera", "config", "vera.timeout", "5")
        before = tree(self.path("mine"))
        result = self.at("mine", "fetch", "endless", "--json", code=1)
        self.assertIn(result.json["error"]["code"], ("LIMIT", "IO"), result)
        self.assertEqual(tree(self.path("mine")), before)

    def test_a_server_that_stalls_is_given_up(self):
        server = self.fake(lambda there: server.done.wait(60))
        self.git(f"--git-dir={self.path('mine')}/.vera", "config", "vera.timeout", "1")
        before = tree(self.path("mine"))
        self.fails("-C", self.path("mine"), "fetch", "fake", code="IO", says="too long", hint="vera.timeout")
        self.assertEqual(tree(self.path("mine")), before)

    def test_an_interruption_while_nothing_comes_leaves_nothing(self):
        server = self.fake(lambda there: server.done.wait(60))
        with self.spawn(["-C", self.path("mine"), "fetch", "fake"]) as process:
            self.assertTrue(server.reached.wait(60))
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(60), 130)
        self.assertEqual(tree(self.path("mine")), self.mine)
        with self.spawn(["clone", server.url, "none"]) as process:
            server.reached.clear()
            self.assertTrue(server.reached.wait(60))
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(60), 130)
        self.assertFalse(os.path.exists(self.path("none")))

    def test_what_a_killed_fetch_left_goes_with_the_next_one(self):
        server = self.fake(lambda there: server.done.wait(60))
        with self.spawn(["-C", self.path("mine"), "fetch", "fake"]) as process:
            self.assertTrue(server.reached.wait(60))
            process.kill()
        self.assertNotEqual(tree(self.path("mine")), self.mine)
        shutil.copytree(self.path("mine"), self.path("other"))
        self.at("mine", "fetch", "origin")
        self.assert_whole("mine")
        self.assertEqual(tree(self.path("mine")), self.mine)
        self.at("other", "gc")  # or with a gc
        self.assert_whole("other")

    def test_nobody_listening_is_tried_again_and_told(self):
        with socket.create_server((ADDRESS, 0)) as listener:
            port = listener.getsockname()[1]
        self.fails("clone", f"git://{ADDRESS}:{port}/x", "none", code="IO", says=str(port))
        self.assertFalse(os.path.exists(self.path("none")))


if __name__ == "__main__":
    unittest.main()
