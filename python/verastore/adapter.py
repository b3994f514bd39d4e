"""An adapter's contents: configuration and tensors, each bit as PEFT saved it, without files.

    adapter = verastore.read("main", repo="/srv/adapters")
    adapter.config["r"]
    adapter.tensors["base_model.vera_A"].torch()
"""
from __future__ import annotations

import ctypes
import json
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

from . import _program
from ._library import AdapterAbout, AdapterTensor, file_name, library
from .errors import Unsupported

Source = Union[str, bytes, bytearray, memoryview, "os.PathLike[str]"]

_PREFIX = "base_model.model."
_VECTORS = (".vera_lambda_b", ".vera_lambda_d")
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
          "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn",
          "F8_E5M2": "float8_e5m2"}
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
          "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?"}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: `data` are its bytes, little-endian, rows one behind the other."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    data: bytes = field(repr=False)

    def torch(self) -> Any:
        """A copy, as a torch tensor on the CPU."""
        import torch

        if self.dtype not in TORCH_NAMES:
            raise Unsupported(f"{self.name}: torch has no {self.dtype}")
        dtype = getattr(torch, TORCH_NAMES[self.dtype])
        if not self.data:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(bytearray(self.data), dtype=dtype).reshape(self.shape)

    def numpy(self) -> Any:
        """A copy, as a numpy array; numpy has no BF16."""
        import numpy

        if self.dtype not in _NUMPY:
            raise Unsupported(f"{self.name}: numpy has no {self.dtype}")
        return numpy.frombuffer(bytearray(self.data), dtype=_NUMPY[self.dtype]).reshape(self.shape)


@dataclass(frozen=True)
class TensorDigest:
    """What is known of a tensor that is not here: its dtype, its shape, and the SHA-256 of its bytes."""

    dtype: str
    shape: Tuple[int, int]
    sha256: str


@dataclass(frozen=True)
class Adapter:
    """`snapshot` is its id. `tensors` are in the file's order, A and B among them where they came with the adapter.
    `basis` tells of A and B ("vera_A", "vera_B"), and is empty where only the base model could. `pin` tells of the
    base model's weights, by the adapter's module names, and is empty where nobody recorded them."""

    snapshot: str
    config: Dict[str, Any]
    tensors: Dict[str, StoredTensor]
    basis: Dict[str, TensorDigest]
    pin: Dict[str, TensorDigest]

    @property
    def modules(self) -> List[str]:
        """The layers that it changes."""
        return sorted({name[len(_PREFIX):].rsplit(".", 1)[0] for name in self.tensors
                       if name.startswith(_PREFIX) and name.endswith(_VECTORS)})


def source_is_directory(source: Source) -> bool:
    """A path object, or a string that can be nothing but a path; every other string is a revision."""
    return isinstance(source, os.PathLike) or (isinstance(source, str) and source.startswith(("/", "./", "../")))


def _pin(text: str) -> Dict[str, TensorDigest]:
    """Lines `module <dtype> <rows>x<columns> <sha256> <name>` of docs/format.md."""
    modules = {}
    for line in text.splitlines():
        key, _, rest = line.partition(" ")
        if key == "module":
            dtype, shape, digest, name = rest.split(" ", 3)
            rows, columns = shape.split("x")
            modules[name] = TensorDigest(dtype, (int(rows), int(columns)), digest)
    return modules


def _basis(text: str) -> Dict[str, TensorDigest]:
    """Lines `a <dtype> <rank> <in> <sha256>` and `b <dtype> <out> <rank> <sha256>` of docs/format.md."""
    names = {"a": "vera_A", "b": "vera_B"}
    lines = (line.split(" ") for line in text.splitlines())
    return {names[words[0]]: TensorDigest(words[1], (int(words[2]), int(words[3])), words[4])
            for words in lines if words[0] in names}


def _tensor(handle: ctypes.c_void_p, number: int) -> StoredTensor:
    about = AdapterTensor()
    library().call("vera_adapter_tensor", ctypes.byref(about), handle, number)
    return StoredTensor(about.name.decode(), about.dtype.decode(), tuple(about.shape[:about.dims]),
                             ctypes.string_at(about.data, about.bytes))


def _contents(handle: ctypes.c_void_p) -> Adapter:
    about = AdapterAbout()
    library().call("vera_adapter_about", ctypes.byref(about), handle)
    config, recipe, pin = (ctypes.string_at(text, size).decode() for text, size in
                           ((about.config, about.config_bytes), (about.recipe, about.recipe_bytes),
                            (about.pin, about.pin_bytes)))
    tensors = (_tensor(handle, number) for number in range(about.tensors))
    return Adapter("sha256:" + bytes(about.snapshot).hex(), json.loads(config),
                   {tensor.name: tensor for tensor in tensors}, _basis(recipe), _pin(pin))


def read(source: Source, repo: Optional["os.PathLike[str] | str"] = None) -> Adapter:
    """An adapter: a revision of the repository `repo` (default: as `vera` finds one from here), a PEFT directory (a
    path object, or a string that begins with "/", "./" or "../"), or the bytes of a bundle."""
    handle = ctypes.c_void_p()
    lib = library()
    if source_is_directory(source):
        lib.call("vera_adapter_read_directory", ctypes.byref(handle), file_name(source))  # type: ignore[arg-type]
    else:
        data = _program.bundle(source, repo) if isinstance(source, str) else bytes(source)  # type: ignore[arg-type]
        lib.call("vera_adapter_read_bundle", ctypes.byref(handle), data, len(data))
    try:
        return _contents(handle)
    finally:
        lib.lib.vera_adapter_free(handle)
