"""Pipes and FIFOs with the data in them.

Data is copied by tee(2), which consumes nothing and keeps the packets of packet mode (O_DIRECT) apart. A
pipe has two ends; each open end is a description, and all that name the same inode belong together. Relies on
opening /proc/self/fd/N, which gives a new description on the same pipe.
"""

from __future__ import annotations

import fcntl
import os
import stat as st

from livecr._native import lib
from livecr.errors import BadImage, Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import holders
from livecr.kernel.reopen import leads_to, open_again

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
_O_LARGEFILE = 0o100000  # of a FIFO, as open(2) has it; pipes have it where they were opened again
_PACKETS = os.O_DIRECT  # of a writing end
_PACKET_BYTES = 4096  # the largest one (pipe(2))
_DELETED = " (deleted)"
_NAMES = 100


class Pipe(Record, tag="pipe"):
    """One open end: ``pipe`` is the inode number that all its ends share."""

    pipe: int
    flags: int


class Fifo(Record, tag="fifo"):
    """One open end of a named pipe; ``deleted``: it has no name any more."""

    path: str
    pipe: int
    flags: int
    deleted: bool


class Contents(Record):
    """What was in a pipe or FIFO. ``uid``, ``gid``, ``mode``: of its inode.

    ``packets``: the bytes of each packet, [] if they are none.
    """

    pipe: int
    capacity_bytes: int
    data: bytes
    packets: list[int]
    uid: int
    gid: int
    mode: int


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """A FIFO that has a name has to be there."""
    if d.target.startswith("/") and stat.st_nlink and not leads_to(_path(d, stat), stat):
        what = f"the FIFO {_path(d, stat)} has been removed, and has another name still"
        return what, "link it there again"
    return None


def _path(d: procfs.Descriptor, stat: os.stat_result) -> str:
    """Without the kernel's remark, which also stays when a name has been given back."""
    return d.target if leads_to(d.target, stat) else d.target.removesuffix(_DELETED)


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
    flags = d.flags & (_FLAGS | _O_LARGEFILE | _PACKETS)
    if d.target.startswith("/"):
        return Fifo(path=_path(d, stat), pipe=stat.st_ino, flags=flags, deleted=not stat.st_nlink)
    return Pipe(pipe=stat.st_ino, flags=flags)


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
            pieces = _peek(fd, capacity) if readable else []
        finally:
            os.close(fd)
        in_packets = len(pieces) > 1 or any(d.flags & _PACKETS for d in open_ends)
        if in_packets and any(len(piece) > _PACKET_BYTES for piece in pieces):
            raise Refused(
                "a pipe holds packets, and data from before it was in packet mode",
                where=chosen.where,
                way_out="let the program read them, and try again",
            )
        found.append(
            Contents(
                pipe=inode,
                capacity_bytes=capacity,
                data=b"".join(pieces),
                packets=[len(piece) for piece in pieces] if in_packets else [],
                uid=stat.st_uid,
                gid=stat.st_gid,
                mode=stat.st_mode & 0o7777,
            )
        )
    return found


def _peek(fd: int, capacity: int) -> list[bytes]:
    """A copy of all that is in the pipe, by tee into one of our own that is as large; in pieces, as read."""
    out, into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(into, F_SETPIPE_SZ, capacity)
        copied = lib.lcr_syscall(NR_TEE, fd, into, capacity, SPLICE_F_NONBLOCK, 0, 0)
        if copied == -11:  # EAGAIN: it is empty
            return []
        if copied < 0:
            raise Failed(f"tee: {os.strerror(-copied)}")
        pieces: list[bytes] = []
        while copied > 0:
            pieces.append(os.read(out, copied))
            copied -= len(pieces[-1])
        return pieces
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
        return _open_end(end, record.flags)

    def load_fifo(self, record: Fifo) -> int:
        """The same for a FIFO; held open at both ends first, so that no open blocks."""
        if record.pipe not in self._ends:
            both = _open_fifo(record)
            self._ends[record.pipe] = (both, both)
            if os.fstat(both).st_mode & 0o170000 != 0o010000:
                raise Failed(f"{record.path} is no FIFO any more", way_out="remove it and make it: mkfifo")
            contents = self._contents.get(record.pipe)
            if contents:
                fcntl.fcntl(both, F_SETPIPE_SZ, contents.capacity_bytes)
                if record.deleted:
                    os.fchown(both, contents.uid, contents.gid)
                    os.fchmod(both, contents.mode)
        return _open_end(self._ends[record.pipe][0], record.flags)

    def fill(self) -> None:
        """Put the data back, now that no reader can be missing."""
        for inode, (_, into) in self._ends.items():
            contents = self._contents.get(inode)
            if contents is None:
                continue
            flags = fcntl.fcntl(into, fcntl.F_GETFL)
            fcntl.fcntl(into, fcntl.F_SETFL, flags | (_PACKETS if contents.packets else 0))
            data = contents.data
            for size in contents.packets or [len(data)]:
                if size > len(data):
                    raise BadImage("its packets are longer than its data", where=f"pipe {inode}")
                _write(into, data[:size])
                data = data[size:]

    def close(self) -> None:
        """Close the ends that were only held."""
        for ends in self._ends.values():
            for fd in set(ends):
                os.close(fd)
        self._ends.clear()


def _open_end(end: int, flags: int) -> int:
    """A new description; packet mode, which open(2) refuses for pipes, is set afterwards."""
    fd = open_again(end, (flags & ~_PACKETS) | os.O_CLOEXEC)
    if flags & _PACKETS:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | _PACKETS)
    return fd


def _open_fifo(record: Fifo) -> int:
    """Both ends at once. One that has lost its name gets it back for a moment, or another if it is taken."""
    if not record.deleted:
        return os.open(record.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    directory, name = os.path.split(record.path)
    for attempt in range(_NAMES):
        path = record.path if attempt == 0 else os.path.join(directory, f".{name}.livecr-{attempt}")
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            continue
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        finally:
            os.unlink(path)
    raise Failed("no free name beside it", where=f"deleted FIFO {record.path}")


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
