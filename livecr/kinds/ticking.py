"""What goes on while a process is frozen: its wall-clock timers, and the signals that they send.

Both are saved as they were at the freeze, from where the program's clocks go on: what a timer has sent since,
it will send again. Called by checkpoint, of all processes before anything that takes long. What others send
while that goes on is added last, if the program is to be ended.
"""

from __future__ import annotations

from livecr.kinds import signals, timers
from livecr.target.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.kinds import process
    from livecr.target.process import Process
    from livecr.target.tracee import Registers

__all__ = ["Ticking", "add", "save"]

_TRIES = 4

Queues = dict[int, list[bytes]]  # of siginfo, by TID, as signals.save_queues tells them


class Ticking:
    """``pending``: the signals that wait, by TID, and under signals.SHARED those of the whole process."""

    __slots__ = ("interval", "pending", "posix")

    interval: list[timers.IntervalTimer]
    posix: list[timers.PosixTimer]
    pending: Queues


def save(
    frozen: Process,
    at_freeze: Queues,
    since_frozen_ns: Callable[[], int],
    resume: Callable[[Registers], Registers],
) -> Ticking:
    """``at_freeze``: the signals that were pending then. ``resume``: see Engine.

    Where a timer fires between the looks at timers and signals, the two do not fit together: look again. It
    fires only once, since nobody takes its signal.
    """
    told = Ticking()
    before = _sources(at_freeze)
    with Engine(frozen, resume) as engine, engine.borrow(frozen.leader) as borrowed:
        told.pending = signals.save_queues(frozen)
        for _ in range(_TRIES):
            waiting = _sources(told.pending)
            fired = waiting - before
            told.interval = timers.save_interval(borrowed, fired, since_frozen_ns)
            told.posix = timers.save_posix(frozen.pid, borrowed, waiting, fired, since_frozen_ns)
            earlier, told.pending = told.pending, signals.save_queues(frozen)
            if told.pending == earlier:
                break
    for queue in told.pending.values():
        queue[:] = [info for info in queue if timers.source(info) not in fired]
    return told


def add(frozen: Process, record: process.Process) -> bool:
    """The signals that have come since ``record`` was made are added to it; whether there are any."""
    recorded = {thread.tid: thread.pending for thread in record.threads} | {signals.SHARED: record.pending}
    changed = False
    for tid, queue in signals.save_queues(frozen).items():
        known = recorded[tid]
        wanted = [info for info in queue if info in known or not timers.is_sender(info)]
        changed |= wanted != known
        known[:] = wanted
    return changed


def _sources(queues: Queues) -> set[int]:
    found = {timers.source(info) for queue in queues.values() for info in queue}
    return {source for source in found if source is not None}
