"""signalfd(2): the set of signals that can be read from it. The signals themselves are queued in the process.

Relies on the sigmask line of fdinfo. Whoever reads gets their own signals, so one that livecr has made serves
the program as well as one of its own. Called by descriptors.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.image.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["SignalFd", "load", "obstacle", "save"]

NR_SIGNALFD4 = 289
_SIGSET_BYTES = 8
_NEW = (1 << 64) - 1  # -1: none that exists


class SignalFd(Record, tag="signalfd"):
    """``mask``: bit N - 1 is signal N. ``flags``: O_NONBLOCK or 0."""

    mask: int
    flags: int


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Nothing stands in the way."""
    return None


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> SignalFd:
    """Nothing is consumed: pending signals are saved with the process (kinds/signals)."""
    mask = next(line for line in d.lines if line.startswith("sigmask:"))
    return SignalFd(mask=int(mask.split()[1], 16), flags=d.flags & os.O_NONBLOCK)


def load(record: SignalFd) -> int:
    """A new signalfd for the same signals."""
    mask = ffi.new("uint64_t *", record.mask)
    at = int(ffi.cast("uintptr_t", mask))
    flags = (record.flags & os.O_NONBLOCK) | os.O_CLOEXEC
    fd: int = lib.lcr_syscall(NR_SIGNALFD4, _NEW, at, _SIGSET_BYTES, flags, 0, 0)
    if fd < 0:
        raise Failed(f"signalfd4: {os.strerror(-fd)}")
    return fd
