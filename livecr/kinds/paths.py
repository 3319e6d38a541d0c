"""Descriptors that only name a place (O_PATH), of symbolic links, FIFOs, sockets and devices.

Opened so, nothing is done with the object itself (open(2)). Files and directories are those of files.py.
Called by descriptors.
"""

from __future__ import annotations

import os
import stat as st

from livecr.errors import Refused
from livecr.image.record import Record
from livecr.kernel.reopen import open_as_before

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["PathOnly", "is_one", "load", "obstacle", "save"]

_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY  # all that such an open keeps
_CALLED = {
    st.S_IFLNK: "symbolic link",
    st.S_IFIFO: "FIFO",
    st.S_IFSOCK: "socket",
    st.S_IFCHR: "character device",
    st.S_IFBLK: "block device",
}


class PathOnly(Record, tag="path"):
    """``file_type``: S_IFMT of its mode; ``rdev``: of a device."""

    path: str
    flags: int
    file_type: int
    rdev: int


def is_one(d: procfs.Descriptor, stat: os.stat_result) -> bool:
    """Opened with O_PATH, by a name, and neither file nor directory."""
    return bool(d.flags & os.O_PATH) and st.S_IFMT(stat.st_mode) in _CALLED and d.target.startswith("/")


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """It has to be where it was opened."""
    name = f"the {_CALLED[st.S_IFMT(stat.st_mode)]} {d.target}"
    try:
        there = os.lstat(d.target)
    except OSError:
        return f"{name} is not there any more", "put it back where it was opened"
    if (there.st_dev, there.st_ino) != (stat.st_dev, stat.st_ino):
        return f"{name} has been replaced", "put it back where it was opened"
    return None


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> PathOnly:
    """Its name."""
    kind = st.S_IFMT(stat.st_mode)
    return PathOnly(path=d.target, flags=d.flags & _FLAGS, file_type=kind, rdev=stat.st_rdev)


def load(record: PathOnly) -> int:
    """Name the same place again. Raises Refused where something else is."""
    where = f"path {record.path}"
    try:
        fd = open_as_before(record.path, record.flags | os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"it cannot be opened: {error.strerror}", where=where, way_out="put it back") from None
    stat = os.fstat(fd)
    if (st.S_IFMT(stat.st_mode), stat.st_rdev) != (record.file_type, record.rdev):
        os.close(fd)
        name = _CALLED.get(record.file_type, "what it was")
        raise Refused(f"it is no {name} any more", where=where, way_out="put it back")
    return fd
