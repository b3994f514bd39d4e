"""What of a model is registered with the library: every parameter of a torch module, or a mapping of arrays.

A tensor is registered once, under the name that its checkpoint has; a tied one under the first of its names, as
Transformers saves it. A fused tensor is registered as the parts that the caller names.
"""
from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import _library, _streams
from ._memory import DTYPES, Memory, is_torch_tensor, memory_of
from .errors import Invalid, Unsupported


PER_THREAD = 2  # cudaStreamPerThread


@dataclass(frozen=True)
class Part:
    """What a tensor of the checkpoint has in a tensor in memory.

    `name`: the checkpoint's tensor. `rows` and `columns`: which of the tensor in memory hold it (begin, end; None:
    all). `shape`: of the whole tensor in the checkpoint (None: it is all there). `begin`: row and column in it where
    this part begins.
    """

    name: str
    rows: Optional[Tuple[int, int]] = None
    columns: Optional[Tuple[int, int]] = None
    shape: Optional[Tuple[int, ...]] = None
    begin: Tuple[int, int] = (0, 0)


def stacked(sizes: Mapping[str, int]) -> List[Part]:
    """Tensors one below the other in one: names of the checkpoint, in order, and how many rows each has."""
    parts, row = [], 0
    for name, rows in sizes.items():
        parts.append(Part(name, rows=(row, row + rows)))
        row += rows
    return parts


@dataclass
class Weights:
    """`tensors` for the library. `owners` keep their memory. `tied`: names that share the memory of another one.
    `left_out`: what no adapter can change, and why. `streams`: of torch, by the GPUs that have tensors of its."""

    tensors: List[_library.Tensor] = field(default_factory=list)
    owners: List[Any] = field(default_factory=list)
    tied: Dict[str, str] = field(default_factory=dict)
    left_out: Dict[str, str] = field(default_factory=dict)
    streams: Dict[int, Any] = field(default_factory=dict)


def is_torch_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _is_peft(model: Any) -> bool:
    return any(kind.__module__.split(".")[0] == "peft" for kind in type(model).__mro__)


def layer_of(module: Any, parameter: str) -> int:
    """Does the module's class say how its weight lies? Conv1D of Transformers is [in, out]."""
    if parameter != "weight":
        return _library.LAYER_UNKNOWN
    names = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(module).__mro__}
    if "transformers.Conv1D" in names:
        return _library.LAYER_CONV1D
    return _library.LAYER_LINEAR if "torch.Linear" in names else _library.LAYER_UNKNOWN


def _of_module(model: Any) -> Iterator[Tuple[str, Any, int]]:
    """Every name of every parameter; tied ones have several."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        if _is_peft(module):
            raise Invalid(f"'{prefix or type(model).__name__}' belongs to PEFT, which applies adapters by itself",
                          "attach the base model before PEFT wraps it, or after unload()")
        for name, parameter in module.named_parameters(recurse=False):
            yield (f"{prefix}.{name}" if prefix else name), parameter, layer_of(module, name)


def _entries(model: Any) -> Iterator[Tuple[str, Any, int]]:
    if is_torch_module(model):
        return _of_module(model)
    if isinstance(model, Mapping):
        return ((name, value, _library.LAYER_UNKNOWN) for name, value in model.items())
    raise TypeError(f"a torch.nn.Module or a mapping of names to arrays, not a {type(model).__name__}")


def _why_not(memory: Memory) -> Optional[str]:
    """Why no adapter can change it."""
    if memory.dtype not in DTYPES:
        return f"its dtype is {memory.dtype}"
    if not 1 <= len(memory.shape) <= 2:
        return f"it has {len(memory.shape)} dimensions"
    return None if all(memory.shape) else "it is empty"


def _cut(name: str, memory: Memory, part: Part) -> Tuple[Tuple[int, ...], int]:
    """Shape of the part in memory, and its first element's address."""
    shape, address = [], memory.address
    size = 4 if memory.dtype == "F32" else 2
    for axis, ends in enumerate((part.rows, part.columns)[:len(memory.shape)]):
        begin, end = ends or (0, memory.shape[axis])
        if not 0 <= begin < end <= memory.shape[axis]:
            raise Invalid(f"'{name}': it has no {('rows', 'columns')[axis]} {begin} to {end} for '{part.name}'")
        shape.append(end - begin)
        address += begin * memory.strides[axis] * size
    if len(memory.shape) == 1 and part.columns:
        raise Invalid(f"'{name}': a vector has no columns for '{part.name}'")
    return tuple(shape), address


def _tensor(name: str, memory: Memory, part: Part, layer: int) -> _library.Tensor:
    here, address = _cut(name, memory, part)
    whole = part.shape or here
    if len(whole) != len(here):
        raise Invalid(f"'{name}': '{part.name}' has {len(whole)} dimensions, not {len(here)}")
    tensor = _library.Tensor(
        name=part.name.encode(), data=address, rows=whole[0], columns=whole[1] if len(whole) == 2 else 0,
        row_stride=memory.strides[0], column_stride=memory.strides[1] if len(here) == 2 else 1,
        row_begin=part.begin[0], row_count=here[0], column_begin=part.begin[1],
        column_count=here[1] if len(here) == 2 else 0, dtype=DTYPES[memory.dtype], layer=layer,
        memory=_library.HOST)
    if memory.cuda is not None:
        if memory.stream == PER_THREAD:
            raise Unsupported(f"'{name}': its stream is each thread's default one, and swaps come from any thread",
                              "use it in a stream that was made for it, or in the default stream")
        tensor.memory, tensor.device, tensor.stream = _library.CUDA, memory.cuda, memory.stream
    return tensor


def collect(model: Any, parts: Mapping[str, Sequence[Part]], rename: Optional[Callable[[str], str]]) -> Weights:
    """Everything that adapters may change. `rename`: from a name in memory to the checkpoint's."""
    weights = Weights()
    seen: Dict[Tuple[Any, ...], str] = {}
    unused = set(parts)
    for name, value, layer in _entries(model):
        memory = memory_of(name, value)
        why = _why_not(memory)
        if why:
            if name in parts:
                raise Unsupported(f"'{name}': {why}")
            weights.left_out[name] = why
            continue
        where = (memory.address, memory.shape, memory.strides, memory.dtype, memory.cuda)
        if where in seen:
            weights.tied[name] = seen[where]
            continue
        seen[where] = name
        unused.discard(name)
        own = parts.get(name) or [Part(rename(name) if rename else name)]
        weights.tensors.extend(_tensor(name, memory, part, layer) for part in own)
        weights.owners.append(memory.owner)
        if memory.cuda is not None and is_torch_tensor(value):
            weights.streams[memory.cuda] = _streams.current(memory.cuda)
    if unused:
        raise Invalid(f"'parts' names {', '.join(sorted(unused))}: the model has no such tensor")
    return weights
