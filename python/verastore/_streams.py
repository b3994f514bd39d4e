"""Torch's streams of a GPU, its graphs: what a model's calls queue there, and when weights may change.

What is queued reads the weights later than Python does. A swap comes after what the streams have been given that the
weights were registered with: those that were current then. Calls may be made in others: at their end the registered
stream is told to wait for those, so that a swap waits for them, too, while Python waits for nothing.
"""
from __future__ import annotations

import sys
from typing import Any, Callable, Dict


def current(device: int) -> Any:
    """The stream of that device in which the calling thread works."""
    return sys.modules["torch"].cuda.current_stream(device)


def capturing(device: int) -> bool:
    """Is that stream's work recorded in a CUDA graph, and not done?"""
    cuda = sys.modules["torch"].cuda
    with cuda.device(device):
        return bool(cuda.is_current_stream_capturing())


def uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that torch.compile() leaves alone: it would look into it, and compile it anew for each layer."""
    disable: Any = getattr(getattr(sys.modules["torch"], "compiler", None), "disable", None)  # from torch 2.1 on
    return disable(hook) if disable else hook


def join(registered: Dict[int, Any]) -> None:
    """{device: stream}: what the thread's current streams were given until now comes before what these get."""
    for device, stream in registered.items():
        here = current(device)
        if here != stream and not capturing(device):
            stream.wait_stream(here)
