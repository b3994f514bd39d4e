"""Runs the real program: each test has a directory, a home and an environment of its own.

The path of the program is $VERA, that of the library which makes system calls fail is $PRELOAD (see
preload.c); both are set by meson.
"""
import errno
import fcntl
import functools
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import unittest

VERA = os.environ["VERA"]
PRELOAD = os.environ["PRELOAD"]
TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIXTURES = os.path.join(TESTS, "fixtures")
PATIENCE = 60  # seconds until a program that hangs is a failure


def fast_folder():
    """Where tests write: in memory, where there is room, since most of their time would go into
    waiting for the disk; else None, the usual place."""
    memory = "/dev/shm"
    if not os.access(memory, os.W_OK | os.X_OK):
        return None
    space = os.statvfs(memory)
    return memory if space.f_bavail * space.f_frsize >= 1 << 30 else None


FOLDER = fast_folder()


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit status {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"

    @property
    def json(self):
        """The one object on stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self
        return json.loads(lines[0])

    @property
    def lines(self):
        """One object per line."""
        return [json.loads(line) for line in self.out.splitlines()]


def decode(data):
    return data.decode("utf-8", "surrogateescape")


def adapter(name):
    return os.path.join(FIXTURES, "adapter", name)


def base(name):
    return os.path.join(FIXTURES, "base", name)


def tree(top):
    """Every path below `top`, with the digest of a file, the target of a link, or None."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders:
            found[os.path.relpath(os.path.join(folder, name), top)] = None
        for name in files:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[os.path.relpath(path, top)] = os.readlink(path)
                continue
            with open(path, "rb") as file:
                found[os.path.relpath(path, top)] = hashlib.sha256(file.read()).hexdigest()
    return found


def read_tensors(path):
    """{name: (dtype, shape, bytes)} of a safetensors file."""
    with open(path, "rb") as file:
        data = file.read()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    return {name: (info["dtype"], info["shape"],
                   data[end + info["data_offsets"][0]:end + info["data_offsets"][1]])
            for name, info in header.items()}


def write_tensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


class VeraTest(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.mkdtemp(prefix="vera-test-", dir=FOLDER)
        self.addCleanup(shutil.rmtree, self.top, ignore_errors=True)
        self.home = os.path.join(self.top, "home")
        self.dir = os.path.join(self.top, "work")
        os.mkdir(self.home)
        os.mkdir(self.dir)
        kept = ("PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS")
        self.env = {name: os.environ[name] for name in kept if name in os.environ}
        self.env.update(HOME=self.home, LC_ALL="C", TERM="xterm", GIT_CONFIG_NOSYSTEM="1",
                        GIT_AUTHOR_NAME="Ada", GIT_AUTHOR_EMAIL="ada@example.org",
                        GIT_COMMITTER_NAME="Ada", GIT_COMMITTER_EMAIL="ada@example.org",
                        VERA_CUDA_MODULE=os.devnull)  # no GPU is taken by default

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def spawn(self, args, **kwargs):
        kwargs.setdefault("cwd", self.dir)
        kwargs["env"] = {**self.env, **kwargs.get("env", {})}
        return subprocess.Popen([VERA, *args], **kwargs)

    def vera(self, *args, code=0, stdin=b"", **kwargs):
        """Run it; its exit status must be `code` (None: any). No output may hold a control
        character, whatever was in a name."""
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        with self.spawn(args, stdin=subprocess.PIPE, **kwargs) as process:
            try:
                out, err = process.communicate(stdin, timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        result = Result(process.returncode, decode(out or b""), decode(err or b""))
        if code is not None:
            self.assertEqual(result.code, code, result)
        for text in (result.out, result.err):
            self.assertNotRegex(text, r"[\x00-\x09\x0b-\x1f\x7f]")
        return result

    def fails(self, *args, code="INVALID", says=(), hint=(), status=1, **kwargs):
        """Run it with --json: it must fail with this code, its message must hold every text in
        `says`, its hint every one in `hint` (None: there must be none); stderr tells the same."""
        result = self.vera(*args, "--json", code=status, **kwargs)
        error = result.lines[-1]["error"]
        self.assertEqual(set(error), {"code", "message", "hint"}, result)
        self.assertEqual(error["code"], code, result)
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, error["message"], result)
        if hint is None:
            self.assertIsNone(error["hint"], result)
        for text in [hint] if isinstance(hint, str) else hint or ():
            self.assertIn(text, error["hint"] or "", result)
        self.assertIn("vera: " + error["message"].split("\n")[0][:20], result.err)
        if error["hint"]:
            self.assertIn("\nhint: ", result.err)
        return error

    def git(self, *args, **kwargs):
        done = subprocess.run(["git", *args], cwd=kwargs.pop("cwd", self.dir), env=self.env,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              timeout=PATIENCE, **kwargs)
        self.assertEqual(done.returncode, 0, decode(done.stdout))
        return decode(done.stdout)

    def preload(self, **faults):
        """Environment in which preload.c makes calls fail: SPACE=4096, STOP=3, UID=12345 …"""
        options = self.env.get("ASAN_OPTIONS", "")
        return {"LD_PRELOAD": PRELOAD, "ASAN_OPTIONS": options + ":verify_asan_link_order=0",
                **{"PRELOAD_" + name: str(value) for name, value in faults.items()}}


class RepositoryTest(VeraTest):
    """A repository with the versions in `adapters` on main. It is made once for a class and then
    copied: init waits for the disk."""
    adapters = ()

    def setUp(self):
        super().setUp()
        cls = type(self)
        if "prepared" not in vars(cls):
            self.vera("init")
            for number, path in enumerate(self.adapters):
                self.vera("commit", path, "-m", f"version {number + 1}")
            cls.prepared = tempfile.mkdtemp(prefix="vera-test-", dir=FOLDER)
            cls.addClassCleanup(shutil.rmtree, cls.prepared, ignore_errors=True)
            shutil.copytree(self.path(".vera"), os.path.join(cls.prepared, ".vera"))
        else:
            shutil.copytree(os.path.join(cls.prepared, ".vera"), self.path(".vera"))
        self.before = tree(self.dir)


def needs_terminals(test):
    """A bare root file system has none where devpts is not mounted: said aloud, not failed."""
    @functools.wraps(test)
    def run(self):
        try:
            for end in pty.openpty():
                os.close(end)
        except OSError as error:
            print(f"{self.id()}: not tried here, {error} (mount -t devpts devpts /dev/pts)", file=sys.stderr)
            return
        test(self)
    return run


class Terminal:
    """The program on a terminal of its own: what it draws, and keys to press."""

    def __init__(self, test, *args, columns=80, ignore=None, **kwargs):
        def enter():
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            # Who runs the tests under nohup, or in the background, has some of them ignored.
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            if ignore:
                signal.signal(ignore, signal.SIG_IGN)

        self.master, slave = pty.openpty()
        test.addCleanup(os.close, self.master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = test.spawn(args, stdin=slave, stdout=slave, stderr=slave,
                                  start_new_session=True, preexec_fn=enter, **kwargs)
        test.addCleanup(self.end)
        os.close(slave)
        self.seen = b""

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def read(self):
        """More of what it draws; False at the end."""
        if not select.select([self.master], [], [], PATIENCE)[0]:
            raise TimeoutError(self.seen)
        try:
            data = os.read(self.master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # the last end of the slave side was closed
                raise
            data = b""
        self.seen += data
        return bool(data)

    def wait_stopped(self):
        """Until it stopped itself (preload.c): True, False where it ended instead."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.process.returncode = os.waitstatus_to_exitcode(status)
        return os.WIFSTOPPED(status)

    def interrupt(self):
        """Press Ctrl-C; when its echo is there, the signal has been sent."""
        seen = len(self.seen)
        os.write(self.master, b"\x03")
        while b"^C" not in self.seen[seen:]:
            self.read()

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def finish(self):
        """Let it run to its end; its exit status."""
        while self.process.returncode is None:
            if self.wait_stopped():
                self.go_on()
        while self.read():
            pass
        return self.process.returncode

    def screen(self):
        """The lines as they stand in the end: \\r goes back, what is written lies over what was."""
        lines = []
        for line in decode(self.seen).split("\n"):
            cells = []
            for part in line.split("\r"):
                cells[:len(part)] = part
            lines.append("".join(cells).rstrip())
        return lines
