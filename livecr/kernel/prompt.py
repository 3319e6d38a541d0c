"""Steps in which livecr should not be kept waiting: what it loses there, the program loses too.

On a busy machine the scheduler takes the CPU from livecr for as long as others have had to wait for theirs: a
pause of ten milliseconds becomes one of several hundred. And a tree is let go one task after the other: one
that is not free yet misses its deadline while its fellows run. So while the program is frozen livecr's thread
has the lowest real-time priority (sched(7)), where that is allowed, but for what may take long: copying large
memory, waiting for a disk. Called by checkpoint, restore, and waits.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["copying", "ordinary", "undelayed"]

_ORDINARY = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)
_LOWEST = 1
_LARGE_BYTES = 64 << 20  # copied in some ten milliseconds


@contextmanager
def undelayed() -> Iterator[None]:
    """For the calling thread alone; threads and processes that it makes meanwhile are ordinary ones.

    Without effect in a control group that has no share of real time, and where somebody has given livecr a
    real-time priority already.
    """
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in _ORDINARY:
        with _scheduled(os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, _LOWEST):
            yield
    else:
        yield


@contextmanager
def ordinary() -> Iterator[None]:
    """For a while within ``undelayed``: others get their turn."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK:
        with _scheduled(os.SCHED_OTHER, 0):
            yield
    else:
        yield


@contextmanager
def copying(size_bytes: int) -> Iterator[None]:
    """While so much is copied: an ordinary task, if that takes long."""
    if size_bytes <= _LARGE_BYTES:
        yield
    else:
        with ordinary():
            yield


@contextmanager
def _scheduled(policy: int, priority: int) -> Iterator[None]:
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(OSError):
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, before, parameters)
