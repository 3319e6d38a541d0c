"""A socket's own timeout, lent to a call that has less time left.

SO_RCVTIMEO and SO_SNDTIMEO are no arguments: a call reads its socket's once, when it begins, and counts down
for itself (include/net/sock.h, sock_rcvtimeo, sock_sndtimeo). So a shim (target/shim_code, LEND) sets the
option to what is left, makes the program's own call, and sets the option back. livecr does that sooner, as
soon as the call sleeps, so that nobody finds the option changed; one that is killed leaves it to the shim.
Used by reenter and calls, and by the restore.
"""

from __future__ import annotations

import time

from livecr.errors import Failed
from livecr.kernel import machine, sockopt
from livecr.kernel.pidfd import Duplicate
from livecr.target.shim_code import offset
from livecr.waits import catalog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.shim import Shims
    from livecr.target.shim_code import Slot
    from livecr.waits.classify import Wait

__all__ = [
    "SETSOCKOPT",
    "SOL_SOCKET",
    "TIMEVAL_BYTES",
    "Lent",
    "by_socketcall",
    "take_back",
    "take_back_asleep",
    "words",
]

#: setsockopt(2), by the name of the machine.
SETSOCKOPT = {machine.X86_64: 54, machine.I386: 366}
SOL_SOCKET = 1
TIMEVAL_BYTES = 16  # struct __kernel_sock_timeval, of either ABI
_US = 1_000_000
_POLLIN = 1
#: By what poll would wait for: SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW (include/uapi/asm-generic/socket.h).
_OPTIONS = {_POLLIN: 66, 4: 67}
#: Calls of i386 that take an address and so have no register left for a slot: the part of socketcall that is
#: the same call with its arguments in memory (include/uapi/linux/net.h).
_NR_SOCKETCALL = 102
_IN_MEMORY = {"sendto": 11, "recvfrom": 12}
#: What the kernel may round up a timeout by: a tick, of 10 ms at most.
_TICK_US = 10_000
#: A task that was let go is in its call again within microseconds, on a busy machine within milliseconds.
_TRIES = 50
_PAUSE_S = 0.0005


class Lent:
    """A call that has been given a time: the slot of its shim, and where the task stands when it is in it."""

    __slots__ = ("rip", "slot_at", "tid")

    def __init__(self, tid: int, slot_at: int, rip: int) -> None:
        self.tid = tid
        self.slot_at = slot_at
        self.rip = rip


def by_socketcall(wait: Wait) -> bool:
    """Whether the call is made by socketcall(2) in its place."""
    return wait.abi == machine.I386 and wait.name in _IN_MEMORY and bool(wait.arguments[4])


def words(wait: Wait, slot_at: int = 0) -> dict[str, int]:
    """What a slot needs to know; of one at ``slot_at`` where the call's arguments go into that."""
    seconds, microseconds = divmod(wait.socket_timeout_us, _US)
    found = {
        "number": wait.call,
        "pollfd": wait.poll_fd & 0xFFFFFFFF,
        "lent": 1,
        "option": _OPTIONS.get(wait.poll_events, 0),
        "original_seconds": seconds,
        "original_microseconds": microseconds,
        "mover": wait.call,
        "address": wait.arguments[0],
        "size": wait.arguments[1],
    }
    if by_socketcall(wait):
        pairs = zip(wait.arguments[::2], wait.arguments[1::2], strict=True)
        found |= {f"words{i}": low & 0xFFFFFFFF | high << 32 for i, (low, high) in enumerate(pairs)}
        found |= {
            "mover": _NR_SOCKETCALL,
            "address": _IN_MEMORY[wait.name],
            "size": slot_at + offset("words0"),
        }
    return found


def take_back(pid: int, slot: Slot) -> None:
    """Set a socket's timeout to what it was, unless the program has set another meanwhile."""
    try:
        with Duplicate(pid, slot["pollfd"] & 0xFFFFFFFF) as fd:
            timeval = sockopt.option(fd, slot["option"], TIMEVAL_BYTES)
            now_us = int.from_bytes(timeval[:8], "little") * _US + int.from_bytes(timeval[8:], "little")
            lent_us = slot["seconds"] * _US + slot["nanoseconds"]
            if 0 <= now_us - lent_us <= _TICK_US:
                before = (slot["original_seconds"], slot["original_microseconds"])
                sockopt.set_option(fd, slot["option"], catalog.TIMESPEC.pack(*before))
    except (OSError, Failed):
        return  # the descriptor or the process is gone


def take_back_asleep(shims: Shims, pid: int, all_lent: list[Lent]) -> None:
    """In a program that has been let go: of each call that sleeps again, and so has read what it was lent."""
    for lent in all_lent:
        for _ in range(_TRIES):
            asleep = _is_asleep(pid, lent)
            if asleep is None:
                break  # it has ended, or goes another way; its shim puts the timeout back
            if asleep:
                _put_back(shims, pid, lent)
                break
            time.sleep(_PAUSE_S)


def _put_back(shims: Shims, pid: int, lent: Lent) -> None:
    try:
        take_back(pid, shims.slot(lent.slot_at))
        shims.write(lent.slot_at + offset("lent"), 0)
    except Failed:
        return


def _is_asleep(pid: int, lent: Lent) -> bool | None:
    """Whether it sleeps in its call so that signals wake it, which is not before it has read its timeout.

    None if there is no such task.
    """
    at = f"/proc/{pid}/task/{lent.tid}"
    try:
        with open(f"{at}/syscall", encoding="ascii") as file:
            told = file.read().split()
        with open(f"{at}/stat", encoding="ascii", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return len(told) == 9 and int(told[8], 16) == lent.rip and state == "S"
