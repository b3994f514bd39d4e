"""libvera_apply through ctypes: where it is found, its structures and functions, and its errors as exceptions.

The library is loaded when it is first needed, so importing the package needs none. Calls release the GIL.
"""
from __future__ import annotations

import ctypes
import os
import shutil
import threading
from ctypes import (CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint8,
                    c_uint32, c_uint64, c_void_p)
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

from .errors import NotFound, Unsupported, VeraError, error_of

SONAME = "libvera_apply.so.1"
OLDEST = (0, 1)

F32, BF16, F16 = 1, 2, 3
HOST, CUDA = 1, 2
LAYER_UNKNOWN, LAYER_LINEAR, LAYER_CONV1D = 0, 1, 2
BUNDLE_HEADER = 152
PIN, VECTORS_ONLY = 1, 2

PauseFunction = CFUNCTYPE(c_int, c_void_p)
ResumeFunction = CFUNCTYPE(None, c_void_p)


class Sized(Structure):
    """A structure of the header: `size` is set, so that programs and later libraries understand each other."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.size = ctypes.sizeof(self)


class Options(Sized):
    _fields_ = [("size", c_size_t), ("base", c_char_p), ("pause", PauseFunction), ("resume", ResumeFunction),
                ("context", c_void_p), ("basis_bytes", c_uint64), ("threads", c_uint32), ("reserved", c_uint32),
                ("kept_bytes", c_uint64)]


class Tensor(Sized):
    _fields_ = [("size", c_size_t), ("name", c_char_p), ("data", c_void_p), ("rows", c_uint64),
                ("columns", c_uint64), ("row_stride", c_int64), ("column_stride", c_int64), ("row_begin", c_uint64),
                ("row_count", c_uint64), ("column_begin", c_uint64), ("column_count", c_uint64),
                ("stream", c_void_p), ("dtype", c_int32), ("layer", c_int32), ("memory", c_int32),
                ("device", c_int32), ("reserved", c_uint32 * 2)]


class State(Sized):
    _fields_ = [("size", c_size_t), ("epoch", c_uint64), ("modules", c_uint64), ("snapshot", c_uint8 * 32),
                ("previous", c_uint8 * 32), ("attached", c_int32), ("pinned", c_int32), ("had_previous", c_int32),
                ("torn", c_int32), ("seconds", c_double), ("stopped", c_double)]


class AdapterAbout(Sized):
    _fields_ = [("size", c_size_t), ("snapshot", c_uint8 * 32), ("config", c_void_p), ("recipe", c_void_p),
                ("pin", c_void_p), ("config_bytes", c_uint64), ("recipe_bytes", c_uint64), ("pin_bytes", c_uint64),
                ("tensors", c_uint64)]


class AdapterTensor(Sized):
    _fields_ = [("size", c_size_t), ("name", c_char_p), ("dtype", c_char_p), ("shape", POINTER(c_uint64)),
                ("data", c_void_p), ("bytes", c_uint64), ("dims", c_uint32), ("reserved", c_uint32)]


class RegistryOptions(Sized):
    _fields_ = [("size", c_size_t), ("names", POINTER(c_char_p)), ("in", POINTER(c_uint64)),
                ("out", POINTER(c_uint64)), ("modules", c_uint64), ("directory", c_char_p), ("bundle", c_char_p),
                ("bundle_bytes", c_size_t), ("budget_bytes", c_uint64), ("base_dtype", c_int32),
                ("vector_dtype", c_int32), ("memory", c_int32), ("device", c_int32)]


class RegistryState(Sized):
    _fields_ = [("size", c_size_t), ("adapters", c_uint64), ("capacity", c_uint64), ("pinned", c_uint64),
                ("held", c_uint64), ("evicted", c_uint64), ("bytes", c_uint64), ("budget_bytes", c_uint64)]


class Batch(Sized):
    _fields_ = [("size", c_size_t), ("slots", POINTER(c_int32)), ("x", c_void_p), ("y", c_void_p),
                ("rows", c_uint64), ("x_stride", c_uint64), ("y_stride", c_uint64), ("dtype", c_int32),
                ("threads", c_uint32), ("stream", c_void_p), ("slots_memory", c_int32), ("reserved", c_uint32)]


_FUNCTIONS: List[Tuple[str, Any, List[Any]]] = [
    ("vera_error_message", c_char_p, []),
    ("vera_error_hint", c_char_p, []),
    ("vera_error_name", c_char_p, [c_int]),
    ("vera_version", c_char_p, []),
    ("vera_model_new", c_int, [POINTER(c_void_p), POINTER(Options)]),
    ("vera_model_free", None, [c_void_p]),
    ("vera_model_register", c_int, [c_void_p, POINTER(Tensor)]),
    ("vera_model_seal", c_int, [c_void_p]),
    ("vera_swap_bundle", c_int, [c_void_p, c_char_p, c_size_t, POINTER(State)]),
    ("vera_swap_directory", c_int, [c_void_p, c_char_p, POINTER(State)]),
    ("vera_detach", c_int, [c_void_p, POINTER(State)]),
    ("vera_status", c_int, [c_void_p, POINTER(State)]),
    ("vera_read_begin", None, [c_void_p]),
    ("vera_read_end", None, [c_void_p]),
    ("vera_listen", c_int, [c_void_p, c_char_p]),
    ("vera_listen_fd", c_int, [c_void_p, c_int]),
    ("vera_inherited_fd", c_int, [POINTER(c_int), c_char_p]),
    ("vera_unlisten", None, [c_void_p]),
    ("vera_bundle_bytes", c_int, [POINTER(c_uint64), c_void_p, c_char_p, c_size_t]),
    ("vera_adapter_read_bundle", c_int, [POINTER(c_void_p), c_char_p, c_size_t]),
    ("vera_adapter_read_directory", c_int, [POINTER(c_void_p), c_char_p]),
    ("vera_adapter_free", None, [c_void_p]),
    ("vera_adapter_about", c_int, [POINTER(AdapterAbout), c_void_p]),
    ("vera_adapter_tensor", c_int, [POINTER(AdapterTensor), c_void_p, c_uint64]),
    ("vera_registry_new", c_int, [POINTER(c_void_p), POINTER(RegistryOptions)]),
    ("vera_registry_free", None, [c_void_p]),
    ("vera_registry_add_directory", c_int, [c_void_p, c_char_p, c_uint32, c_char_p, POINTER(c_int32)]),
    ("vera_registry_add_bundle", c_int, [c_void_p, c_char_p, c_size_t, c_uint32, c_char_p, POINTER(c_int32)]),
    ("vera_registry_hold", c_int, [c_void_p, c_char_p, POINTER(c_int32)]),
    ("vera_registry_drop", c_int, [c_void_p, c_int32]),
    ("vera_registry_pin", c_int, [c_void_p, c_char_p, c_int]),
    ("vera_registry_remove", c_int, [c_void_p, c_char_p]),
    ("vera_registry_status", c_int, [c_void_p, POINTER(RegistryState)]),
    ("vera_registry_forward", c_int, [c_void_p, c_uint64, POINTER(Batch)]),
]


class Library:
    """The loaded library: `call` for functions that can fail, `lib` for the others."""

    def __init__(self, lib: ctypes.CDLL, path: str) -> None:
        self.lib: Any = lib
        self.path = path
        for name, result, arguments in _FUNCTIONS:
            try:
                function = getattr(lib, name)
            except AttributeError:
                raise Unsupported(f"{path}: has no {name}: it is older than this package",
                                  "install verastore and this package from one source tree") from None
            function.restype = result
            function.argtypes = arguments
        self.version: str = self.lib.vera_version().decode()
        if tuple(int(part) for part in self.version.split(".")[:2]) < OLDEST:
            raise Unsupported(f"{path}: version {self.version} is older than this package needs")

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns a code, and raise what it tells."""
        code = getattr(self.lib, name)(*arguments)
        if code < 0:
            raise self.error(code)

    def error(self, code: int) -> VeraError:
        name = self.lib.vera_error_name(code).decode()
        message = (self.lib.vera_error_message() or b"").decode(errors="replace")
        hint = self.lib.vera_error_hint()
        return error_of(name, message, hint.decode(errors="replace") if hint else None)


def _candidates() -> Iterator[str]:
    """Beside the package, what the system's loader finds, and beside the program `vera`."""
    yield str(Path(__file__).resolve().parent / SONAME)
    yield SONAME
    program = shutil.which("vera")
    if program:
        prefix = Path(program).resolve().parent.parent
        for pattern in ("lib/", "lib64/", "lib/*/"):
            yield from (str(path) for path in sorted(prefix.glob(pattern + SONAME)))


def _open(path: str) -> Tuple[Optional[ctypes.CDLL], str]:
    try:
        return ctypes.CDLL(path), ""
    except OSError as error:
        return None, str(error)


def _load() -> Library:
    chosen = os.environ.get("VERA_LIBRARY")
    if chosen:
        lib, why = _open(chosen)
        if lib is None:
            raise NotFound(f"$VERA_LIBRARY: {why}")
        return Library(lib, chosen)
    for path in _candidates():
        if os.sep in path and not os.path.exists(path):
            continue
        lib, why = _open(path)
        if lib is not None:
            return Library(lib, path)
        if os.sep in path:  # it is there, and cannot be loaded: no other one instead of it
            raise NotFound(why)
    raise NotFound(f"the library {SONAME} was not found",
                   "install verastore (meson install, then ldconfig), or set $VERA_LIBRARY to the library's path")


_lock = threading.Lock()
_loaded: Optional[Library] = None


def library() -> Library:
    """The library, loaded once."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def file_name(path: "os.PathLike[str] | str") -> bytes:
    """A path for the library, which takes it to the first NUL."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("a path with a NUL")
    return name
