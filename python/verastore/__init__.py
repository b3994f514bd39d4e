"""VeRA adapters from verastore in Python: swapped in a running model, many in one batch, read out of a repository.

A thin layer over libvera_apply (vera_apply(3)), without compiled code; needs neither torch nor numpy, works with both.
"""
from ._memory import CudaArray, Raw
from ._weights import Part, stacked
from .adapter import Adapter, StoredTensor, TensorDigest, read
from .errors import (Conflict, Corrupt, DeviceError, Exists, Invalid, Limit, NotFound, OutOfMemory, SystemFailure,
                     Unsupported, VeraError)
from .live import Live, State, attach
from .peft import load_adapter
from .registry import Batch, Registry, RegistryState

__version__ = "0.1.0"
__all__ = [
    "Adapter", "Batch", "Conflict", "Corrupt", "CudaArray", "DeviceError", "Exists", "Invalid", "Limit", "Live",
    "NotFound", "OutOfMemory", "Part", "Raw", "Registry", "RegistryState", "State", "StoredTensor", "SystemFailure",
    "TensorDigest", "Unsupported", "VeraError", "attach", "library_version", "load_adapter", "read", "stacked",
]


def library_version() -> str:
    """Of libvera_apply, which is loaded if it was not yet."""
    from ._library import library

    return library().version
