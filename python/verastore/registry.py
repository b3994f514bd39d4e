"""One batch, many adapters: each row has its own, and nothing is merged.

    registry = verastore.Registry(model, Path("adapters/tenant-0"), budget_bytes=1 << 30)
    ids = [registry.add(path) for path in paths]
    with registry.batch([ids[3], None, ids[7]]):
        model(**inputs)                           # three rows; the second is the base model's

y += b o (B (d o (A x))) behind each layer, A and B being one for all adapters. The numbers are vera_apply(3)'s:
computed in float32, and a row's bits do not depend on the rows beside it, nor on whether a GPU computes them.
"""
from __future__ import annotations

import ctypes
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import _library, _program, _streams
from ._handle import Handle
from ._library import file_name, library
from ._memory import DTYPES, Memory, is_torch_tensor, memory_of
from ._weights import is_torch_module, layer_of
from .adapter import Source, read, source_is_directory
from .errors import Invalid, Unsupported


@dataclass(frozen=True)
class RegistryState:
    """Adapters that are there, `capacity`: of so many that the budget holds; how many are pinned, and held by
    batches; `evicted`: that went for others, ever; bytes that are taken, of `budget_bytes`."""

    adapters: int
    capacity: int
    pinned: int
    held: int
    evicted: int
    bytes: int
    budget_bytes: int


def _layers(model: Any, names: Sequence[str]) -> Dict[str, Any]:
    """The model's layers by the adapter's names, which may have one leading component more, the same for all."""
    modules = dict(model.named_modules())
    bare = {name: name.partition(".")[2] for name in names}
    for names_here in ({name: name for name in names}, bare):
        if all(here in modules for here in names_here.values()):
            return {name: modules[here] for name, here in names_here.items()}
    lines = "".join(f"\n  {name}" for name in names if name not in modules)
    raise Invalid(f"matched {sum(name in modules for name in names)} of {len(names)} modules; missing in "
                  f"{type(model).__name__}:{lines}")


def _sizes(layer: Any) -> Tuple[int, int]:
    """Inputs and outputs."""
    rows, columns = layer.weight.shape
    conv1d = layer_of(layer, "weight") == _library.LAYER_CONV1D
    return (rows, columns) if conv1d else (columns, rows)


def _where(device: Optional[int]) -> str:
    return "in the host's memory" if device is None else f"on CUDA device {device}"


def _device_of(layers: Mapping[str, Any], wanted: Optional[int]) -> Optional[int]:
    """The one that all layers of a torch module are on."""
    there = {name: memory_of(name, layer.weight).cuda for name, layer in layers.items()}
    first, device = next(iter(there.items()))
    for name, other in there.items():
        if other != device:
            raise Invalid(f"'{name}' is {_where(other)}, '{first}' {_where(device)}: a registry is in one place")
    if wanted is not None and wanted != device:
        raise Invalid(f"the layers are {_where(device)}, not {_where(wanted)}")
    return device


def _rows_of(name: str, value: Any, writable: bool, device: Optional[int]) -> Tuple[Memory, int]:
    """A matrix whose rows are contiguous, and its step from row to row."""
    memory = memory_of(name, value, writable)
    if len(memory.shape) != 2:
        raise Invalid(f"{name} has {len(memory.shape)} dimensions, not 2")
    if memory.dtype not in DTYPES:
        raise Unsupported(f"{name}: its dtype is {memory.dtype}: it can be F32, BF16 or F16")
    if memory.cuda != device:
        raise Invalid(f"{name} is {_where(memory.cuda)}, the registry {_where(device)}")
    if memory.shape[1] > 1 and memory.strides[1] != 1:
        raise Invalid(f"{name}: the values of a row do not lie side by side")
    return memory, memory.strides[0] if memory.shape[0] > 1 else memory.shape[1]


def _repeated(slots: Any, each: int) -> Any:
    """[rows] of torch: each slot so many times, in the current stream."""
    return slots if each == 1 else slots.unsqueeze(1).expand(-1, each).reshape(-1)


class Batch:
    """Which adapter each row has. Made by Registry.batch(), and good inside its `with` block."""

    def __init__(self, registry: "Registry", slots: Sequence[int], given: Any) -> None:
        self._registry = registry
        self._slots = list(slots)
        self._given = given
        self._arrays: Dict[int, Any] = {}
        self._tensors: Dict[Tuple[int, Optional[int]], Any] = {}
        if given is not None:
            given.copy_(self._pinned(), non_blocking=True)

    def __len__(self) -> int:
        return len(self._slots)

    def slots(self, each: int) -> Any:
        """For C: the slot of each row, `each` times in a row."""
        if each not in self._arrays:
            rows = [slot for slot in self._slots for _ in range(each)]
            self._arrays[each] = (ctypes.c_int32 * len(rows))(*rows)
        return self._arrays[each]

    def _pinned(self) -> Any:
        torch = sys.modules["torch"]
        return torch.tensor(self._slots, dtype=torch.int32).pin_memory()

    def device_slots(self, each: int, device: int, stream: Optional[int]) -> Any:
        """The same as a torch tensor on the device. `stream` is the current one, in which they are made and read: so
        they may be freed before it has come past them. What a CUDA graph is made of is not kept: it is the graph's."""
        if _streams.capturing(device):
            if self._given is None:
                raise Unsupported("a CUDA graph is captured: the slots must have a place that stays",
                                  "give Registry.batch() a tensor: slots=torch.empty(rows, dtype=torch.int32, …)")
            return _repeated(self._given, each)
        if (each, stream) not in self._tensors:
            slots = self._given
            if slots is None:
                slots = self._pinned().to(f"cuda:{device}", non_blocking=True)
            self._tensors[each, stream] = _repeated(slots, each)
        return self._tensors[each, stream]

    def forward(self, module: str, x: Any, y: Any) -> None:
        """y += what the adapters add for x, in place. x [rows, in] and y [rows, out]: arrays of one dtype, as many
        rows as the batch has, or a multiple of them (each adapter's rows side by side). On a GPU it is queued: of torch
        tensors in the current stream, of others in that which they tell."""
        self._registry._forward(self, module, x, y)


class Registry(Handle):
    """b and d of many adapters of one model and one basis. Any thread may call anything at any time."""

    _kind = "registry"

    def __init__(self, model: Any, basis: Source, repo: Optional["os.PathLike[str] | str"] = None, *,
                 budget_bytes: int, vector_dtype: str = "F32", base_dtype: str = "F32", threads: int = 0,
                 device: Optional[int] = None) -> None:
        """`model`: a torch module, each of whose adapted layers gets a hook; or a mapping of the adapters' names of
        layers to (inputs, outputs), for Batch.forward(). `basis`: an adapter (as for read()) on whose A, B and layers
        all others are; it is not added. `budget_bytes`: of all that the registry takes; where it is used up the
        adapter that was used longest ago goes. `vector_dtype`: what b and d are kept in. `base_dtype`: the weights',
        for a basis that was not saved; of a torch module it is known. `threads`: 0: one for each core. `device`: the
        number of the GPU that keeps A, B, b and d, and has the batches; None: the host's memory; of a torch module it
        is where its layers are. On a GPU all of the budget is taken at once."""
        if source_is_directory(basis):
            first: Source = basis
        else:
            first = _program.bundle(basis, repo) if isinstance(basis, str) else bytes(basis)  # type: ignore[arg-type]
        layers = _layers(model, read(first).modules) if is_torch_module(model) else {}
        sizes: Mapping[str, Tuple[int, int]] = {n: _sizes(layer) for n, layer in layers.items()} if layers else model
        if layers:
            base_dtype = memory_of("weight", next(iter(layers.values())).weight).dtype
            device = _device_of(layers, device)
        self._numbers = {name: number for number, name in enumerate(sizes)}
        self._sizes = dict(sizes)
        self._threads = threads
        self._device = device
        super().__init__(self._new(sizes, first, budget_bytes, base_dtype, vector_dtype, device), "vera_registry_free")
        for name, layer in layers.items():
            self._hooks.append(layer.register_forward_hook(self._hook(name)))

    @staticmethod
    def _new(sizes: Mapping[str, Tuple[int, int]], first: Source, budget: int, base_dtype: str,
             vector_dtype: str, device: Optional[int]) -> ctypes.c_void_p:
        for dtype in (base_dtype, vector_dtype):
            if dtype not in DTYPES:
                raise Unsupported(f"dtype '{dtype}' is none of {', '.join(DTYPES)}")
        count = len(sizes)
        options = _library.RegistryOptions(
            names=(ctypes.c_char_p * count)(*(name.encode() for name in sizes)), modules=count,
            out=(ctypes.c_uint64 * count)(*(outputs for _, outputs in sizes.values())), budget_bytes=budget,
            base_dtype=DTYPES[base_dtype], vector_dtype=DTYPES[vector_dtype],
            **{"in": (ctypes.c_uint64 * count)(*(inputs for inputs, _ in sizes.values()))})
        if device is not None:
            options.memory, options.device = _library.CUDA, device
        if isinstance(first, bytes):
            options.bundle, options.bundle_bytes = first, len(first)
        else:
            options.directory = file_name(first)  # type: ignore[arg-type]
        handle = ctypes.c_void_p()
        library().call("vera_registry_new", ctypes.byref(handle), ctypes.byref(options))
        return handle

    def add(self, source: Source, repo: Optional["os.PathLike[str] | str"] = None, *, pin: bool = False,
            vectors_only: bool = False) -> str:
        """Add an adapter (as for read()), or use it again where it is there; its snapshot id. `pin`: it stays until
        it is unpinned or removed. `vectors_only`: leave out its biases and whole modules (a classifier), else an
        adapter with such is refused."""
        flags = _library.PIN * pin | _library.VECTORS_ONLY * vectors_only
        snapshot = ctypes.create_string_buffer(32)
        with self._using():
            if source_is_directory(source):
                self._lib.call("vera_registry_add_directory", self._handle,
                               file_name(source), flags, snapshot, None)  # type: ignore[arg-type]
            else:
                data = (_program.bundle(source, repo) if isinstance(source, str)
                        else bytes(source))  # type: ignore[arg-type]
                self._lib.call("vera_registry_add_bundle", self._handle, data, len(data), flags, snapshot, None)
        return "sha256:" + snapshot.raw.hex()

    @staticmethod
    def _digest(snapshot: str) -> bytes:
        try:
            digest = bytes.fromhex(snapshot[7:]) if snapshot.startswith("sha256:") else b""
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise Invalid(f"'{snapshot}' is no snapshot id: sha256: and 64 hex digits, as add() gives it")
        return digest

    def pin(self, snapshot: str, pinned: bool = True) -> None:
        """A pinned adapter stays until it is unpinned or removed."""
        with self._using():
            self._lib.call("vera_registry_pin", self._handle, self._digest(snapshot), int(pinned))

    def remove(self, snapshot: str) -> None:
        """It is found no more; batches that have it keep it to their end."""
        with self._using():
            self._lib.call("vera_registry_remove", self._handle, self._digest(snapshot))

    def status(self) -> RegistryState:
        state = _library.RegistryState()
        with self._using():
            self._lib.call("vera_registry_status", self._handle, ctypes.byref(state))
        return RegistryState(state.adapters, state.capacity, state.pinned, state.held, state.evicted, state.bytes,
                             state.budget_bytes)

    def _hold(self, snapshots: Sequence[Optional[str]], held: Dict[str, int]) -> List[int]:
        for snapshot in snapshots:
            if snapshot is not None and snapshot not in held:
                slot = ctypes.c_int32()
                self._lib.call("vera_registry_hold", self._handle, self._digest(snapshot), ctypes.byref(slot))
                held[snapshot] = slot.value
        return [-1 if snapshot is None else held[snapshot] for snapshot in snapshots]

    def _check_slots(self, slots: Any, rows: int) -> None:
        if not is_torch_tensor(slots) or self._device is None:
            raise Invalid("slots are for a registry on a GPU: a torch tensor there")
        memory = memory_of("slots", slots)
        if (memory.dtype, memory.shape, memory.cuda) != ("torch.int32", (rows,), self._device):
            raise Invalid(f"slots are {memory.dtype} {list(memory.shape)} {_where(memory.cuda)}, not torch.int32 "
                          f"[{rows}] {_where(self._device)}")
        if memory.strides != (1,) and rows > 1:
            raise Invalid("slots: they do not lie side by side")

    @contextmanager
    def batch(self, snapshots: Sequence[Optional[str]], *, slots: Any = None) -> Iterator[Batch]:
        """In its `with` block, and in this thread, the rows of what goes through the model have these adapters; None:
        the base model. They stay as they are to its end, whatever is added or removed.

        `slots`: for CUDA graphs, a torch tensor of int32 on the registry's GPU, one for each row. The batch writes
        there, in the current stream, which adapters its kernels read; so a graph that was captured in one batch and
        is replayed in another one with the same tensor has that one's adapters. One batch at a time may have it."""
        held: Dict[str, int] = {}
        with self._using():
            if slots is not None:
                self._check_slots(slots, len(snapshots))
            before = getattr(self._thread, "batch", None)
            try:
                self._thread.batch = Batch(self, self._hold(snapshots, held), slots)
                yield self._thread.batch
            finally:
                self._thread.batch = before
                for slot in held.values():
                    self._lib.call("vera_registry_drop", self._handle, slot)

    def _checked(self, batch: Batch, module: str, x: Any, y: Any) -> Tuple[_library.Batch, int, Optional[int]]:
        """The call without its slots, how often each of these comes in a row, and the stream."""
        if module not in self._numbers:
            raise Invalid(f"the registry has no module '{module}'")
        (x_memory, x_stride), (y_memory, y_stride) = (_rows_of("x", x, False, self._device),
                                                      _rows_of("y", y, True, self._device))
        rows = x_memory.shape[0]
        if not len(batch) or rows % len(batch) or y_memory.shape[0] != rows:
            raise Invalid(f"'{module}': x has {rows} rows, y has {y_memory.shape[0]}, the batch has {len(batch)}")
        if x_memory.dtype != y_memory.dtype:
            raise Invalid(f"'{module}': x is {x_memory.dtype}, y is {y_memory.dtype}")
        widths = (x_memory.shape[1], y_memory.shape[1])
        if widths != self._sizes[module]:
            raise Invalid(f"'{module}': x and y have {widths[0]} and {widths[1]} columns, not "
                          f"{self._sizes[module][0]} and {self._sizes[module][1]}")
        if x_memory.stream != y_memory.stream:
            raise Invalid(f"'{module}': x and y are used in different streams")
        call = _library.Batch(x=x_memory.address, y=y_memory.address, rows=rows, x_stride=x_stride, y_stride=y_stride,
                              dtype=DTYPES[x_memory.dtype], threads=self._threads, stream=x_memory.stream)
        return call, rows // len(batch), x_memory.stream

    def _forward(self, batch: Batch, module: str, x: Any, y: Any) -> None:
        call, each, stream = self._checked(batch, module, x, y)
        if self._device is not None and is_torch_tensor(x):
            slots = batch.device_slots(each, self._device, stream)
            call.slots = ctypes.cast(slots.data_ptr(), ctypes.POINTER(ctypes.c_int32))
            call.slots_memory = _library.CUDA
        else:
            call.slots = batch.slots(each)
        self._lib.call("vera_registry_forward", self._handle, self._numbers[module], ctypes.byref(call))

    def _hook(self, name: str) -> Callable[[Any, Any, Any], Any]:
        """Behind a torch layer: add what the adapters of the thread's batch add, if it has one."""
        def added(_: Any, inputs: Any, y: Any) -> Any:
            batch = getattr(self._thread, "batch", None)
            if batch is None:
                return None
            if not inputs:
                raise Invalid(f"'{name}': its input came by keyword")
            x = inputs[0].detach()
            if y.requires_grad:
                raise Unsupported(f"'{name}': mixed batches have no gradients", "call the model in torch.no_grad()")
            if x.shape[0] != len(batch):
                raise Invalid(f"'{name}': its input has {x.shape[0]} rows, the batch has {len(batch)}")
            x, y = x.reshape(-1, x.shape[-1]), y.contiguous()
            batch.forward(name, x if x.stride(-1) == 1 else x.contiguous(), y.view(-1, y.shape[-1]))
            return y
        return _streams.uncompiled(added)
