"""Where an array lies in memory: torch tensors, anything with `__array_interface__` (numpy), a writable buffer; in a
GPU's memory torch tensors, anything with `__cuda_array_interface__` (CuPy, Numba), or an address.

None of these libraries is imported: whoever has their arrays has imported them.
"""
from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

from . import _library
from .errors import Invalid, Unsupported

DTYPES = {"F32": _library.F32, "BF16": _library.BF16, "F16": _library.F16}
ELEMENT = {"F32": 4, "BF16": 2, "F16": 2}
_TORCH = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}
_TYPESTR = {"<f4": "F32", "<f2": "F16", "f": "F32", "<f": "F32", "e": "F16", "<e": "F16"}


@dataclass(frozen=True)
class Raw:
    """Memory that has no type of its own: `data` is any writable buffer (a bytearray, a numpy array of uint16), which
    holds rows of `shape` in `dtype`, "F32", "BF16" or "F16", one behind the other."""

    data: Any
    dtype: str
    shape: Tuple[int, ...]


@dataclass(frozen=True)
class CudaArray:
    """A GPU's memory by its address: for what no array can tell (bfloat16 without torch, a device that is not the
    first). `strides`: in elements; None: rows lie one behind the other. `device`: as CUDA numbers it in this process.
    `stream`: handle of the CUstream in which it is used; None: the default stream. `owner`: kept with the memory."""

    address: int
    dtype: str
    shape: Tuple[int, ...]
    strides: Optional[Tuple[int, ...]] = None
    device: int = 0
    stream: Optional[int] = None
    owner: Any = None


@dataclass(frozen=True)
class Memory:
    """`strides` are in elements. `owner` keeps the memory. `cuda`: the device's number, None: the host's memory.
    `stream`: a CUstream's handle; None: the default stream."""

    address: int
    dtype: str
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    owner: Any
    cuda: Optional[int] = None
    stream: Optional[int] = None


def contiguous(shape: Sequence[int]) -> Tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def _torch() -> Any:
    return sys.modules.get("torch")


def is_torch_tensor(value: Any) -> bool:
    torch = _torch()
    return torch is not None and isinstance(value, torch.Tensor)


def stream_handle(stream: Optional[int]) -> Optional[int]:
    """CUDA has two handles of the default stream, 0 and 1 (cudaStreamLegacy): None."""
    return None if stream in (0, 1) else stream


def _of_torch(name: str, tensor: Any) -> Memory:
    torch = _torch()
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise Unsupported(f"'{name}': {tensor.layout} and quantised tensors cannot be written in place")
    cuda = stream = None
    if tensor.device.type == "cuda":
        cuda = tensor.device.index
        stream = stream_handle(torch.cuda.current_stream(tensor.device).cuda_stream)
    elif tensor.device.type != "cpu":
        raise Unsupported(f"'{name}': it is on the device '{tensor.device}'", "load the model's weights first"
                          if tensor.device.type == "meta" else None)
    address = tensor.data_ptr()
    if address == 0 and tensor.numel():
        raise Unsupported(f"'{name}': a {type(tensor).__name__} has no memory of its own")
    return Memory(address, _TORCH.get(str(tensor.dtype), str(tensor.dtype)), tuple(tensor.shape),
                  tuple(tensor.stride()), tensor, cuda, stream)


def _of_interface(name: str, array: Any, interface: Dict[str, Any], writable: bool, cuda: Optional[int] = None,
                  stream: Optional[int] = None) -> Memory:
    """What `__array_interface__` and `__cuda_array_interface__` have in common."""
    address, read_only = interface["data"]
    if read_only and writable:
        raise Invalid(f"'{name}': the array is read-only")
    if interface.get("mask") is not None:
        raise Unsupported(f"'{name}': the array is masked")
    shape, typestr = tuple(interface["shape"]), interface["typestr"]
    strides = interface.get("strides")
    if strides is None:
        return Memory(address, _TYPESTR.get(typestr, typestr), shape, contiguous(shape), array, cuda, stream)
    size = int(typestr[2:])
    if any(stride % size for stride in strides):
        raise Invalid(f"'{name}': its strides are no multiples of its elements")
    return Memory(address, _TYPESTR.get(typestr, typestr), shape, tuple(s // size for s in strides), array, cuda,
                  stream)


def _of_cuda_interface(name: str, array: Any, writable: bool) -> Memory:
    """By the interface's third version (Numba's manual has it), which tells no device: CuPy's arrays have it beside;
    where nothing does it is the first, and the library compares."""
    interface = array.__cuda_array_interface__
    device = getattr(array, "device", None)
    number = getattr(device, "id", device)
    stream = interface.get("stream")
    if stream == 0:
        raise Invalid(f"'{name}': its __cuda_array_interface__ names the stream 0, which is none")
    return _of_interface(name, array, interface, writable, number if isinstance(number, int) else 0,
                         stream_handle(stream))


def _of_cuda_array(name: str, array: CudaArray) -> Memory:
    strides = contiguous(array.shape) if array.strides is None else tuple(array.strides)
    if len(strides) != len(array.shape):
        raise Invalid(f"'{name}': {len(strides)} strides, its shape has {len(array.shape)} dimensions")
    return Memory(array.address, array.dtype, tuple(array.shape), strides, array.owner, array.device,
                  stream_handle(array.stream))


def _address(name: str, data: Any, size: int) -> Tuple[int, Any]:
    """Of a writable, contiguous buffer of that many bytes, and what keeps it."""
    view = memoryview(data)
    if view.readonly:
        raise Invalid(f"'{name}': the memory is read-only")
    if not view.c_contiguous:
        raise Invalid(f"'{name}': the memory is not contiguous")
    if view.nbytes != size:
        raise Invalid(f"'{name}': {view.nbytes} bytes, its shape has {size}")
    keeper = (ctypes.c_char * size).from_buffer(view.cast("B") if size else bytearray())
    return ctypes.addressof(keeper), keeper


def _values(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _of_buffer(name: str, data: Any) -> Memory:
    view = memoryview(data)
    dtype = _TYPESTR.get(view.format, view.format)
    shape = tuple(view.shape or ())
    address, keeper = _address(name, data, view.nbytes)
    return Memory(address, dtype, shape, contiguous(shape), keeper)


def memory_of(name: str, value: Any, writable: bool = True) -> Memory:
    """Of an array; `name` words errors. The memory stays as long as `owner` does."""
    if isinstance(value, Memory):
        return value
    if isinstance(value, (Raw, CudaArray)) and value.dtype not in ELEMENT:
        raise Unsupported(f"'{name}': dtype '{value.dtype}' is none of {', '.join(ELEMENT)}")
    if isinstance(value, CudaArray):
        return _of_cuda_array(name, value)
    if isinstance(value, Raw):
        address, keeper = _address(name, value.data, _values(value.shape) * ELEMENT[value.dtype])
        return Memory(address, value.dtype, tuple(value.shape), contiguous(value.shape), keeper)
    if is_torch_tensor(value):
        return _of_torch(name, value)
    if hasattr(value, "__array_interface__"):
        return _of_interface(name, value, value.__array_interface__, writable)
    if hasattr(value, "__cuda_array_interface__"):
        return _of_cuda_interface(name, value, writable)
    try:
        return _of_buffer(name, value)
    except TypeError:
        raise Invalid(f"'{name}': a {type(value).__name__} is no array") from None
