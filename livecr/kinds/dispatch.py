"""System calls that a task has dispatched to itself, PR_SET_SYSCALL_USER_DISPATCH, as Wine does.

With it on, a call made outside of one range of code comes back as SIGSYS, unless a byte of the program's,
the selector, says otherwise. livecr makes calls in the task, so it has to say so; and as only the program
writes it, it says so also if livecr is killed. Relies on PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG (6.4).
Called by checkpoint, threads and restore.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed, Refused
from livecr.image.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.bpf import TaskState
    from livecr.target.process import Process
    from livecr.target.tracee import Tracee

__all__ = ["Dispatch", "confirm", "load", "save"]

PTRACE_SET_CONFIG, PTRACE_GET_CONFIG = 0x4210, 0x4211  # PTRACE_…_SYSCALL_USER_DISPATCH_CONFIG
_WORDS, _BYTES = 4, 32  # struct ptrace_sud_config: mode, selector, offset, len
#: PR_SYS_DISPATCH_*; SYSCALL_DISPATCH_FILTER_ALLOW.
_OFF, _EXCLUSIVE_ON, _INCLUSIVE_ON = 0, 1, 2
_ALLOW = 0
_MASK = 0xFFFFFFFFFFFFFFFF
_WHAT = "it has its system calls dispatched to itself (PR_SET_SYSCALL_USER_DISPATCH)"


class Dispatch(Record):
    """``selector``: the address of the byte, or 0; ``offset``, ``len``: the code whose calls are not
    dispatched, which may reach around the end of the address space (PR_SYS_DISPATCH_INCLUSIVE_ON)."""

    selector: int
    offset: int
    len: int


def confirm(frozen: Process, seen: dict[int, TaskState]) -> None:
    """Raises Refused if a call made in a task might come back to it. ``seen``: by BPF, or nothing."""
    for task in frozen.tasks:
        state = seen.get(task.tid)
        if state is not None and not state.dispatches:
            continue
        where = f"task {task.tid} of process {task.pid}"
        config = _config(task)
        if config is None:
            if state is not None:
                raise Refused(_WHAT, where=where, way_out="only Linux 6.4 and later tell how")
            continue
        mode, selector = config[:2]
        if mode == _OFF:
            continue
        if not selector:
            raise Refused(
                f"{_WHAT}, and nothing can allow them", where=where, way_out="let it use a selector"
            )
        if task.read(selector, 1)[0] != _ALLOW:
            way_out = "try again while its selector allows them, as between two of such calls"
            raise Refused(f"{_WHAT}, just now all of them", where=where, way_out=way_out)


def save(task: Tracee, seen: TaskState | None) -> Dispatch | None:
    """Of a frozen task."""
    config = _config(task) if seen is None or seen.dispatches else None
    if config is None or config[0] == _OFF:
        return None
    return Dispatch(selector=config[1], offset=config[2], len=config[3])


def _config(task: Tracee) -> tuple[int, ...] | None:
    words = ffi.new("uint64_t[]", _WORDS)
    address = int(ffi.cast("uintptr_t", words))
    return tuple(words) if lib.lcr_ptrace(PTRACE_GET_CONFIG, task.tid, _BYTES, address) >= 0 else None


def load(wanted: Dispatch | None, task: Tracee) -> None:
    """In a stopped task in which no more calls are made."""
    if wanted is None:
        return
    mode, offset, length = _EXCLUSIVE_ON, wanted.offset, wanted.len
    if offset and (offset + length) & _MASK <= offset:  # as the kernel keeps the opposite
        mode, offset, length = _INCLUSIVE_ON, (offset + length) & _MASK, -length & _MASK
    words = ffi.new("uint64_t[]", [mode, wanted.selector, offset, length])
    address = int(ffi.cast("uintptr_t", words))
    result = lib.lcr_ptrace(PTRACE_SET_CONFIG, task.tid, _BYTES, address)
    if result < 0:
        raise Failed(f"dispatching its system calls: {os.strerror(-result)}", where=f"task {task.tid}")
