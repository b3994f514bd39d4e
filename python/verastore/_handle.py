"""What Live and Registry share: a handle of the library that is freed once, and not while somebody uses it."""
from __future__ import annotations

import ctypes
import threading
import weakref
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Iterator, List, Optional, Type, TypeVar

from ._library import library
from .errors import Invalid

Self = TypeVar("Self", bound="Handle")


class Handle:
    """Any thread may call anything at any time."""

    _kind = "handle"

    def __init__(self, handle: ctypes.c_void_p, free: str) -> None:
        self._lib = library()
        self._handle = handle
        self._users = 0
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._hooks: List[Any] = []
        self._free = weakref.finalize(self, getattr(self._lib.lib, free), handle)

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise ValueError(f"the {self._kind} is closed")
            self._users += 1

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1

    @contextmanager
    def _using(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Let go of it, and of the hooks that it has in a model. Twice is once."""
        with self._lock:
            if self._users:
                raise Invalid(f"somebody uses the {self._kind}: it cannot be closed")
            self._closed = True
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._free()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()
