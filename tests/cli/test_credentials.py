"""Who we are to a server, and whether it is the right one, against real servers: each kind of
credentials works, each wrong one is one clear error, and no secret is left anywhere."""
import os
import shutil
import subprocess
import tempfile
import unittest

import servers
from harness import FOLDER, PATIENCE, Result, Terminal, VeraTest, adapter, decode, needs_terminals
from servers import ADDRESS, write

TRANSFER = os.environ["TRANSFER"]
SECRET, WRONG = "s3cr%et:tok@en", "wr0ng-p4ss"
QUOTED = {SECRET: "s3cr%25et%3atok%40en", WRONG: WRONG}  # in an address
USER = "ada"


class NetworkTest(VeraTest):
    """A server's repository, theirs.git, with one version on main; ours, with another on side. Both are
    made once."""

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

    def setUp(self):
        super().setUp()
        self.out = ""
        self.secrets = [SECRET, WRONG, QUOTED[SECRET]]
        self.may_hold = []  # files that a test itself wrote a secret to
        self.env["GIT_SSH_COMMAND"] = "ssh -F " + self.config()
        self.theirs = os.path.join(self.root, "theirs.git")
        made = os.path.join(self.shared, "made")
        if not os.path.exists(made):
            self.vera("init", "theirs")
            self.vera("-C", "theirs", "commit", adapter("llama/step-000"), "-m", "one")
            self.vera("init")
            self.vera("commit", adapter("llama/step-010"), "-m", "two", "--branch", "side")
            os.mkdir(made)
            for name in ("theirs/.vera", ".vera"):
                shutil.move(self.path(name), os.path.join(made, os.path.dirname(name) or "ours"))
            os.rmdir(self.path("theirs"))
        shutil.rmtree(self.theirs, ignore_errors=True)
        shutil.copytree(os.path.join(made, "theirs"), self.theirs)
        shutil.copytree(os.path.join(made, "ours"), self.path(".vera"))

    def tearDown(self):
        """No secret in what was printed, nor in any file but those that hold them on purpose."""
        for secret in self.secrets:
            self.assertNotIn(secret, self.out)
            for folder, _, files in os.walk(self.top):
                for name in files:
                    path = os.path.join(folder, name)
                    if path in self.may_hold or not os.path.isfile(path):
                        continue
                    with open(path, "rb") as file:
                        self.assertNotIn(secret.encode(), file.read(), path)

    def config(self, *lines):
        """ssh's configuration, instead of that of who runs the test."""
        return write(os.path.join(self.home, "ssh_config"), "".join(line + "\n" for line in lines))

    def hold(self, path, text, mode=0o600):
        self.may_hold.append(write(path, text, mode))
        return path

    def transfer(self, *args, code=0, **env):
        done = subprocess.run([TRANSFER, *args], cwd=self.dir, env={**self.env, **env}, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=PATIENCE)
        result = Result(done.returncode, decode(done.stdout), decode(done.stderr))
        self.out += result.out + result.err
        self.assertEqual(result.code, code, result)
        return result

    def works(self, url, **env):
        self.assertIn("refs/heads/main", self.transfer("fetch", self.path(".vera"), url, **env).out)

    def refused(self, url, code, *says, hint=None, **env):
        """It fails with this code and says all this; every line but the last is one of the list."""
        result = self.transfer("fetch", self.path(".vera"), url, code=1, **env)
        message, _, told = result.err.partition("\nhint: ")
        self.assertTrue(message.startswith(code + ": "), result)
        for text in says:
            self.assertIn(text, message, result)
        if hint:
            self.assertIn(hint, told, result)
        for line in message.splitlines()[1:]:
            self.assertTrue(line.startswith("  "), result)
        return result


class SshTest(NetworkTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = cls.serve(servers.Sshd, "sshd", cls.root)
        cls.keys = os.path.join(cls.shared, "keys")
        os.mkdir(cls.keys)
        cls.public = {name: servers.make_key(os.path.join(cls.keys, name), kind, passphrase)
                      for name, kind, passphrase in (
                          ("good", "ed25519", ""), ("curve", "ecdsa", ""), ("old", "rsa", ""),
                          ("stranger", "ed25519", ""), ("locked", "ed25519", SECRET))}

    def setUp(self):
        super().setUp()
        self.ssh = os.path.join(self.home, ".ssh")
        os.mkdir(self.ssh)
        self.known = write(os.path.join(self.ssh, "known_hosts"), self.server.known_hosts())
        self.server.allow(*(self.public[name] for name in ("good", "curve", "old", "locked")))
        self.url = self.server.url("theirs.git")
        # OpenSSH takes the home from the system's list of users, and we what $HOME says.
        self.config("UserKnownHostsFile " + self.known, "GlobalKnownHostsFile /dev/null")

    def take(self, name, to="id_ed25519"):
        return shutil.copy(os.path.join(self.keys, name), os.path.join(self.ssh, to))

    def agent(self, *names):
        agent = servers.Agent(os.path.join(self.top, "agent"))
        self.addCleanup(agent.close)
        for name in names:
            agent.add(os.path.join(self.keys, name))
        self.env["SSH_AUTH_SOCK"] = agent.socket

    def test_a_key_in_its_usual_file(self):
        for name, to in (("good", "id_ed25519"), ("curve", "id_ecdsa")):
            with self.subTest(to):
                path = self.take(name, to)
                self.works(self.url)
                os.unlink(path)

    def test_fetching_and_pushing(self):
        self.take("good")
        out = self.transfer("push", self.path(".vera"), self.url, "refs/heads/side").out
        self.assertEqual(out, "created refs/heads/side\n")
        self.git("--git-dir=" + self.theirs, "fsck", "--strict")
        self.assertEqual(self.git("--git-dir=.vera", "rev-parse", "side"),
                         self.git("--git-dir=" + self.theirs, "rev-parse", "side"))

    def test_a_key_that_the_command_or_the_configuration_names(self):
        good = os.path.join(self.keys, "good")
        with self.subTest("GIT_SSH_COMMAND"):
            self.works(self.url, GIT_SSH_COMMAND=f"{self.env['GIT_SSH_COMMAND']} -i '{good}'")
        with self.subTest("core.sshCommand"):
            write(os.path.join(self.home, ".gitconfig"),
                  f'[core]\n\tsshCommand = "{self.env["GIT_SSH_COMMAND"]} -i {good}"\n')
            del self.env["GIT_SSH_COMMAND"]
            self.works(self.url)
        with self.subTest("a host of the configuration"):
            config = self.config("Host models", "HostName " + ADDRESS, f"Port {self.server.port}",
                                 "User " + self.server.user, "IdentityFile " + good,
                                 "UserKnownHostsFile " + self.known)
            for url in ("models:" + self.theirs, "ssh://models" + self.theirs):
                self.works(url, GIT_SSH_COMMAND="ssh -F " + config)

    def test_a_command_of_a_repository_is_not_run(self):
        self.take("good")
        del self.env["GIT_SSH_COMMAND"]
        write(os.path.join(self.home, ".gitconfig"), f'[core]\n\tsshCommand = "ssh -F {self.home}/ssh_config"\n')
        self.git("--git-dir=.vera", "config", "core.sshCommand", f"touch {self.dir}/ran; ssh")
        self.works(self.url)
        self.assertFalse(os.path.exists(self.path("ran")))

    def test_without_an_ssh_program_its_defaults_count(self):
        self.take("good")
        del self.env["GIT_SSH_COMMAND"]
        self.works(self.url, GIT_SSH=self.path("nothing"))

    def test_the_agent(self):
        self.agent("stranger", "good")
        self.works(self.url)

    def test_a_wrong_key(self):
        path = self.take("stranger")
        self.refused(self.url, "INVALID", "accepts none", path + ": refused by the server",
                     "agent's keys: no agent", hint="ssh-copy-id")

    def test_no_key_at_all(self):
        self.refused(self.url, "INVALID", "there are none", "id_ed25519: not there")

    def test_an_agent_with_the_wrong_key_and_a_file_with_the_right_one(self):
        self.agent("stranger")
        self.take("good")
        self.works(self.url)

    def test_an_empty_agent(self):
        self.agent()
        self.refused(self.url, "INVALID", "it holds none")

    def test_a_key_with_a_passphrase_belongs_into_the_agent(self):
        path = self.take("locked")
        self.refused(self.url, "INVALID", path + ": it has a passphrase", hint="ssh-add " + path)

    def test_a_key_that_others_may_read(self):
        os.chmod(self.take("good"), 0o644)
        self.refused(self.url, "INVALID", "others may read it")

    def test_a_file_that_is_no_key(self):
        write(os.path.join(self.ssh, "id_ed25519"), "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
        write(os.path.join(self.ssh, "id_ecdsa"), "nothing\n")
        self.refused(self.url, "INVALID", "id_ed25519: no private key", "id_ecdsa: no private key")

    def test_an_rsa_key_is_told_to_be_the_reason(self):
        self.take("old", "id_rsa")
        self.refused(self.url, "INVALID", "id_rsa: refused", hint="ed25519")
        os.unlink(os.path.join(self.ssh, "id_rsa"))
        self.agent("old")
        self.refused(self.url, "INVALID", "agent's keys: refused", hint="RSA")

    def test_a_host_that_is_not_known(self):
        self.take("good")
        with self.subTest("and the line that makes it known"):
            os.unlink(self.known)
            result = self.refused(self.url, "CONFLICT", "its host key is not known", hint="ssh-keyscan -p")
            line = result.err.splitlines()[1].strip()
            self.assertIn(line, self.server.known_hosts())
            write(self.known, line + "\n")
            self.works(self.url)
        with self.subTest("known at another port only"):
            write(self.known, self.server.known_hosts().replace(f":{self.server.port}", ":1"))
            self.refused(self.url, "CONFLICT", "not known")
        with self.subTest("known without a port only"):
            write(self.known, self.server.known_hosts().replace(f"[{ADDRESS}]:{self.server.port}", ADDRESS))
            self.refused(self.url, "CONFLICT", "not known")

    def test_a_host_key_that_is_another_one(self):
        self.take("good")
        other = self.public["stranger"].split()[1]
        name = f"[{ADDRESS}]:{self.server.port}"
        for first in ("", "# a comment\n\n"):
            write(self.known, f"{first}{name} ssh-ed25519 {other}\n")
            line = first.count("\n") + 1
            self.refused(self.url, "CONFLICT", "another than the known one", f"{self.known}:{line}",
                         hint="ssh-keygen -R")

    def test_a_host_key_that_is_revoked(self):
        self.take("good")
        lines = self.server.known_hosts("ed25519")
        write(self.known, lines + "@revoked * " + lines.split(" ", 1)[1])
        self.refused(self.url, "CONFLICT", "revoked", self.known + ":2")

    def test_every_way_to_write_a_known_host(self):
        self.take("good")
        name, rest = self.server.known_hosts("ed25519").split(" ", 1)
        rsa = self.server.known_hosts("rsa")
        for what, text in (("one kind", f"{name} {rest}"), ("RSA first", f"{rsa}{name} {rest}"),
                           ("among others", f"other,{name},third {rest}"),
                           ("a pattern", f"[127.0.0.?]:* {rest}"), ("spaces", f"  {name}  {rest}"),
                           ("a mark", f"@cert-authority * {rest}{name} {rest}"),
                           ("no end of line", f"{name} {rest}".rstrip())):
            with self.subTest(what):
                write(self.known, text)
                self.works(self.url)
        with self.subTest("a pattern that excludes it"):
            write(self.known, f"*,!{name} {rest}")
            self.refused(self.url, "CONFLICT", "not known")
        with self.subTest("hashed"):
            write(self.known, f"{name} {rest}")
            servers.call("ssh-keygen", "-H", "-f", self.known)
            with open(self.known, encoding="utf-8") as file:
                self.assertTrue(file.read().startswith("|1|"))
            self.works(self.url)

    def test_only_an_rsa_host_key_is_known(self):
        self.take("good")
        write(self.known, self.server.known_hosts("rsa"))
        self.refused(self.url, "IO", hint="ssh-keyscan -t ed25519")

    def test_a_way_that_leads_through_another_host(self):
        config = self.config("ProxyJump gate")
        self.refused(self.url, "UNSUPPORTED", "gate", hint="ssh -L", GIT_SSH_COMMAND="ssh -F " + config)

    def test_an_address_that_stands_for_another(self):
        self.take("good")
        write(os.path.join(self.home, ".gitconfig"),
              f'[url "ssh://{self.server.user}@{ADDRESS}:{self.server.port}{self.root}/"]\n'
              "\tinsteadOf = https://models.example/\n")
        self.works("https://models.example/theirs.git")

    def test_addresses_that_are_none(self):
        for url in ("ssh://-oProxyCommand=x/y", "-x@host:y", "ssh://ho st\n/x", "ssh://host:99999/x",
                    "https://host%0a/x%zz@y/", "https://a%0ab@host/x"):
            with self.subTest(url):
                self.refused(url, "INVALID")


class HttpTest(NetworkTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = cls.serve(servers.Nginx, "nginx", cls.root, login=(USER, SECRET))

    def setUp(self):
        super().setUp()
        self.url = self.server.url("theirs.git")
        self.netrc = os.path.join(self.home, ".netrc")
        self.store = os.path.join(self.home, "store")
        self.server.allow(USER, SECRET)

    def helper(self, password):
        """git's own helper that keeps secrets in a file."""
        write(os.path.join(self.home, ".gitconfig"), f"[credential]\n\thelper = store --file={self.store}\n")
        self.hold(self.store, f"http://{USER}:{QUOTED[password]}@{ADDRESS}%3a{self.server.port}\n")

    def kept(self):
        with open(self.store, encoding="utf-8") as file:
            return file.read()

    def test_the_address(self):
        self.works(self.server.url("theirs.git", login=f"{USER}:{QUOTED[SECRET]}@"))
        self.refused(self.server.url("theirs.git", login=f"{USER}:{WRONG}@"), "INVALID", self.url + ":",
                     "the address: refused by the server")

    def test_the_variable(self):
        self.server.allow("x-access-token", SECRET)
        self.works(self.url, VERA_TOKEN=SECRET)
        self.refused(self.url, "INVALID", "VERA_TOKEN: refused by the server", VERA_TOKEN=WRONG)
        self.server.allow(USER, SECRET)
        self.works(self.server.url("theirs.git", login=USER + "@"), VERA_TOKEN=SECRET)

    def test_netrc(self):
        for text in (f"machine {ADDRESS} login {USER} password {{}}\n",
                     f"# mine\nmachine other login {USER} password x\n\ndefault\n\tlogin {USER}\n\tpassword {{}}",
                     f'machine {ADDRESS}\nmacdef x\n  machine y\n\naccount z login "{USER}" password "{{}}"\n'):
            with self.subTest(text):
                self.hold(self.netrc, text.format(SECRET))
                self.works(self.url)
                self.hold(self.netrc, text.format(WRONG))
                self.refused(self.url, "INVALID", "~/.netrc: refused by the server")

    def test_a_netrc_that_is_not_used(self):
        good = f"machine {ADDRESS} login {USER} password {SECRET}\n"
        for text, mode, says in ((good, 0o644, "others may read it (chmod 600"),
                                 (good + "machine x nonsense", 0o600, None), ("nonsense " + good, 0o600, "line 1: it must"),
                                 (f"machine {ADDRESS}\nlogin {USER} {SECRET}", 0o600, "line 2: a word that is none"),
                                 (good.replace(ADDRESS, "other"), 0o600, "nothing for this host"),
                                 (f"machine {ADDRESS} login", 0o600, "ends where a value"),
                                 (good.replace(SECRET, "x" * 2000), 0o600, "too long")):
            with self.subTest(text):
                os.path.exists(self.netrc) and os.unlink(self.netrc)
                self.hold(self.netrc, text, mode)
                if says:
                    self.refused(self.url, "INVALID", "~/.netrc: ", says)
                else:
                    self.works(self.url)  # what stands behind the entry is not read

    def test_a_helper(self):
        self.helper(SECRET)
        self.works(self.url)
        self.assertIn(QUOTED[SECRET], self.kept())
        self.helper(WRONG)
        self.refused(self.url, "INVALID", "git credential: refused by the server")
        self.assertEqual(self.kept(), "")  # it was told so

    def test_what_a_helper_hears(self):
        script = os.path.join(self.home, "helper")
        told = os.path.join(self.home, "told")
        self.hold(script, f'#!/bin/sh\n{{ echo "== $1 ${{VERA_TOKEN-unset}}"; cat; }} >>{told}\n'
                          f'[ "$1" != get ] || printf "%s\\n" username={USER} password={SECRET}\n', 0o700)
        write(os.path.join(self.home, ".gitconfig"), f"[credential]\n\thelper = {script}\n")
        self.works(self.url, VERA_TOKEN=WRONG)
        self.may_hold.append(told)
        with open(told, encoding="utf-8") as file:
            heard = file.read()
        place = f"protocol=http\nhost={ADDRESS}:{self.server.port}\n"
        self.assertEqual(heard, f"== get unset\n{place}== store unset\n{place}username={USER}\npassword={SECRET}\n")

    def test_helpers_of_a_repository_are_not_run(self):
        self.helper(SECRET)
        os.mkdir(self.path("tree"))
        self.git("init", "-q", "tree")
        for place in ("--git-dir=.vera", "--git-dir=tree/.git"):
            self.git(place, "config", "credential.helper", f"!touch {self.dir}/ran; echo")
        for folder in (".vera", "tree"):
            done = subprocess.run([TRANSFER, "fetch", self.path(".vera"), self.url], cwd=self.path(folder),
                                  env=self.env, stdin=subprocess.DEVNULL, check=False, timeout=PATIENCE,
                                  stdout=subprocess.DEVNULL)
            self.assertEqual(done.returncode, 0)
        self.assertFalse(os.path.exists(self.path("ran")))

    def test_none_at_all_asks_nobody(self):
        self.refused(self.url, "INVALID", "wants credentials, and there are none", "VERA_TOKEN: not set",
                     "~/.netrc: nothing for this host", "git credential: nothing for this host",
                     hint="set VERA_TOKEN")

    def test_each_is_tried_once_in_order(self):
        self.helper(WRONG)
        self.hold(self.netrc, f"default login {USER} password {WRONG}\n")
        before = len(self.server.requests())
        result = self.refused(self.server.url("theirs.git", login=f"{USER}:{WRONG}@"), "INVALID", VERA_TOKEN=WRONG)
        self.assertEqual([line.split(":")[0].strip() for line in result.err.splitlines()[1:5]],
                         ["the address", "VERA_TOKEN", "~/.netrc", "git credential"])
        self.assertEqual(len(self.server.requests()) - before, 5)  # one without, one for each

    def test_pushing(self):
        self.server.allow("x-access-token", SECRET)
        out = self.transfer("push", self.path(".vera"), self.url, "refs/heads/side", VERA_TOKEN=SECRET).out
        self.assertEqual(out, "created refs/heads/side\n")

    def test_a_redirect_to_another_host_gets_nothing(self):
        thief = self.serve(servers.Nginx, "thief", self.root, login=(USER, SECRET))
        lead = self.serve(servers.Nginx, "lead", self.root, login=(USER, SECRET), extra=(
            f"rewrite ^/away/(.*)$ http://localhost:{thief.port}/$1 redirect;"
            "rewrite ^/moved/(.*)$ /$1 redirect;"))
        self.hold(self.netrc, f"default login {USER} password {SECRET}\n")
        self.refused(lead.url("away/theirs.git"), "INVALID", "cannot redirect", hint="address itself")
        self.assertEqual(thief.requests(), [])
        self.works(lead.url("moved/theirs.git"))


class TlsTest(NetworkTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.authority = servers.Authority(os.path.join(cls.shared, "authority"))
        cls.other = servers.Authority(os.path.join(cls.shared, "other"))
        certificate = cls.authority.sign([ADDRESS])
        cls.server = cls.serve(servers.Nginx, "nginx", cls.root, certificate=certificate)
        cls.named = cls.serve(servers.Nginx, "named", cls.root,
                              certificate=cls.authority.sign(["models.example"], "named"))

    def setUp(self):
        super().setUp()
        self.url = self.server.url("theirs.git")

    def test_an_authority_of_ones_own(self):
        for name in ("GIT_SSL_CAINFO", "SSL_CERT_FILE"):
            with self.subTest(name):
                self.works(self.url, **{name: self.authority.path})
        write(os.path.join(self.home, ".gitconfig"), f"[http]\n\tsslCAInfo = {self.authority.path}\n")
        self.works(self.url)
        self.works(self.url, SSL_CERT_FILE=self.other.path)
        self.refused(self.url, "CONFLICT", GIT_SSL_CAINFO=self.other.path)

    def test_a_server_that_the_system_does_not_trust(self):
        self.refused(self.url, "CONFLICT", self.url, "certificate is invalid", hint="http.sslCAInfo")
        self.refused(self.url, "CONFLICT", "certificate is invalid", SSL_CERT_FILE=self.other.path)

    def test_nothing_turns_the_check_off(self):
        write(os.path.join(self.home, ".gitconfig"), "[http]\n\tsslVerify = false\n")
        for place in ("http.sslVerify", f"http.{self.url}.sslVerify"):
            self.git("--git-dir=.vera", "config", place, "false")
        self.refused(self.url, "CONFLICT", GIT_SSL_NO_VERIFY="1")
        self.git("--git-dir=.vera", "config", "http.sslCAInfo", self.authority.path)
        self.refused(self.url, "CONFLICT")  # nor a repository's configuration

    def test_a_certificate_for_another_name(self):
        self.refused(self.named.url("theirs.git"), "CONFLICT", "certificate is invalid",
                     GIT_SSL_CAINFO=self.authority.path)

    def test_a_proxy_of_the_environment(self):
        env = {"GIT_SSL_CAINFO": self.authority.path, "https_proxy": f"http://{ADDRESS}:{servers.free_port()}"}
        self.refused(self.url, "IO", "failed to connect to " + ADDRESS, **env)
        self.works(self.url, no_proxy=ADDRESS, **env)

    def test_a_file_of_authorities_that_cannot_be_read(self):
        missing = self.path("nothing.pem")
        self.refused(self.url, "IO", missing, GIT_SSL_CAINFO=missing)


class CommandTest(NetworkTest):
    """The commands: what they store and print, and what the program git hears where it is needed."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.authority = servers.Authority(os.path.join(cls.shared, "authority"))
        cls.server = cls.serve(servers.Nginx, "nginx", cls.root, login=(USER, SECRET),
                               certificate=cls.authority.sign([ADDRESS]))
        cls.sshd = cls.serve(servers.Sshd, "sshd", cls.root, kinds=["ed25519"])

    def setUp(self):
        super().setUp()
        self.url = self.server.url("theirs.git")
        self.secret_url = self.server.url("theirs.git", login=f"{USER}:{QUOTED[SECRET]}@")
        self.env.update(GIT_SSL_CAINFO=self.authority.path)
        self.netrc = os.path.join(self.home, ".netrc")
        # Every command line that git is started with is kept, and looked through in the end.
        folder, real = self.path("bin"), servers.program("git")
        os.mkdir(folder)
        write(os.path.join(folder, "git"), f'#!/bin/sh\n{{ printf "%s " "$@"; echo; }} >>{self.path("heard")}\nexec {real} "$@"\n', 0o700)
        self.env["PATH"] = folder + ":" + self.env["PATH"]

    def vera(self, *args, **kwargs):
        result = super().vera(*args, **kwargs)
        self.out += result.out + result.err
        return result

    def ref(self, folder, name="HEAD"):
        return self.git("--git-dir=" + self.path(folder, ".vera"), "rev-parse", name)

    def test_a_secret_in_an_address_is_for_one_connection(self):
        for depth in ((), ("--depth", "1")):
            with self.subTest(depth):
                folder = "clone" + "".join(depth)
                self.vera("clone", *depth, self.secret_url, folder, "--json")
                config = self.git("--git-dir=" + self.path(folder, ".vera"), "config", "remote.origin.url")
                self.assertEqual(config.strip(), self.url)
                self.fails("-C", folder, "fetch", code="INVALID", says="VERA_TOKEN: not set")
                self.hold(self.netrc, f"default login {USER} password {SECRET}\n")
                self.vera("-C", folder, "fetch")
                os.unlink(self.netrc)
                self.fails("clone", *depth, self.server.url("theirs.git", login=f"{USER}:{WRONG}@"), "other",
                           code="INVALID", says="the address: refused by the server")
        self.vera("remote", "add", "again", self.secret_url)
        self.vera("remote", "--json")

    def test_no_message_repeats_a_secret(self):
        dead = f"https://{USER}:{QUOTED[SECRET]}@{ADDRESS}:{servers.free_port()}/x"
        bad = f"https://{USER}:{QUOTED[SECRET]}@{ADDRESS}:99999/x"
        other = f"other://{USER}:{QUOTED[SECRET]}@{ADDRESS}/x"
        for url in (bad, other, dead.replace("https", "oci")):
            for command in (("clone", url), ("clone", "--depth", "1", url), ("clone", url, "."), ("fetch", url),
                            ("pull", url), ("pull", url, "main"), ("push", url), ("export", url + "@main", "x"),
                            ("remote", "add", "one", url), ("remote", "add", "one", url), ("remote", "remove", url)):
                with self.subTest(command):
                    self.vera(*command, "--json", code=None)
            self.vera("fsck", "--repair", url, code=None)
        self.fails("clone", dead, code="IO", says="failed to connect")

    @needs_terminals
    def test_who_sits_at_a_terminal_is_asked(self):
        terminal = Terminal(self, "clone", self.url, "asked")
        for question, answer in ((b"Username for", USER), (b"Password for", SECRET)):
            while question not in terminal.seen:
                self.assertTrue(terminal.read(), terminal.seen)
            os.write(terminal.master, answer.encode() + b"\n")
        self.assertEqual(terminal.finish(), 0, terminal.seen)
        self.out += decode(terminal.seen)
        self.vera("-C", "asked", "log")

    def test_one_version_with_each_kind_of_credentials(self):
        login = self.server.url("theirs.git", login=USER + "@")
        cases = [(login, {"VERA_TOKEN": SECRET}, None), (self.url, {}, self.netrc),
                 (self.url, {}, os.path.join(self.home, "store"))]
        for number, (url, env, place) in enumerate(cases):
            with self.subTest(url=url, place=place):
                if place == self.netrc:
                    self.hold(place, f"default login {USER} password {SECRET}\n")
                elif place:
                    os.unlink(self.netrc)
                    write(os.path.join(self.home, ".gitconfig"), f"[credential]\n\thelper = store --file={place}\n")
                    self.hold(place, f"https://{USER}:{QUOTED[SECRET]}@{ADDRESS}%3a{self.server.port}\n")
                self.vera("clone", "--depth", "1", url, f"one{number}", env=env)
                with open(self.path("heard"), encoding="utf-8") as file:
                    self.assertIn("--depth=1", file.read())

    def test_one_version_from_a_server_that_is_not_to_be_trusted(self):
        other = servers.Authority(os.path.join(self.top, "other"))
        write(os.path.join(self.home, ".gitconfig"),
              f'[http]\n\tsslVerify = false\n[http "{self.url}"]\n\tsslVerify = false\n')
        self.fails("clone", "--depth", "1", self.secret_url, "one", code="CONFLICT", says="certificate",
                   env={"GIT_SSL_CAINFO": other.path, "GIT_SSL_NO_VERIFY": "1"})

    def test_one_version_over_ssh(self):
        key = os.path.join(self.home, "key")
        self.sshd.allow(servers.make_key(key))
        known = os.path.join(self.home, "known_hosts")
        self.config("Host models", "HostName " + ADDRESS, f"Port {self.sshd.port}", "User " + self.sshd.user,
                    "IdentityFile " + key, "UserKnownHostsFile " + known, "GlobalKnownHostsFile /dev/null",
                    "StrictHostKeyChecking no")
        url = "models:" + self.theirs
        self.fails("clone", "--depth", "1", url, "one", code="CONFLICT", says="not known")
        write(known, self.sshd.known_hosts())
        self.vera("clone", "--depth", "1", url, "one")
        self.vera("-C", "one", "fetch")

    def test_what_git_itself_would_accept_is_refused_too(self):
        """The program git alone, as it is started: each check is on, whatever is configured."""
        write(os.path.join(self.home, ".gitconfig"),
              f'[http]\n\tsslVerify = false\n[http "{self.url}"]\n\tsslVerify = false\n')
        self.vera("clone", "--depth", "1", self.secret_url, "one")
        with open(self.path("heard"), encoding="utf-8") as file:
            for line in file.read().splitlines():
                if "fetch" in line:
                    self.assertIn(f"-c http.{self.url}.sslVerify=true", line)
                    self.assertIn("-c credential.helper= ", line)


class DaemonTest(NetworkTest):
    def test_fetching_and_pushing(self):
        server = self.serve(servers.GitDaemon, "daemon", self.root)
        self.works(server.url("theirs.git"))
        out = self.transfer("push", self.path(".vera"), server.url("theirs.git"), "refs/heads/side").out
        self.assertEqual(out, "created refs/heads/side\n")


if __name__ == "__main__":
    unittest.main()
