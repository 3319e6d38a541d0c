"""Mapped files that no name leads to: memfds, and files that were deleted or replaced since.

Each travels in the image once and is one file again for all that have it mapped or open. Relies on
/proc/PID/map_files, which opens what is really mapped. Called by memory, checkpoint and check.
"""

from __future__ import annotations

import os

from livecr.errors import Obstacle
from livecr.kernel import holders, procfs
from livecr.kinds import files, memfd, other_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from livecr.kinds.files import File, Keeper
    from livecr.kinds.memfd import MemFd

__all__ = ["Saver", "is_nameless", "map_file", "obstacle", "outsiders"]

_DELETED = " (deleted)"
_SHARED_ANONYMOUS = "/dev/zero (deleted)"
_O_LARGEFILE = 0o100000


def _is_memfd(path: str) -> bool:
    """By what maps or a link of /proc calls it."""
    return path.startswith("/memfd:") and path.endswith(_DELETED)


def is_nameless(m: procfs.Mapping) -> bool:
    """Whether a mapping shows a file that the name in maps does not lead to any more."""
    return m.path.startswith("/") and m.path.endswith(_DELETED) and not m.path.startswith("/SYSV")


def map_file(pid: int, m: procfs.Mapping) -> str:
    """The link to what is mapped; opening it gives a description of its own."""
    return procfs.path(pid, f"map_files/{m.start:x}-{m.end:x}")


def obstacle(pid: int, m: procfs.Mapping) -> str:
    """What forbids to save such a mapping, or ""."""
    if _is_memfd(m.path):
        return ""
    try:
        stat = os.stat(map_file(pid, m))
    except FileNotFoundError:
        return ""  # of a running process: it has just been unmapped
    if os.path.dirname(m.path) == "/" and stat.st_dev != os.stat("/").st_dev:
        return "memory of a device"  # shmem that a driver has made for itself
    if stat.st_nlink and m.shared and other_names.find(map_file(pid, m), m.path, stat) is None:
        return "a file that is shared and has been moved away"
    return ""


# -- who else has them -------------------------------------------------------------------------------------

_looked_for: set[tuple[int, int]] = set()


def outsiders(mappings: dict[int, list[procfs.Mapping]], insiders: Iterable[int]) -> list[Obstacle]:
    """Shared ones that a process outside of the tree has too, if one of the two may write.

    ``mappings``: by PID. What was looked for once is not again, as it takes long: not in the freeze.
    """
    wanted: dict[tuple[int, int], str] = {}
    writable: set[tuple[int, int]] = set()
    wheres: dict[tuple[int, int], str] = {}
    for pid, own in mappings.items():
        for m in own:
            if not (m.shared and is_nameless(m)) or m.path == _SHARED_ANONYMOUS:
                continue
            try:
                stat = os.stat(map_file(pid, m))
            except FileNotFoundError:
                continue  # of a running process: it has just been unmapped
            key = (stat.st_dev, stat.st_ino)
            if key in _looked_for or (stat.st_nlink and not _is_memfd(m.path)):
                continue
            wanted[key] = m.path
            wheres.setdefault(key, f"process {pid}")
            if "mw" in m.flags:
                writable.add(key)
    found = []
    for key, user in (holders.users(frozenset(insiders), wanted) if wanted else {}).items():
        if user.writes or key in writable:
            what = f"{wanted[key]} is shared with process {user.pid} ({user.how})"
            found.append(Obstacle(wheres[key], what, "let that process close or unmap it, or end it"))
    if not found:
        _looked_for.update(wanted)
    return found


# -- saving ------------------------------------------------------------------------------------------------


class Saver:
    """Of a frozen tree; ``records``: what has been found so far, each file once."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.records: list[File | MemFd] = []
        self._known: dict[tuple[int, int], int] = {}

    def index(self, link: str, name: str, handle: other_names.Handle | None = None) -> int:
        """The place in ``records`` of the file behind ``link``, which /proc calls ``name``; its content is
        not kept if it has a ``handle``."""
        fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.fstat(fd)
            key = (stat.st_dev, stat.st_ino)
            if key not in self._known:
                self._known[key] = len(self.records)
                self.records.append(self._save(fd, name, stat, handle))
        finally:
            os.close(fd)
        return self._known[key]

    def _save(
        self, fd: int, name: str, stat: os.stat_result, handle: other_names.Handle | None
    ) -> File | MemFd:
        if handle:
            path = name.removesuffix(_DELETED)
            return files.describe(path, os.O_RDONLY | _O_LARGEFILE, 0, stat, "", handle)
        content = self._keeper.keep(f"/proc/self/fd/{fd}", stat)
        flags = os.O_RDONLY | _O_LARGEFILE
        if _is_memfd(name):
            return memfd.describe(fd, name, flags, 0, stat, content)
        return files.describe(name.removesuffix(_DELETED), flags, 0, stat, content)
