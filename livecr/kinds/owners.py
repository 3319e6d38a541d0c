"""Who is sent a signal when a description is ready: F_SETOWN, F_SETSIG, O_ASYNC; and leases, which use that.

They belong to descriptions, and are set again when all tasks are there that could be meant. Relies on
fcntl(2): F_GETOWN_EX, F_GETSIG, F_GETOWNER_UIDS (whose rights the signal is sent with), F_SETLEASE. Called by
descriptors.
"""

from __future__ import annotations

import fcntl
import os
import stat as st
from contextlib import suppress
from struct import Struct

from livecr._native import lib
from livecr.errors import BadImage, Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kernel.pidfd import Duplicate
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.spawn import Seed

__all__ = ["Lease", "Owner", "leases", "load", "load_lease", "obstacle", "save"]

O_ASYNC = 0o20000
#: asm-generic/fcntl.h.
F_SETFL, F_SETSIG, F_GETSIG, F_SETOWN_EX, F_GETOWN_EX, F_GETOWNER_UIDS = 4, 10, 11, 15, 16, 17
F_SETLEASE, F_GETLEASE, F_RDLCK, F_WRLCK = 1024, 1025, 0, 1
_NR_SETRESUID = 117
_OWNER_EX, _UIDS = Struct("=ii"), Struct("=II")
_TYPES = ("tid", "pid", "pgrp")  # F_OWNER_*
_HAS_NONE = (st.S_ISREG, st.S_ISDIR, st.S_ISBLK, st.S_ISLNK)


class Owner(Record):
    """``kind``: tid, pid or pgrp; ``number`` 0: nobody. ``signal`` 0: SIGIO. ``uids``: real and effective."""

    description: int
    kind: str
    number: int
    signal: int
    uids: list[int]
    is_async: bool


class Lease(Record):
    """Held on a file that is to be as it was. ``pid``: who has the descriptor."""

    description: int
    pid: int
    write: bool
    mtime_ns: int
    size_bytes: int


def obstacle(d: procfs.Descriptor, stat: os.stat_result, insiders: frozenset[int]) -> Obstacle | None:
    """Signals for others could not be sent to them again, and leases that are being broken are not whole."""
    lines = [line.split() for line in d.lines if line.startswith("lock:")]
    if any(words[2] in ("LEASE", "DELEG") and words[3] != "ACTIVE" for words in lines):
        what = f"somebody waits for the program to give up its lease on {d.target}"
        return Obstacle(d.where, what, "try again when it has")
    if any(words[2] == "DELEG" for words in lines):
        return Obstacle(d.where, f"a delegation is held on {d.target}", "this version cannot restore that")
    with suppress(OSError):
        owner = _look(d, stat, 0)
        if owner and owner.number and not _is_inside(owner.kind, owner.number, insiders):
            what = f"{d.target} sends signals to {owner.kind} {owner.number}, which is no part of the program"
            return Obstacle(d.where, what, "let the program set another owner (F_SETOWN)")
    return None


def save(d: procfs.Descriptor, stat: os.stat_result, description: int) -> list[Owner]:
    """Of a description that is saved for the first time: [] where nothing is set."""
    owner = _look(d, stat, description)
    return [owner] if owner else []


def _look(d: procfs.Descriptor, stat: os.stat_result, description: int) -> Owner | None:
    leased = any(line.split()[2:3] == ["LEASE"] for line in d.lines)
    if d.flags & os.O_PATH or (any(is_one(stat.st_mode) for is_one in _HAS_NONE) and not leased):
        return None
    with Duplicate(d.pid, d.fd) as fd:
        kind, number = _OWNER_EX.unpack(fcntl.fcntl(fd, F_GETOWN_EX, bytes(_OWNER_EX.size)))
        signal = fcntl.fcntl(fd, F_GETSIG)
        uids = _UIDS.unpack(fcntl.fcntl(fd, F_GETOWNER_UIDS, bytes(_UIDS.size)))
    if not (number or signal or d.flags & O_ASYNC):
        return None
    return Owner(
        description=description,
        kind=_TYPES[kind],
        number=number,
        signal=signal,
        uids=list(uids),
        is_async=bool(d.flags & O_ASYNC),
    )


def _is_inside(kind: str, number: int, insiders: frozenset[int]) -> bool:
    try:
        if kind == "pgrp":
            return any(procfs.stat(pid)["pgrp"] == number for pid in insiders)
        return int(procfs.status(number)["Tgid"]) in insiders
    except (FileNotFoundError, ProcessLookupError):
        return False


def leases(d: procfs.Descriptor, stat: os.stat_result, description: int) -> list[Lease]:
    """Of a description that is saved for the first time."""
    return [
        Lease(
            description=description,
            pid=d.pid,
            write=line.split()[4] == "WRITE",
            mtime_ns=stat.st_mtime_ns,
            size_bytes=stat.st_size,
        )
        for line in d.lines
        if line.startswith("lock:") and line.split()[2] == "LEASE"
    ]


# -- loading -----------------------------------------------------------------------------------------------


def load(owner: Owner, ours: int, fd: int, seed: Seed, numbers: set[int]) -> None:
    """Set it again on livecr's duplicate ``ours`` of what process ``seed`` has as ``fd``.

    ``numbers``: all PIDs, TIDs and process groups of the program.
    """
    if owner.number and owner.number not in numbers:
        raise BadImage(
            f"it sends signals to {owner.number}, which is none of its own", where=f"descriptor {fd}"
        )
    if owner.number:
        structure = _OWNER_EX.pack(_TYPES.index(owner.kind), owner.number)
        with _Rights(*owner.uids):
            fcntl.fcntl(ours, F_SETOWN_EX, structure)
    if owner.signal:
        fcntl.fcntl(ours, F_SETSIG, owner.signal)
    if owner.is_async:
        # By the process itself: the number of the descriptor is told with the signal (si_fd).
        program = Program()
        program.add("fcntl", fd, F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | O_ASYNC)
        seed.run(program)


class _Rights:
    """For a moment this thread has these user IDs: F_SETOWN keeps those of its caller (fs/fcntl.c)."""

    def __init__(self, uid: int, euid: int) -> None:
        self._ids = (uid, euid)

    def __enter__(self) -> None:
        self._set(*self._ids)

    def __exit__(self, *exc: object) -> None:
        self._set(*self._before)

    def _set(self, uid: int, euid: int) -> None:
        self._before = (os.getuid(), os.geteuid())
        if (uid, euid) != self._before:
            result = lib.lcr_syscall(_NR_SETRESUID, uid, euid, self._before[1], 0, 0, 0)
            if result < 0:
                raise Failed(f"setresuid: {os.strerror(-result)}", where="the owner of a descriptor")


def load_lease(lease: Lease, ours: int, fd: int, seed: Seed) -> None:
    """Take it again. Raises Refused if the file has been written to meanwhile, which it would have told."""
    where = os.readlink(f"/proc/self/fd/{ours}")
    stat = os.fstat(ours)
    if (stat.st_mtime_ns, stat.st_size) != (lease.mtime_ns, lease.size_bytes):
        raise Refused(
            "the program held a lease on it, and it has been written to since",
            where=where,
            way_out="put back the file as it was at the checkpoint, with its time (cp -p)",
        )
    program = Program()
    program.add("fcntl", fd, F_SETLEASE, F_WRLCK if lease.write else F_RDLCK, must=False)
    (result,) = seed.run(program)
    if result < 0:
        raise Refused(
            f"its lease cannot be taken again: {os.strerror(-result)}",
            where=where,
            way_out="let others close the file first",
        )
