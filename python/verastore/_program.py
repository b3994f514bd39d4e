"""Versions out of a repository, by running `vera`: the library itself knows nothing of repositories."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from typing import IO, Callable, Dict, List, Optional, Tuple

from ._library import BUNDLE_HEADER
from .errors import Corrupt, Invalid, NotFound, VeraError, error_of


def program() -> str:
    """$VERA, else the `vera` of the path."""
    chosen = os.environ.get("VERA")
    found = shutil.which(chosen or "vera")
    if found is None:
        raise NotFound(f"{'$VERA: ' + chosen if chosen else 'the program vera'} was not found",
                       "install verastore, set $VERA to the program's path, or give a PEFT directory")
    return found


def _command(repo: Optional["os.PathLike[str] | str"]) -> Tuple[List[str], Dict[str, str]]:
    environment = dict(os.environ)
    if repo is None:
        return [program()], environment
    environment.pop("VERA_REPO", None)
    return [program(), "-C", os.fspath(repo)], environment


def _failure(command: List[str], environment: Dict[str, str], rev: str, said: bytes) -> VeraError:
    """What vera told on stderr; its code is what `vera show` gives for the same version, if that fails too."""
    message, _, hint = said.decode(errors="replace").strip().partition("\nhint: ")
    message = message[len("vera: "):] if message.startswith("vera: ") else message
    shown = subprocess.run([*command, "show", rev, "--json"], env=environment, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    try:
        code = json.loads(shown.stdout)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = "FAILED"
    return error_of(code, message or "vera failed and told nothing", hint or None)


def _read(pipe: IO[bytes], size_of: Optional[Callable[[bytes], int]]) -> bytes:
    """A bundle, whose size is asked for before its body is read."""
    if size_of is None:
        return pipe.read()
    header = pipe.read(BUNDLE_HEADER)
    if len(header) < BUNDLE_HEADER:
        return header
    size = size_of(header)
    data = header + pipe.read(size - len(header) + 1)
    if len(data) > size:
        raise Corrupt("bundle: more follows behind its end")
    return data


def bundle(rev: str, repo: Optional["os.PathLike[str] | str"] = None,
           size_of: Optional[Callable[[bytes], int]] = None) -> bytes:
    """The version as a bundle. `size_of` is told the first BUNDLE_HEADER bytes, and says how many there are in all;
    what it raises ends the reading."""
    if not rev or rev.startswith("-"):
        raise Invalid(f"'{rev}' is no revision")
    command, environment = _command(repo)
    with subprocess.Popen([*command, "export", rev, "-", "--as", "bundle"], env=environment,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        said: List[bytes] = []
        listener = threading.Thread(target=lambda pipe: said.append(pipe.read()), args=(child.stderr,))
        listener.start()
        try:
            data = _read(child.stdout, size_of)
        except BaseException:
            child.kill()
            raise
        finally:
            listener.join()
        status = child.wait()
    if status != 0:
        raise _failure(command, environment, rev, said[0] if said else b"")
    return data
