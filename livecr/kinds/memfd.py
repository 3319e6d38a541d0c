"""memfd_create(2): files of no file system, with their content, holes and seals.

Relies on opening /proc/PID/fd/N, which gives a description of its own of the same file; and on seals being
added at the end, as they forbid what comes before. Called by descriptors.
"""

from __future__ import annotations

import os

from livecr.errors import Failed, Obstacle
from livecr.image.record import Record
from livecr.kernel import holders
from livecr.kinds.files import copy_with_holes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["MemFd", "Remaker", "describe", "obstacle", "outsiders", "save"]

_PREFIX, _DELETED = "/memfd:", " (deleted)"
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_F_SEAL_WRITE, _F_SEAL_FUTURE_WRITE = 0x8, 0x10
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 0x1, 0x2, 0x10
# What fcntl(2) or an open of /proc/PID/fd/N can have set.
_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_NOATIME
_PAGE = 4096


class MemFd(Record, tag="memfd"):
    """One description. ``inode``: those of one memfd share it; ``content``: its file in the image."""

    inode: int
    name: str
    flags: int
    offset: int
    size_bytes: int
    mode: int
    uid: int
    gid: int
    seals: int
    content: str


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Huge pages and descriptions that cannot be read or written are not made again."""
    if d.flags & os.O_PATH:
        return f"a memfd ({d.target}) is open with O_PATH", "this version cannot restore that"
    if stat.st_blksize != _PAGE:
        return f"a memfd of huge pages ({d.target}) cannot be saved", "this version does not know this kind"
    return None


def outsiders(
    descriptors: list[procfs.Descriptor],
    stats: dict[procfs.Descriptor, os.stat_result],
    insiders: frozenset[int],
) -> list[Obstacle]:
    """Those of ``descriptors``, all memfds of the tree, that another process has open too."""
    ours = {(stats[d].st_dev, stats[d].st_ino): d for d in descriptors}
    found = holders.users(insiders, {key: d.target for key, d in ours.items()})
    return [
        Obstacle(
            ours[key].where,
            f"{ours[key].target} is shared with process {user.pid} ({user.how})",
            "let that process close it",
        )
        for key, user in found.items()
    ]


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> MemFd:
    """Of a frozen process; the content once for all descriptions."""
    path = d.path
    content = keeper.keep(path, stat)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return describe(fd, d.target, d.flags & _FLAGS, d.pos, stat, content)
    finally:
        os.close(fd)


def describe(fd: int, link: str, flags: int, offset: int, stat: os.stat_result, content: str) -> MemFd:
    """The record of a description of the memfd that ``fd`` is open on, and which /proc calls ``link``."""
    import fcntl

    return MemFd(
        inode=stat.st_ino,
        name=link.removeprefix(_PREFIX).removesuffix(_DELETED),
        flags=flags,
        offset=offset,
        size_bytes=stat.st_size,
        mode=stat.st_mode & 0o7777,
        uid=stat.st_uid,
        gid=stat.st_gid,
        seals=fcntl.fcntl(fd, _F_GET_SEALS),
        content=content,
    )


class Remaker:
    """Makes memfds again: each once, with a description of its own for each record."""

    def __init__(self, image_directory: str) -> None:
        self._image = image_directory
        self._made: dict[int, int] = {}
        self._unsealed: list[tuple[int, int]] = []

    def load(self, record: MemFd) -> int:
        """A description at the same offset."""
        if record.inode not in self._made:
            self._made[record.inode] = self._make(record)
        fd = os.open(f"/proc/self/fd/{self._made[record.inode]}", record.flags | os.O_CLOEXEC)
        os.lseek(fd, record.offset, os.SEEK_SET)
        return fd

    def _make(self, record: MemFd) -> int:
        import fcntl

        from livecr.image import integrity

        where = f"memfd {record.name}"
        flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
        try:
            try:
                fd = os.memfd_create(record.name, flags | _MFD_EXEC)
            except OSError:  # EINVAL before 6.3
                fd = os.memfd_create(record.name, flags)
        except OSError as error:
            raise Failed(f"memfd_create: {error.strerror}", where=where) from None
        try:
            source = integrity.open_file(self._image, record.content)
            try:
                copy_with_holes(source, fd)
            finally:
                os.close(source)
            os.fchown(fd, record.uid, record.gid)
            os.fchmod(fd, record.mode)
            if record.seals & _F_SEAL_FUTURE_WRITE and not record.seals & _F_SEAL_WRITE:
                # What was mapped to be written to before is so still; it has to be mapped first.
                self._unsealed.append((os.dup(fd), record.seals))
            else:
                fcntl.fcntl(fd, _F_ADD_SEALS, record.seals)
            # Held for reading: nobody can execute what somebody may write to.
            held = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(fd)
            raise Failed(f"it cannot be made again: {error.strerror}", where=where) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return held

    def seal(self) -> None:
        """When all is mapped: the seals that forbid to map."""
        import fcntl

        while self._unsealed:
            fd, seals = self._unsealed.pop()
            try:
                fcntl.fcntl(fd, _F_ADD_SEALS, seals)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Close what was only held for sharing."""
        for fd, _ in self._unsealed:
            os.close(fd)
        self._unsealed.clear()
        for fd in self._made.values():
            os.close(fd)
        self._made.clear()
