"""Versions in a registry, against Debian's docker-registry: what is pushed comes back as the same
commits, once; what breaks on the way is tried again; what lies is refused and leaves nothing."""
import base64
import hashlib
import http.client
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import unittest
import zlib

import servers
from gateway import Gateway
from harness import FOLDER, PATIENCE, Result, VeraTest, adapter, decode, tree
from proxy import Proxy
from servers import ADDRESS, SESAME, write

TRANSFER = os.environ["TRANSFER"]
CUTS = int(os.environ.get("VERA_CUTS", "20"))      # in each direction
ROUNDS = int(os.environ.get("VERA_ROUNDS", "12"))  # of two that push at once
SEED = os.environ.get("VERA_SEED") or str(random.SystemRandom().getrandbits(32))

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PACK = "application/vnd.verastore.pack.v1"
STEPS = ("step-000", "step-010", "step-020")


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class RegistryTest(VeraTest):
    """A registry for all tests of a class; a repository `one` with three versions of llama on main, and
    an empty one `two`. Each test has a name of its own in the registry."""
    options = {}

    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.mkdtemp(prefix="vera-test-", dir=FOLDER)
        cls.addClassCleanup(shutil.rmtree, cls.shared, ignore_errors=True)
        cls.registry = servers.Registry(os.path.join(cls.shared, "registry"), **cls.options)
        cls.addClassCleanup(cls.registry.close)
        cls.template = None

    def setUp(self):
        super().setUp()
        cls = type(self)
        if not cls.template:
            cls.template = os.path.join(cls.shared, "template")
            for name in ("one", "two"):
                self.vera("init", name)
            for step in STEPS:
                self.vera("-C", "one", "commit", adapter(f"llama/{step}"), "-m", step)
            shutil.copytree(self.dir, cls.template)
        else:
            shutil.copytree(cls.template, self.dir, dirs_exist_ok=True)
        self.name = "team/" + self.id().rsplit(".", 1)[1].lower().replace("_", "-")
        self.url = self.registry.url(self.name)

    def transfer(self, *args, code=0, **env):
        done = subprocess.run([TRANSFER, *args], cwd=self.dir, env={**self.env, **env}, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=PATIENCE)
        result = Result(done.returncode, decode(done.stdout), decode(done.stderr))
        if code is not None:
            self.assertEqual(result.code, code, result)
        self.assertNotIn(SESAME[1], result.out + result.err)
        return result

    def push(self, repository, *refs, url=None, **kwargs):
        """Each ref by itself: the last one's result."""
        for ref in refs:
            result = self.transfer("push", self.path(repository, ".vera"), url or self.url, ref, **kwargs)
        return result

    def fetch(self, repository, url=None, **kwargs):
        """What is there, by name; the refs become those of `origin`."""
        result = self.transfer("fetch", self.path(repository, ".vera"), url or self.url, **kwargs)
        refs = dict(reversed(line.split(" ")) for line in result.out.splitlines())
        for name, target in refs.items():
            self.refs(repository, "update-ref", name.replace("refs/heads/", "refs/remotes/origin/"), target)
        return refs

    def refs(self, repository, *args):
        return self.git(f"--git-dir={repository}/.vera", *args).strip()

    def tip(self, repository, ref="main"):
        return self.refs(repository, "rev-parse", ref)

    def commit(self, repository, name, *args):
        return self.vera("-C", repository, "commit", adapter(name), "--json", *args).json["commit"]

    def check(self, repository):
        self.assertIn("all whole", self.vera("-C", repository, "fsck").out)
        self.refs(repository, "fsck", "--strict", "--no-dangling")
        self.assertFalse([path for path in tree(self.path(repository, ".vera")) if "tmp_objdir" in path])

    def ask(self, path, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection(ADDRESS, self.registry.port)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data, answer.headers

    def document(self, reference):
        status, data, _ = self.ask(f"/v2/{self.name}/manifests/{reference}", Accept=f"{INDEX}, {MANIFEST}")
        self.assertEqual(status, 200, data)
        return json.loads(data)

    def tags(self):
        return sorted(json.loads(self.ask(f"/v2/{self.name}/tags/list")[1])["tags"])

    def gateway(self, *rules):
        gateway = Gateway(self.registry.port)
        self.addCleanup(gateway.close)
        gateway.rules.extend(rules)
        return gateway

    def proxy(self):
        proxy = Proxy(self.registry.port)
        self.addCleanup(proxy.close)
        return proxy


class RoundTrip(RegistryTest):
    def test_a_branch_comes_back_as_the_same_commits(self):
        self.assertEqual(self.push("one", "refs/heads/main").out.splitlines()[0], "created refs/heads/main")
        self.assertEqual(self.fetch("two"), {"refs/heads/main": self.tip("one")})
        self.assertEqual(self.refs("two", "rev-list", "origin/main"), self.refs("one", "rev-list", "main"))
        self.check("two")
        for number, step in enumerate(reversed(STEPS)):
            self.vera("-C", "two", "export", f"origin/main~{number}", f"out{number}")
            self.assertEqual(tree(self.path("two", f"out{number}")), tree(adapter(f"llama/{step}")))

    def test_every_kind_of_adapter_comes_back(self):
        names = ("bert/step-000", "gpt2/step-000", "llama-half/step-000", "minilm/step-080")
        names = [name for name in names if os.path.isdir(adapter(name))]
        self.assertGreaterEqual(len(names), 3)
        for name in names:
            self.commit("one", name)
        self.push("one", "refs/heads/main")
        self.fetch("two")
        self.check("two")
        for number, name in enumerate(reversed(names)):
            self.vera("-C", "two", "export", f"origin/main~{number}", f"out{number}")
            self.assertEqual(tree(self.path("two", f"out{number}")), tree(adapter(name)))

    def test_a_version_says_what_it_is(self):
        digest = self.push("one", "refs/heads/main").out.splitlines()[1]
        shown = self.vera("-C", "one", "show", "--json").json
        tag = "main-" + shown["snapshot"][7:19]
        version = self.document(tag)
        self.assertEqual(version, self.document(digest))
        self.assertEqual(version["config"]["mediaType"], "application/vnd.verastore.version.v1+json")
        notes = version["annotations"]
        self.assertEqual(notes["org.verastore.snapshot"], shown["snapshot"])
        self.assertEqual(notes["org.verastore.commit"], shown["commit"])
        self.assertEqual(notes["org.verastore.rank"], str(shown["rank"]))
        self.assertEqual(notes["org.verastore.base"], shown["base"]["name"])
        self.assertEqual(notes["org.opencontainers.image.title"], STEPS[-1])
        index = self.document("main")
        self.assertEqual(index["manifests"][0]["digest"], digest)
        self.assertEqual(len(index["manifests"]), len(STEPS))
        self.assertEqual(index["annotations"]["org.verastore.ref"], "refs/heads/main")
        self.assertEqual(len(self.tags()), 1 + len(STEPS))

    def test_names_that_no_tag_can_have(self):
        names = ["run/1", "a_b", "Größe", "x+y", "main-0123456789ab"]
        for name in names:
            self.vera("-C", "one", "branch", name)
            self.push("one", "refs/heads/" + name)
        self.assertEqual(set(self.fetch("two")), {"refs/heads/" + name for name in names})
        self.assertIn("run_2f1", self.tags())

    def test_nothing_is_sent_again(self):
        def uploads():
            return [line for line in self.registry.requests() if line.startswith("PUT") and "/blobs/" in line
                    and self.name in line]

        self.push("one", "refs/heads/main")
        before = uploads()
        self.assertEqual(self.push("one", "refs/heads/main").out.splitlines()[0], "up-to-date refs/heads/main")
        self.vera("-C", "one", "branch", "side", "HEAD~1")
        self.push("one", "refs/heads/side")
        self.assertEqual(uploads(), before)
        self.commit("one", "llama/step-030")
        self.push("one", "refs/heads/main")
        self.assertEqual(len(uploads()), len(before) + 2)  # its frame, and its pack

    def test_one_new_version_takes_little_more_than_its_frame(self):
        for number in range(0, 80, 10):
            self.commit("one", f"minilm/step-{number:03}", "--branch", "run")
        self.vera("-C", "one", "switch", "run")
        self.push("one", "refs/heads/run")
        self.fetch("two")
        frame = self.vera("-C", "one", "commit", adapter("minilm/step-080"), "--json").json["frame"]
        self.push("one", "refs/heads/run")
        proxy = self.proxy()
        self.fetch("two", url=self.registry.url(self.name, proxy.port))
        self.assertEqual(self.tip("two", "origin/run"), self.tip("one", "run"))
        self.assertLessEqual(proxy.up + proxy.down, 1.3 * frame["bytes"] + 4096)

    def test_tags_annotated_and_plain(self):
        self.vera("-C", "one", "tag", "v1", "HEAD~1", "-m", "first: \"é\"")
        self.refs("one", "tag", "light", "HEAD")
        self.push("one", "refs/heads/main", "refs/tags/v1", "refs/tags/light")
        refs = self.fetch("two")
        self.assertEqual(refs, {"refs/heads/main": self.tip("one"), "refs/tags/v1": self.tip("one", "v1"),
                                "refs/tags/light": self.tip("one")})
        self.assertEqual(self.refs("two", "cat-file", "tag", "v1"), self.refs("one", "cat-file", "tag", "v1"))
        self.check("two")
        self.refs("one", "tag", "-f", "light", "HEAD~2")
        self.assertIn("CONFLICT", self.push("one", "refs/tags/light", code=1).err)
        self.push("one", "+refs/tags/light")
        self.assertEqual(self.fetch("two")["refs/tags/light"], self.tip("one", "light"))

    def test_a_branch_and_a_tag_of_one_name_do_not_fit(self):
        self.push("one", "refs/heads/main")
        self.refs("one", "tag", "main")
        result = self.push("one", "refs/tags/main", code=1)
        self.assertIn("CONFLICT", result.err)
        self.assertIn("hint: ", result.err)

    def test_histories_that_parted_are_refused_then_merged(self):
        self.push("one", "refs/heads/main")
        self.fetch("two")
        self.refs("two", "update-ref", "refs/heads/main", "origin/main")
        self.commit("one", "llama/step-030", "-m", "ours")
        theirs = self.commit("two", "llama/step-040", "-m", "theirs")
        self.push("one", "refs/heads/main")
        result = self.push("two", "refs/heads/main", code=1)
        self.assertTrue(result.err.startswith("CONFLICT"), result)
        self.assertIn("pull first", result.err)
        self.assertEqual(self.fetch("two")["refs/heads/main"], self.tip("one"))
        self.vera("-C", "two", "merge", "origin/main", "--strategy", "ours")
        self.assertEqual(self.push("two", "refs/heads/main").out.splitlines()[0], "fast-forward refs/heads/main")
        self.fetch("one")
        self.assertIn(theirs, self.refs("one", "rev-list", "origin/main"))
        self.check("one")
        self.check("two")

    def test_force_replaces_and_deletion_leaves_what_is_pinned(self):
        self.push("one", "refs/heads/main")
        self.vera("-C", "one", "branch", "side", "HEAD~1")
        digest = self.push("one", "refs/heads/side").out.splitlines()[1]
        self.refs("one", "update-ref", "refs/heads/side", "HEAD~2")
        self.push("one", "refs/heads/side", code=1)
        self.assertEqual(self.push("one", "+refs/heads/side").out.splitlines()[0], "forced refs/heads/side")
        self.assertEqual(self.fetch("two")["refs/heads/side"], self.tip("one", "side"))
        self.push("one", ":refs/heads/side")
        self.assertEqual(list(self.fetch("two")), ["refs/heads/main"])
        self.document(digest)
        self.push("one", ":refs/heads/side", code=1)

    def test_other_programs_copy_it_whole(self):
        self.push("one", "refs/heads/main")
        flags = ["--src-tls-verify=false", "--dest-tls-verify=false", "--all", "--quiet"]
        source = f"docker://{ADDRESS}:{self.registry.port}/{self.name}:main"
        raw = servers.call("skopeo", "inspect", "--raw", "--tls-verify=false", source)
        self.assertEqual(json.loads(raw), self.document("main"))
        copy = self.name + "-copy"
        servers.call("skopeo", "--insecure-policy", "copy", *flags, source,
                     f"docker://{ADDRESS}:{self.registry.port}/{copy}:main")
        self.assertEqual(self.fetch("two", url=self.registry.url(copy)), {"refs/heads/main": self.tip("one")})
        self.check("two")

    def test_what_others_keep_there_is_let_alone(self):
        self.push("one", "refs/heads/main")
        for tag in ("latest", "stray-0123456789ab"):
            self.assertEqual(self.ask(f"/v2/{self.name}/manifests/{tag}", "PUT", json.dumps(
                {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode(),
                **{"Content-Type": INDEX})[0], 201)
        self.assertEqual(list(self.fetch("two")), ["refs/heads/main"])
        self.vera("-C", "one", "branch", "latest")
        self.assertIn("something else", self.push("one", "refs/heads/latest", code=1).err)

    def test_clones_whole_shallow_and_pinned(self):
        digest = self.push("one", "refs/heads/main").out.splitlines()[1]
        second = self.vera("-C", "one", "show", "HEAD~1", "--json").json
        ids = self.refs("one", "rev-list", "main").split()
        self.vera("clone", self.url, "whole")
        self.assertEqual(self.refs("whole", "rev-list", "HEAD").split(), ids)
        self.vera("clone", "--depth", "1", self.url, "newest")
        self.vera("clone", f"{self.url}@{digest}", "pinned")
        self.vera("clone", f"{self.url}:main-{second['snapshot'][7:19]}", "second")
        self.vera("clone", self.url + ":main", "branch")
        for name, wanted in (("newest", ids[:1]), ("pinned", ids[:1]), ("second", ids[1:2]), ("branch", ids)):
            log = self.vera("-C", name, "log", "--json")
            self.assertEqual([entry["commit"] for entry in log.lines], wanted, name)
            self.check(name)
        for number, name in enumerate((f"{self.url}@{digest}", self.url + "@main", self.url + "@HEAD")):
            self.vera("export", name, f"out{number}")
            self.assertEqual(tree(self.path(f"out{number}")), tree(adapter("llama/" + STEPS[-1])))
        self.vera("export", f"{self.url}@{second['snapshot']}", "by-snapshot")
        self.assertEqual(tree(self.path("by-snapshot")), tree(adapter("llama/" + STEPS[-2])))

    def test_there_is_no_such_repository(self):
        result = self.transfer("fetch", self.path("two", ".vera"), self.registry.url("no/such"), code=1)
        self.assertTrue(result.err.startswith("NOTFOUND"), result)

    def test_nobody_listens(self):
        result = self.transfer("fetch", self.path("two", ".vera"), self.registry.url("a", servers.free_port()),
                               code=1)
        self.assertTrue(result.err.startswith("IO"), result)


class Commands(RegistryTest):
    """What two people do who share a repository, with the commands that they use."""

    def story(self, url):
        def statuses(result):
            return {entry["ref"]: entry["status"] for entry in result.json["updated"]}

        def snapshots(where):
            return {line["commit"]: line["snapshot"] for line in self.vera("-C", where, "log", "--all", "--json").lines}

        self.vera("-C", "one", "remote", "add", "origin", url)
        pushed = self.vera("-C", "one", "push", "origin", "main", "--json")
        self.assertEqual(statuses(pushed), {"refs/heads/main": "created"})
        self.assertRegex(pushed.json["digest"], "^sha256:[0-9a-f]{64}$")
        self.assertIn(pushed.json["digest"], self.vera("-C", "one", "push").out)
        self.vera("clone", url, "other")
        self.assertEqual(snapshots("other"), snapshots("one"))
        self.commit("one", "llama/step-030", "-m", "ours")
        self.commit("other", "llama/step-040", "-m", "theirs")
        self.vera("-C", "one", "push")
        self.fails("-C", "other", "push", code="CONFLICT", says="pull first", hint="pull")
        self.vera("-C", "other", "fetch")
        self.vera("-C", "other", "merge", "origin/main", "--strategy", "ours")
        self.assertEqual(statuses(self.vera("-C", "other", "push", "--json")), {"refs/heads/main": "fast-forward"})
        self.vera("-C", "other", "tag", "served", "-m", "what we serve")
        self.vera("-C", "other", "branch", "side", "HEAD~1")
        self.vera("-C", "other", "push", "origin", "--all", "--tags")
        self.vera("-C", "one", "pull")
        self.assertEqual(snapshots("one"), snapshots("other"))
        self.assertIn("served", self.vera("-C", "one", "tag").out)
        self.vera("-C", "one", "push", "origin", "side", "--delete")
        self.vera("-C", "other", "fetch", "--prune")
        self.assertNotIn("side", [ref for ref in self.refs("other", "for-each-ref", "refs/remotes").split("/")])
        for where in ("one", "other"):
            self.check(where)
        return pushed.json["digest"]

    def test_push_clone_pull_diverge_merge_tag_delete(self):
        digest = self.story(self.url)
        self.vera("export", f"{self.url}@{digest}", "pinned")
        self.assertEqual(tree(self.path("pinned")), tree(adapter("llama/" + STEPS[-1])))

    def test_no_more_comes_than_was_allowed(self):
        self.push("one", "refs/heads/main")
        self.fails("clone", self.url, "small", "--max-bytes", "9000", code="LIMIT", hint="--max-bytes")
        self.assertFalse(os.path.exists(self.path("small", ".vera")))
        self.vera("clone", self.url, "small", "--max-bytes", "900000")


class CommandsWithPassword(Commands):
    options = {"login": True}

    def setUp(self):
        super().setUp()
        folder = os.path.join(self.home, ".docker")
        os.mkdir(folder)
        coded = base64.b64encode(f"{SESAME[0]}:{SESAME[1]}".encode()).decode()
        write(os.path.join(folder, "config.json"),
              json.dumps({"auths": {f"{ADDRESS}:{self.registry.port}": {"auth": coded}}}))

    def test_no_more_comes_than_was_allowed(self):
        """Without a password, too."""

    def tearDown(self):
        for folder, _, files in os.walk(self.dir):
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        self.assertNotIn(SESAME[1].encode(), file.read(), path)


class AtOnce(RegistryTest):
    """Two that push one branch at the same time."""

    def rounds(self, count):
        self.push("one", "refs/heads/main")
        self.fetch("two")
        self.refs("two", "update-ref", "refs/heads/main", "origin/main")
        made = set()
        for number in range(count):
            results = {}

            def run(name):
                results[name] = self.push(name, "refs/heads/main", code=None)

            for name, step in (("one", 30), ("two", 60)):
                made.add(self.commit(name, f"llama/step-{step + 10 * (number % 3):03}", "-m", f"{name} {number}"))
            threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            losers = [name for name in results if results[name].code]
            self.assertEqual(len(losers), 1, results)
            loser = losers[0]
            self.assertIn("pull first", results[loser].err)
            winner = "one" if loser == "two" else "two"
            self.assertEqual(self.fetch(loser)["refs/heads/main"], self.tip(winner))
            self.vera("-C", loser, "merge", "origin/main", "--strategy", "ours")
            self.push(loser, "refs/heads/main")
            self.fetch(winner)
            self.vera("-C", winner, "merge", "origin/main")
        self.fetch("one")
        self.assertLessEqual(made, set(self.refs("one", "rev-list", "origin/main").split()))
        self.check("one")
        self.check("two")

    def test_no_version_is_lost_and_the_loser_is_told(self):
        self.rounds(ROUNDS)


class AtOnceWithoutDeletion(AtOnce):
    options = {"deletes": False}

    def test_no_version_is_lost_and_the_loser_is_told(self):
        self.rounds(2)
        claims = [tag for tag in self.tags() if tag.startswith("__")]
        self.assertEqual(len(claims), 2)
        for tag in claims:
            self.assertEqual(self.document(tag)["annotations"], {"org.verastore.claim": ""})

    def test_deleting_says_that_the_registry_does_not(self):
        self.push("one", "refs/heads/main")
        result = self.push("one", ":refs/heads/main", code=1)
        self.assertTrue(result.err.startswith("UNSUPPORTED"), result)


class Broken(RegistryTest):
    """Connections that are lost, and servers that are busy."""

    def cuts(self, way):
        chance = random.Random(f"{SEED} {way}")
        print(f"{self.id()}: VERA_SEED={SEED}")
        proxy = self.proxy()
        url = self.registry.url(self.name, proxy.port)
        for number in range(CUTS):
            self.commit("one", f"llama/step-{30 + 10 * (number % 5):03}", "-m", f"cut {number}")
            for work in (lambda code: self.push("one", "refs/heads/main", url=url, code=code),
                         lambda code: self.transfer("fetch", self.path("two", ".vera"), url, code=code)):
                proxy.cut(way, chance.randrange(1, 9000), chance.choice((1, 1, 1, 2)))
                first = work(None)
                proxy.heal()
                if first.code:
                    self.assertTrue(first.err.startswith("IO: "), first)
                    work(0)
        self.assertGreater(proxy.cuts, CUTS // 2)
        self.assertEqual(self.fetch("two")["refs/heads/main"], self.tip("one"))
        self.check("one")
        self.check("two")

    def test_a_lost_connection_from_the_server_harms_nothing(self):
        self.cuts("down")

    def test_a_lost_connection_to_the_server_harms_nothing(self):
        self.cuts("up")

    def large(self, megabytes):
        """A version with a file that cannot be compressed, which is a layer of its own."""
        folder = self.path("large")
        shutil.copytree(adapter("llama/step-030"), folder)
        data = random.Random(7).randbytes(megabytes << 20)
        with open(os.path.join(folder, "data.bin"), "wb") as file:
            file.write(data)
        self.vera("-C", "one", "commit", folder, "--all", "-m", "large")
        return data

    def test_a_large_upload_and_download_go_on_where_they_were_cut(self):
        size = len(self.large(20))
        proxy = self.proxy()
        url = self.registry.url(self.name, proxy.port)
        proxy.cut("up", 12 << 20)
        self.push("one", "refs/heads/main", url=url)
        self.assertEqual(proxy.cuts, 1)
        proxy.heal()
        before = proxy.down
        proxy.cut("down", 15 << 20)
        self.fetch("two", url=url)
        self.assertEqual(proxy.cuts, 2)
        self.assertLess(proxy.down - before, size + (1 << 20))
        self.vera("-C", "two", "export", "origin/main", "out")
        self.assertEqual(tree(self.path("two", "out")), tree(self.path("large")))

    def test_an_upload_is_sent_in_chunks_that_are_not_sent_again(self):
        size = len(self.large(20))
        failed = []

        def lose(request):
            # The second chunk arrives, and its answer does not.
            if request.method == "PATCH" and not failed and request.headers["Content-Range"][:2] != "0-":
                failed.append(request)
                return 503, {}, b""
            return None

        gateway = self.gateway(lose)
        self.push("one", "refs/heads/main", url=self.registry.url(self.name, gateway.port))
        self.assertEqual(len(failed), 1)
        sent = sum(len(request.body) for request in gateway.seen if request.method in ("PATCH", "PUT"))
        self.assertLess(sent, size + (8 << 20) + (1 << 20))
        self.fetch("two")
        self.check("two")

    def test_a_busy_server_is_asked_again(self):
        turns = {}

        def busy(request):
            turns[request.path] = turns.get(request.path, 0) + 1
            if turns[request.path] == 1:
                return 429, {"Retry-After": "0"}, b""
            if turns[request.path] == 2:
                return 503, {}, b""
            return None

        gateway = self.gateway(busy)
        self.push("one", "refs/heads/main")
        self.fetch("two", url=self.registry.url(self.name, gateway.port))
        self.check("two")

    def test_a_server_that_stays_broken_is_given_up(self):
        gateway = self.gateway(lambda request: (500, {}, b'{"errors":[{"code":"UNKNOWN","message":"no disk"}]}'))
        url = self.registry.url(self.name, gateway.port)
        result = self.transfer("fetch", self.path("two", ".vera"), url, code=1)
        self.assertTrue(result.err.startswith("IO: "), result)
        self.assertIn("no disk", result.err)
        self.assertLess(len(gateway.seen), 10)


class Secrets(RegistryTest):
    options = {"login": True}

    def config(self, **entries):
        folder = os.path.join(self.home, "docker")
        os.makedirs(folder, exist_ok=True)
        write(os.path.join(folder, "config.json"), json.dumps(entries))
        self.env["DOCKER_CONFIG"] = folder

    @property
    def host(self):
        return f"{ADDRESS}:{self.registry.port}"

    def login(self, host=None, user=SESAME[0], password=SESAME[1]):
        self.config(auths={host or self.host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}})

    def test_what_docker_login_has_kept_is_used(self):
        self.login()
        self.push("one", "refs/heads/main")
        self.fetch("two")
        self.check("two")

    def test_nobody_and_the_wrong_one_are_refused(self):
        for prepare in (lambda: None, lambda: self.login(password="wrong-word"), lambda: self.login("other:5000")):
            prepare()
            result = self.push("one", "refs/heads/main", code=1)
            self.assertTrue(result.err.startswith("INVALID: "), result)
            self.assertIn("docker login", result.err)
            self.assertNotIn("wrong-word", result.err)

    def test_a_helper_that_the_configuration_names_is_asked(self):
        folder = os.path.join(self.home, "bin")
        os.mkdir(folder)
        answer = json.dumps({"ServerURL": "x", "Username": SESAME[0], "Secret": SESAME[1]})
        write(os.path.join(folder, "docker-credential-test"),
              f"#!/bin/sh\nread host\n[ \"$1 $host\" = 'get {self.host}' ] || exit 3\necho '{answer}'\n", 0o755)
        self.env["PATH"] = folder + ":" + self.env["PATH"]
        self.config(credHelpers={self.host: "test"})
        self.push("one", "refs/heads/main")
        self.config(credsStore="missing")
        self.assertIn("docker-credential-missing", self.push("one", "refs/heads/main", code=1).err)

    def bearer(self, seen):
        """A gateway that takes a token, which it gives for the password."""
        basic = "Basic " + base64.b64encode(f"{SESAME[0]}:{SESAME[1]}".encode()).decode()

        def rule(request):
            port = request.headers["Host"].split(":")[1]
            given = request.headers.get("Authorization")
            if request.path.startswith("/token"):
                seen.append(request.path)
                token = {"token": "first" if given == basic else "anonymous"}
                return 200, {"Content-Type": "application/json"}, json.dumps(token).encode()
            if given == "Bearer first" or (given == "Bearer anonymous" and request.method in ("GET", "HEAD")):
                return None
            realm = f'Bearer realm="http://{ADDRESS}:{port}/token",service="test",scope="repository:{self.name}:pull"'
            return 401, {"WWW-Authenticate": realm}, b"{}"
        return rule

    def test_a_token_is_asked_for_and_used(self):
        open_registry = servers.Registry(os.path.join(self.top, "open"))
        self.addCleanup(open_registry.close)
        seen = []
        gateway = Gateway(open_registry.port)
        self.addCleanup(gateway.close)
        gateway.rules.append(self.bearer(seen))
        url = open_registry.url(self.name, gateway.port)
        self.login(f"{ADDRESS}:{gateway.port}")
        self.push("one", "refs/heads/main", url=url)
        self.assertIn("pull%2Cpush", seen[0])
        self.assertIn("service=test", seen[0])
        self.config()
        self.fetch("two", url=url)  # by anybody
        self.check("two")
        self.commit("one", "llama/step-030")
        self.assertTrue(self.push("one", "refs/heads/main", url=url, code=1).err.startswith("INVALID: "))

    def test_a_redirect_takes_no_secret_to_another_place(self):
        """Blobs are elsewhere: on the same machine, at another port."""
        self.login()
        self.push("one", "refs/heads/main")
        store = self.gateway(lambda request: request.headers.get("Authorization") and (400, {}, b""),
                             self.content)
        front = self.gateway(
            lambda request: "/blobs/sha256" in request.path and request.headers.get("Authorization") and
            (307, {"Location": f"http://{ADDRESS}:{store.port}{request.path}"}, b""), self.content)
        self.login(f"{ADDRESS}:{front.port}")
        self.fetch("two", url=self.registry.url(self.name, front.port))
        self.assertTrue(store.seen)
        for request in store.seen:
            self.assertNotIn("Authorization", request.headers)
        self.assertTrue([request for request in front.seen if "Authorization" in request.headers])
        self.check("two")

    def content(self, request):
        """What the registry has, for who shows a password, or at the store for anybody."""
        if "Authorization" not in request.headers and "/blobs/" not in request.path:
            return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
        connection = http.client.HTTPConnection(ADDRESS, self.registry.port)
        basic = base64.b64encode(f"{SESAME[0]}:{SESAME[1]}".encode()).decode()
        headers = {"Authorization": "Basic " + basic}
        for name in ("Accept", "Range"):
            if name in request.headers:
                headers[name] = request.headers[name]
        connection.request(request.method, request.path, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, {"Content-Type": answer.getheader("Content-Type", "")}, data

    def test_a_password_in_the_url_is_refused(self):
        url = self.url.replace("oci://", f"oci://{SESAME[0]}:secret-word@")
        result = self.transfer("fetch", self.path("two", ".vera"), url, code=1)
        self.assertTrue(result.err.startswith("INVALID"), result)
        self.assertNotIn("secret-word", result.err)


class Certificates(RegistryTest):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp(prefix="vera-test-", dir=FOLDER)
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        cls.authority = servers.Authority(os.path.join(folder, "authority"))
        cls.options = {"certificate": cls.authority.sign([ADDRESS, "localhost"])}
        super().setUpClass()

    def test_only_a_known_authority_is_believed(self):
        url = self.registry.url(self.name, scheme="oci+https")
        result = self.push("one", "refs/heads/main", url=url, code=1)
        self.assertTrue(result.err.startswith("IO: "), result)
        self.assertIn("SSL_CERT_FILE", result.err)
        self.push("one", "refs/heads/main", url=url, SSL_CERT_FILE=self.authority.path)
        self.fetch("two", url=url, GIT_SSL_CAINFO=self.authority.path)
        self.check("two")


class Hostile(RegistryTest):
    """A registry that lies. Nothing of it stays, and ours is as it was."""

    def setUp(self):
        super().setUp()
        self.push("one", "refs/heads/main")
        self.before = tree(self.path("two", ".vera"))

    def refused(self, code, *says, rules=(), **env):
        gateway = self.gateway(*rules)
        result = self.transfer("fetch", self.path("two", ".vera"), self.registry.url(self.name, gateway.port),
                               code=1, **env)
        self.assertTrue(result.err.startswith(code + ": "), result)
        for text in says:
            self.assertIn(text, result.err)
        self.assertEqual(tree(self.path("two", ".vera")), self.before)
        return result

    def altered(self, what, alter):
        """A rule: the document `what` ("index" or "manifest") as `alter` changes it, its digest right where
        an index names it."""
        swaps = {}

        def rule(request):
            if request.method != "GET" or "/manifests/" not in request.path:
                return None
            reference = request.path.rsplit("/", 1)[1]
            if reference in swaps:
                return 200, {"Content-Type": MANIFEST}, swaps[reference]
            if reference != "main":
                return None
            index = self.document("main")
            if what == "index":
                alter(index)
            else:
                item = index["manifests"][0]
                version = self.document(item["digest"])
                alter(version)
                data = json.dumps(version).encode()
                item.update(digest=sha256(data), size=len(data))
                swaps[item["digest"]] = data
            return 200, {"Content-Type": INDEX}, json.dumps(index).encode()
        return rule

    @staticmethod
    def blob(data, status=200, **headers):
        return lambda request: "/blobs/" in request.path and request.method == "GET" and (status, headers, data)

    def test_blobs_that_are_not_what_the_manifest_says(self):
        for data in (b"", b"x", b"\0" * (1 << 20)):
            with self.subTest(len(data)):
                self.refused("CORRUPT", rules=[self.blob(data)])
        version = self.document(self.document("main")["manifests"][0]["digest"])
        self.refused("CORRUPT", "digest", rules=[self.blob(b"\0" * version["layers"][0]["size"])])

    def test_a_manifest_with_another_digest(self):
        self.refused("CORRUPT", "digest", rules=[
            lambda request: "/manifests/sha256" in request.path and
            (200, {"Content-Type": MANIFEST}, b'{"layers":[]}')])

    def test_what_is_no_manifest(self):
        for data in (b"", b"{", b"[]", b"\0" * 99, b"{" * 100000, b'{"manifests":[' + b"{}," * 1000):
            with self.subTest(data[:9]):
                self.refused("CORRUPT", rules=[
                    lambda request, data=data: request.path.endswith("/main") and
                    (200, {"Content-Type": INDEX}, data)])

    def test_tags_that_are_none(self):
        for data in (b"", b"{}x", b'{"tags":5}', b'{"tags":[5]}', b'{"tags":["a\\u0000b"]}'):
            with self.subTest(data):
                self.refused("CORRUPT", rules=[
                    lambda request, data=data: request.path.endswith("/tags/list") and (200, {}, data)])

    def test_an_endless_answer_is_cut(self):
        def endless():
            while True:
                yield b" " * 65536

        for end in ("/tags/list", "/main"):
            with self.subTest(end):
                self.refused("LIMIT", rules=[
                    lambda request, end=end: request.path.endswith(end) and
                    (200, {"Content-Length": str(1 << 40)}, endless())])

    def test_endless_headers_are_cut(self):
        many = {f"X-{number}": "y" * 1000 for number in range(80)}
        self.refused("LIMIT", "headers", rules=[lambda request: (200, many, b"{}")])

    def test_a_silent_server_is_given_up(self):
        ended = threading.Event()
        self.addCleanup(ended.set)

        def silent(request):
            ended.wait(PATIENCE)
            return 500, {}, b""

        result = self.refused("IO", rules=[silent], GIT_HTTP_LOW_SPEED_TIME="1", GIT_HTTP_LOW_SPEED_LIMIT="1000")
        self.assertIn("imeout", result.err)

    def test_a_layer_of_ten_gigabytes(self):
        self.refused("LIMIT", rules=[self.altered(
            "manifest", lambda version: version["layers"][0].update(size=10 << 30))])

    def test_layers_that_are_not_the_tree_s(self):
        alterations = {
            "too few": lambda version: version["layers"].pop(),
            "too many": lambda version: version["layers"].append(version["layers"][-1]),
            "another order": lambda version: version["layers"].__setitem__(
                slice(1, None), version["layers"][:0:-1]),
        }
        for name, alter in alterations.items():
            with self.subTest(name):
                self.refused("CORRUPT", rules=[self.altered("manifest", alter)])

    def test_a_version_under_another_s_name(self):
        def swap(index):
            first, second = index["manifests"][:2]
            first["digest"], second["digest"] = second["digest"], first["digest"]

        self.refused("CORRUPT", rules=[self.altered("index", swap)])

    def test_an_index_without_the_parents(self):
        self.refused("CORRUPT", "missing", rules=[self.altered("index", lambda index: index["manifests"].pop())])

    def test_names_that_are_no_refs(self):
        for name in ("refs/heads/../x", "HEAD", "refs/remotes/x/y", "refs/heads/other", "refs/heads/"):
            with self.subTest(name):
                self.refused("CORRUPT", rules=[self.altered(
                    "index", lambda index, name=name: index["annotations"].update({"org.verastore.ref": name}))])

    def test_a_tree_that_leaves_its_directory(self):
        """A pack whose root tree has an entry `..`, all digests right."""
        version = self.document(self.document("main")["manifests"][0]["digest"])
        layer = version["layers"][0]
        data = self.ask(f"/v2/{self.name}/blobs/{layer['digest']}")[1]
        objects = read_pack(data)
        kinds = {1: b"commit", 2: b"tree", 3: b"blob"}
        root = objects[0][1].split(b"\n")[0][5:].decode()
        forged = []
        for kind, body in objects:
            name = hashlib.sha1(kinds[kind] + b" %d\0" % len(body) + body).hexdigest()
            if name == root:
                body = b"100644 ..\0" + hashlib.sha1(b"blob 0\0").digest() + body
                changed = hashlib.sha1(b"tree %d\0" % len(body) + body).hexdigest()
            forged.append([kind, body])
        forged[0][1] = forged[0][1].replace(root.encode(), changed.encode(), 1)
        commit = hashlib.sha1(b"commit %d\0" % len(forged[0][1]) + forged[0][1]).hexdigest()
        pack = write_pack(forged + [[3, b""]])
        data = {sha256(pack): pack}

        def swap(document):
            if "layers" in document:
                document["layers"][0].update(digest=sha256(pack), size=len(pack))

        def index(request):
            if request.path.endswith("/main"):
                status, headers, body = rule(request)
                body = json.loads(body)
                body["manifests"][0]["annotations"]["org.verastore.commit"] = commit
                return status, headers, json.dumps(body).encode()
            return rule(request) or (
                request.path.rsplit("/", 1)[1] in data and (200, {}, data[request.path.rsplit("/", 1)[1]]))

        rule = self.altered("manifest", swap)
        self.refused("CORRUPT", rules=[index])

    def test_redirects_go_nowhere_else(self):
        for place in ("file:///etc/passwd", "gopher://127.0.0.1/x", "http://ada:x@127.0.0.1/", "http://["):
            with self.subTest(place):
                self.refused("INVALID", rules=[
                    lambda request, place=place: (302, {"Location": place}, b"")])
        self.refused("IO", "too often", rules=[
            lambda request: (302, {"Location": request.path + "x"}, b"")])

    def test_a_document_has_a_limit(self):
        self.refused("LIMIT", rules=[lambda request: request.path.endswith("/main") and
                                     (200, {}, b" " * ((4 << 20) + 1))])


def read_pack(data):
    """[type, contents] of each object of a pack of whole ones."""
    objects, at = [], 12
    for _ in range(int.from_bytes(data[8:12], "big")):
        kind = data[at] >> 4 & 7
        while data[at] & 0x80:
            at += 1
        at += 1
        inflate = zlib.decompressobj()
        body = inflate.decompress(data[at:])
        at = len(data) - len(inflate.unused_data)
        objects.append([kind, body])
    return objects


def write_pack(objects):
    out = b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big")
    for kind, body in objects:
        size, head = len(body) >> 4, [kind << 4 | len(body) & 15]
        while size:
            head[-1] |= 0x80
            head.append(size & 0x7f)
            size >>= 7
        out += bytes(head) + zlib.compress(body)
    return out + hashlib.sha1(out).digest()


if __name__ == "__main__":
    unittest.main()
