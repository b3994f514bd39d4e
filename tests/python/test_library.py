"""The package by itself: how it finds the library, what it says where it cannot, and how pip installs it."""
import os
import re
import subprocess
import sys
import unittest

from support import TOP, PackageTest, verastore

from verastore import _library

PACKAGE = os.path.join(TOP, "python")
HEADER = os.path.join(TOP, "apply", "vera_apply.h")
STRUCTURES = {"vera_options": _library.Options, "vera_tensor": _library.Tensor, "vera_state": _library.State,
              "vera_adapter_about": _library.AdapterAbout, "vera_adapter_tensor": _library.AdapterTensor,
              "vera_registry_options": _library.RegistryOptions, "vera_registry_state": _library.RegistryState,
              "vera_batch": _library.Batch}


def python(code, **env):
    """Output, exit status of a fresh Python that knows the package; None takes a variable away."""
    whole = {**os.environ, "PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1", **env}
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False,
                          env={name: value for name, value in whole.items() if value is not None})
    return done.stdout, done.stderr, done.returncode


class Finding(PackageTest):
    def test_importing_needs_no_library_torch_or_numpy(self):
        code = "import sys, verastore; print(verastore.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
        self.assertEqual(python(code, VERA_LIBRARY="/nowhere"), (verastore.__version__ + " False False\n", "", 0))

    def test_a_library_that_is_missing_is_named_with_what_to_do(self):
        code = ("import verastore\ntry: verastore.library_version()\n"
                "except verastore.NotFound as error: print(error)")
        out, _, _ = python(code, VERA_LIBRARY="/nowhere/libvera_apply.so.1")
        self.assertIn("$VERA_LIBRARY: /nowhere/libvera_apply.so.1: cannot open", out)
        out, _, _ = python(code, VERA_LIBRARY=None, PATH="/nowhere", LD_LIBRARY_PATH=None)
        self.assertTrue(out.startswith("the library libvera_apply.so.1 was not found\nhint: ") or
                        out == "", out)  # it may be installed on this machine

    def test_a_library_of_another_kind_is_refused_by_the_function_that_it_lacks(self):
        code = ("import verastore\ntry: verastore.library_version()\n"
                "except verastore.Unsupported as error: print(error)")
        out, err, _ = python(code, VERA_LIBRARY="libc.so.6")
        self.assertIn("libc.so.6: has no vera_error_message: it is older than this package", out, err)

    def test_it_is_found_beside_the_program(self):
        prefix = self.path("prefix")
        os.makedirs(os.path.join(prefix, "bin"))
        os.makedirs(os.path.join(prefix, "lib", "some-linux"))
        program = os.path.join(prefix, "bin", "vera")
        with open(program, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n")
        os.chmod(program, 0o755)
        there = os.path.join(prefix, "lib", "some-linux", _library.SONAME)
        os.symlink(os.path.realpath(os.environ["VERA_LIBRARY"]), there)
        code = "from verastore import _library; print(_library.library().path)"
        if os.environ["SANITIZE"] == "none":
            out, err, _ = python(code, VERA_LIBRARY=None, PATH=os.path.join(prefix, "bin"))
            self.assertIn(out.strip(), (there, _library.SONAME), err)

    def test_package_library_and_program_have_one_version(self):
        self.assertEqual(verastore.library_version(), verastore.__version__)
        self.assertIn(verastore.__version__, self.vera("--version").out)
        with open(os.path.join(PACKAGE, "pyproject.toml"), encoding="utf-8") as file:
            self.assertIn(f'version = "{verastore.__version__}"\n', file.read())

    def test_every_public_name_is_there_and_has_a_docstring(self):
        for name in verastore.__all__:
            self.assertTrue(getattr(verastore, name).__doc__, name)

    def test_structures_are_the_headers(self):
        """Sizes and offsets as the C compiler has them."""
        lines = []
        for name, structure in STRUCTURES.items():
            lines.append(f"_Static_assert(sizeof(struct {name}) == {_library.ctypes.sizeof(structure)}, \"{name}\");")
            for field, _ in structure._fields_:
                offset = getattr(structure, field).offset
                lines.append(f"_Static_assert(offsetof(struct {name}, {field}) == {offset}, \"{name}.{field}\");")
        source = self.path("sizes.c")
        with open(source, "w", encoding="utf-8") as file:
            file.write(f"#include \"{HEADER}\"\n" + "\n".join(lines) + "\n")
        done = subprocess.run(["cc", "-fsyntax-only", source], text=True, capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_every_function_of_the_header_is_bound(self):
        with open(HEADER, encoding="utf-8") as file:
            declared = set(re.findall(r"\b(vera_\w+)\(", re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)))
        self.assertEqual(declared, {name for name, _, _ in _library._FUNCTIONS})


class Installing(PackageTest):
    def test_pip_installs_it_from_the_source_tree(self):
        tree = self.path("python")
        subprocess.run(["cp", "-R", PACKAGE, tree], check=True)  # pip leaves its build folder in it
        have = subprocess.run([sys.executable, "-c", "import setuptools.build_meta, wheel, pip"], capture_output=True,
                              check=False)
        if have.returncode != 0:
            print(f"{self.id()}: not tried here, pip, setuptools or wheel is missing (sh docs/install.sh python)",
                  file=sys.stderr)
            return
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation",
                               "--disable-pip-version-check", "--target", self.path("there"), tree], text=True,
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        found = str(os.listdir(self.path("there", "verastore")))
        out, err, _ = python("import verastore; print(verastore.__file__)", PYTHONPATH=self.path("there"))
        self.assertIn(self.path("there", "verastore"), out, err)
        self.assertIn("'py.typed'", found)
        for name in os.listdir(os.path.join(PACKAGE, "verastore")):
            if name.endswith(".py"):
                self.assertIn(f"'{name}'", found)


if __name__ == "__main__":
    unittest.main()
