"""Regular files, open: offset and flags; of a deleted file also its content.

A file that is still there is only named; one that is deleted (st_nlink 0) or was never named (O_TMPFILE)
travels in the image. Relies on opening /proc/PID/fd/N, which works for deleted files too. What a file that is
only named may have become meanwhile, POLICIES tell.
"""

from __future__ import annotations

import os

from livecr.errors import Failed, Refused
from livecr.image.record import Record
from livecr.kernel.prompt import copying
from livecr.kernel.reopen import open_again, open_as_before
from livecr.kinds import directories, other_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.image.integrity import NewImage
    from livecr.kernel import procfs

__all__ = [
    *(
        "File",
        "Keeper",
        "Reopener",
        "POLICIES",
        "copy_data",
        "copy_with_holes",
        "describe",
        "obstacle",
    ),
    "save",
]

#: `livecr restore --file-policy`, how a file may differ from what it was. grown, the default: it still
#: reaches to where the program is in it; same: not at all; any: it only has to be a regular file.
GROWN, SAME, ANY = POLICIES = ("grown", "same", "any")

_DELETED = " (deleted)"
_ENXIO = 6
_O_PATH, _O_LARGEFILE, _O_TMPFILE = os.O_PATH, 0o100000, 0o20000000
# What open(2) takes and the kernel keeps in f_flags; O_CREAT, O_EXCL and O_TRUNC have done their work.
_FLAGS = (
    os.O_ACCMODE
    | os.O_APPEND
    | os.O_NONBLOCK
    | os.O_DSYNC
    | os.O_SYNC
    | os.O_DIRECT
    | os.O_NOATIME
    | os.O_DIRECTORY
    | os.O_NOFOLLOW
    | _O_LARGEFILE
    | _O_PATH
    | _O_TMPFILE
)


class File(Record, tag="file"):
    """An open regular file. ``content``: the file of the image with what a deleted one held, else "".
    ``handle``: of one that has another name, which is not known."""

    path: str
    flags: int
    offset: int
    size_bytes: int
    mtime_ns: int
    inode: int
    mode: int
    uid: int
    gid: int
    content: str = ""
    handle: other_names.Handle | None = None


class Keeper:
    """Where the content of deleted files goes; once for each inode.

    ``directories``: where removed directories are told.
    """

    def __init__(self, image: NewImage) -> None:
        self.directories = directories.Saver()
        self._image = image
        self._kept: dict[tuple[int, int], str] = {}

    def keep(self, path: str, stat: os.stat_result) -> str:
        """Store what the link ``path`` of /proc leads to; the name in the image."""
        key = (stat.st_dev, stat.st_ino)
        if key not in self._kept:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with copying(os.fstat(source).st_size):
                    self._kept[key] = self._image.store_file(source).name
            finally:
                os.close(source)
        return self._kept[key]


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """A file that has a name must be found again by one."""
    if d.target.startswith("/memfd:"):
        return f"a memfd ({d.target}) cannot be saved", "this version of livecr does not know this kind"
    if stat.st_nlink and _named(d, stat) is None:
        what = f"the file {d.target.removesuffix(_DELETED)} is not there, and has another name still"
        return what, "link it there again: find -inum tells the other name; or unmount what is over it"
    return None


def _named(d: procfs.Descriptor, stat: os.stat_result) -> other_names.Named | None:
    return other_names.find(d.path, d.target, stat)


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> File:
    """Of a frozen process."""
    named = _named(d, stat)
    if named is not None:
        return describe(named.path, d.flags & _FLAGS, d.pos, stat, "", named.handle)
    content = keeper.keep(d.path, stat)
    return describe(d.target.removesuffix(_DELETED), d.flags & _FLAGS, d.pos, stat, content)


def describe(
    path: str,
    flags: int,
    offset: int,
    stat: os.stat_result,
    content: str,
    handle: other_names.Handle | None = None,
) -> File:
    """The record of a regular file."""
    return File(
        path=path,
        flags=flags,
        offset=offset,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        inode=stat.st_ino,
        mode=stat.st_mode & 0o7777,
        uid=stat.st_uid,
        gid=stat.st_gid,
        content=content,
        handle=handle,
    )


# -- loading -----------------------------------------------------------------------------------------------


class Reopener:
    """Opens files again; a deleted one is made once and shared by all its descriptions."""

    def __init__(self, image_directory: str, policy: str = GROWN) -> None:
        """``policy``: one of POLICIES."""
        self._image = image_directory
        self._policy = policy
        self._made: dict[str, int] = {}

    def load(self, record: File) -> int:
        """A description at the same offset. Raises Refused where the file cannot be what it was."""
        if record.content and record.flags & _O_TMPFILE and record.content not in self._made:
            fd = self._nameless(record)
        elif record.content:
            flags = record.flags & ~(os.O_TMPFILE | os.O_NOFOLLOW)
            fd = open_again(self._remade(record), flags | os.O_CLOEXEC)
        else:
            fd = _open(record, self._policy)
        if not record.flags & _O_PATH:
            os.lseek(fd, record.offset, os.SEEK_SET)
        return fd

    def _remade(self, record: File) -> int:
        if record.content not in self._made:
            if os.path.basename(record.path) == f"#{record.inode}":
                os.close(self._nameless(record))
            else:
                with directories.Standing(os.path.dirname(record.path)):
                    fd, path = _create_unnamed(record)
                    try:
                        self._fill(record, fd)
                    finally:
                        os.unlink(path)
        return self._made[record.content]

    def _nameless(self, record: File) -> int:
        """By O_TMPFILE, as it was: only so can it still be given a name (linkat(2)). A description of it."""
        directory = os.path.dirname(record.path)
        with directories.Standing(directory):
            return self._nameless_in(directory, record)

    def _nameless_in(self, directory: str, record: File) -> int:
        flags = (record.flags & ~(os.O_ACCMODE | _O_PATH | os.O_NOFOLLOW)) | os.O_TMPFILE | os.O_CLOEXEC
        access = record.flags & os.O_ACCMODE or os.O_RDWR
        try:
            fd = os.open(directory, flags | access, 0o600)
        except OSError as error:
            raise Refused(
                f"it cannot be made again: {error.strerror}",
                where=f"a file without a name in {directory}",
                way_out="make that directory, and make it writable",
            ) from None
        try:
            self._fill(record, os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _fill(self, record: File, fd: int) -> None:
        """Content, owner and mode of a new file; ``fd`` is closed."""
        from livecr.image import integrity

        try:
            source = integrity.open_file(self._image, record.content)
            try:
                copy_with_holes(source, fd)
            finally:
                os.close(source)
            os.fchown(fd, record.uid, record.gid)
            os.fchmod(fd, record.mode)
            os.utime(fd, ns=(record.mtime_ns, record.mtime_ns))
            # Held for reading: nobody can execute what somebody may write to.
            self._made[record.content] = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close what was only held for sharing."""
        for fd in self._made.values():
            os.close(fd)
        self._made.clear()


def _open(record: File, policy: str) -> int:
    where = f"open file {record.path}"
    # One that was nameless first and has been named since is opened by that: no call opens it as nameless.
    flags = record.flags & ~os.O_TMPFILE if record.flags & _O_TMPFILE else record.flags
    if record.handle:
        fd = other_names.load(record.handle, record.path, flags)
    else:
        try:
            fd = open_as_before(record.path, flags | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise Refused(
                f"it cannot be opened: {error.strerror}",
                where=where,
                way_out="put the file back where it was",
            ) from None
    stat = os.fstat(fd)
    if stat.st_mode & 0o170000 != 0o100000:
        os.close(fd)
        raise Refused("it is no regular file any more", where=where, way_out="put the file back")
    differs = _difference(record, stat, policy)
    if differs:
        os.close(fd)
        raise Refused(
            differs,
            where=where,
            way_out="put back the file as it was at the checkpoint, or allow this with --file-policy",
        )
    return fd


def _difference(record: File, stat: os.stat_result, policy: str) -> str:
    """What forbids to use a file with this ``stat``, or ""."""
    if policy == SAME:
        if stat.st_size != record.size_bytes:
            return f"it has {stat.st_size} bytes, and had {record.size_bytes} at the checkpoint"
        if stat.st_mtime_ns != record.mtime_ns:
            return "it has been written to since the checkpoint"
    if policy != ANY and stat.st_size < record.offset <= record.size_bytes:
        return f"it has only {stat.st_size} bytes, and the program was at {record.offset}"
    return ""


def _create_unnamed(record: File) -> tuple[int, str]:
    """A new file beside where the deleted one was, under its name if that is free; the caller unlinks it."""
    directory, name = os.path.split(record.path)
    for attempt in range(100):
        path = record.path if attempt == 0 else os.path.join(directory, f".{name}.livecr-{attempt}")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path
        except FileExistsError:
            continue
        except OSError as error:
            raise Refused(
                f"it cannot be made again: {error.strerror}",
                where=f"deleted file {record.path}",
                way_out="make its directory, and make it writable",
            ) from None
    raise Failed("no free name beside it", where=f"deleted file {record.path}")


def copy_with_holes(source: int, target: int) -> None:
    """All data of one file into another, which gets the same size, holes left out."""
    os.ftruncate(target, os.fstat(source).st_size)
    copy_data(source, target)


def copy_data(source: int, target: int) -> None:
    """All data of one file to the same places in another, holes left out."""
    size = os.fstat(source).st_size
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != _ENXIO:
                raise
            return  # only a hole is left
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            done = os.sendfile(target, source, at, end - at)
            if done == 0:
                raise Failed("a file of the image ends too soon")
            at += done
