"""fsck --repair: what is damaged comes whole from another repository, and nothing else does."""
import glob
import os
import shutil
import unittest

from harness import adapter, tree
from versions import RepositoryTest

STEPS = ["step-000", "step-010", "step-020", "step-030"]


class Repair(RepositoryTest):
    def prepare(self):
        for step in STEPS:
            self.commit(adapter("llama/" + step), "-m", step)

    def setUp(self):
        super().setUp()
        shutil.copytree(self.path(".vera"), self.path("backup", ".vera"))

    def loose(self):
        return sorted(glob.glob(self.path(".vera", "objects", "[0-9a-f]" * 2, "*")))

    def packs(self):
        return glob.glob(self.path(".vera", "objects", "pack", "*.pack"))

    def break_file(self, path, every=7):
        os.chmod(path, 0o644)
        with open(path, "rb") as file:
            data = bytearray(file.read())
        for i in range(len(data) // 2, len(data), every):
            data[i] ^= 0x55
        with open(path, "wb") as file:
            file.write(data)

    def all_come_back(self):
        self.assertIn("all whole", self.vera("fsck").out)
        self.assertEqual(self.git("--git-dir=.vera", "fsck", "--strict"), "")
        for back, step in enumerate(reversed(STEPS)):
            out = f"out-{step}"
            self.vera("export", f"HEAD~{back}", out)
            self.assertEqual(tree(self.path(out)), tree(adapter("llama/" + step)))

    def test_every_object_but_one_may_be_damaged(self):
        paths = self.loose()
        for path in paths[1:]:
            self.break_file(path)
        self.vera("fsck", code=1)
        done = self.vera("fsck", "--repair", "backup", "--json")
        self.assertEqual(done.json["bad"], [])
        self.assertEqual(len(set(done.json["repaired"])), len(paths) - 1)
        self.all_come_back()

    def test_every_object_may_be_missing(self):
        for path in self.loose():
            os.remove(path)
        self.assertIn("fetched", self.vera("fsck", "--repair", "backup").out)
        self.all_come_back()

    def test_damage_inside_a_pack(self):
        self.vera("gc")
        (pack,) = self.packs()
        self.break_file(pack, every=500)
        self.vera("fsck", code=1)
        self.vera("fsck", "--repair", "backup")
        self.assertEqual(self.packs(), [])
        self.all_come_back()

    def test_a_bare_clone_and_a_remote_by_name_will_do(self):
        self.git("clone", "-q", "--mirror", "backup/.vera", "clone.git")
        self.git("--git-dir=.vera", "remote", "add", "safe", self.path("clone.git"))
        for remote in ("clone.git", "safe"):
            self.break_file(self.loose()[0])
            self.vera("fsck", "--repair", remote)
            self.all_come_back()
            for step in STEPS:
                shutil.rmtree(self.path(f"out-{step}"))

    def test_what_the_other_has_not_either_stays_damaged(self):
        broken = self.loose()[0]
        name = os.path.basename(os.path.dirname(broken)) + os.path.basename(broken)
        os.remove(broken)
        os.remove(broken.replace(self.path(".vera"), self.path("backup", ".vera")))
        done = self.vera("fsck", "--repair", "backup", "--json", code=1)
        self.assertEqual((done.json["repaired"], [bad["object"] for bad in done.json["bad"]]),
                         ([], [name]))

    def test_a_damaged_copy_is_not_fetched(self):
        broken = self.loose()[0]
        os.remove(broken)
        self.break_file(broken.replace(self.path(".vera"), self.path("backup", ".vera")))
        self.vera("fsck", "--repair", "backup", code=1)
        self.assertFalse(os.path.exists(broken))

    def test_what_is_no_repository(self):
        self.break_file(self.loose()[0])
        self.fails("fsck", "--repair", "nowhere", code="NOTFOUND", hint=".vera")
        self.fails("fsck", "--repair", "https://host/adapters", code="UNSUPPORTED", hint="mirror")


if __name__ == "__main__":
    unittest.main()
