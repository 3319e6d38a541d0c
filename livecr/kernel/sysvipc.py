"""The System V IPC objects of this IPC namespace, as /proc/sysvipc tells them; see sysvipc(7).

Called by kinds/sysv*. Nothing here changes an object.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed

__all__ = [
    *("MESSAGES", "SEMAPHORES", "SHARED_MEMORY"),
    *("attached", "last_users", "messages", "objects", "queue_bytes_max", "values"),
]

SHARED_MEMORY, SEMAPHORES, MESSAGES = "shm", "sem", "msg"
_NR_SEMCTL, _NR_MSGRCV, _NR_MSGCTL = 66, 70, 71
_IPC_STAT, _GETPID, _GETALL = 2, 11, 13
_QBYTES_AT, _STRUCTURE_BYTES = 88, 128  # of struct msqid64_ds (asm-generic/msgbuf.h)
_IPC_NOWAIT, _MSG_COPY = 0o4000, 0o40000  # MSG_COPY: CONFIG_CHECKPOINT_RESTORE
_ENOMSG = 42
_LONG_BYTES = 8
_OCTAL = ("perms",)


def objects(kind: str) -> dict[int, dict[str, int]]:
    """All of one kind by id: the columns of its file by their names ("key", "perms", "nattch" …)."""
    try:
        with open(f"/proc/sysvipc/{kind}", encoding="ascii") as file:
            names, *rows = [line.split() for line in file]
    except FileNotFoundError:  # a kernel without CONFIG_SYSVIPC
        return {}
    found = {}
    for row in rows:
        one = {name: int(word, 8 if name in _OCTAL else 10) for name, word in zip(names, row, strict=True)}
        found[one[f"{kind}id" if kind != MESSAGES else "msqid"]] = one
    return found


def attached(segment: int, insiders: list[int]) -> tuple[int, str] | None:
    """PID and name of a process, none of ``insiders``, that has a segment attached."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in insiders:
            continue
        try:
            with open(f"/proc/{name}/maps", "rb") as file:
                lines = [line.split(None, 5) for line in file if b" /SYSV" in line]
            if any(int(words[4]) == segment for words in lines):
                with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                    return int(name), file.read().strip()
        except OSError:
            continue  # it has ended
    return None


def _address(buffer: object) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(buffer)))


def values(semid: int, count: int) -> list[int]:
    """The value of each semaphore of a set. Raises Failed."""
    raw = bytearray(2 * count)
    result = lib.lcr_syscall(_NR_SEMCTL, semid, 0, _GETALL, _address(raw), 0, 0)
    if result < 0:
        raise Failed(f"semctl: {os.strerror(-result)}", where=f"semaphore set {semid}")
    return [int.from_bytes(raw[at : at + 2], "little") for at in range(0, 2 * count, 2)]


def last_users(semid: int, count: int) -> set[int]:
    """The processes that were the last to use each of a set's semaphores (sempid)."""
    return {int(lib.lcr_syscall(_NR_SEMCTL, semid, number, _GETPID, 0, 0, 0)) for number in range(count)}


def queue_bytes_max(msqid: int) -> int:
    """msg_qbytes: how much may wait in a queue. Raises Failed."""
    raw = bytearray(_STRUCTURE_BYTES)
    result = lib.lcr_syscall(_NR_MSGCTL, msqid, _IPC_STAT, _address(raw), 0, 0, 0)
    if result < 0:
        raise Failed(f"msgctl: {os.strerror(-result)}", where=f"message queue {msqid}")
    return int.from_bytes(raw[_QBYTES_AT : _QBYTES_AT + 8], "little")


def messages(msqid: int, most_bytes: int) -> list[tuple[int, bytes]]:
    """Type and text of every message of a queue, in its order; none is taken. Raises Failed.

    ``most_bytes``: how many bytes one can have at most.
    """
    found: list[tuple[int, bytes]] = []
    room = bytearray(_LONG_BYTES + most_bytes)
    while True:
        flags = _MSG_COPY | _IPC_NOWAIT
        got = lib.lcr_syscall(_NR_MSGRCV, msqid, _address(room), most_bytes, len(found), flags, 0)
        if got == -_ENOMSG:
            return found
        if got < 0:
            raise Failed(f"msgrcv: {os.strerror(-got)}", where=f"message queue {msqid}")
        found.append((int.from_bytes(room[:_LONG_BYTES], "little"), bytes(room[_LONG_BYTES:][:got])))
