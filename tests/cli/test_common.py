"""What holds for every command: help, errors, exit statuses, output that cannot be written, the manual
page and the completion of the shells."""
import os
import re
import shutil
import signal
import subprocess
import sys
import unittest

from harness import PATIENCE, VeraTest, decode

MANUAL = os.environ["MANUAL"]

# What users and scripts rely on: command, operands as its usage shows them, options of its own.
COMMANDS = {
    "init": ("[DIR]", ""),
    "clone": ("URL [DIR]", "--depth --max-bytes"),
    "fetch": ("[REMOTE]", "--prune --max-bytes"),
    "push": ("[REMOTE [REF...]]", "--force --tags --all --delete"),
    "pull": ("[REMOTE [BRANCH]]", "--max-bytes"),
    "remote": ("[add|remove [NAME [URL]]]", ""),
    "commit": ("[DIR]", "-m --branch --base --metric --author --all --if-changed --allow-empty --stdin"),
    "show": ("[REV [MODULE]]", "--spectrum --base"),
    "diff": ("A [B]", "--zero --stat --exit-code --base"),
    "log": ("[REV]", "-n --oneline --graph --all"),
    "query": ("[EXPR]", "--sort -n --table"),
    "export": ("REV DIR", "--as --dtype --drop --base"),
    "publish": ("REV DIR", "--name --base"),
    "branch": ("[NAME [REV]]", "-d -m --deleted"),
    "switch": ("NAME [REV]", "-c"),
    "tag": ("[NAME [REV]]", "-d -m"),
    "reset": ("REV", ""),
    "merge": ("REV", "--strategy --weight --max-residual -m --dry-run --report --base"),
    "revert": ("REV", "--base"),
    "cherry-pick": ("REV", "--base"),
    "apply": ("REV[:W]...", "--base --out --device --math --threads --dry-run --report"),
    "swap": ("[REV]", "--socket --detach --status --timeout"),
    "verify": ("DIR", "--rev --base"),
    "basis": ("[list|show|verify [ID]]", ""),
    "stats": ("", ""),
    "reindex": ("", ""),
    "fsck": ("", ""),
    "gc": ("", "--dry-run --expire"),
    "prune": ("BRANCH [RULE...]", "--keep --dry-run"),
    "help": ("[COMMAND]", ""),
    "completion": ("bash|zsh|fish", ""),
}
WITHOUT_JSON = ("help", "completion")
OPTION = re.compile(r"^ +(?:(-\w)(?:, )?)?(--[\w-]+)?(?: \S+)?(?:  |$)")


def options_of(text):
    """(letter or None, name or None) of each option that a help text lists."""
    found, inside = [], False
    for line in text.splitlines():
        if line == "Options:":
            inside = True
        elif inside and not line.startswith(" "):
            break
        elif inside and re.match(r" {2,6}-", line):
            match = OPTION.match(line)
            found.append((match[1], match[2]))
    return found


class Help(VeraTest):
    def commands(self):
        text = self.vera("help").out
        return re.findall(r"^  ([a-z]\S*)  +\S", text, re.M)

    def test_every_command_is_listed_and_no_other(self):
        self.assertEqual(sorted(self.commands()), sorted(COMMANDS))

    def test_operands_and_options_have_the_names_that_were_promised(self):
        for name, (operands, options) in COMMANDS.items():
            with self.subTest(command=name):
                text = self.vera("help", name).out
                usage = re.search(r"^Usage: vera (.*(?:\n +\S.*)*)", text, re.M)[1]
                self.assertEqual(usage.split(), [name, "[OPTION]...", *operands.split()])
                have = {spelled for pair in options_of(text) for spelled in pair}
                self.assertLessEqual(set(options.split()), have)

    def test_help_is_the_same_by_every_way(self):
        self.assertEqual(self.vera("--help").out, self.vera("help").out)
        self.assertEqual(self.vera("-h").out, self.vera("help").out)
        for name in COMMANDS:
            with self.subTest(command=name):
                text = self.vera("help", name).out
                self.assertEqual(self.vera(name, "--help").out, text)
                self.assertEqual(self.vera(name, "-h").out, text)
                self.assertEqual(self.vera("--help", name).out, text)

    def test_help_fits_into_80_columns(self):
        for arguments in [[], *[[name] for name in COMMANDS]]:
            for line in self.vera("help", *arguments).out.splitlines():
                self.assertLess(len(line), 80, line)
                self.assertEqual(line, line.rstrip())

    def test_common_options_are_everywhere(self):
        for name in COMMANDS:
            have = options_of(self.vera("help", name).out)
            self.assertIn(("-h", "--help"), have)
            self.assertEqual((None, "--json") in have, name not in WITHOUT_JSON, name)

    def test_every_option_says_what_it_does(self):
        for name in COMMANDS:
            text = self.vera("help", name).out
            self.assertNotRegex(text, r"(?m)^ {2,6}-\S.*\n(?! {20})(?! {2,6}-\S)(?!$)")

    def test_without_a_command_there_is_help_on_stderr(self):
        result = self.vera(code=2)
        self.assertEqual(result.out, "")
        self.assertEqual(result.err, self.vera("help").out)

    def test_version(self):
        self.assertRegex(self.vera("--version").out, r"\Avera \d+\.\d+\.\d+\n\Z")


class Usage(VeraTest):
    def usage(self, *args, says=(), hint=()):
        self.fails(*args, status=2, says=says, hint=hint)
        result = self.vera(*args, code=2)
        self.assertEqual(result.out, "")

    def test_the_nearest_command_is_named(self):
        for typed, meant in [("comit", "commit"), ("lgo", "log"), ("exprot", "export"),
                             ("brnach", "branch"), ("swich", "switch"), ("verfy", "verify"),
                             ("aply", "apply"), ("status", "stats"), ("complet", "completion")]:
            self.usage(typed, says=f"'{typed}' is no command of vera", hint=f"'vera {meant}'")
        self.usage("frobnicate", hint="'vera help' lists the commands")
        self.vera("help", "comit", code=2)

    def test_the_nearest_option_is_named(self):
        for typed, meant in [("--brnch", "--branch"), ("--alow-empty", "--allow-empty"),
                             ("--metrics", "--metric"), ("--jsno", "--json")]:
            self.usage("commit", "d", typed, says=f"unknown option '{typed}'", hint=f"'{meant}'")
        self.usage("log", "--frobnicate", hint="'vera log --help'")
        self.usage("-frobnicate", says="'-frobnicate'")
        self.usage("--versoin", hint="'--version'")

    def test_names_are_not_abbreviated(self):
        self.usage("commit", "--allow", "d", says="unknown option '--allow'", hint="'--allow-empty'")

    def test_operands_are_counted(self):
        self.usage("merge", says="merge: REV is missing")
        self.usage("export", "main", says="export: DIR is missing")
        self.usage("commit", "a", "b", says="one operand too many: 'b'")
        self.usage("stats", "x", says="'x'")
        self.usage("completion", "tcsh", says="'tcsh' is none of bash|zsh|fish")

    def test_values_are_checked(self):
        self.usage("log", "-n", "many", says="option '-n' takes a number, not 'many'")
        self.assertIn("vera: log: option '-n' needs a value, N", self.vera("log", "-n", code=2).err)
        self.usage("log", "--oneline=yes", says="option '--oneline' takes no value")
        self.usage("apply", "main", "--base", "b", "--out", "o", "--device", "tpu", says="'tpu'")

    def test_json_before_the_command_is_explained(self):
        self.assertIn("hint: a command's own options follow its name: vera COMMAND --json",
                      self.vera("--json", "log", code=2).err)

    def test_control_characters_are_shown_as_what_they_are(self):
        evil = "a\x1b[31mb\nc\x7f\u009b"
        result = self.vera(evil, code=2)
        self.assertIn(r"'a\x1b[31mb\x0ac\x7f\xc2\x9b' is no command", result.err)
        self.assertEqual(self.vera(b"\xff\xfe", code=2).err.splitlines()[0],
                         r"vera: '\xff\xfe' is no command of vera")
        self.assertEqual(result.err.count("\n"), 2)
        self.assertIn("'größe'", self.vera("größe", code=2).err)

    def test_control_characters_are_escaped_in_json(self):
        result = self.vera("show", "a\x1bb\x7fc\u009bd", "--json", code=1)
        self.assertTrue(all(character.isprintable() for character in result.out.rstrip("\n")), repr(result.out))

    def test_very_long_arguments_are_no_matter(self):
        self.vera("x" * 100000, code=2)
        self.vera("log", "--" + "y" * 100000, code=2)
        self.vera("log", "z" * 100000, code=1)

    def test_directory_that_does_not_exist(self):
        self.fails("-C", "nowhere", "stats", code="NOTFOUND", says="nowhere")
        self.assertIn("vera: option '-C' needs a value, DIR", self.vera("-C", code=2).err)


class Streams(VeraTest):
    def test_output_that_cannot_be_written_is_an_error(self):
        for args in (["help"], ["--version"], ["completion", "bash"], ["init", "--json"]):
            with self.subTest(args=args), open("/dev/full", "wb") as full:
                result = self.vera(*args, code=1, stdout=full)
                self.assertIn("vera: standard output: No space left on device", result.err)

    def test_stdout_that_is_closed_is_an_error(self):
        result = self.vera("help", code=1, preexec_fn=lambda: os.close(1))
        self.assertIn("vera: standard output: Bad file descriptor", result.err)

    def test_closed_streams_are_not_given_to_files(self):
        """Else lines for people would be written into whatever was opened first."""
        if not os.path.exists("/proc/self/fd"):
            print(f"{self.id()}: not tried here, /proc is not mounted", file=sys.stderr)
            return
        closed = (0, 1, 2)
        with self.spawn(["init"], env=self.preload(STOP=3),
                        preexec_fn=lambda: [os.close(fd) for fd in closed]) as process:
            try:
                _, status = os.waitpid(process.pid, os.WUNTRACED)
                self.assertTrue(os.WIFSTOPPED(status))
                held = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in closed]
            finally:
                process.kill()
        self.assertEqual(held, ["/dev/null"] * 3)

    def test_a_reader_who_leaves_ends_it_quietly(self):
        for args in (["help"], ["init", "--json"]):
            read, write = os.pipe()
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                result = self.vera(*args, code=-signal.SIGPIPE, stdout=pipe)
            self.assertNotIn("vera: ", result.err)

    def test_a_reader_who_leaves_is_an_error_where_sigpipe_was_ignored(self):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            result = self.vera("help", code=1, stdout=pipe, restore_signals=False,
                               preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN))
        self.assertIn("vera: standard output: Broken pipe", result.err)


class Manual(VeraTest):
    def setUp(self):
        super().setUp()
        with open(MANUAL, encoding="ascii") as file:
            self.page = file.read()

    def plain(self):
        text = re.sub(r"\\f[BIR]|\\&", "", self.page)
        for name, character in [(r"\-", "-"), (r"\(aq", "'"), (r"\(ti", "~"), (r"\(ha", "^"),
                                (r"\(ga", "`"), (r"\e", "\\")]:
            text = text.replace(name, character)
        return text

    def test_every_command_and_option_is_in_it(self):
        text = self.plain()
        for name in COMMANDS:
            with self.subTest(command=name):
                chapter = re.search(rf"^\.SS vera {name}$.*?(?=^\.S[SH] )", text, re.M | re.S)[0]
                common = re.search(r"^\.SH OPTIONS$.*?(?=^\.SH )", text, re.M | re.S)[0]
                for letter, option in options_of(self.vera("help", name).out):
                    spelled = ", ".join(filter(None, (letter, option)))
                    self.assertRegex(chapter + common, rf"(?m)^\.TP\n{spelled}( |$)")

    def test_no_line_is_a_request_by_accident(self):
        requests = set(re.findall(r"(?m)^[.']\S*", self.page))
        self.assertLessEqual(requests, {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".BR", ".IR", ".BI",
                                        ".RS", ".RE", ".EX", ".EE"})

    def groff_renders_it_without_a_warning(self):
        done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", MANUAL], capture_output=True,
                              check=True, timeout=PATIENCE)
        self.assertEqual(decode(done.stderr), "")
        self.assertIn("\nSEE ALSO", re.sub(r".\x08|\x1b\[\d*m", "", decode(done.stdout)))


class Completion(VeraTest):
    def setUp(self):
        super().setUp()
        self.scripts = {shell: self.vera("completion", shell).out for shell in ("bash", "zsh", "fish")}
        for shell, script in self.scripts.items():
            with open(self.path(shell), "w", encoding="utf-8") as file:
                file.write(script)

    def shell(self, *command, cwd=None):
        done = subprocess.run(command, cwd=cwd or self.dir, env=self.env, capture_output=True,
                              check=False, timeout=PATIENCE)
        self.assertEqual((done.returncode, decode(done.stderr)), (0, ""), decode(done.stdout))
        return decode(done.stdout).splitlines()

    def ask_bash(self, *words, cwd=None):
        """What bash offers for the last word."""
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vera; '
                  '((${#COMPREPLY[@]} == 0)) || printf "%s\\n" "${COMPREPLY[@]}"')
        return self.shell("bash", "-c", script, "bash", self.path("bash"), "vera", *words, cwd=cwd)

    def test_every_option_is_in_every_script(self):
        for name in COMMANDS:
            bash = self.ask_bash(name, "-")
            zsh = re.search(rf"^_vera-{name}\(\) {{$.*?^}}", self.scripts["zsh"], re.M | re.S)[0]
            fish = "\n".join(line for line in self.scripts["fish"].splitlines()
                             if f"'__vera_is \"{name}\"'" in line)
            for letter, option in options_of(self.vera("help", name).out):
                with self.subTest(command=name, option=option or letter):
                    self.assertLessEqual({letter, option} - {None}, set(bash))
                    if option:
                        self.assertRegex(zsh, rf"(?m)^    '(\*|\(\S+ \S+\))?{option}=?\[")
                        self.assertRegex(fish, rf" -l {option[2:]} ")
                    if letter:
                        self.assertRegex(zsh, rf"(?m)^    '(\*|\(\S+ \S+\))?{letter}\+?\[")
                        self.assertRegex(fish, rf" -s {letter[1]} ")

    def test_bash_offers_commands_words_and_directories(self):
        os.mkdir(self.path("some dir"))
        self.assertEqual(sorted(self.ask_bash("")), sorted(COMMANDS))
        self.assertEqual(self.ask_bash("comm"), ["commit"])
        self.assertEqual(self.ask_bash("-C", "x", "comm"), ["commit"])
        self.assertEqual(self.ask_bash("help", "swi"), ["switch"])
        self.assertEqual(self.ask_bash("completion", "z"), ["zsh"])
        self.assertEqual(self.ask_bash("completion", "zsh", ""), [])
        self.assertEqual(self.ask_bash("commit", "some"), ["some dir"])
        self.assertEqual(self.ask_bash("apply", "main", "--device", "c"), ["cpu", "cuda"])
        self.assertEqual(self.ask_bash("apply", "main", "--device", "=", ""), ["auto", "cpu", "cuda"])
        self.assertEqual(self.ask_bash("apply", "main", "--device", "="), ["auto", "cpu", "cuda"])
        self.assertEqual(self.ask_bash("commit", "-m", ""), [])
        self.assertEqual(self.ask_bash("commit", "--", "--js"), [])

    def test_bash_offers_branches_and_tags_and_runs_none(self):
        self.vera("init")
        repository = self.path(".vera")
        tree = self.git("--git-dir", repository, "hash-object", "-t", "tree", "-w", "/dev/null").strip()
        commit = self.git("--git-dir", repository, "commit-tree", "-m", "x", tree).strip()
        for ref in ("heads/run/1", "heads/run/$(touch${IFS}pwned)", "tags/ready"):
            self.git("--git-dir", repository, "update-ref", "refs/" + ref, commit)
        os.mkdir(self.path("below"))
        evil = r"run/\$\(touch\$\{IFS\}pwned\)"
        for cwd in (self.dir, self.path("below")):
            self.assertEqual(sorted(self.ask_bash("log", "r", cwd=cwd)), sorted(["ready", "run/1", evil]))
            self.assertEqual(sorted(self.ask_bash("switch", "r", cwd=cwd)), sorted(["run/1", evil]))
        self.assertEqual(self.ask_bash("-C", self.dir, "log", "rea", cwd=self.home), ["ready"])
        self.assertEqual(self.ask_bash("log", "rea", cwd=self.home), [])
        self.env["VERA_REPO"] = repository
        self.assertEqual(self.ask_bash("log", "rea", cwd=self.home), ["ready"])
        self.assertFalse(os.path.exists(self.path("pwned")))
        self.assertFalse(os.path.exists(self.path("below", "pwned")))

    def test_bash_parses_its_script(self):
        self.shell("bash", "-n", self.path("bash"))

    def zsh_parses_its_script(self):
        self.shell("zsh", "-n", self.path("zsh"))

    def fish_parses_its_script_and_completes(self):
        self.shell("fish", "--no-execute", self.path("fish"))
        script = 'source $argv[1]; function vera; end; complete -C $argv[2]'
        for typed, offered in [("vera comm", "commit"), ("vera completion f", "fish"),
                               ("vera apply main --device cp", "cpu"), ("vera commit --allow", "--allow-empty")]:
            lines = self.shell("fish", "--no-config", "-c", script, self.path("fish"), typed)
            self.assertEqual([line.split("\t")[0] for line in lines], [offered])


# Tools that the build does not need: what is not installed is not tested, and that is said.
for case, tool, method in [(Manual, "groff", "groff_renders_it_without_a_warning"),
                           (Completion, "zsh", "zsh_parses_its_script"),
                           (Completion, "fish", "fish_parses_its_script_and_completes")]:
    if shutil.which(tool):
        setattr(case, "test_" + method, getattr(case, method))
    else:
        print(f"{method}: not tried here, {tool} is not installed", file=sys.stderr)

if __name__ == "__main__":
    unittest.main()
