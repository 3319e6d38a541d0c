"""All processes that a restore has made, so that nothing is left of them when it fails.

Meanwhile livecr takes in their orphans (PR_SET_CHILD_SUBREAPER), to be able to wait for each of them.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.target import freeze

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.process import Process

__all__ = ["Kin"]

NR_PRCTL, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 157, 36, 37


class Kin:
    """The living ones in ``processes``, the first of them a child of livecr."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self._ended: list[int] = []
        before = ffi.new("int *")
        _prctl(PR_GET_CHILD_SUBREAPER, int(ffi.cast("uintptr_t", before)))
        self._before = int(before[0])
        _prctl(PR_SET_CHILD_SUBREAPER, 1)

    def add(self, process: Process) -> None:
        """One more has been made."""
        self.processes.append(process)

    def has_ended(self, process: Process) -> None:
        """One has ended by itself; its parent may still have to wait for it."""
        self.processes.remove(process)
        self._ended.append(process.pid)
        os.close(process.pidfd)

    def release(self) -> None:
        """They are complete: from now on their orphans are init's."""
        _prctl(PR_SET_CHILD_SUBREAPER, self._before)

    def discard(self) -> None:
        """Kill all and wait until nothing is left."""
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        status = ffi.new("int *")
        for process in self.processes:
            freeze.end(process)
        for pid in [*(process.pid for process in self.processes), *self._ended]:
            lib.lcr_wait(pid, status, 0)  # ECHILD: its parent has done so
        self.processes.clear()
        self.release()


def _prctl(option: int, argument: int) -> None:
    lib.lcr_syscall(NR_PRCTL, option, argument, 0, 0, 0, 0)
