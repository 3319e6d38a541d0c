"""eventfd(2): a counter. fdinfo tells its value."""

from __future__ import annotations

import os

from livecr.image.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["EventFd", "load", "obstacle", "save"]

_INITIAL_MAX = 0xFFFFFFFF  # eventfd2 takes an unsigned int; what is more has to be written


class EventFd(Record, tag="eventfd"):
    """``flags``: O_NONBLOCK or 0."""

    count: int
    semaphore: bool
    flags: int


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Nothing stands in the way where the kernel tells the mode (eventfd-semaphore, since 6.5)."""
    if "eventfd-semaphore" in _fields(d):
        return None
    return "an eventfd whose mode this kernel does not tell", "a kernel of 6.5 or later is needed for it"


def _fields(d: procfs.Descriptor) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in d.lines)}


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> EventFd:
    """Nothing is consumed."""
    told = _fields(d)
    return EventFd(
        count=int(told["eventfd-count"], 16),
        semaphore=told["eventfd-semaphore"] == "1",
        flags=d.flags & os.O_NONBLOCK,
    )


def load(record: EventFd) -> int:
    """A new eventfd with the same count and mode."""
    flags = os.EFD_CLOEXEC | (os.EFD_SEMAPHORE if record.semaphore else 0)
    first = min(record.count, _INITIAL_MAX)
    fd = os.eventfd(first, flags | (os.EFD_NONBLOCK if record.flags & os.O_NONBLOCK else 0))
    if record.count > first:
        os.eventfd_write(fd, record.count - first)
    return fd
