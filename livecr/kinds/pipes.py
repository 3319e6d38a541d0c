"""Pipes and FIFOs with the data in them.

Data is copied by tee(2), which consumes nothing. A pipe has two ends; each open end is a description, and all
that name the same inode belong together. Relies on opening /proc/self/fd/N, which gives a new description on
the same pipe.
"""

from __future__ import annotations

import fcntl
import os
import stat as st

from livecr._native import lib
from livecr.errors import Failed, Obstacle
from livecr.image.record import Record
from livecr.kernel import holders
from livecr.kernel.reopen import open_again

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["Contents", "Fifo", "Made", "Pipe", "obstacle", "outsiders", "save", "save_contents"]

NR_TEE = 276
SPLICE_F_NONBLOCK = 2
F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032
_FLAGS = os.O_ACCMODE | os.O_NONBLOCK
_O_LARGEFILE = 0o100000  # of a FIFO, as open(2) has it; pipes have none
_PACKETS = os.O_DIRECT


class Pipe(Record, tag="pipe"):
    """One open end: ``pipe`` is the inode number that all its ends share."""

    pipe: int
    flags: int


class Fifo(Record, tag="fifo"):
    """One open end of a named pipe."""

    path: str
    pipe: int
    flags: int


class Contents(Record):
    """What was in a pipe or FIFO. ``uid``, ``gid``, ``mode``: of its inode."""

    pipe: int
    capacity_bytes: int
    data: bytes
    uid: int
    gid: int
    mode: int


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Packet pipes have boundaries that cannot be copied; a FIFO has to be where it was."""
    if d.flags & _PACKETS:
        return (
            "a pipe in packet mode cannot be saved",
            "this version of livecr does not keep packet boundaries",
        )
    if d.target.startswith("/") and not _is_same(d.target, stat):
        return (
            f"the FIFO {d.target} has been removed or replaced",
            "this version of livecr cannot restore that",
        )
    return None


def _is_same(path: str, stat: os.stat_result) -> bool:
    try:
        there = os.stat(path)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)


def outsiders(
    descriptors: list[procfs.Descriptor],
    stats: dict[procfs.Descriptor, os.stat_result],
    insiders: frozenset[int],
) -> list[Obstacle]:
    """Pipes whose other end another process holds: they could not be joined again."""
    links = {d.target: d for d in descriptors if _is_pipe(stats[d])}
    return [
        Obstacle(
            links[target].where,
            f"{target} is shared with process {other} ({comm}, descriptor {fd})",
            "start the program with its input and output in files or /dev/null",
        )
        for target, (other, comm, fd) in holders.others(insiders, set(links)).items()
    ]


def _is_pipe(stat: os.stat_result) -> bool:
    return st.S_ISFIFO(stat.st_mode)


# -- saving ------------------------------------------------------------------------------------------------


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> Pipe | Fifo:
    """One end."""
    if d.target.startswith("/"):
        return Fifo(path=d.target, pipe=stat.st_ino, flags=d.flags & (_FLAGS | _O_LARGEFILE))
    return Pipe(pipe=stat.st_ino, flags=d.flags & _FLAGS)


def save_contents(
    descriptors: list[procfs.Descriptor],
    stats: dict[procfs.Descriptor, os.stat_result],
    duplicate: Callable[[procfs.Descriptor], int],
) -> list[Contents]:
    """The data of every pipe, once each, by its read end; without a read end nobody can ever read it."""
    ends: dict[int, list[procfs.Descriptor]] = {}
    for d in descriptors:
        if _is_pipe(stats[d]):
            ends.setdefault(stats[d].st_ino, []).append(d)
    found = []
    for inode, open_ends in ends.items():
        readable = [d for d in open_ends if d.flags & os.O_ACCMODE != os.O_WRONLY]
        chosen = (readable or open_ends)[0]
        stat = stats[chosen]
        fd = duplicate(chosen)
        try:
            capacity = fcntl.fcntl(fd, F_GETPIPE_SZ)
            data = _peek(fd, capacity) if readable else b""
        finally:
            os.close(fd)
        found.append(
            Contents(
                pipe=inode,
                capacity_bytes=capacity,
                data=data,
                uid=stat.st_uid,
                gid=stat.st_gid,
                mode=stat.st_mode & 0o7777,
            )
        )
    return found


def _peek(fd: int, capacity: int) -> bytes:
    """A copy of all that is in the pipe, by tee into one of our own that is as large."""
    out, into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(into, F_SETPIPE_SZ, capacity)
        copied = lib.lcr_syscall(NR_TEE, fd, into, capacity, SPLICE_F_NONBLOCK, 0, 0)
        if copied == -11:  # EAGAIN: it is empty
            return b""
        if copied < 0:
            raise Failed(f"tee: {os.strerror(-copied)}")
        data = b""
        while len(data) < copied:
            data += os.read(out, copied - len(data))
        return data
    finally:
        os.close(out)
        os.close(into)


# -- loading -----------------------------------------------------------------------------------------------


class Made:
    """The pipes made anew in livecr: both ends of each, until every description has been taken from them."""

    def __init__(self, contents: list[Contents]) -> None:
        self._contents = {record.pipe: record for record in contents}
        self._ends: dict[int, tuple[int, int]] = {}

    def load(self, record: Pipe) -> int:
        """A description of its own on the right end."""
        if record.pipe not in self._ends:
            self._ends[record.pipe] = os.pipe2(os.O_CLOEXEC)
            contents = self._contents.get(record.pipe)
            if contents:
                fcntl.fcntl(self._ends[record.pipe][0], F_SETPIPE_SZ, contents.capacity_bytes)
                os.fchown(self._ends[record.pipe][0], contents.uid, contents.gid)
        end = self._ends[record.pipe][record.flags & os.O_ACCMODE == os.O_WRONLY]
        return os.open(f"/proc/self/fd/{end}", record.flags | os.O_CLOEXEC)

    def load_fifo(self, record: Fifo) -> int:
        """The same for a FIFO; held open at both ends first, so that no open blocks."""
        if record.pipe not in self._ends:
            both = os.open(record.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._ends[record.pipe] = (both, both)
            if os.fstat(both).st_mode & 0o170000 != 0o010000:
                raise Failed(f"{record.path} is no FIFO any more", way_out="remove it and make it: mkfifo")
            contents = self._contents.get(record.pipe)
            if contents:
                fcntl.fcntl(both, F_SETPIPE_SZ, contents.capacity_bytes)
        return open_again(self._ends[record.pipe][0], record.flags | os.O_CLOEXEC)

    def fill(self) -> None:
        """Put the data back, now that no reader can be missing."""
        for inode, (_, into) in self._ends.items():
            contents = self._contents.get(inode)
            data = contents.data if contents else b""
            while data:
                data = data[os.write(into, data) :]

    def close(self) -> None:
        """Close the ends that were only held."""
        for ends in self._ends.values():
            for fd in set(ends):
                os.close(fd)
        self._ends.clear()
