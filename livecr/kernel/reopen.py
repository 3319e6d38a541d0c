"""Opening a file with the flags that it had been opened with before, and no others: F_GETFL shows them all.

open(2) of a 64-bit process always adds O_LARGEFILE, that of a 32-bit program does not (fs/open.c,
force_o_largefile); O_NOFOLLOW, which livecr wants, stays among the flags. Neither can be taken off later.
Called by the kinds that open files again, which also ask whether a name leads to the same file still.
"""

from __future__ import annotations

import os

from livecr._native import lib

__all__ = ["leads_to", "open_again", "open_as_before"]

_O_LARGEFILE = 0o100000
_ENOSYS = 38


def leads_to(path: str, stat: os.stat_result, *, follow_symlinks: bool = True) -> bool:
    """Whether the file of ``stat`` is what there is at ``path``."""
    try:
        there = os.stat(path, follow_symlinks=follow_symlinks)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)


def open_as_before(path: str, flags: int) -> int:
    """A descriptor with these flags; a symbolic link at ``path`` is not followed. Raises OSError."""
    if flags & os.O_NOFOLLOW:
        return _open(path, flags)
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return open_again(place, flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(place)


def open_again(fd: int, flags: int) -> int:
    """A new description of what ``fd`` refers to. Raises OSError."""
    return _open(f"/proc/self/fd/{fd}", flags)


def _open(path: str, flags: int) -> int:
    if flags & (_O_LARGEFILE | os.O_PATH):
        return os.open(path, flags)
    result: int = lib.lcr_open_ia32(path.encode(), flags)
    if result == -_ENOSYS:
        return os.open(path, flags)  # no program is there that could tell
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    return result
