"""From a file handle, as fdinfo tells it, to a path: open_by_handle_at(2) and name_to_handle_at(2).

Nothing here makes the kernel report to a watcher: files are opened with O_PATH, and the mount is named by a
working directory, since a mount point that is opened is an event too. Called by kinds/inotify.
"""

from __future__ import annotations

import os
from contextlib import suppress

from livecr._native import ffi, lib
from livecr.kernel.own_fs import elsewhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["path_of", "same"]

_NR_NAME_TO_HANDLE_AT, _NR_OPEN_BY_HANDLE_AT = 303, 304
_AT_FDCWD = -100
_AT_HANDLE_FID = 0x200  # since 6.5: also a handle that cannot be opened, as overlayfs has them
_MAX_HANDLE_BYTES = 128
_SEARCHED_MAX = 500_000  # directory entries; a second or so


def path_of(device: tuple[int, int], inode: int, handle: bytes, handle_type: int) -> str | None:
    """A path of the file that ``handle`` names on the file system ``device`` (major, minor), or None."""
    mounts = list(_mounts(device))
    for mount in mounts:
        path = _open_and_read(mount, handle, handle_type)
        if path == "":
            return None
        if path and path.startswith("/") and same(path, inode, handle, handle_type):
            return path
    # The file system cannot open handles (overlayfs), or the name is not in memory.
    for mount in mounts:
        path = _search(mount, inode, handle, handle_type)
        if path:
            return path
    return None


def same(path: str, inode: int, handle: bytes, handle_type: int) -> bool:
    """Does the path name that very file, and not another one with its number?"""
    try:
        if os.lstat(path).st_ino != inode:
            return False
    except OSError:
        return False
    found = ffi.new("char[]", 8 + _MAX_HANDLE_BYTES)
    name, mount_id = ffi.new("char[]", os.fsencode(path)), ffi.new("int *")
    for flags in (_AT_HANDLE_FID, 0):
        ffi.memmove(found, _MAX_HANDLE_BYTES.to_bytes(4, "little"), 4)
        if (
            lib.lcr_syscall(
                _NR_NAME_TO_HANDLE_AT,
                *(_AT_FDCWD & 0xFFFFFFFF, _address(name), _address(found), _address(mount_id), flags, 0),
            )
            == 0
        ):
            return bytes(ffi.buffer(found)[: 8 + len(handle)]) == _file_handle(handle, handle_type)
    return False


def _file_handle(handle: bytes, handle_type: int) -> bytes:
    """struct file_handle."""
    return len(handle).to_bytes(4, "little") + handle_type.to_bytes(4, "little") + handle


def _address(buffer: object) -> int:
    return int(ffi.cast("uintptr_t", buffer))


def _mounts(device: tuple[int, int]) -> Iterator[str]:
    """Where the file system is mounted: proc_pid_mountinfo(5), fields 3 and 5."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            words = line.split()
            if words[2] == b"%d:%d" % device:
                yield os.fsdecode(words[4].decode("unicode_escape").encode("latin-1"))


def _open_and_read(mount: str, handle: bytes, handle_type: int) -> str | None:
    """What the kernel calls it, seen from ``mount``; "" if it has no link left, None if it cannot be opened.

    By a working directory, which names the mount without opening anything on it.
    """
    found: list[str] = []

    def look() -> None:
        os.chdir(mount)
        wanted = ffi.new("char[]", _file_handle(handle, handle_type))
        at = (_AT_FDCWD & 0xFFFFFFFF, _address(wanted), os.O_PATH | os.O_CLOEXEC, 0, 0, 0)
        fd = lib.lcr_syscall(_NR_OPEN_BY_HANDLE_AT, *at)
        if fd >= 0:
            try:
                named = os.fstat(fd).st_nlink > 0
                found.append(os.readlink(f"/proc/thread-self/fd/{fd}") if named else "")
            finally:
                os.close(fd)

    with suppress(OSError):  # not a directory, or out of reach: another mount of it may do
        elsewhere(look)
    return found[0] if found else None


def _search(mount: str, inode: int, handle: bytes, handle_type: int) -> str | None:
    """Look through the whole file system for the inode number."""
    left = _SEARCHED_MAX
    device = os.stat(mount).st_dev
    if same(mount, inode, handle, handle_type):
        return mount
    directories = [mount]
    while directories:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.inode() == inode and same(entry.path, inode, handle, handle_type):
                        return entry.path
                    if entry.is_dir(follow_symlinks=False) and _on(entry, device):
                        directories.append(entry.path)
        except OSError:
            continue
        if left < 0:
            break
    return None


def _on(entry: os.DirEntry[str], device: int) -> bool:
    return entry.stat(follow_symlinks=False).st_dev == device
