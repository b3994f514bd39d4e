"""On a terminal: progress, Ctrl-C, and what a signal leaves behind."""
import os
import shutil
import signal
import subprocess
import unittest

from harness import PATIENCE, RepositoryTest, Terminal, adapter, base, decode, needs_terminals, tree

ADAPTER, NEXT, BASE = adapter("llama/step-000"), adapter("llama/step-010"), base("llama")
APPLY = ["apply", "HEAD", "--base", BASE, "--out", "out"]


class TerminalTest(RepositoryTest):
    adapters = (ADAPTER,)


class Progress(TerminalTest):
    def drawings(self, terminal):
        """What was drawn over and over on one line."""
        return [text for text in decode(terminal.seen).replace("\n", "\r").split("\r") if "%" in text]

    @needs_terminals
    def test_it_tells_bytes_and_share_and_wipes_its_line(self):
        terminal = Terminal(self, *APPLY, "--progress")
        self.assertEqual(terminal.finish(), 0)
        drawings = self.drawings(terminal)
        self.assertTrue(drawings)
        for text in drawings:
            self.assertRegex(text, r"^\d[\d.]* k?B of [\d.]+ k?B, \d+%(, [\d.]+ \w?B/s, [\d:]+ left)? *$")
            self.assertLess(len(text), 80)
        self.assertIn("100%", drawings[-1])
        self.assertFalse([line for line in terminal.screen() if "%" in line], terminal.screen())
        self.assertTrue([line for line in terminal.screen() if line.startswith("applied ")])

    @needs_terminals
    def test_short_work_draws_nothing(self):
        terminal = Terminal(self, *APPLY)
        self.assertEqual(terminal.finish(), 0)
        self.assertEqual(self.drawings(terminal), [])

    @needs_terminals
    def test_it_can_be_turned_off(self):
        terminal = Terminal(self, *APPLY, "--progress", "--no-progress")
        self.assertEqual(terminal.finish(), 0)
        self.assertEqual(self.drawings(terminal), [])

    @needs_terminals
    def test_it_stays_one_line_on_a_narrow_terminal(self):
        terminal = Terminal(self, *APPLY, "--progress", columns=10)
        self.assertEqual(terminal.finish(), 0)
        drawn = [text for text in decode(terminal.seen).replace("\n", "\r").split("\r") if " of" in text]
        self.assertTrue([text for text in drawn if len(text) == 9])
        self.assertFalse([text for text in drawn if " of " in text and "applied" not in text
                          and len(text) > 9 and text[0].isdigit()])

    def test_without_a_terminal_it_must_be_asked_for(self):
        self.assertNotIn("%", self.vera(*APPLY).err)
        with self.spawn([*APPLY, "--force", "--progress", "--json"], stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE) as process:
            out, err = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0, err)
        self.assertIn(b"100%", err)
        self.assertNotIn(b"%", out)


class Interrupt(TerminalTest):
    def assert_nothing_is_left(self):
        now = tree(self.dir)
        self.assertEqual([path for path in now if path not in self.before
                          and not path.startswith(".vera/objects/")], [])
        self.assertEqual([path for path in now if "tmp_" in path or ".vera-" in path], [])

    @needs_terminals
    def test_ctrl_c_before_any_change_of_apply_leaves_nothing(self):
        change, statuses = 1, []
        while not statuses or statuses[-1] != 0:
            terminal = Terminal(self, *APPLY, env=self.preload(STOP=change))
            if terminal.wait_stopped():
                terminal.interrupt()
                terminal.go_on()
            statuses.append(terminal.finish())
            if statuses[-1] == 130:
                self.assertIn("vera: interrupted", "\n".join(terminal.screen()))
                self.assertEqual(tree(self.dir), self.before)
            change += 1 + change // 5
        self.assertEqual(set(statuses[:-1]), {130})
        self.assertGreater(len(statuses), 8)
        self.vera("verify", "out", "--rev", "HEAD", "--base", BASE)

    @needs_terminals
    def test_ctrl_c_before_any_change_of_commit_leaves_the_old_state_or_the_new(self):
        start = os.path.join(self.top, "start")
        shutil.copytree(self.path(".vera"), start)
        change, seen = 1, set()
        while True:
            terminal = Terminal(self, "commit", NEXT, env=self.preload(STOP=change))
            stopped = terminal.wait_stopped()
            if stopped:
                terminal.interrupt()
                terminal.go_on()
            status = terminal.finish()
            versions = len(self.vera("log", "--json").lines)
            self.assertEqual((status, versions), (0, 2) if status == 0 else (130, 1), terminal.screen())
            seen.add(status)
            if status == 130:
                self.assert_nothing_is_left()
            if not stopped:
                break
            shutil.rmtree(self.path(".vera"))
            shutil.copytree(start, self.path(".vera"))
            change += 1 + change // 5
        self.assertEqual(seen, {0, 130})

    @needs_terminals
    def test_the_second_ctrl_c_ends_it_at_once(self):
        terminal = Terminal(self, *APPLY, env=self.preload(STOP=4))
        self.assertTrue(terminal.wait_stopped())
        terminal.interrupt()
        terminal.go_on()
        self.assertTrue(terminal.wait_stopped())  # it was about to clean up
        terminal.interrupt()
        terminal.go_on()
        self.assertEqual(terminal.finish(), -signal.SIGINT)

    @needs_terminals
    def test_sigterm_and_sighup_unwind_too(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            terminal = Terminal(self, *APPLY, "--json", env=self.preload(STOP=4))
            self.assertTrue(terminal.wait_stopped())
            os.kill(terminal.process.pid, number)
            terminal.go_on()
            self.assertEqual(terminal.finish(), 130)
            self.assertIn(b'{"error":{"code":"INTERRUPTED","message":"', terminal.seen)
            self.assertEqual(tree(self.dir), self.before)

    @needs_terminals
    def test_a_signal_that_the_caller_ignored_stays_ignored(self):
        terminal = Terminal(self, *APPLY, env=self.preload(STOP=4), ignore=signal.SIGHUP)
        self.assertTrue(terminal.wait_stopped())
        os.kill(terminal.process.pid, signal.SIGHUP)
        terminal.go_on()
        self.assertEqual(terminal.finish(), 0)


if __name__ == "__main__":
    unittest.main()
