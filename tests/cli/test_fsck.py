"""fsck, stats and basis: what the repository says of itself, whole and damaged."""
import glob
import os
import unittest

from harness import adapter, tree
from versions import A, BASIS_LIST, FSCK_BAD, RepositoryTest, STATS


class Fsck(RepositoryTest):
    def prepare(self):
        type(self).first = self.commit(adapter("llama/step-010"), "-m", "first")
        self.vera("branch", "side")
        type(self).second = self.commit(adapter("llama/step-020"), "-m", "second")

    def object_of(self, spec):
        """The id and the path of a loose object."""
        name = self.git("--git-dir=.vera", "rev-parse", spec).strip()
        return name, self.path(".vera", "objects", name[:2], name[2:])

    def damage(self, spec):
        name, path = self.object_of(spec)
        os.chmod(path, 0o644)
        with open(path, "r+b") as file:
            data = bytearray(file.read())
            data[len(data) // 2] ^= 0x10
            file.seek(0)
            file.write(data)
        return name

    def test_whole(self):
        done = self.vera("fsck", "--json")
        self.assertEqual(set(done.json), {"checked", "bad", "safe", "repaired"})
        self.assertEqual(done.json["bad"], [])
        self.assertEqual(set(done.json["safe"]["versions"]),
                         {self.first["commit"], self.second["commit"]})
        self.assertEqual(set(done.json["safe"]["branches"]), {"main", "side"})
        checked = done.json["checked"]
        self.assertEqual((checked["versions"], checked["snapshots"]), (2, 2))
        self.assertEqual(checked["bases"], 1)
        self.assertGreater(checked["objects"], 10)
        self.assertIn("all whole", self.vera("fsck").out)

    def test_names_the_damage_and_whom_it_touches(self):
        for spec in ("HEAD:vectors/frame", "HEAD:recipe", "HEAD:manifest"):
            with self.subTest(spec):
                name, path = self.object_of(spec)
                with open(path, "rb") as file:
                    whole = file.read()
                self.damage(spec)
                done = self.vera("fsck", "--json", code=1)
                (bad,) = [bad for bad in done.json["bad"] if bad["object"] == name]
                self.assertEqual(set(bad), FSCK_BAD)
                self.assertEqual(bad["versions"], [self.second["commit"]])
                self.assertEqual(bad["branches"], ["main"])
                self.assertEqual(done.json["safe"], {"versions": [self.first["commit"]],
                                                     "branches": ["side"]})
                said = self.vera("fsck", code=1)
                self.assertIn("safe: 1 of 2 versions\n"
                              f"  versions {self.first['commit'][:7]}\n  branches side\n", said.out)
                self.assertIn(name, said.out)
                self.assertIn(self.second["commit"][:7], said.out)
                with open(path, "wb") as file:
                    file.write(whole)
                self.vera("fsck")

    def test_what_versions_share_touches_all_of_them(self):
        name = self.damage("HEAD:layout")
        (bad,) = [bad for bad in self.vera("fsck", "--json", code=1).json["bad"]
                  if bad["object"] == name]
        self.assertEqual(set(bad["versions"]), {self.first["commit"], self.second["commit"]})
        self.assertEqual(set(bad["branches"]), {"main", "side"})

    def test_a_missing_object_is_damage(self):
        name, path = self.object_of("HEAD:vectors/frame")
        os.remove(path)
        self.assertIn(name, [bad["object"] for bad in
                             self.vera("fsck", "--json", code=1).json["bad"]])

    def test_damage_never_leaves_the_store(self):
        name = self.damage("HEAD:vectors/frame")
        self.fails("export", "main", "out", code="CORRUPT", says=name)
        self.fails("show", "main", code="CORRUPT", says=name)
        self.vera("export", "side", "out")
        self.assertEqual(os.listdir(self.dir).count("out"), 1)

    def test_one_damaged_version_does_not_hide_the_others(self):
        self.damage("HEAD:manifest")
        main, side = self.vera("branch", "--json").lines
        self.assertEqual((main["commit"], main["snapshot"]), (self.second["commit"], None))
        self.assertEqual(side["snapshot"], self.first["snapshot"])
        self.assertEqual([line[-6:] for line in self.vera("branch").out.splitlines()],
                         ["second", " first"])
        self.vera("log", "side")
        self.damage("HEAD")
        main, side = self.vera("branch").out.splitlines()
        self.assertIn("damaged", main)
        self.assertIn("first", side)

    def test_committing_it_again_gives_a_whole_version(self):
        """Objects that are written again are mended in the old version, too."""
        for spec in ("HEAD:layout", "HEAD:adapter_config.json", "HEAD:files/README.md"):
            self.damage(spec)
        frame = self.damage("HEAD:vectors/frame")
        self.assertIn("--allow-empty", self.vera("fsck", code=1).err)
        self.vera("commit", adapter("llama/step-020"), "--allow-empty")
        bad = self.vera("fsck", "--json", code=None).json["bad"]
        self.assertLessEqual({entry["object"] for entry in bad}, {frame})
        self.assertLessEqual({version for entry in bad for version in entry["versions"]},
                             {self.second["commit"]})
        self.vera("export", "HEAD", "out")
        self.assertEqual(tree(self.path("out")), tree(adapter("llama/step-020")))

    def test_a_basis_that_is_not_drawn_again_is_damage(self):
        """A recipe that git holds to be whole, and that lies: another seed's digests."""
        recipe = self.git("--git-dir=.vera", "cat-file", "blob", "HEAD:recipe")
        wrong = recipe.replace("variant fma", "variant mul-add").encode()
        self.assertNotEqual(recipe.encode(), wrong)
        with open(self.path("recipe"), "wb") as file:
            file.write(wrong)
        blob = self.git("--git-dir=.vera", "hash-object", "-w", "recipe").strip()
        listed = self.git("--git-dir=.vera", "ls-tree", "HEAD").splitlines()
        entries = [line.split()[0:2] + [blob, "recipe"] if line.endswith("\trecipe")
                   else line.split(maxsplit=3) for line in listed]
        text = "".join(f"{mode} {kind} {name}\t{path}\n" for mode, kind, name, path in entries)
        made = self.git("--git-dir=.vera", "mktree", input=text.encode()).strip()
        commit = self.git("--git-dir=.vera", "commit-tree", "-m", "lie", "-p", "HEAD", made).strip()
        self.git("--git-dir=.vera", "update-ref", "refs/heads/lie", commit)
        bad = self.vera("fsck", "--json", code=1).json["bad"]
        self.assertEqual([entry["versions"] for entry in bad], [[commit]])
        self.fails("export", "lie", "out", code="CORRUPT")
        self.vera("basis", "verify", code=1)


class Stats(RepositoryTest):
    def test_sizes(self):
        for step in range(3):
            self.commit(adapter(f"llama/step-{10 * step:03}"))
        self.commit(adapter("llama/step-000"), "--branch", "again")
        stats = self.vera("stats", "--json").json
        self.assertEqual(set(stats), STATS)
        self.assertEqual((stats["versions"], stats["snapshots"]), (4, 3))
        self.assertAlmostEqual(stats["ratio"], stats["raw_bytes"] / stats["stored_bytes"])
        files = [os.path.getsize(path) for step in (0, 10, 20, 0)
                 for path in glob.glob(adapter(f"llama/step-{step:03}") + "/*")]
        self.assertEqual(stats["raw_bytes"], sum(files))
        on_disk = sum(os.lstat(os.path.join(folder, name)).st_size
                      for folder, _, names in os.walk(self.path(".vera")) for name in names)
        self.assertEqual(stats["stored_bytes"], on_disk)
        self.assertEqual(sum(stats["where"].values()), on_disk)
        self.assertGreater(stats["where"]["vectors"], 0)
        self.assertEqual([(branch["name"], branch["versions"]) for branch in stats["branches"]],
                         [("again", 4), ("main", 3)])
        self.assertTrue(all(set(branch) == {"name", "versions", "stored_bytes"}
                            for branch in stats["branches"]))
        said = self.vera("stats").out
        self.assertRegex(said, r"versions +4 ")
        self.assertRegex(said, r"again +4 ")
        self.assertRegex(said, r"vectors +[0-9.]+% +[0-9.]+ kB")

    def test_nothing_yet(self):
        stats = self.vera("stats", "--json").json
        self.assertEqual((stats["versions"], stats["raw_bytes"], stats["branches"]), (0, 0, []))
        self.vera("stats")
        self.vera("fsck")


class Basis(RepositoryTest):
    def prepare(self):
        self.commit(adapter("llama/step-010"))
        self.commit(adapter("llama/step-020"))
        self.commit(adapter("gpt2/step-010"), "--branch", "gpt2")
        self.commit(adapter("minilm/step-010"), "--branch", "minilm")
        path = self.copy("llama/step-030")
        self.tensors(path).flip(A, 40)
        self.commit(path, "--branch", "flipped")

    def test_list(self):
        bases = self.vera("basis", "--json").lines
        self.assertEqual(self.vera("basis", "list", "--json").lines, bases)
        self.assertTrue(all(set(basis) == BASIS_LIST for basis in bases))
        self.assertEqual([(basis["state"], basis["seed"], basis["versions"]) for basis in bases
                          if basis["state"] != "proved"],
                         [("stored", 0, 1), ("declared", 0, 1)])
        llama = next(basis for basis in bases if basis["rank"] == 32 and basis["state"] == "proved")
        self.assertEqual((llama["in"], llama["out"], llama["versions"]), (176, 176, 2))
        said = self.vera("basis").out
        self.assertEqual(len(said.splitlines()), 5)
        self.assertTrue(all(len(line) <= 80 for line in said.splitlines()), said)

    def test_show(self):
        whole = next(basis for basis in self.vera("basis", "--json").lines if basis["seed"] == 42)
        shown = self.vera("basis", "show", whole["sha256_a"][:8], "--json").json
        self.assertEqual(shown, whole)
        self.assertIn(whole["sha256_b"], self.vera("basis", "show", whole["sha256_a"]).out)
        self.fails("basis", "show", "0123456789", code="NOTFOUND", says="0123456789")
        self.fails("basis", "show", "xyz", status=2)
        self.fails("basis", "show", status=2)
        self.fails("basis", "frobnicate", status=2)

    def test_verify(self):
        found = self.vera("basis", "verify", "--json").lines
        self.assertEqual({(basis["state"], basis["ok"]) for basis in found},
                         {("proved", True), ("stored", None), ("declared", None)})
        said = self.vera("basis", "verify").out
        self.assertEqual((said.count("same bits"), said.count("not drawn")), (2, 2))
        self.assertTrue(all(len(line) <= 80 for line in said.splitlines()), said)
        one = self.vera("basis", "verify", found[0]["sha256_a"][:6], "--json").lines
        self.assertEqual(one, found[:1])


if __name__ == "__main__":
    unittest.main()
