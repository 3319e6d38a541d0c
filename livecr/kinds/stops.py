"""A process that a signal has stopped (SIGSTOP and its like), and whether its parent has been told.

It is stopped again by a signal while it is still traced, so that it dies with livecr until all is complete;
the stop lasts when its tracer lets go (kernel/ptrace.c, __ptrace_unlink). Called by process and restore.
"""

from __future__ import annotations

import os

from livecr.target import tracee
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.engine import Borrowed
    from livecr.target.process import Process
    from livecr.target.spawn import Seed

__all__ = ["load", "report", "told"]

P_PID, WNOHANG, WSTOPPED, WNOWAIT = 1, 1, 2, 0x01000000
_SIGINFO_BYTES = 128
_SI_PID = 16  # offset of si_pid


def told(children: list[Process], borrowed: Borrowed) -> list[int]:
    """The PIDs of the stopped children whose frozen parent has been told; asked without telling it."""
    found = []
    for child in children:
        if child.stop_signal:
            at = borrowed.scratch
            borrowed.task.write(at, bytes(_SIGINFO_BYTES))
            program = Program()
            program.add("waitid", P_PID, child.pid, at, WSTOPPED | WNOHANG | WNOWAIT, 0)
            borrowed.run(program)
            if not any(borrowed.task.read(at + _SI_PID, 4)):
                found.append(child.pid)
    return found


def load(signal: int, seed: Seed) -> None:
    """Stop it, with all signals blocked, in the registers that its tasks will go on with."""
    os.kill(seed.pid, signal)
    for task in seed.process.tasks:
        task.cont()
    for task in seed.process.tasks:
        task.wait()
        while task.event != tracee.EVENT_STOP or task.stop_signal == tracee.SIGTRAP:
            task.cont(task.stop_signal if task.event == 0 else 0)
            task.wait()


def report(child: int, parent: Seed) -> None:
    """Let the parent have waited for the stop of its child."""
    program = Program()
    program.add("waitid", P_PID, child, 0, WSTOPPED | WNOHANG, 0)
    parent.run(program)
