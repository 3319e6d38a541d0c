"""Calls by the other convention: an `int $0x80` in a 64-bit program, 64-bit code in a 32-bit one.

/proc/PID/task/TID/syscall tells their number and arguments, but not of which kind they are; the instruction
before does. Such a call would be taken for another one, so it is refused, here before the freeze; after it by
target/compat.
"""

from __future__ import annotations

import os

from livecr.errors import Failed, Obstacle
from livecr.kernel import machine, procfs
from livecr.waits import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.waits.abi import Abi
    from livecr.waits.deadlines import ReadMemory
    from livecr.waits.live import Blocked

__all__ = ["obstacles", "table_of"]


def obstacles(pid: int, tasks: dict[int, Blocked | None], table: Abi) -> list[Obstacle]:
    """``table``: by which convention a program of this kind makes its calls."""
    found = []
    try:
        memory = os.open(procfs.path(pid, "mem"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []  # it has ended; others tell that
    try:
        for tid, task in tasks.items():
            if task is None or task.number < 0:
                continue
            instruction = _before(memory, task.rip, len(table.instruction))
            if instruction in _NAMES and instruction != table.instruction:
                text = f"it is in a system call by {_NAMES[instruction]}, in a program of the other kind"
                way_out = "try again while it does not make such a call"
                found.append(Obstacle(f"task {tid} of process {pid}", text, way_out))
    finally:
        os.close(memory)
    return found


def table_of(task: Blocked, read: ReadMemory, usual: Abi) -> Abi:
    """By which convention a task that is blocked in a call has made it."""
    try:
        instruction = read(task.rip - len(usual.instruction), len(usual.instruction))
    except Failed:
        return usual
    if instruction == usual.instruction or instruction not in _NAMES:
        return usual
    return abi.of(machine.X86_64 if usual.name == machine.I386 else machine.I386)


_NAMES = {b"\xcd\x80": "int $0x80", b"\x0f\x05": "syscall"}


def _before(memory: int, address: int, size: int) -> bytes:
    try:
        return os.pread(memory, size, address - size)
    except (OSError, OverflowError):
        return b""
