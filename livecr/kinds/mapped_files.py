"""Regular files that are mapped: how each is known to be the same at restore.

A file of the same build-id is the same program, also if it was installed again; where there is none, size and
mtime have to do. Relies on /proc/PID/map_files, which names what is really mapped.
"""

from __future__ import annotations

import os

from livecr.errors import Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import build_id, procfs
from livecr.kinds import other_names, unlinked

__all__ = ["MappedFile", "difference", "identify", "identify_executable", "look_ahead", "obstacles"]


class MappedFile(Record):
    """A mapped regular file, and how it is known to be the same at restore."""

    path: str
    size_bytes: int
    mtime_ns: int
    build_id: str  # hex; empty where it has none
    written: bool = False  # through a shared mapping: then its content is its own affair
    unlinked: int = -1  # index into Content.unlinked of a file that no name leads to


_build_ids: dict[tuple[str, int, int], str] = {}


def look_ahead(mappings: list[procfs.Mapping]) -> None:
    """Read the build-ids of mapped files while the program still runs, so that its freeze is shorter."""
    for path in {m.path for m in mappings if m.path.startswith("/") and not m.path.endswith(" (deleted)")}:
        try:
            _build_id(path, os.stat(path))
        except OSError:
            continue  # what is wrong with it will be said elsewhere


def _build_id(path: str, there: os.stat_result) -> str:
    key = (path, there.st_size, there.st_mtime_ns)
    if key not in _build_ids:
        _build_ids[key] = build_id.of_file(path)
    return _build_ids[key]


#: Private memory that is another way to ask for anonymous one; the device node is new after each boot.
ZEROS = "/dev/zero"


def obstacles(pid: int, mappings: list[procfs.Mapping]) -> list[Obstacle]:
    """Files whose names lead elsewhere now; those without one are dealt with in unlinked.

    Only before the freeze; in it, identify() sees the same.
    """
    found = []
    for path, m in {m.path: m for m in mappings if m.path.startswith("/")}.items():
        if not (path.endswith(" (deleted)") or path == ZEROS or _is_there(pid, m)):
            what = f"the mapped file {path} has been replaced since, or mounted over"
            found.append(Obstacle(f"process {pid}", what, "restart the program, or put the file back"))
    return found


def _is_there(pid: int, m: procfs.Mapping) -> bool:
    link = unlinked.map_file(pid, m)
    try:
        there = os.stat(m.path)
        device = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}"
        if (device, there.st_ino) == (m.device, m.inode):
            return True
        mapped = os.stat(link)  # on overlayfs and btrfs maps can tell other numbers
        return (mapped.st_dev, mapped.st_ino) == (there.st_dev, there.st_ino)
    except OSError:
        return not os.path.lexists(link)  # of a running process: it has just been unmapped


def identify(pid: int, m: procfs.Mapping, nameless: unlinked.Saver) -> MappedFile:
    """The file behind a mapping. Raises Refused if its name now leads elsewhere."""
    written = m.path == ZEROS or (m.shared and "mw" in m.flags)
    link = unlinked.map_file(pid, m)
    if unlinked.is_nameless(m):
        return _without_name(link, m.path, nameless, written=written)
    mapped = os.stat(link)
    try:
        there = os.stat(m.path)
    except OSError as error:
        raise Refused(
            f"the mapped file {m.path} cannot be found: {error.strerror}",
            where=f"process {pid}",
            way_out="put the file back, or restart the program",
        ) from None
    if (mapped.st_dev, mapped.st_ino) != (there.st_dev, there.st_ino):
        raise Refused(
            f"the mapped file {m.path} has been replaced since",
            where=f"process {pid}",
            way_out="restart the program, so that it uses the file that is there now",
        )
    return _identify_path(m.path, written=written)


def identify_executable(pid: int, nameless: unlinked.Saver) -> MappedFile:
    """The one that /proc/PID/exe names."""
    link = procfs.path(pid, "exe")
    path = os.readlink(link)
    if path.endswith(" (deleted)"):
        return _without_name(link, path, nameless, written=False)
    return _identify_path(path)


def _without_name(link: str, path: str, nameless: unlinked.Saver, *, written: bool) -> MappedFile:
    stat = os.stat(link)
    named = other_names.find(link, path, stat)
    if named is not None and not named.handle:
        return _identify_path(named.path, written=written)
    handle = named.handle if named else None
    return MappedFile(
        path=path.removesuffix(" (deleted)"),
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        build_id="",
        written=written,
        unlinked=nameless.index(link, path, handle),
    )


def _identify_path(path: str, *, written: bool = False) -> MappedFile:
    """The file at ``path`` as it is now; ``written``: by the program itself. Raises OSError."""
    there = os.stat(path)
    return MappedFile(
        path=path,
        size_bytes=there.st_size,
        mtime_ns=there.st_mtime_ns,
        build_id=_build_id(path, there),
        written=written,
    )


def difference(file: MappedFile) -> str:
    """How the file is not what it was; "" if it is, or is made anew."""
    if file.unlinked >= 0:
        return ""
    try:
        there = os.stat(file.path)
    except OSError as error:
        return f"cannot be used any more ({error.strerror})"
    if there.st_size != file.size_bytes:
        return f"has changed from {file.size_bytes} to {there.st_size} bytes"
    # The same build-id is the same program, also if it was installed again; without one, mtime has to do.
    if file.build_id:
        return "" if build_id.of_file(file.path) == file.build_id else "is another build"
    if file.written or there.st_mtime_ns == file.mtime_ns:
        return ""
    return "has been written to"
