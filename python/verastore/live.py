"""Swap adapters in a running model, in place.

    live = verastore.attach(model, base="/models/llama")
    live.swap("main", repo="/srv/adapters")
    live.swap(Path("runs/step-120"))
    live.detach()

The weights are written where they lie: every view of them, every pointer to them stays good. They go from the base
model's straight to those with the adapter, so nothing drifts: after any number of swaps they are, bit for bit, what
`vera apply` writes.
"""
from __future__ import annotations

import ctypes
import logging
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

from . import _library, _program, _streams
from ._handle import Handle
from ._library import file_name, library
from ._weights import Part, Weights, collect, is_torch_module
from .adapter import Source, source_is_directory
from .errors import Invalid, Unsupported

_log = logging.getLogger("verastore")


@dataclass(frozen=True)
class State:
    """What the weights are. `epoch` grows by one with each change of them; `snapshot` is the adapter's id, None
    where there is none; `previous` that of the one before; `modules` how many it changes; `pinned`: the weights were
    compared with those that the adapter's version recorded; `seconds` that the last change took, and of these
    `stopped`, while nobody could read. `torn`: a GPU failed while the last change was written, and the weights are a
    mixture until a swap or a detach succeeds."""

    epoch: int
    snapshot: Optional[str]
    previous: Optional[str]
    modules: int
    pinned: bool
    seconds: float
    stopped: float
    torn: bool = False

    @property
    def attached(self) -> bool:
        return self.snapshot is not None


def _state(state: _library.State) -> State:
    return State(state.epoch, "sha256:" + bytes(state.snapshot).hex() if state.attached else None,
                 "sha256:" + bytes(state.previous).hex() if state.had_previous else None, state.modules,
                 bool(state.pinned), state.seconds, state.stopped, bool(state.torn))


class _Stops:
    """The caller's `pause` and `resume` as functions for C, which can raise nothing: what they raise is kept for the
    thread that swaps, or logged where that is the library's own."""

    def __init__(self, pause: Optional[Callable[[], object]], resume: Optional[Callable[[], object]]) -> None:
        self._own = threading.local()
        self.pause = _library.PauseFunction(self._wrap(pause)) if pause else _library.PauseFunction()
        self.resume = _library.ResumeFunction(self._wrap(resume)) if resume else _library.ResumeFunction()

    def _wrap(self, call: Callable[[], object]) -> Callable[[Optional[int]], int]:
        def called(_: Optional[int]) -> int:
            try:
                call()
            except BaseException as error:
                if not hasattr(self._own, "raised"):
                    _log.exception("a swap's callback failed")
                else:
                    self._own.raised = error
                return 1
            return 0
        return called

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A failed swap is raised from what `pause` raised; what `resume` raised is raised after a swap."""
        self._own.raised = None
        try:
            yield
        except Exception as error:
            if self._own.raised is not None:
                raise error from self._own.raised
            raise
        else:
            if self._own.raised is not None:
                raise self._own.raised
        finally:
            del self._own.raised


class Live(Handle):
    """A running model. Any thread may call anything at any time. Made by attach()."""

    _kind = "live model"

    def __init__(self, handle: ctypes.c_void_p, stops: _Stops, weights: Weights) -> None:
        super().__init__(handle, "vera_model_free")
        self._stops = stops
        self._owners = weights.owners
        self._streams = weights.streams
        self.tied = weights.tied
        self.left_out = weights.left_out

    def _check_not_reading(self) -> None:
        if getattr(self._thread, "depth", 0):
            raise Invalid("a thread that reads the weights would wait for itself",
                          "swap outside of reading() and of the model's forward()")

    def _change(self, function: str, *arguments: Any) -> State:
        self._check_not_reading()
        state = _library.State()
        with self._using(), self._stops.listening():
            self._lib.call(function, self._handle, *arguments, ctypes.byref(state))
        return _state(state)

    def _bundle_size(self, header: bytes) -> int:
        size = ctypes.c_uint64()
        with self._using():
            self._lib.call("vera_bundle_bytes", ctypes.byref(size), self._handle, header, len(header))
        return size.value

    def swap(self, source: Source, repo: Optional["os.PathLike[str] | str"] = None) -> State:
        """Put an adapter onto the weights, in place of the one that is there: a revision of the repository `repo`
        (default: as `vera` finds one from here), a PEFT directory (a path object, or a string that begins with "/",
        "./" or "../"), or the bytes of a bundle. Everything is checked before the first write; on failure the adapter
        before it stays, whole; but for DeviceError where a GPU fails while it writes, which status() tells (`torn`)."""
        if source_is_directory(source):
            return self._change("vera_swap_directory", file_name(source))  # type: ignore[arg-type]
        if isinstance(source, str):
            data = _program.bundle(source, repo, self._bundle_size)
        else:
            data = bytes(source)  # type: ignore[arg-type]
        return self._change("vera_swap_bundle", data, len(data))

    def detach(self) -> State:
        """The weights as they were when the model was attached."""
        return self._change("vera_detach")

    def status(self) -> State:
        """Waits for nobody; inside reading() it is the state of the weights that are read."""
        state = _library.State()
        with self._using():
            self._lib.call("vera_status", self._handle, ctypes.byref(state))
        return _state(state)

    # The socket

    def listen(self, path: "os.PathLike[str] | str") -> None:
        """Let `vera swap REV --socket PATH` change the adapter, from processes of this user (not of root either). `pause` and
        `resume` are then called in a thread of the library's. What a server that died left at `path` is replaced; the
        file goes with unlisten() and close()."""
        with self._using():
            self._lib.call("vera_listen", self._handle, file_name(path))

    def listen_fd(self, descriptor: int) -> None:
        """The same on a unix stream socket that listens already; it is the model's from here on."""
        with self._using():
            self._lib.call("vera_listen_fd", self._handle, descriptor)

    def listen_inherited(self, name: Optional[str] = None) -> None:
        """The same on the socket that this process was started with, as systemd hands it over: the one of that name,
        or the first. NotFound where it was started with none."""
        descriptor = ctypes.c_int()
        self._lib.call("vera_inherited_fd", ctypes.byref(descriptor), None if name is None else name.encode())
        self.listen_fd(descriptor.value)

    def unlisten(self) -> None:
        """Listen no more; returns once a swap that runs has ended."""
        self._check_not_reading()
        with self._using():
            self._lib.lib.vera_unlisten(self._handle)

    # Reading

    def _read_begin(self) -> None:
        self._enter()
        depth = getattr(self._thread, "depth", 0)
        if depth == 0:
            self._lib.lib.vera_read_begin(self._handle)
        self._thread.depth = depth + 1

    def _read_end(self) -> None:
        try:
            _streams.join(self._streams)
        finally:
            self._thread.depth -= 1
            if self._thread.depth == 0:
                self._lib.lib.vera_read_end(self._handle)
            self._leave()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Between its begin and its end, in one thread, no weight changes: a swap waits. For what calls the model
        more than once, as generate() does. May be nested. On a GPU a swap waits for what torch has queued by its end,
        in whichever stream is current there."""
        self._read_begin()
        try:
            yield
        finally:
            self._read_end()

    def _hook(self, model: Any) -> None:
        """Each call of the model holds it for reading, to its end, and also when it raises."""
        def begin(*_: Any) -> None:
            self._read_begin()

        def end(*_: Any) -> None:
            self._read_end()

        try:
            self._hooks.append(model.register_forward_hook(_streams.uncompiled(end), always_call=True))
        except TypeError as error:
            raise Unsupported("torch 2.0 or later is needed to hold the weights during forward()",
                              "use lock=False and Live.reading()") from error
        self._hooks.append(model.register_forward_pre_hook(_streams.uncompiled(begin), prepend=True))

    def close(self) -> None:
        """Let go of the model: its weights stay as they are, and can be changed no more. Twice is once."""
        super().close()
        self._owners.clear()


def attach(model: Any, base: Optional["os.PathLike[str] | str"] = None, *,
           parts: Optional[Mapping[str, Sequence[Part]]] = None, rename: Optional[Callable[[str], str]] = None,
           lock: bool = True, pause: Optional[Callable[[], object]] = None,
           resume: Optional[Callable[[], object]] = None, threads: int = 0, basis_bytes: int = 0,
           kept_bytes: int = 0) -> Live:
    """Make a model's weights ones that adapters are swapped in: all parameters of a torch module, or a mapping of the
    checkpoint's names to arrays (numpy, writable buffers, Raw; in a GPU's memory torch's, CuPy's, Numba's, CudaArray).
    They must be those without an adapter.

    `base`: the directory of the checkpoint that they were loaded from, as it was loaded: they are compared with it,
    and taken from it again; it must stay as it is. Without one, a copy of them is kept.
    `parts`: for a tensor that holds others of the checkpoint (see Part and stacked()).
    `rename`: from a name in memory to the checkpoint's, where they differ by more than one leading component.
    `lock`: each call of a torch module holds the weights (Live.reading()), so that none sees two adapters.
    `pause`, `resume`: called around the writing, in the thread that swaps; what `pause` raises ends the swap.
    `threads`: that a swap works with; 0: one for each core. `basis_bytes`: of random matrices that are kept between
    swaps; 0: 1 GiB. `kept_bytes`: with a base, of each GPU's memory that may keep weights without an adapter, so that a
    swap need not bring them there again.
    """
    lib = library()
    weights = collect(model, parts or {}, rename)
    stops = _Stops(pause, resume)
    options = _library.Options(base=None if base is None else file_name(base), pause=stops.pause,
                               resume=stops.resume, basis_bytes=basis_bytes, threads=threads,
                               kept_bytes=kept_bytes)
    handle = ctypes.c_void_p()
    lib.call("vera_model_new", ctypes.byref(handle), ctypes.byref(options))
    live = Live(handle, stops, weights)
    try:
        for tensor in weights.tensors:
            lib.call("vera_model_register", handle, ctypes.byref(tensor))
        lib.call("vera_model_seal", handle)
        if lock and is_torch_module(model):
            live._hook(model)
    except BaseException:
        live.close()
        raise
    return live
