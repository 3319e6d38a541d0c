"""Files that are not where they were opened any more, but have another name still: hard links.

The other name is looked for in the same directory (sem_open(3) links a file that it has mapped to its real
name), then in what the kernel remembers. If there is none, the file is opened by its file handle, which the
file system understands as long as the file exists; where there are no such handles (overlayfs), names are
searched for. Called by files, unlinked and mapped_files.
"""

from __future__ import annotations

import errno
import os

from livecr.errors import Refused
from livecr.image.record import Record
from livecr.kernel import file_handles
from livecr.kernel.reopen import leads_to, open_again

__all__ = ["Handle", "Named", "find", "load"]

_DELETED = " (deleted)"


class Handle(Record):
    """struct file_handle, the inode number, and a mount of the file system that it belongs to."""

    mount: str
    type: int
    content: bytes
    inode: int


class Named:
    """Where a file is now: ``path`` leads to it, or ``handle`` if that is not None."""

    __slots__ = ("handle", "path")

    def __init__(self, path: str, handle: Handle | None) -> None:
        self.path = path
        self.handle = handle


#: What was found, by st_dev and st_ino: searching may take long, so it is done before the freeze.
_found: dict[tuple[int, int], Named] = {}


def find(link: str, path: str, stat: os.stat_result) -> Named | None:
    """The file behind ``link``, which /proc calls ``path``; None if it has no name, or none can be found."""
    if not stat.st_nlink:
        return None
    for name in (path, path.removesuffix(_DELETED)):
        if _leads_to(name, stat):
            return Named(name, None)
    key = (stat.st_dev, stat.st_ino)
    known = _found.get(key)
    if known is not None and (known.handle or _leads_to(known.path, stat)):
        return known
    named = _look(link, path.removesuffix(_DELETED), stat)
    if named is not None:
        _found[key] = named
    return named


def _leads_to(path: str, stat: os.stat_result) -> bool:
    return leads_to(path, stat, follow_symlinks=False)


def _look(link: str, path: str, stat: os.stat_result) -> Named | None:
    directory = os.path.dirname(path)
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.inode() == stat.st_ino and _leads_to(entry.path, stat):
                    return Named(entry.path, None)
    except OSError:
        pass  # the directory is gone as well
    fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        mount, told = file_handles.mount_of(fd), file_handles.of(fd)
    finally:
        os.close(fd)
    if mount is None:
        return None
    if told is not None:
        try:
            fd = file_handles.open_by_handle(mount, *told, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            name, there = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
        finally:
            os.close(fd)
        if _leads_to(name, stat):
            return Named(name, None)
        if (there.st_dev, there.st_ino) != (stat.st_dev, stat.st_ino):
            return None  # the mount is covered by another, in which the handle means another file
        return Named(path, Handle(mount=mount, type=told[0], content=told[1], inode=stat.st_ino))
    for place in (directory, mount):  # most probably it is near
        if os.path.isdir(place):
            found = file_handles.search(place, stat.st_ino, lambda path: _leads_to(path, stat))
            if found:
                return Named(found, None)
    return None


def load(handle: Handle, path: str, flags: int) -> int:
    """Open it. ``path``: for messages; ``flags``: O_*. Raises Refused if it is gone."""
    by_handle = (handle.mount, handle.type, handle.content)
    try:
        place = file_handles.open_by_handle(*by_handle, os.O_PATH | os.O_CLOEXEC)
        try:
            if os.fstat(place).st_ino != handle.inode:
                raise OSError(errno.ESTALE, "it is another one")
            if flags & os.O_NOFOLLOW:  # what links in /proc lead to cannot be opened so
                return file_handles.open_by_handle(*by_handle, flags | os.O_CLOEXEC)
            return open_again(place, flags | os.O_CLOEXEC)
        finally:
            os.close(place)
    except OSError as error:
        raise Refused(
            f"what had been opened by that name, and had another then, cannot be opened: {error.strerror}",
            where=f"open file {path}",
            way_out=f"is its file system mounted at {handle.mount}, and has nobody removed it?",
        ) from None
