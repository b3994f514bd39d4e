"""vera swap against a program that has a model (swap_server.c): what its weights are afterwards, and
what peers can do to it that want no good."""
import contextlib
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import unittest

from harness import (PATIENCE, RepositoryTest, Result, VERA, adapter, base, decode, read_tensors,
                     write_tensors)

SERVER = os.environ["SWAP_SERVER"]
EXAMPLE = os.environ["EXAMPLE"]
STATUS, SWAP, DETACH = 1, 2, 3
CODES = ["", "NOTFOUND", "EXISTS", "INVALID", "CORRUPT", "CONFLICT", "LIMIT", "UNSUPPORTED", "IO",
         "NOMEM", "DEVICE"]
NOBODY = 65534


def digests(path):
    """{tensor: SHA-256} of a model's directory."""
    return {name: hashlib.sha256(data).hexdigest() for shard in shards(path)
            for name, (_, _, data) in read_tensors(shard).items()}


def shards(path):
    return [os.path.join(path, name) for name in sorted(os.listdir(path))
            if name.endswith(".safetensors")]


def request(verb, body=b"", length=None, magic=b"VSRQ", version=1):
    return magic + struct.pack("<BBHQ", version, verb, 0, len(body) if length is None else length) + body


def bundle_parts(bundle):
    """Its form and its ten parts."""
    lengths = struct.unpack("<10Q", bundle[8:88])
    parts, at = [], 152
    for length in lengths:
        parts.append(bundle[at:at + length])
        at += length
    return bundle[5], parts


def bundle_of(form, parts, lengths=None):
    """With right digests, whatever is in it."""
    body = b"".join(parts)
    head = b"VBDL" + struct.pack("<BBH", 1, form, 0)
    head += struct.pack("<10Q", *(lengths or [len(part) for part in parts]))
    head += hashlib.sha256(body).digest()
    return head + hashlib.sha256(head).digest() + body


class Reply:
    def __init__(self, data):
        assert len(data) >= 112 and data[:5] == b"VSRP\1", data
        self.code = CODES[data[5]]
        self.attached = bool(data[6] & 1)
        self.epoch, = struct.unpack("<Q", data[8:16])
        self.snapshot, self.previous = data[16:48].hex(), data[48:80].hex()
        message, hint = struct.unpack("<II", data[104:112])
        assert len(data) == 112 + message + hint, data
        self.message = data[112:112 + message].decode()
        self.hint = data[112 + message:].decode()


class Server:
    """A program with a model that listens, and a pipe to tell it what to do."""

    def __init__(self, test, model, *options, path="", expect="ready", **kwargs):
        self.path = path
        if path:
            options += (f"path={path}",)
        command = kwargs.pop("command", [])
        env = {**test.env, **kwargs.pop("env", {})}
        # What was freed does not count as held.
        env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=8"
        self.process = subprocess.Popen([*command, kwargs.pop("program", SERVER), model, *options],
                                        cwd=test.dir, env=env,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kwargs)
        test.addCleanup(self.end)
        self.ready = self.process.stdout.readline().strip()
        if expect is not None:
            test.assertIn(expect, self.ready)

    def end(self):
        """What it exits with; under the sanitizers that tells of leaks, too."""
        if self.process.returncode is None:
            try:
                with contextlib.suppress(BrokenPipeError):
                    self.process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
            if self.process.stdin and not self.process.stdin.closed:
                self.process.stdin.close()
        return self.process.returncode

    def tell(self, command):
        """Its answer's lines."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == "done\n":
                return lines
            lines.append(line.split())
        raise AssertionError("the server has ended")

    def weights(self):
        return dict(line for line in self.tell("weights") if line != ["end"])

    def connect(self):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(PATIENCE)
        peer.connect(self.path)
        return peer

    def ask(self, data, half_close=False):
        """Its Reply to these bytes, None where it closed without one."""
        answer = self.ask_raw(data, half_close)
        return Reply(answer) if answer else None

    def ask_raw(self, data, half_close=False):
        with self.connect() as peer:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                peer.sendall(data)
                if half_close:
                    peer.shutdown(socket.SHUT_WR)
            return receive(peer)

    def memory(self):
        """Bytes of it that are in memory now."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()


def unread(peer):
    """Bytes that the other side has not taken yet."""
    return struct.unpack("i", fcntl.ioctl(peer, termios.TIOCOUTQ, bytes(4)))[0]


def receive(peer):
    """All that comes; a connection that is cut ends it."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := peer.recv(1 << 16):
            data += piece
    return data


class SwapTest(RepositoryTest):
    adapters = (adapter("llama/step-030"), adapter("llama/step-060"), adapter("llama/step-120"))
    revisions = ("main~2", "main~1", "main")

    def serve(self, *options, model=base("llama"), name="s", **kwargs):
        return Server(self, model, *options, path=self.path(name), **kwargs)

    def swap(self, server, *args, **kwargs):
        return self.vera("swap", *args, "--socket", server.path, "--json", **kwargs).json

    def status(self, server):
        return self.swap(server, "--status")

    def refused(self, server, *args, **kwargs):
        """swap fails, and changes nothing."""
        before = self.status(server), server.weights()
        error = self.fails("swap", *args, "--socket", server.path, **kwargs)
        self.assertEqual((self.status(server), server.weights()), before)
        return error

    def applied(self, revision, model=base("llama")):
        """What vera apply makes of it."""
        out = tempfile.mkdtemp(dir=self.top)
        self.vera("apply", revision, "--base", model, "--out", out)
        return digests(out)

    def bundle(self, revision="main"):
        """As it is sent."""
        with self.spawn(["export", revision, "-", "--as", "bundle"], stdout=subprocess.PIPE) as process:
            out, _ = process.communicate(timeout=PATIENCE)
        _, parts = bundle_parts(out)
        return bundle_of(0, [*parts[:5], b"", *parts[6:9], b""])

    def lives(self, server, code="CORRUPT"):
        """The next client is served, and gets what it asks for."""
        epoch = self.status(server)["epoch"]
        revision = self.revisions[epoch % 2]
        self.assertEqual(self.swap(server, revision)["epoch"], epoch + 1)
        self.assertEqual(server.weights(), self.known(revision))

    def known(self, revision):
        cls = type(self)
        if "results" not in vars(cls):
            cls.results = {}
        if revision not in cls.results:
            cls.results[revision] = self.applied(revision)
        return cls.results[revision]


class Swapping(SwapTest):
    def test_after_each_swap_the_weights_are_what_apply_writes(self):
        server, seen = self.serve(), []
        self.assertEqual(server.weights(), digests(base("llama")))
        for epoch, revision in enumerate([*self.revisions, "main~1", "main~2"], 1):
            state = self.swap(server, revision)
            self.assertEqual(server.weights(), self.known(revision))
            shown = self.vera("show", revision, "--json").json
            seen.append(shown["snapshot"])
            self.assertEqual(state["epoch"], epoch)
            self.assertEqual(state["snapshot"], seen[-1])
            self.assertEqual(state["previous"], seen[-2] if epoch > 1 else None)
            self.assertEqual(state["modules"], shown["modules"])
            self.assertFalse(state["pinned"])
            self.assertGreater(state["seconds"], 0)
            self.assertEqual(self.status(server), state)
        state = self.swap(server, "--detach")
        self.assertEqual((state["epoch"], state["snapshot"], state["previous"], state["modules"]),
                         (6, None, seen[-1], 0))
        self.assertEqual(server.weights(), digests(base("llama")))
        self.assertEqual(server.end(), 0)

    def test_other_models_and_directories(self):
        for number, (model, name) in enumerate([
                ("llama", "llama-vectors-only"), ("llama-half", "llama-half/step-030"),
                ("llama-half", "llama-half-vectors-only"), ("gpt2", "gpt2/step-040"),
                ("bert", "bert/step-040")]):
            with self.subTest(name):
                server = self.serve(model=base(model), name=f"s{number}")
                state = self.swap(server, adapter(name))
                self.assertEqual(server.weights(), self.applied(adapter(name), base(model)))
                self.swap(server, "--detach")
                self.assertEqual(server.weights(), digests(base(model)))
                self.assertEqual(state["epoch"], 1)
                self.assertEqual(server.end(), 0)

    def test_a_stored_basis_is_sent_along(self):
        source = self.path("stored")
        shutil.copytree(adapter("llama/step-120"), source)
        path = os.path.join(source, "adapter_model.safetensors")
        tensors = read_tensors(path)
        dtype, shape, data = tensors["base_model.vera_A"]
        tensors["base_model.vera_A"] = dtype, shape, data[:-1] + bytes([data[-1] ^ 1])
        write_tensors(path, tensors)
        server = self.serve()
        self.swap(server, "./stored")
        self.assertEqual(server.weights(), self.applied("./stored"))
        self.assertNotEqual(server.weights(), self.known("main"))

    def test_the_adapter_that_is_there_stays_there(self):
        server = self.serve()
        state = self.swap(server, "main")
        self.assertEqual(self.swap(server, adapter("llama/step-120")), state)
        self.assertEqual(self.swap(server, "--detach")["epoch"], 2)
        self.assertEqual(self.swap(server, "--detach")["epoch"], 2)

    def test_what_it_says(self):
        server = self.serve()
        result = self.vera("swap", "--status", "--socket", server.path)
        self.assertEqual((result.out, result.err), ("epoch 0: no adapter\n", ""))
        result = self.vera("swap", "main", "--socket", server.path)
        id = self.vera("show", "--json").json["snapshot"][7:19]
        self.assertRegex(result.out, rf"^epoch 1: snapshot {id} on \d+ modules in \d+\.\d\d ms, "
                                     r"of these \d+\.\d\d ms stopped; before it none\n$")
        self.assertIn("unpinned", result.err)
        self.vera("commit", adapter("llama/step-060"), "--base", base("llama"))
        result = self.vera("swap", "main", "--socket", server.path)
        self.assertIn(f"before it {id}", result.out)
        self.assertEqual(result.err, "")
        self.assertTrue(self.status(server)["pinned"])
        result = self.vera("swap", "--detach", "--socket", server.path)
        self.assertRegex(result.out, r"^epoch 3: no adapter in \d.*; before it \w{12}\n$")
        self.assertEqual(result.err, "")

    def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(self):
        server = self.serve()
        self.swap(server, "main~1")
        error = self.refused(server, adapter("bert/step-040"), says=["0 of ", "\n  "])
        self.assertIn("bert", error["message"])
        source = self.path("infinite")
        shutil.copytree(adapter("llama/step-120"), source)
        path = os.path.join(source, "adapter_model.safetensors")
        tensors = read_tensors(path)
        name = next(name for name in tensors if name.endswith("vera_lambda_d"))
        dtype, shape, data = tensors[name]
        tensors[name] = dtype, shape, data[:-4] + struct.pack("<f", float("inf"))
        write_tensors(path, tensors)
        self.refused(server, "./infinite", says="finite")

    def test_another_base_is_a_conflict(self):
        other = self.path("base")
        shutil.copytree(base("llama"), other)
        shard = shards(other)[0]
        tensors = read_tensors(shard)
        name = next(name for name in tensors if name.endswith("_proj.weight"))
        dtype, shape, data = tensors[name]
        tensors[name] = dtype, shape, data[:-1] + bytes([data[-1] ^ 1])
        write_tensors(shard, tensors)
        self.vera("commit", adapter("llama/step-060"), "--base", base("llama"))
        server = self.serve(model=other)
        self.refused(server, "main", code="CONFLICT", says=name.removesuffix(".weight"))
        self.assertEqual(self.swap(server, "main~1")["epoch"], 1)

    def test_eight_readers_never_see_a_mixture(self):
        server, looks = self.serve(), []
        for order in range(3):
            server.tell("read 8")
            for revision in (*self.revisions[order:], *self.revisions[:order], "--detach"):
                self.swap(server, revision)
            looks += self.looked(server)
        # One state, one digest of all weights: the one that it has at rest.
        at_rest = {}
        for revision in (*self.revisions, "--detach"):
            id = self.swap(server, revision)["snapshot"] or "sha256:" + "0" * 64
            self.assertEqual(server.weights(), digests(base("llama")) if revision == "--detach"
                             else self.known(revision))
            server.tell("read 1")
            while not (rest := self.looked(server)):
                server.tell("read 1")
            self.assertEqual([look[0] for look in rest], [id[7:]])
            at_rest[id[7:]] = rest[0][1]
        self.assertEqual(len(set(at_rest.values())), 4)
        for snapshot, weights, _ in looks:
            self.assertEqual(weights, at_rest[snapshot])
        self.assertGreaterEqual(len({look[0] for look in looks}), 3)
        self.assertGreater(sum(int(look[2]) for look in looks), 50)

    def looked(self, server):
        return [line for line in server.tell("looked") if line != ["end"]]

    def test_a_swap_that_waits_keeps_nobody_else_waiting(self):
        server = self.serve()
        server.tell("hold")
        first = self.spawn(["swap", "main", "--socket", server.path, "--json"],
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(first.wait)
        self.addCleanup(first.stdout.close)
        error = self.fails("swap", "main~1", "--socket", server.path, "--timeout", "1",
                           code="CONFLICT", says="no answer in time", hint="--status")
        self.assertIn(server.path, error["message"])
        self.assertEqual(self.status(server)["epoch"], 0)
        third = self.spawn(["swap", "--detach", "--socket", server.path], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        while self.status(server)["epoch"] or third.poll() is None:
            third.send_signal(signal.SIGINT)
        self.assertEqual(third.wait(), 130)
        server.tell("release")
        self.assertEqual(first.wait(PATIENCE), 0)
        # What had arrived whole was done, though its sender had gone.
        while self.status(server)["epoch"] < 2:
            pass
        self.assertEqual(server.end(), 0)


class Files(SwapTest):
    def test_nobody_else_may_open_the_file_and_it_goes_in_the_end(self):
        before = os.umask(0)
        try:
            server = self.serve()
        finally:
            os.umask(before)
        status = os.lstat(server.path)
        self.assertTrue(stat.S_ISSOCK(status.st_mode))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o600)
        self.assertEqual(server.end(), 0)
        self.assertFalse(os.path.lexists(server.path))
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_what_a_killed_server_left_is_replaced(self):
        server = self.serve()
        self.swap(server, "main")
        server.process.kill()
        server.process.communicate()
        self.assertTrue(os.path.lexists(server.path))
        self.fails("swap", "--status", "--socket", server.path, code="NOTFOUND",
                   says="nobody listens", hint="start the program")
        again = self.serve()
        self.assertEqual(self.status(again)["epoch"], 0)
        self.lives(again)
        self.assertEqual(again.end(), 0)
        self.assertFalse(os.path.lexists(server.path))

    def test_one_that_listens_is_not_replaced_nor_anything_else(self):
        server = self.serve()
        other = self.serve(expect="EXISTS")
        self.assertIn("listens", other.ready)
        self.assertEqual(other.end(), 1)
        self.lives(server)
        with open(self.path("file"), "w", encoding="ascii") as file:
            file.write("kept")
        self.serve(name="file", expect="EXISTS")
        os.symlink("nowhere", self.path("link"))
        self.serve(name="link", expect="EXISTS")
        with open(self.path("file"), encoding="ascii") as file:
            self.assertEqual(file.read(), "kept")
        self.assertEqual(os.readlink(self.path("link")), "nowhere")
        self.serve(name="no/such", expect="NOTFOUND")
        self.serve(name="n" * 81, expect="LIMIT")

    def test_of_many_that_begin_at_once_one_gets_it(self):
        for _ in range(3):
            stale = socket.socket(socket.AF_UNIX)
            stale.bind(self.path("s"))
            stale.close()
            servers = []
            threads = [threading.Thread(target=lambda: servers.append(self.serve(expect=None)))
                       for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            listening = [server for server in servers if server.ready == "ready"]
            self.assertEqual(len(listening), 1, [server.ready for server in servers])
            self.assertEqual(self.status(listening[0])["epoch"], 0)
            for server in servers:
                server.end()
            self.assertFalse(os.path.lexists(self.path("s")))

    def test_who_looks_and_binds_has_the_directory_for_itself(self):
        folder = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX)
        self.serve(expect="CONFLICT")
        self.assertEqual(os.listdir(self.dir), [".vera"])
        fcntl.flock(folder, fcntl.LOCK_UN)
        self.lives(self.serve())

    def test_a_file_that_is_no_longer_ours_is_left(self):
        server = self.serve()
        os.unlink(server.path)
        other = self.serve()
        self.assertEqual(server.end(), 0)
        self.lives(other)

    def test_a_path_longer_than_an_address(self):
        folder = self.path(*["d" * 100] * 3)
        os.makedirs(folder)
        server = self.serve(name=os.path.join(folder, "s"))
        self.assertEqual(self.swap(server, "main")["epoch"], 1)
        again = self.serve(name=os.path.join(folder, "s"), expect="EXISTS")
        self.assertEqual((again.end(), server.end()), (1, 0))
        self.assertEqual(os.listdir(folder), [])

    def inherit(self, sockets, *options, names=None, pid="$$", **kwargs):
        """A server that is started as systemd does it, with these sockets."""
        def hand_over():
            for number, one in enumerate(sockets):
                os.dup2(one.fileno(), 20 + number)
            for number in range(len(sockets)):
                os.dup2(20 + number, 3 + number)

        env = {"LISTEN_FDS": str(len(sockets)), **({"LISTEN_FDNAMES": names} if names else {})}
        return Server(self, base("llama"), *options, env=env, preexec_fn=hand_over, close_fds=False,
                      command=["sh", "-c", f'LISTEN_PID={pid} exec "$@"', "sh"], **kwargs)

    def listener(self, name):
        one = socket.socket(socket.AF_UNIX)
        self.addCleanup(one.close)
        one.bind(self.path(name))
        one.listen()
        return one

    def test_a_socket_can_be_inherited(self):
        one = self.listener("in")
        server = self.inherit([one], "inherited=")
        server.path = self.path("in")
        self.lives(server)
        self.assertEqual(server.end(), 0)
        # It is the one's who made it: the next server goes on there.
        self.assertTrue(os.path.lexists(server.path))
        again = self.inherit([self.listener("other"), one], "inherited=vera", names="other:vera")
        again.path = self.path("in")
        self.lives(again)
        self.assertEqual(again.end(), 0)

    def test_what_is_inherited_must_be_a_socket_that_listens(self):
        one = self.listener("in")
        self.inherit([one], "inherited=vera", names="other", expect="NOTFOUND")
        self.inherit([one], "inherited=", pid="1", expect="NOTFOUND")
        self.inherit([], "inherited=", expect="NOTFOUND")
        with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX,
                                                                  socket.SOCK_DGRAM) as packets:
            self.inherit([deaf], "inherited=", expect="INVALID")
            self.inherit([packets], "inherited=", expect="INVALID")
        with socket.socket() as network:
            network.bind(("127.0.0.1", 0))
            network.listen()
            self.inherit([network], "inherited=", expect="INVALID")

    @contextlib.contextmanager
    def as_nobody(self, do):
        """What `do` returns in a process of that user."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                os.write(write, do())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            yield file.read()
        os.waitpid(child, 0)

    def test_another_user_is_not_even_listened_to(self):
        if os.geteuid() != 0:
            print(f"{self.id()}: not tried here, only root can be another user", file=sys.stderr)
            return
        folder = tempfile.mkdtemp(prefix="vera-test-", dir="/tmp")
        self.addCleanup(shutil.rmtree, folder)
        os.chmod(folder, 0o755)
        server = self.serve(name=os.path.join(folder, "s"))
        os.chmod(server.path, 0o666)
        with self.as_nobody(lambda: server.ask_raw(b"garbage that nobody reads")) as answer:
            reply = Reply(answer)
        self.assertEqual((reply.code, reply.epoch), ("IO", 0))
        self.assertIn("user 0", reply.message)
        self.assertIn("sudo -u '#0'", reply.hint)
        self.lives(server)
        # Root is another user, too.
        shutil.copytree(base("llama"), os.path.join(folder, "base"))
        program = shutil.copy(SERVER, folder)
        os.chmod(program, 0o755)
        os.mkdir(os.path.join(folder, "run"))
        os.chown(os.path.join(folder, "run"), NOBODY, NOBODY)
        theirs = self.serve(name=os.path.join(folder, "run", "s"), model=os.path.join(folder, "base"),
                            program=program, user=NOBODY, group=NOBODY, extra_groups=[])
        self.fails("swap", "--status", "--socket", theirs.path, code="IO", says=f"user {NOBODY}",
                   hint="sudo")
        self.fails("swap", "main", "--socket", theirs.path, code="IO", says=f"user {NOBODY}")
        self.assertEqual(theirs.end(), 0)


class Example(SwapTest):
    """The program that the guide shows, with the public functions alone."""

    def example(self, *arguments, **kwargs):
        process = subprocess.Popen([EXAMPLE, "listen", *arguments], cwd=self.dir, env=self.env,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kwargs)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.communicate)
        self.assertEqual(process.stdout.readline(), "epoch 0: no adapter, norm of the weights 0.000000\n")
        return process

    def request(self, process):
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().rstrip()

    def check(self, process, path):
        norms = set()
        for epoch, name in enumerate(["gpt2/step-040", "gpt2/step-010", "gpt2/step-040"], 1):
            state = self.vera("swap", adapter(name), "--socket", path, "--json").json
            line = self.request(process)
            self.assertRegex(line, f"^epoch {epoch}: {state['snapshot'][7:19]}, norm of the weights 0\\.[0-9]*[1-9]")
            norms.add(line.split()[-1])
        self.assertEqual(len(norms), 2)
        self.fails("swap", adapter("bert/step-040"), "--socket", path, says="matched 0 of")
        self.assertEqual(self.request(process), line)
        self.vera("swap", "--detach", "--socket", path)
        self.assertEqual(self.request(process), "epoch 4: no adapter, norm of the weights 0.000000")
        process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0)

    def test_it_listens_at_a_path(self):
        process = self.example("s")
        self.check(process, "s")
        self.assertEqual(os.listdir(self.dir), [".vera"])

    def test_it_listens_on_what_it_inherits(self):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(self.path("s"))
            one.listen()

            def hand_over():
                os.dup2(one.fileno(), 20)
                os.dup2(20, 3)
                os.environ.update(self.env, LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
                os.execv(EXAMPLE, [EXAMPLE, "listen"])

            process = self.example(preexec_fn=hand_over, close_fds=False)
            self.check(process, "s")


class Hostile(SwapTest):
    def setUp(self):
        super().setUp()
        self.server = self.serve()
        self.swap(self.server, "main~2")
        self.bundle_sent = self.bundle()

    def check(self, data, code, says="", half_close=False):
        """These bytes are refused so, and the model stays as it was."""
        reply = self.server.ask(data, half_close)
        self.assertEqual(reply.code, code, reply.message)
        self.assertIn(says, reply.message)
        self.assertEqual(reply.epoch, self.epoch)
        return reply

    @property
    def epoch(self):
        return self.server.ask(request(STATUS)).epoch

    def tearDown(self):
        self.assertEqual(self.server.weights(), self.known("main~2"))
        self.assertEqual(self.server.ask(request(SWAP, self.bundle_sent)).code, "")
        self.assertEqual(self.server.weights(), self.known("main"))
        self.lives(self.server)
        self.assertEqual(self.server.end(), 0)
        super().tearDown()

    def test_a_request_that_ends_early_anywhere(self):
        whole = request(SWAP, self.bundle_sent)
        self.assertIsNone(self.server.ask(b"", half_close=True))
        for length in range(1, len(whole)):
            reply = self.server.ask(whole[:length], half_close=True)
            self.assertEqual((reply.code, reply.epoch), ("CORRUPT", 1), length)
            self.assertIn(f"ends after {length} bytes of ", reply.message)

    def test_a_sender_that_goes_away_anywhere(self):
        whole = request(SWAP, self.bundle_sent)
        for length in range(0, len(whole), 37):
            with self.server.connect() as peer:
                peer.sendall(whole[:length])
        for _ in range(200):
            with self.server.connect() as peer:
                peer.sendall(request(STATUS))
        self.assertEqual(self.epoch, 1)

    def test_flipped_bits_and_garbage(self):
        whole = request(SWAP, self.bundle_sent)
        places = [*range(168), *range(168, len(whole), 101), len(whole) - 1]
        for at in places:
            reply = self.server.ask(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1:],
                                    half_close=True)
            self.assertIn(reply.code, ("CORRUPT", "LIMIT", "UNSUPPORTED"), at)
            self.assertEqual(reply.epoch, 1)
        self.check(b"GET / HTTP/1.1\r\n\r\n", "CORRUPT", "these bytes are none")
        self.check(os.urandom(1 << 20), "CORRUPT")
        self.check(request(STATUS, version=2), "UNSUPPORTED", "version 2")
        self.check(request(9), "UNSUPPORTED", "verb 9")
        self.check(request(STATUS, b"x"), "CORRUPT", "canonical")
        self.check(request(DETACH, length=1), "CORRUPT", "canonical")
        self.check(request(SWAP), "CORRUPT", "0 bytes")

    def test_what_claims_to_be_large_takes_no_memory(self):
        form, parts = bundle_parts(self.bundle_sent)
        lengths = [len(part) for part in parts]
        self.epoch  # all that is taken at first is there
        before = self.server.memory()
        for i in range(10):
            for length in (1 << 63, (1 << 64) - 1, 1 << 40, (1 << 31) + 1):
                claimed = bundle_of(form, parts, [*lengths[:i], length, *lengths[i + 1:]])
                self.check(request(SWAP, claimed), "LIMIT", "at most")
                self.check(request(SWAP, claimed, length=length), "LIMIT", "at most")
        self.check(request(SWAP, self.bundle_sent, length=1 << 62), "CORRUPT", "its body has")
        # A length that the model can take: as much memory as has arrived.
        claimed = bundle_of(form, parts, [*lengths[:7], 1 << 30, *lengths[8:]])
        peers = [self.server.connect() for _ in range(20)]
        for peer in peers:
            peer.sendall(request(SWAP, claimed[:500], length=152 + sum(lengths) + (1 << 30)))
        self.assertEqual(self.epoch, 1)
        self.assertLess(self.server.memory() - before, 32 << 20)
        for peer in peers:
            peer.close()

    def test_one_that_is_sent_in_part_holds_what_it_sent_and_not_for_ever(self):
        form, parts = bundle_parts(self.bundle_sent)
        lengths = [len(part) for part in parts]
        claimed = bundle_of(form, parts, [*lengths[:7], 1 << 30, *lengths[8:]])
        for _ in range(10):
            with self.server.connect() as peer:
                peer.sendall(request(SWAP, claimed, length=152 + sum(lengths) + (1 << 30)))
                peer.sendall(bytes(8 << 20))
        self.assertEqual(self.epoch, 1)
        self.assertLess(self.server.memory(), 200 << 20)

    def test_wrong_digests_order_and_shapes(self):
        form, parts = bundle_parts(self.bundle_sent)
        for first, second in ((0, 1), (0, 3), (1, 2), (2, 3), (2, 6), (3, 6), (0, 6)):
            turned = [*parts]
            turned[first], turned[second] = turned[second], turned[first]
            reply = self.server.ask(request(SWAP, bundle_of(form, turned)))
            self.assertIn(reply.code, ("CORRUPT", "LIMIT", "INVALID"), (first, second))
            self.assertEqual(reply.epoch, 1)
        payload = parts[6][:-1] + bytes([parts[6][-1] ^ 1])
        self.check(request(SWAP, bundle_of(form, [*parts[:6], payload, *parts[7:]])), "CORRUPT")
        self.check(request(SWAP, bundle_of(1, parts)), "CORRUPT", "whole")
        self.check(request(SWAP, self.bundle(adapter("bert/step-040"))), "INVALID", "0 of ")
        self.check(request(SWAP, self.bundle_sent[:152]), "CORRUPT")
        extra = bundle_of(form, [*parts[:6], parts[6] + bytes(4), *parts[7:]])
        self.check(request(SWAP, extra), "CORRUPT")

    def test_a_thousand_idle_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < 1100:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        peers = []
        for number in range(1000):
            peers.append(self.server.connect())
            if number % 2:
                peers[-1].sendall(request(SWAP, self.bundle_sent)[:number % 160])
            if number % 100 == 99:
                self.assertEqual(self.status(self.server)["epoch"], 1)
        self.assertEqual(self.status(self.server)["epoch"], 1)
        self.assertLess(len(os.listdir(f"/proc/{self.server.process.pid}/fd")), 100)
        # The newest are still heard.
        peers[-2].sendall(request(STATUS))
        self.assertEqual(Reply(receive(peers[-2])).epoch, 1)
        for peer in peers:
            peer.close()

    def test_peers_that_never_read(self):
        peers = [self.server.connect() for _ in range(200)]
        for peer in peers:
            with contextlib.suppress(BrokenPipeError):
                peer.sendall(request(STATUS))
        self.assertEqual(self.epoch, 1)
        for peer in peers:
            peer.close()

    def test_a_request_behind_the_first_is_not_read(self):
        reply = self.server.ask(request(STATUS) + request(DETACH) * 1000)
        self.assertEqual((reply.code, reply.epoch), ("", 1))
        self.assertEqual(self.epoch, 1)


class Slow(SwapTest):
    def test_a_request_has_its_time_and_no_more(self):
        server = self.serve("request_ms=300", "body_rate=1000000000")
        whole = request(SWAP, self.bundle())
        beginnings = [b"", whole[:1], whole[:15], whole[:100], whole[:2000]]
        peers = [server.connect() for _ in beginnings]
        for peer, data in zip(peers, beginnings):
            peer.sendall(data)
        # Bytes that drip in do not make it longer.
        dripping = server.connect()
        dripped = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for at in range(len(whole)):
                dripping.sendall(whole[at:at + 1])
                dripped += 1
                dripping.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    if dripping.recv(1 << 16, socket.MSG_PEEK):
                        break
        dripping.settimeout(PATIENCE)
        self.assertLess(dripped, 200)
        peers.append(dripping)
        beginnings.append(whole[:dripped])
        for peer, data in zip(peers, beginnings):
            reply = Reply(receive(peer))
            self.assertEqual((reply.code, reply.epoch), ("CONFLICT", 0))
            self.assertRegex(reply.message, r"after 0\.[3-9] s there are|after [1-9]\d*\.\d s there are")
            peer.close()
        self.lives(server)

    def test_a_body_has_time_by_its_length(self):
        server = self.serve("request_ms=300", "body_rate=20000")
        whole = request(SWAP, self.bundle())
        self.assertGreater(len(whole), 10000)
        slow, never = server.connect(), server.connect()
        never.sendall(whole[:200])
        slow.sendall(whole[:200])
        slow.settimeout(0.4)
        with self.assertRaises(TimeoutError):
            slow.recv(1)
        slow.settimeout(PATIENCE)
        slow.sendall(whole[200:])
        self.assertEqual(Reply(receive(slow)).code, "")
        self.assertEqual(Reply(receive(never)).code, "CONFLICT")
        slow.close()
        never.close()

    def test_full_of_senders_the_idle_go_first(self):
        server = self.serve("peers=4")
        whole = request(SWAP, self.bundle())
        sender, idle = server.connect(), server.connect()
        sender.sendall(whole[:1000])
        while unread(sender):
            pass
        others = [server.connect() for _ in range(20)]
        self.assertEqual(server.ask(request(STATUS)).epoch, 0)
        self.assertEqual(receive(idle), b"")
        sender.sendall(whole[1000:])
        self.assertEqual(Reply(receive(sender)).epoch, 1)
        for peer in (sender, idle, *others):
            peer.close()

    def test_all_places_taken_by_swaps_that_wait(self):
        server = self.serve("peers=2")
        server.tell("hold")
        whole = request(SWAP, self.bundle())
        waiting = [server.connect() for _ in range(2)]
        for peer in waiting:
            peer.sendall(whole)
            while unread(peer):
                pass
        late = server.connect()
        late.sendall(request(STATUS))
        late.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            late.recv(1)
        late.settimeout(PATIENCE)
        server.tell("release")
        self.assertEqual([Reply(receive(peer)).epoch for peer in waiting], [1, 1])
        self.assertEqual(Reply(receive(late)).code, "")
        for peer in (late, *waiting):
            peer.close()


class FakeServer:
    """Takes one connection, all that comes or `length` bytes of it, and answers these bytes."""

    def __init__(self, test, answer, length=16):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(test.path("fake"))
        self.socket.listen()
        self.answer, self.length, self.got = answer, length, b""
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        test.addCleanup(self.end)

    def run(self):
        peer, _ = self.socket.accept()
        with peer:
            while len(self.got) < self.length and (piece := peer.recv(1 << 16)):
                self.got += piece
            peer.sendall(self.answer)

    def end(self):
        self.thread.join(PATIENCE)
        self.socket.close()


class Client(SwapTest):
    adapters = (adapter("llama/step-120"),)

    def answer(self, code=0, flags=0, message=b"", hint=b"", snapshot=b"", lengths=None):
        return (b"VSRP" + bytes([1, code, flags, 0]) + struct.pack("<Q", 7) + snapshot.ljust(32, b"\0")
                + bytes(32) + struct.pack("<QQQ", 3, 5, 4)
                + struct.pack("<II", *(lengths or (len(message), len(hint)))) + message + hint)

    def ask_fake(self, answer, length=16, **kwargs):
        server = FakeServer(self, answer, length)
        try:
            return self.fails("swap", "--status", "--socket", "fake", **kwargs)
        finally:
            server.end()
            os.unlink(self.path("fake"))

    def test_what_is_sent_is_bare_and_without_what_can_be_drawn(self):
        wanted = request(SWAP, self.bundle())
        server = FakeServer(self, self.answer(flags=1, snapshot=b"x"), len(wanted))
        state = self.vera("swap", "main", "--socket", "fake", "--json").json
        self.assertEqual(server.got, wanted)
        form, parts = bundle_parts(server.got[16:])
        self.assertEqual((form, parts[5], *parts[7:]), (0, b"", b"", b"", b""))
        self.assertEqual(state, {"epoch": 7, "snapshot": "sha256:" + b"x".ljust(32, b"\0").hex(),
                                 "previous": None, "seconds": 5e-9, "stopped": 4e-9, "modules": 3,
                                 "pinned": False, "torn": False})

    def test_a_mixture_is_told(self):
        for format in ((), ("--json",)):
            server = FakeServer(self, self.answer(flags=8), 16)
            result = self.vera("swap", "--status", "--socket", "fake", *format)
            self.assertIn("vera: warning: torn", result.err)
            self.assertIn("epoch 7: a mixture in", result.out + result.err)
            server.end()
            os.unlink(self.path("fake"))
        self.assertEqual((result.json["torn"], result.json["snapshot"]), (True, None))

    def test_errors_of_the_server_are_ours(self):
        error = self.ask_fake(self.answer(5, message=b"a: b\n  first\n  second", hint=b"do this"),
                              code="CONFLICT", hint="do this")
        self.assertEqual(error["message"], "a: b\n  first\n  second")
        self.ask_fake(self.answer(4, message=b"in the lines of the server \x1b[31mred\x07"),
                      code="CORRUPT", says="red", hint=None)
        long = b"x" * 65536
        self.ask_fake(self.answer(10, message=long), code="DEVICE", says="xxxx")

    def test_answers_that_are_none(self):
        for number, (answer, code) in enumerate([
                (b"", "CONFLICT"), (b"VSRP", "CONFLICT"), (b"HTTP/1.1 400 Bad Request" * 10, "CORRUPT"),
                (self.answer()[:111], "CONFLICT"), (self.answer(11, message=b"x"), "CORRUPT"),
                (self.answer(255, message=b"x"), "CORRUPT"), (self.answer(3), "CORRUPT"),
                (self.answer(0, message=b"x"), "CORRUPT"), (self.answer(flags=1), "CORRUPT"),
                (self.answer(flags=16), "CORRUPT"),
                (self.answer(flags=9, snapshot=b"x"), "CORRUPT"), (self.answer(snapshot=b"x"), "CORRUPT"),
                (self.answer(3, lengths=(65537, 0)), "LIMIT"),
                (self.answer(3, lengths=(1 << 31, 1 << 31)), "LIMIT"),
                (self.answer(3, lengths=(10, 1025)), "LIMIT"),
                (self.answer(3, message=b"short", lengths=(100, 0)), "CONFLICT"),
                (b"VSRP\2" + self.answer()[5:], "UNSUPPORTED")]):
            with self.subTest(number):
                self.ask_fake(answer, code=code)

    def test_a_server_that_never_answers(self):
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(self.path("silent"))
            silent.listen()
            self.fails("swap", "--status", "--socket", "silent", "--timeout", "1", code="CONFLICT",
                       says="no answer in time", hint=None)

    def test_nobody_there(self):
        self.fails("swap", "main", "--socket", "no/such", code="NOTFOUND", hint="start the program")
        with open(self.path("file"), "w", encoding="ascii"):
            pass
        self.fails("swap", "main", "--socket", "file", code="NOTFOUND", says="nobody listens")
        self.fails("swap", "main", "--socket", self.dir + "/", code="INVALID", says="name")

    def test_usage(self):
        self.fails("swap", "main", status=2, says="--socket")
        self.fails("swap", "--socket", "s", status=2, says="REV")
        for arguments in (["main", "--detach"], ["main", "--status"], ["--detach", "--status"]):
            self.fails("swap", *arguments, "--socket", "s", status=2, says="exclude")
        for seconds in ("0", "604801", "x", "-1"):
            self.fails("swap", "main", "--socket", "s", "--timeout", seconds, status=2)
        self.fails("swap", "no-such", "--socket", "s", code="NOTFOUND")
        self.fails("swap", "main", "main", "--socket", "s", status=2)

    def test_progress_of_what_is_sent(self):
        server = self.serve()
        result = self.vera_raw("swap", "main", "--socket", server.path, "--progress")
        self.assertEqual(result.code, 0, result)
        self.assertIn("100%", result.err)

    def vera_raw(self, *args):
        done = subprocess.run([VERA, *args], cwd=self.dir, env=self.env, capture_output=True,
                              check=False, timeout=PATIENCE)
        return Result(done.returncode, decode(done.stdout), decode(done.stderr))


if __name__ == "__main__":
    unittest.main()
