"""A moment in which livecr had better not be preempted: from reckoning what a wait has left to letting it go.

What goes by in between makes the wait longer, and on a busy machine that can be a time slice of some ms. So
livecr is a real-time task (sched(7)) for just that moment, where it may be one. Called by whatever lets tasks
go, for one task at a time: a task that was let go wants a CPU, and that may be livecr's.
"""

from __future__ import annotations

import os

__all__ = ["Prompt"]


class Prompt:
    """``with Prompt():`` real-time, if livecr is an ordinary task and is allowed to."""

    __slots__ = ("_raised",)

    def __enter__(self) -> None:
        self._raised = False
        try:
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
                self._raised = True
        except OSError:
            return  # no CAP_SYS_NICE, or a cgroup without a share of real time

    def __exit__(self, *exc: object) -> None:
        if self._raised:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
