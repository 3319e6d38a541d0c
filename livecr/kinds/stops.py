"""A process that a signal has stopped (SIGSTOP and its like), and whether its parent has been told.

It is stopped again by a signal while it is still traced, so that it dies with livecr until all is complete;
the stop lasts when its tracer lets go (kernel/ptrace.c, __ptrace_unlink). Called by process and restore.
"""

from __future__ import annotations

import os

from livecr.kernel import procfs
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
_ALL_SIGNALS = 0xFFFFFFFFFFFFFFFF
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
    """Stop it, with all other signals blocked, in the registers that its tasks will go on with.

    Only SIGSTOP stops for sure; when it is delivered, the tracer says which it was (PTRACE_CONT).
    """
    by = signal if signal == tracee.SIGSTOP or _would_stop(signal, seed.pid) else tracee.SIGSTOP
    for task in seed.process.tasks:
        task.set_signal_mask(_ALL_SIGNALS & ~(1 << by - 1))
    os.kill(seed.pid, tracee.SIGSTOP)
    for task in seed.process.tasks:
        task.cont()
    for task in seed.process.tasks:
        task.wait()
        while task.event != tracee.EVENT_STOP or task.stop_signal == tracee.SIGTRAP:
            delivered = by if task.stop_signal == tracee.SIGSTOP else task.stop_signal
            task.cont(delivered if task.event == 0 else 0)
            task.wait()


def _would_stop(signal: int, pid: int) -> bool:
    """Whether one of the others (SIGTSTP, SIGTTIN, SIGTTOU) is neither caught, ignored nor waiting, and the
    process group is not orphaned, since the kernel then drops it (kernel/signal.c, get_signal)."""
    told = procfs.status(pid)
    if any(int(told[name], 16) >> signal - 1 & 1 for name in ("SigCgt", "SigIgn", "SigPnd", "ShdPnd")):
        return False
    own = ancestor = procfs.stat(pid)
    while ancestor["ppid"] > 1 and ancestor["pgrp"] == own["pgrp"]:
        ancestor = procfs.stat(ancestor["ppid"])
    return ancestor["pgrp"] != own["pgrp"] and ancestor["session"] == own["session"]


def report(child: int, parent: Seed) -> None:
    """Let the parent have waited for the stop of its child."""
    program = Program()
    program.add("waitid", P_PID, child, 0, WSTOPPED | WNOHANG, 0)
    parent.run(program)
