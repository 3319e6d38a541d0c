"""inotify(7): an instance with its watches, under the numbers that they have.

Relies on the ``inotify`` lines of fdinfo (fs/notify/fdinfo.c), which name each watched inode by a file
handle, and on watch descriptors being given out in ascending order. Called by descriptors.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import BadImage, Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import file_handles
from livecr.kernel.pidfd import Duplicate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["Inotify", "Watch", "drain", "load", "obstacle", "pending", "save"]

_NR_INOTIFY_ADD_WATCH, _NR_INOTIFY_RM_WATCH, _NR_INOTIFY_INIT1 = 254, 255, 294
_FIONREAD = 0x541B
_IN_IGNORED = 0x8000
_IN_UNMOUNT = 0x2000
_IN_DONT_FOLLOW = 0x02000000
_MINOR_BITS = 20  # sdev is the kernel's own dev_t
_WATCHES_MAX = 1 << 20  # a second or two until the number comes up
_DRAINED_EVERY = 4096  # removals between two looks at the queue, which holds 16384 by default


class Watch(Record):
    """``wd``: its number; ``mask``: of IN_*."""

    wd: int
    mask: int
    path: str


class Inotify(Record, tag="inotify"):
    """``flags``: O_NONBLOCK or 0. The number that a new watch would get is not known, and not kept: it may be
    one that a watch had which has been removed."""

    flags: int
    watches: list[Watch]


class _Line:
    """One ``inotify`` line: ``inotify wd:1 ino:3f7e8 sdev:fe00000 mask:100 … f_handle:e8f7030000000000``."""

    def __init__(self, line: str) -> None:
        told = dict(word.split(":", 1) for word in line.split()[1:])
        device = int(told["sdev"], 16)
        self.wd, self.mask = int(told["wd"], 16), int(told["mask"], 16)
        self.inode = int(told["ino"], 16)
        self.device = (device >> _MINOR_BITS, device & ((1 << _MINOR_BITS) - 1))
        self.handle_type = int(told.get("fhandle-type", "0"), 16)
        self.handle = bytes.fromhex(told.get("f_handle", ""))

    def path(self) -> str | None:
        """Found once, before the freeze; looked at again in it."""
        key = (self.device, self.inode, self.handle)
        known = _found.get(key)
        if known is None or not file_handles.same(known, self.inode, self.handle, self.handle_type):
            known = file_handles.path_of(self.device, self.inode, self.handle, self.handle_type)
        if known is not None:
            _found[key] = known
        return known


_found: dict[tuple[tuple[int, int], int, bytes], str] = {}


def _lines(d: procfs.Descriptor) -> list[_Line]:
    return [_Line(line) for line in d.lines if line.startswith("inotify ")]


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """What is watched has to have a name, to be watched again."""
    for line in _lines(d):
        if line.wd > _WATCHES_MAX:
            return f"the inotify watch {line.wd} has too high a number", "start the program anew"
        if line.path() is None:
            return (
                f"the inotify watch {line.wd} is on inode {line.inode} of device "
                f"{line.device[0]}:{line.device[1]}, which has no name",
                "let the program remove that watch",
            )
    return None


def pending(descriptors: list[procfs.Descriptor]) -> list[Obstacle]:
    """Instances with events that the program has not read: reading is the only way to know them."""
    found = []
    for d in descriptors:
        if d.target.startswith("anon_inode:inotify"):
            with Duplicate(d.pid, d.fd) as ours:
                unread = _unread_bytes(ours)
            if unread:
                found.append(
                    Obstacle(
                        d.where,
                        f"an inotify instance has {unread} bytes of events that are not read yet",
                        "try again when the program has read them; write the image where it does not watch",
                    )
                )
    return found


def _unread_bytes(fd: int) -> int:
    from fcntl import ioctl

    return int.from_bytes(ioctl(fd, _FIONREAD, bytes(4)), "little")


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> Inotify:
    """Of a frozen process."""
    watches = [Watch(wd=line.wd, mask=line.mask, path=line.path() or "") for line in _lines(d)]
    return Inotify(flags=d.flags & os.O_NONBLOCK, watches=sorted(watches, key=lambda watch: watch.wd))


# -- loading -----------------------------------------------------------------------------------------------


def load(record: Inotify) -> int:
    """A new instance with the same watches. Raises Refused where something watched is not there any more."""
    fd = _call(_NR_INOTIFY_INIT1, os.O_CLOEXEC | record.flags & os.O_NONBLOCK)
    if fd < 0:
        raise Failed(f"inotify_init1: {os.strerror(-fd)}", way_out="see /proc/sys/fs/inotify")
    try:
        removed = 0
        for watch in record.watches:
            removed += _add(fd, watch, removed)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _add(fd: int, watch: Watch, removed: int) -> int:
    """Add and remove until the number comes up; how often that was. A removal leaves an event, IN_IGNORED."""
    name = ffi.new("char[]", os.fsencode(watch.path))
    mask = watch.mask & ~(_IN_IGNORED | _IN_UNMOUNT)
    for count in range(_WATCHES_MAX):
        got = _call(_NR_INOTIFY_ADD_WATCH, fd, int(ffi.cast("uintptr_t", name)), mask | _IN_DONT_FOLLOW)
        if got < 0:
            raise Refused(
                f"it cannot be watched again: {os.strerror(-got)}",
                where=watch.path,
                way_out="put it back where it was" if got == -2 else "see /proc/sys/fs/inotify",
            )
        if got == watch.wd:
            return count
        if got > watch.wd:
            break
        _call(_NR_INOTIFY_RM_WATCH, fd, got)
        if (removed + count) % _DRAINED_EVERY == _DRAINED_EVERY - 1:
            drain(fd)
    raise BadImage(f"the inotify watch {watch.wd} of {watch.path} is out of order")


def _call(number: int, *arguments: int) -> int:
    return int(lib.lcr_syscall(number, *arguments, *[0] * (6 - len(arguments))))


def drain(fd: int) -> None:
    """Read what our own doings have made the kernel tell; only from here on events are for the program.

    Called last, since every file that is opened again while the process is built may be watched.
    """
    while unread := _unread_bytes(fd):
        os.read(fd, unread)
