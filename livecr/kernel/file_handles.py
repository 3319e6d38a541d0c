"""From a file to its handle and back, and to a path: name_to_handle_at(2) and open_by_handle_at(2).

Nothing here makes the kernel report to a watcher: files are opened with O_PATH, and the mount is named by a
working directory, since a mount point that is opened is an event too. Called by kinds (inotify,
other_names).
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.kernel.mountinfo import mounts
from livecr.kernel.own_fs import elsewhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["mount_of", "of", "open_by_handle", "path_of", "same", "search"]

_NR_NAME_TO_HANDLE_AT, _NR_OPEN_BY_HANDLE_AT = 303, 304
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_HANDLE_FID = 0x200  # since 6.5: also a handle that cannot be opened, as overlayfs has them
_MAX_HANDLE_BYTES = 128
_SEARCHED_MAX = 500_000  # directory entries; a second or so


def path_of(device: tuple[int, int], inode: int, handle: bytes, handle_type: int) -> str | None:
    """A path of the file that ``handle`` names on the file system ``device`` (major, minor), or None."""
    points = [mount.point for mount in mounts() if mount.device == device]
    for mount in points:
        path = _open_and_read(mount, handle, handle_type)
        if path == "":
            return None
        if path and path.startswith("/") and same(path, inode, handle, handle_type):
            return path
    # The file system cannot open handles (overlayfs), or the name is not in memory.
    for mount in points:
        path = search(mount, inode, lambda path: same(path, inode, handle, handle_type))
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
    for flags in (_AT_HANDLE_FID, 0):
        found = _name_to_handle(_AT_FDCWD & 0xFFFFFFFF, path, flags)
        if found is not None:
            return found == (handle_type, handle)
    return False


def of(fd: int) -> tuple[int, bytes] | None:
    """Type and content of the handle of what ``fd`` is open on; None if it could not be opened by that."""
    return _name_to_handle(fd, "", _AT_EMPTY_PATH)


def _name_to_handle(directory: int, path: str, flags: int) -> tuple[int, bytes] | None:
    room = ffi.new("char[]", 8 + _MAX_HANDLE_BYTES)
    name, mount_id = ffi.new("char[]", os.fsencode(path)), ffi.new("int *")
    ffi.memmove(room, _MAX_HANDLE_BYTES.to_bytes(4, "little"), 4)
    arguments = (directory, _address(name), _address(room), _address(mount_id), flags, 0)
    if lib.lcr_syscall(_NR_NAME_TO_HANDLE_AT, *arguments):
        return None
    told = bytes(ffi.buffer(room))
    size, kind = int.from_bytes(told[:4], "little"), int.from_bytes(told[4:8], "little", signed=True)
    return kind, told[8 : 8 + size]


def mount_of(fd: int) -> str | None:
    """The mount point through which ``fd`` was opened, or None."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        (number,) = [line.split()[1] for line in file if line.startswith(b"mnt_id:")]
    return next((mount.point for mount in mounts() if mount.number == int(number)), None)


def open_by_handle(mount: str, handle_type: int, handle: bytes, flags: int) -> int:
    """A descriptor of the file; ``flags``: O_*. Raises OSError, ESTALE if it is gone.

    By a working directory, which names the mount without opening anything on it.
    """
    opened: list[int] = []

    def step() -> None:
        os.chdir(mount)
        wanted = ffi.new("char[]", _file_handle(handle, handle_type))
        at = (_AT_FDCWD & 0xFFFFFFFF, _address(wanted), flags, 0, 0, 0)
        opened.append(int(lib.lcr_syscall(_NR_OPEN_BY_HANDLE_AT, *at)))

    elsewhere(step)
    if opened[0] < 0:
        raise OSError(-opened[0], os.strerror(-opened[0]))
    return opened[0]


def _file_handle(handle: bytes, handle_type: int) -> bytes:
    """struct file_handle."""
    return len(handle).to_bytes(4, "little") + handle_type.to_bytes(4, "little", signed=True) + handle


def _address(buffer: object) -> int:
    return int(ffi.cast("uintptr_t", buffer))


def _open_and_read(mount: str, handle: bytes, handle_type: int) -> str | None:
    """What the kernel calls it, seen from ``mount``; "" if it has no link left, None if it cannot be had."""
    try:
        fd = open_by_handle(mount, handle_type, handle, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None  # not a directory, or out of reach: another mount of it may do
    try:
        return os.readlink(f"/proc/self/fd/{fd}") if os.fstat(fd).st_nlink > 0 else ""
    finally:
        os.close(fd)


def search(mount: str, inode: int, is_it: Callable[[str], bool]) -> str | None:
    """Look through the whole file system for the inode number, and a path for which ``is_it``."""
    left = _SEARCHED_MAX
    device = os.stat(mount).st_dev
    if is_it(mount):
        return mount
    directories = [mount]
    while directories:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.inode() == inode and is_it(entry.path):
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
