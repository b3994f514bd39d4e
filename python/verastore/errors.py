"""What can go wrong, by what the caller can do about it: the codes of vera_apply.h."""
from __future__ import annotations

from typing import Dict, Optional, Type


class VeraError(Exception):
    """What went wrong (`message`, several lines where several things are), and where the caller can do something
    about it, what (`hint`). `code` is the library's name for the kind; "FAILED" where the program `vera` told none."""

    code = "FAILED"

    def __init__(self, message: str, hint: Optional[str] = None, code: Optional[str] = None) -> None:
        super().__init__(f"{message}\nhint: {hint}" if hint else message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class NotFound(VeraError):
    """No such revision, directory, file or adapter."""

    code = "NOTFOUND"


class Exists(VeraError):
    """It is there already."""

    code = "EXISTS"


class Invalid(VeraError):
    """An argument, or an adapter that does not fit the weights."""

    code = "INVALID"


class Corrupt(VeraError):
    """Bytes that are damaged."""

    code = "CORRUPT"


class Conflict(VeraError):
    """Another base model or basis, or the program did not stop for the swap."""

    code = "CONFLICT"


class Limit(VeraError):
    """Too large, or too many."""

    code = "LIMIT"


class Unsupported(VeraError):
    """Nothing that the library does."""

    code = "UNSUPPORTED"


class SystemFailure(VeraError):
    """The system refused: files, pipes, sockets."""

    code = "IO"


class OutOfMemory(VeraError):
    """There is not enough memory."""

    code = "NOMEM"


class DeviceError(VeraError):
    """A device that is not there, or that this build of the library knows nothing of."""

    code = "DEVICE"


_KINDS: Dict[str, Type[VeraError]] = {
    kind.code: kind for kind in (NotFound, Exists, Invalid, Corrupt, Conflict, Limit, Unsupported, SystemFailure,
                                 OutOfMemory, DeviceError)
}


def error_of(code: str, message: str, hint: Optional[str] = None) -> VeraError:
    """The exception of that code."""
    kind = _KINDS.get(code)
    return kind(message, hint) if kind else VeraError(message, hint, code)
