"""Real servers on free ports of the loopback, from Debian's packages: git-daemon, OpenSSH's sshd, nginx
with git-http-backend, docker-registry. Each has a folder of its own and ends with the test, or when the test dies.

    server = Sshd(folder, repositories)      # ready when it returns
    server.url("adapters.git")
    server.close()

As root and as any other user; nothing of the system's own configuration is read.
"""
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess

PATIENCE = 60  # seconds until a server that does not answer, or does not end, is a failure
PACKAGES = {"git": "git", "sshd": "openssh-server", "ssh": "openssh-client", "ssh-agent": "openssh-client",
            "ssh-keygen": "openssh-client", "nginx": "nginx-light", "fcgiwrap": "fcgiwrap",
            "openssl": "openssl", "docker-registry": "docker-registry", "skopeo": "skopeo"}
ADDRESS = "127.0.0.1"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
TRIES = 5  # somebody else may take the free port first


def program(name):
    """Its path; what is missing is named as its package."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise RuntimeError(f"{name} is missing: sh docs/install.sh servers installs {PACKAGES[name]}")
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


def write(path, text, mode=0o600):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def environment(folder):
    return {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": folder, "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1"}


def call(*args, **kwargs):
    """Run a tool to its end; what it printed."""
    done = subprocess.run([program(args[0]), *args[1:]], stdin=subprocess.DEVNULL, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, **kwargs)
    if done.returncode:
        raise RuntimeError(f"{' '.join(args)}: {done.stdout.decode()}")
    return done.stdout.decode()


class Process:
    """A program in the foreground, in a process group of its own, its output in a file."""

    def __init__(self, folder, args):
        def enter():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)

        self.log = os.path.join(folder, os.path.basename(args[0]) + ".log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(args, cwd=folder, env=environment(folder), stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, start_new_session=True,
                                            preexec_fn=enter)

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_ready(self, family, address):
        """Until something accepts connections there; False where the program ended instead."""
        for _ in range(PATIENCE * 100):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(address) == 0:
                    return True
            try:
                self.process.wait(0.01)
                return False
            except subprocess.TimeoutExpired:
                pass
        raise TimeoutError(self.said())

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # what it left running
        except ProcessLookupError:
            pass


class Server:
    """`folder`, which must not exist, becomes its own; `root` holds the repositories."""

    def __init__(self, folder, root):
        os.mkdir(folder)
        self.folder, self.root, self.processes, self.port = folder, root, [], None
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def prepare(self):
        """What is made once, before the port is known."""

    def command(self):
        """The program's arguments, for self.port."""
        raise NotImplementedError

    def start(self):
        for _ in range(TRIES):
            self.port = free_port()
            process = Process(self.folder, self.command())
            self.processes.append(process)
            if process.wait_ready(socket.AF_INET, (ADDRESS, self.port)):
                return
        raise RuntimeError(f"{type(self).__name__}: {process.said()}")

    def said(self):
        return "".join(process.said() for process in self.processes)

    def close(self):
        while self.processes:
            self.processes.pop().close()


class GitDaemon(Server):
    """git:// for everybody, reading and writing."""

    def command(self):
        return [program("git"), "daemon", "--reuseaddr", "--listen=" + ADDRESS, f"--port={self.port}",
                "--base-path=" + self.root, "--export-all", "--enable=receive-pack", "--informative-errors"]

    def url(self, name):
        return f"git://{ADDRESS}:{self.port}/{name}"


def make_key(path, kind="ed25519", passphrase="", **kwargs):
    """A key pair; the public half as text."""
    bits = ["-b", "2048"] if kind == "rsa" else []
    call("ssh-keygen", "-q", "-t", kind, *bits, "-N", passphrase, "-C", "test", "-f", path, **kwargs)
    with open(path + ".pub", encoding="utf-8") as file:
        return file.read().strip()


class Sshd(Server):
    """ssh for the user who runs the test, with the keys that were allowed."""

    def __init__(self, folder, root, kinds=("ed25519", "ecdsa", "rsa")):
        self.kinds = kinds
        super().__init__(folder, root)

    def prepare(self):
        if os.geteuid() == 0:  # sshd locks itself in there
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.host_keys = {kind: make_key(self.path("host_" + kind), kind) for kind in self.kinds}
        self.allow()

    def allow(self, *keys):
        """Public keys that may come in from now on, and no others."""
        write(self.path("authorized_keys"), "".join(key + "\n" for key in keys))

    def command(self):
        lines = [f"ListenAddress {ADDRESS}:{self.port}", "PidFile none", "StrictModes no", "UsePAM no",
                 "PasswordAuthentication no", "KbdInteractiveAuthentication no", "LogLevel VERBOSE",
                 "PermitRootLogin prohibit-password", "MaxStartups 200", "UseDNS no", "PrintMotd no",
                 "AuthorizedKeysFile " + self.path("authorized_keys")]
        lines += ["HostKey " + self.path("host_" + kind) for kind in self.kinds]
        config = write(self.path("sshd_config"), "\n".join(lines) + "\n")
        return [program("sshd"), "-D", "-e", "-f", config]

    def known_hosts(self, *kinds):
        """Its lines for a known_hosts file."""
        return "".join(f"[{ADDRESS}]:{self.port} {' '.join(self.host_keys[kind].split()[:2])}\n"
                       for kind in kinds or self.kinds)

    def url(self, name):
        return f"ssh://{self.user}@{ADDRESS}:{self.port}{os.path.join(self.root, name)}"


class Agent:
    """An ssh-agent without keys."""

    def __init__(self, folder):
        os.mkdir(folder)
        self.socket = os.path.join(folder, "agent")
        self.process = Process(folder, [program("ssh-agent"), "-D", "-a", self.socket])
        if not self.process.wait_ready(socket.AF_UNIX, self.socket):
            raise RuntimeError(self.process.said())

    def add(self, path):
        call("ssh-add", "-q", path, env={"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": self.socket})

    def close(self):
        self.process.close()


class Authority:
    """A certificate authority for a test: `path` is its certificate."""

    def __init__(self, folder):
        os.mkdir(folder)
        self.folder = folder
        self.path, self.key = os.path.join(folder, "ca.pem"), os.path.join(folder, "ca.key")
        call("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", "/CN=test authority", "-days", "2", "-keyout", self.key, "-out", self.path)

    def sign(self, names, name="server"):
        """A certificate for these host names and addresses, and its key: two paths."""
        base = os.path.join(self.folder, name)
        call("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", f"/CN={names[0]}", "-keyout", base + ".key", "-out", base + ".csr")
        # mbedTLS looks for an address among the names, OpenSSL among the addresses.
        kinds = [f"DNS:{n}" for n in names] + [f"IP:{n}" for n in names if n[0].isdigit()]
        extensions = write(base + ".ext", "subjectAltName=" + ",".join(kinds) + "\n")
        call("openssl", "x509", "-req", "-in", base + ".csr", "-CA", self.path, "-CAkey", self.key,
             "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", base + ".pem")
        return base + ".pem", base + ".key"


NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    client_max_body_size 0;
    server {{
        listen {address}:{port}{tls};
        {certificate}
        {extra}
        location / {{
            {password}
            fastcgi_pass unix:{folder}/cgi;
            fastcgi_param SCRIPT_FILENAME {backend};
            fastcgi_param GIT_PROJECT_ROOT {root};
            fastcgi_param GIT_HTTP_EXPORT_ALL "";
            fastcgi_param GIT_CONFIG_COUNT 1;
            fastcgi_param GIT_CONFIG_KEY_0 http.receivepack;
            fastcgi_param GIT_CONFIG_VALUE_0 true;
            fastcgi_param PATH_INFO $uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
            fastcgi_param REMOTE_USER $remote_user;
            fastcgi_param REMOTE_ADDR $remote_addr;
        }}
    }}
}}
"""


class Nginx(Server):
    """http, or https with a certificate and its key; for everybody, or with one user and password.
    `extra`: lines of configuration for its server."""

    def __init__(self, folder, root, login=None, certificate=None, extra=""):
        self.login, self.certificate, self.extra = login, certificate, extra
        super().__init__(folder, root)

    def prepare(self):
        if self.login:
            self.allow(*self.login)
        backend = Process(self.folder, [program("fcgiwrap"), "-c", "4", "-s", "unix:" + self.path("cgi")])
        self.processes.append(backend)
        if not backend.wait_ready(socket.AF_UNIX, self.path("cgi")):
            raise RuntimeError(backend.said())

    def allow(self, user, password):
        coded = call("openssl", "passwd", "-apr1", password).strip()
        write(self.path("users"), f"{user}:{coded}\n", 0o644)

    def command(self):
        password = certificate = tls = ""
        if self.login:
            password = f'auth_basic "test"; auth_basic_user_file {self.path("users")};'
        if self.certificate:
            tls = " ssl"
            certificate = "ssl_certificate {};\n        ssl_certificate_key {};".format(*self.certificate)
        backend = os.path.join(call("git", "--exec-path").strip(), "git-http-backend")
        config = write(self.path("nginx.conf"), NGINX.format(
            user="user root;" if os.geteuid() == 0 else "", folder=self.folder, address=ADDRESS,
            port=self.port, tls=tls, certificate=certificate, extra=self.extra, password=password,
            backend=backend, root=self.root))
        return [program("nginx"), "-e", "stderr", "-p", self.folder, "-c", config]

    def url(self, name, host=ADDRESS, login=""):
        return f"http{'s' if self.certificate else ''}://{login}{host}:{self.port}/{name}"

    def requests(self):
        """What it was asked for, a line each: address, user, time, request, status."""
        with open(self.path("access.log"), encoding="utf-8") as file:
            return file.read().splitlines()


REGISTRY = """
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage:
    filesystem: {{rootdirectory: {folder}/data}}
    delete: {{enabled: {deletes}}}
http:
    addr: {address}:{port}
    secret: of-a-test
    {tls}
{auth}
"""
SESAME = ("ada", "open sesame", "$2y$04$/mfU45VTJk1o7YjfXW85ROehueBszdaheTUbxbOFxEXtG56oBql6O")


class Registry(Server):
    """A registry for everybody, or with `login` for SESAME's user alone; http, or https with a
    certificate and its key. Its data stay in its folder."""

    def __init__(self, folder, login=False, certificate=None, deletes=True):
        self.login, self.certificate, self.deletes = login, certificate, deletes
        super().__init__(folder, folder)

    def command(self):
        auth = tls = ""
        if self.login:
            write(self.path("users"), f"{SESAME[0]}:{SESAME[2]}\n")
            auth = f"auth: {{htpasswd: {{realm: test, path: {self.path('users')}}}}}"
        if self.certificate:
            tls = "tls: {{certificate: {}, key: {}}}".format(*self.certificate)
        config = write(self.path("config.yml"), REGISTRY.format(
            folder=self.folder, address=ADDRESS, port=self.port, tls=tls, auth=auth,
            deletes="true" if self.deletes else "false"))
        return [program("docker-registry"), "serve", config]

    def url(self, name, port=None, scheme="oci"):
        return f"{scheme}://{ADDRESS}:{port or self.port}/{name}"

    def requests(self):
        """What it was asked for, "GET /v2/..." each."""
        return [line.split('"')[1].rsplit(" ", 1)[0] for line in self.said().splitlines()
                if '"' in line and " HTTP/1." in line]
