"""Frozen tasks that are confined by seccomp(2): their filters, and calls in them in spite of these.

While livecr traces a task its filters are suspended (PTRACE_O_SUSPEND_SECCOMP); but should livecr be killed,
they are in force again at once, wherever the task is: before a call of the engine, or on its way back. So no
call is made in it that its filters answer with more than an error, and none if they forbid the way back:
unless the user takes that risk (SUSPEND). Strict mode is a filter like others here, which forbids nearly all.
Relies on PTRACE_SECCOMP_GET_FILTER and CAP_SYS_ADMIN. Called by checkpoint and engine.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed, Refused
from livecr.kernel import procfs
from livecr.kernel.seccomp import ARCH_I386, ARCH_X86_64, MODE_FILTER, MODE_STRICT, NAMES, Filters, Strict
from livecr.target import tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.bpf import TaskState
    from livecr.target.process import Process
    from livecr.target.program import Program
    from livecr.target.tracee import Tracee

__all__ = [
    *("POLICIES", "RESPECT", "SUSPEND", "WAY_BACK"),
    *("confirm_calls", "confirm_way_back", "refusal", "strict", "suspend"),
]

#: Of calls that filters would do harm for if livecr were killed: none is made, or as if nothing would happen.
POLICIES = RESPECT, SUSPEND = ("respect", "suspend")

PTRACE_SECCOMP_GET_FILTER, PTRACE_SECCOMP_GET_METADATA = 0x420C, 0x420D
_INSTRUCTION_BYTES = 8
_ENOENT = 2
_SIG_SETMASK, _SIGSET_BYTES = 2, 8

#: The calls of the engine's way back (native/engine/engine.S), which every filter has to allow.
WAY_BACK = {"munmap": 11, "rt_sigprocmask": 14}


_RISK = "take that risk with --seccomp suspend"


def suspend(frozen: Process, seen: dict[int, TaskState], policy: str) -> None:
    """Find out which tasks are confined, and suspend their filters; ``Tracee.filters`` has them then.

    ``seen``: what BPF has read of them in this freeze, or nothing; ``policy``: one of POLICIES. Raises
    Refused for a task in strict mode, unless that is SUSPEND, or with filters that cannot be read.
    """
    known: dict[tuple[bytes, ...], Filters] = {}
    for task in frozen.tasks:
        state = seen.get(task.tid)
        mode = state.seccomp_mode if state else int(procfs.status(frozen.pid, task.tid).get("Seccomp", "0"))
        if mode == MODE_STRICT:
            if policy != SUSPEND:
                raise strict(f"task {task.tid} of process {frozen.pid}")
            task.filters = Strict()
        elif mode == MODE_FILTER:
            programs, logged = _read(task)
            task.filters = known.setdefault(tuple(programs), Filters(programs))
            task.logged_filters = logged
        if task.filters is not None:
            task.risks_filters = policy == SUSPEND
            task.request(tracee.SETOPTIONS, 0, tracee.O_TRACESYSGOOD | tracee.O_SUSPEND_SECCOMP)


def strict(where: str) -> Refused:
    """Of a task that may read, write, return from a signal handler and exit, and nothing else."""
    return Refused(
        "it is in seccomp's strict mode",
        where=where,
        way_out=f"what livecr does in it would be its end if livecr were killed meanwhile; {_RISK}",
    )


def _read(task: Tracee) -> tuple[list[bytes], list[int]]:
    """The filters of a stopped task, the oldest first; and which of them log (SECCOMP_FILTER_FLAG_LOG)."""
    programs: list[bytes] = []
    logged: list[int] = []
    while True:
        count = lib.lcr_ptrace(PTRACE_SECCOMP_GET_FILTER, task.tid, len(programs), 0)
        if count == -_ENOENT and programs:
            return programs, logged
        if count < 0:
            raise Refused(
                f"its seccomp filters cannot be read: {os.strerror(-count)}",
                where=f"task {task.tid} of process {task.pid}",
                way_out="run livecr with CAP_SYS_ADMIN and not confined itself",
            )
        programs.append(task.ask(PTRACE_SECCOMP_GET_FILTER, len(programs), count * _INSTRUCTION_BYTES))
        words = ffi.new("uint64_t[2]", [len(programs) - 1, 0])  # struct seccomp_metadata: filter_off, flags
        address = int(ffi.cast("uintptr_t", words))
        if lib.lcr_ptrace(PTRACE_SECCOMP_GET_METADATA, task.tid, 16, address) < 0:
            raise Failed("the flags of its seccomp filters cannot be read", where=f"task {task.tid}")
        if words[1]:
            logged.append(len(programs) - 1)


def refusal(filters: Filters, call: str, number: int, where: str) -> Refused:
    """Because of what its filters answer to a call that would have to be made in it."""
    return Refused(
        f"its seccomp filters answer {NAMES.get(filters.action(number), 'an error')} to {call}",
        where=where,
        way_out="allow that call in its filters: should livecr be killed, the program could be harmed; "
        + _RISK,
    )


def confirm_way_back(task: Tracee, at: int, scratch: tuple[int, int], mask_at: int) -> None:
    """Raises Refused unless its filters allow all of the engine's way back."""
    calls = {"munmap": scratch, "rt_sigprocmask": (_SIG_SETMASK, mask_at, 0, _SIGSET_BYTES)}
    if task.filters is None or task.risks_filters:
        return
    for name, args in calls.items():
        if not task.filters.allows(WAY_BACK[name], args, at=at):
            raise refusal(task.filters, name, WAY_BACK[name], f"task {task.tid} of process {task.pid}")


def confirm_calls(task: Tracee, program: Program, at: int) -> None:
    """Raises Refused if its filters would do harm at any of these calls."""
    if task.filters is None or task.risks_filters:
        return
    arch = ARCH_I386 if program.ia32 else ARCH_X86_64
    for name, number, args in program.calls():
        if task.filters.harms(number, args, at=at, arch=arch):
            raise refusal(task.filters, name, number, f"task {task.tid} of process {task.pid}")
