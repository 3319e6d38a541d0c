"""Directories, open or where a process is: those with a name, and those that have been removed since.

A removed one is empty for ever and has no name, but what is in it goes on: ".." leads to where it was. It is
made again beside its neighbours and removed at once, one directory for all that are in it. Relies on ".." of
a removed directory, which leads to its parent also when that is removed itself (fs/namei.c, follow_dotdot).
Called by descriptors and fs_struct.
"""

from __future__ import annotations

import os

from livecr.errors import BadImage, Failed, Refused
from livecr.image.record import Record
from livecr.kernel.mountinfo import mounts
from livecr.kernel.reopen import leads_to, open_as_before

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["Directory", "Remaker", "Removed", "Saver", "Standing", "obstacle", "save", "stands_in_the_way"]

_DELETED = " (deleted)"
_O_PATH_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ENAMETOOLONG = 36
_NAMES_TRIED = 100
_STEM_LETTERS = 50  # a letter has up to four bytes, a name up to 255
_O_LARGEFILE = 0o100000
# What open(2) takes and the kernel keeps in f_flags.
_FLAGS = (
    os.O_NONBLOCK
    | os.O_APPEND
    | os.O_DSYNC
    | os.O_SYNC
    | os.O_NOATIME
    | os.O_DIRECTORY
    | os.O_NOFOLLOW
    | os.O_PATH
    | _O_LARGEFILE
)
#: File systems whose directories the kernel makes itself, or in which making one means more than that (fs/).
_KERNELS_OWN = {
    *("proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "bpf", "pstore"),
    *("fusectl", "efivarfs", "devpts", "mqueue", "binfmt_misc", "selinuxfs", "resctrl", "nfsd", "autofs"),
}


class Directory(Record, tag="directory"):
    """An open directory. ``removed``: its place in Content.removed if it has been removed, or -1."""

    path: str
    flags: int
    offset: int
    removed: int = -1


class Removed(Record):
    """A directory that has been removed. ``path``: where it was; ``parent``: the place of the removed one
    that it was in, always an earlier one, or -1."""

    path: str
    parent: int
    mode: int
    uid: int
    gid: int


# -- what stands in the way --------------------------------------------------------------------------------


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """One that is open must be where its name says, or be removed in a place where it can be made again."""
    what = stands_in_the_way(d.path)
    return (f"the directory {what[0]}", what[1]) if what else None


def stands_in_the_way(link: str) -> tuple[str, str] | None:
    """What forbids to go back to the directory behind a link of /proc, beginning with its name; the way out.

    Raises FileNotFoundError if the process has just ended or closed it.
    """
    try:
        path, stat = os.readlink(link), os.stat(link)
    except OSError as error:
        if error.errno != _ENAMETOOLONG:
            raise
        return "has a path that is too long for /proc to tell it", "move it to a shorter one"
    if leads_to(path, stat):
        return None
    if not path.endswith(_DELETED):
        what = "is not what its name leads to: something is mounted over it, or it is unmounted"
        return f"{path} {what}", "let the program leave it, or unmount what is over it"
    kind = _file_system(stat.st_dev)
    if kind in _KERNELS_OWN:
        return f"{path}, of {kind}, is gone and cannot be made again", "let the program leave it"
    _, parent_path, parent_stat = _chain(link)
    if not leads_to(parent_path, parent_stat):
        return f"{path} was in {parent_path}, which that name does not lead to", "unmount what is over it"
    if os.statvfs(parent_path).f_flag & os.ST_RDONLY:
        return f"{path} is gone, and cannot be made again: read-only", "make its file system writable"
    return None


def _is_removed(link: str) -> bool:
    """Whether what a link of /proc leads to is a directory without a name, not one with a strange name."""
    path = os.readlink(link)
    return path.endswith(_DELETED) and not leads_to(path, os.stat(link))


def _chain(link: str) -> tuple[list[tuple[str, os.stat_result]], str, os.stat_result]:
    """The removed directory behind ``link`` and those it was in, and the first that is still there."""
    found = []
    fd = os.open(link, _O_PATH_ONLY)
    try:
        while _is_removed(f"/proc/self/fd/{fd}"):
            path = os.readlink(f"/proc/self/fd/{fd}").removesuffix(_DELETED)
            found.append((path, os.fstat(fd)))
            above = os.open("..", _O_PATH_ONLY, dir_fd=fd)
            os.close(fd)
            fd = above
        return found, os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
    finally:
        os.close(fd)


def _file_system(device: int) -> str:
    """Its type; "" if no mount shows the device."""
    wanted = os.major(device), os.minor(device)
    return next((mount.kind for mount in mounts() if mount.device == wanted), "")


# -- saving ------------------------------------------------------------------------------------------------


class Saver:
    """Of a frozen tree; ``records``: the removed directories found so far, each once, parents first."""

    def __init__(self) -> None:
        self.records: list[Removed] = []
        self._known: dict[tuple[int, int], int] = {}

    def find(self, link: str) -> tuple[str, int]:
        """The path of the directory behind ``link``, and its place in ``records``: -1 if it has a name.

        Raises Refused where something stands in the way.
        """
        what = stands_in_the_way(link)
        if what:
            raise Refused(f"the directory {what[0]}", where=link, way_out=what[1])
        if not _is_removed(link):
            return os.readlink(link), -1
        place = -1
        for path, stat in reversed(_chain(link)[0]):
            key = (stat.st_dev, stat.st_ino)
            if key not in self._known:
                self._known[key] = len(self.records)
                mode = stat.st_mode & 0o7777
                record = Removed(path=path, parent=place, mode=mode, uid=stat.st_uid, gid=stat.st_gid)
                self.records.append(record)
            place = self._known[key]
        return self.records[place].path, place


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> Directory:
    """Of a frozen process."""
    path, removed = keeper.directories.find(d.path)
    return Directory(path=path, flags=d.flags & _FLAGS, offset=d.pos, removed=removed)


# -- loading -----------------------------------------------------------------------------------------------


class Remaker:
    """Opens directories again. Removed ones are made when the first is wanted, and are gone again at once."""

    def __init__(self, removed: list[Removed]) -> None:
        self._records = removed
        self._made: list[int] = []

    def load(self, record: Directory) -> int:
        """A description at the same offset. Raises Refused where there is none."""
        fd = self.open(record.path, record.removed, record.flags)
        if not record.flags & os.O_PATH:
            os.lseek(fd, record.offset, os.SEEK_SET)
        return fd

    def open(self, path: str, removed: int, flags: int) -> int:
        """A descriptor of one. Raises Refused."""
        where = f"directory {path}"
        if removed >= 0:
            path = f"/proc/self/fd/{self._all()[removed]}/."  # "." is no link, also for O_NOFOLLOW
        try:
            fd = open_as_before(path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise Refused(
                f"it cannot be opened: {error.strerror}",
                where=where,
                way_out="put the directory back where it was",
            ) from None
        if os.fstat(fd).st_mode & 0o170000 != 0o040000:
            os.close(fd)
            raise Refused("it is no directory any more", where=where, way_out="put the directory back")
        return fd

    def _all(self) -> list[int]:
        if not self._made and self._records:
            made: list[tuple[str, int]] = []  # name, and the directory that it is in
            try:
                for place, record in enumerate(self._records):
                    if not -1 <= record.parent < place:
                        raise BadImage("its removed directories do not fit together", where=record.path)
                    self._make(record, made)
            finally:
                for name, above in reversed(made):
                    os.rmdir(name, dir_fd=above)
                for above in {above for _, above in made} - set(self._made):
                    os.close(above)
        return self._made

    def _make(self, record: Removed, made: list[tuple[str, int]]) -> None:
        where = f"directory {record.path}, which had been removed"
        above_path, name = os.path.split(record.path)
        try:
            if record.parent >= 0:
                above = self._made[record.parent]
            else:
                above = os.open(above_path, _O_PATH_ONLY | os.O_NOFOLLOW)
            made.append((_make_beside(name, above, where), above))
            self._made.append(os.open(made[-1][0], _O_PATH_ONLY | os.O_NOFOLLOW, dir_fd=above))
        except OSError as error:
            raise Refused(
                f"it cannot be made again: {error.strerror}",
                where=where,
                way_out=f"make {above_path}, and make it writable",
            ) from None
        link = f"/proc/self/fd/{self._made[-1]}"
        os.chown(link, record.uid, record.gid)
        os.chmod(link, record.mode)

    def close(self) -> None:
        """Close what was only held to be opened again."""
        for fd in self._made:
            os.close(fd)
        self._made.clear()


class Standing:
    """A context in which a directory is there that may have been removed, with those that it is in: what
    had been in it and is gone as well can be made again under its old path."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._made: list[str] = []

    def __enter__(self) -> None:
        missing = []
        path = self._path
        while not os.path.lexists(path):
            missing.append(path)
            path = os.path.dirname(path)
        try:
            for path in reversed(missing):
                os.mkdir(path, 0o700)
                self._made.append(path)
        except OSError as error:
            self.__exit__()
            raise Refused(
                f"it cannot be made again: {error.strerror}",
                where=f"directory {path}, in which a deleted file was",
                way_out="make it, and make it writable",
            ) from None

    def __exit__(self, *exc: object) -> None:
        for path in reversed(self._made):
            os.rmdir(path)


def _make_beside(name: str, above: int, where: str) -> str:
    """Make a directory in ``above``, under its own name if that is free; the name. Raises OSError, Failed."""
    for attempt in range(_NAMES_TRIED):
        tried = name if attempt == 0 else f".{name[:_STEM_LETTERS]}.livecr-{attempt}"
        try:
            os.mkdir(tried, 0o700, dir_fd=above)
        except FileExistsError:
            continue
        return tried
    raise Failed("no free name beside it", where=where)
