"""Images appear whole or not at all, and no damaged byte of one is ever used.

A new image is made in a hidden directory beside its place and renamed (renameat2, RENAME_NOREPLACE) once all
of it is on disk. Each of its files has XXH3-64 digests in the manifest. Called by checkpoint.py, restore.py.
"""

from __future__ import annotations

import os
import stat

from livecr._native import ffi, lib
from livecr.errors import BadImage, Failed, LivecrError, Refused
from livecr.image import manifest
from livecr.image.manifest import FileRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any

    from livecr.image.elfcore import Layout

__all__ = ["CHUNK_BYTES", "NewImage", "Verification", "new_image", "open_file", "verify"]

CHUNK_BYTES = 16 << 20
_WORKERS = 2
_FILES = "files"
_NR_RENAMEAT2 = 316
_AT_FDCWD = (1 << 64) - 100
_RENAME_NOREPLACE = 1
_COPY_BYTES = 1 << 20
_ENXIO = 6  # ENXIO: no data behind this offset
_EEXIST = 17

# The errors of writing that have a way out: errno(3) -> what, way out.
_FULL = {
    28: ("the disk is full", "free space, or choose another place with -o"),  # ENOSPC
    122: ("the disk quota is used up", "free space, or choose another place with -o"),  # EDQUOT
    30: ("the file system is read-only", "choose another place with -o"),  # EROFS
    27: (
        "the file would be larger than is allowed",
        "raise the limit (ulimit -f), or choose another -o",
    ),  # EFBIG
}


def new_image(path: str) -> NewImage:
    """Begin an image at ``path``; use it in ``with``. Raises Refused if something is there already."""
    return NewImage(path)


class NewImage:
    """An image in the making. Leaving ``with`` without ``commit()`` removes every trace of it.

    ``files``: the records of what has been stored so far.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.files: list[FileRecord] = []
        self._committed = False
        if os.path.lexists(self.path):
            raise _exists(self.path)
        try:
            self._partial = _make_partial(*os.path.split(self.path))
            os.mkdir(os.path.join(self._partial, _FILES), 0o700)
            self._directory = os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if hasattr(self, "_partial"):
                self._remove()
            what, way_out = _FULL.get(error.errno or 0, (error.strerror, "choose another place with -o"))
            raise Refused(
                f"the image cannot be made there: {what}", where=self.path, way_out=way_out
            ) from None

    def __enter__(self) -> NewImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._directory)
        if not self._committed:
            self._remove()

    def store_core(
        self, pid: int, layout: Layout, workers: int, *, gently: bool = False, task: int = 0
    ) -> FileRecord:
        """Write PID.core: the layout's head and, straight from the process, its pages.

        The process must not run meanwhile. ``gently``: pages that it shares since a fork stay so; slower.
        ``task``: the one to reach its memory by, if not the leader.
        Raises Failed.
        """
        name = f"{pid}.core"
        fd = self._create(name)
        try:
            digests = _digest_room(layout.size)
            where = ffi.new("uint64_t *")
            result = lib.lcr_dump(
                *(task or pid, fd, layout.head, len(layout.head), layout.runs, layout.run_count, layout.size),
                *(CHUNK_BYTES, digests, len(digests), workers, int(gently), where),
            )
            if result < 0 and where[0]:
                what = f"its memory at {where[0]:#x} cannot be read: {os.strerror(-result)}"
                raise Failed(what, where=f"process {pid}")
            if result < 0:
                raise self._failed(-result, name)
            return self._record(name, layout.size, digests)
        finally:
            os.close(fd)

    def store_file(self, source: int, workers: int = 1) -> FileRecord:
        """Store the content of a regular file, given by a descriptor open for reading; holes stay holes.

        The descriptor's position is not used. The record's ``name`` is the next ``files/N``. Raises Failed.
        """
        name = f"{_FILES}/{sum(record.name.startswith(_FILES) for record in self.files)}"
        fd = self._create(name)
        try:
            size = os.fstat(source).st_size
            os.ftruncate(fd, size)
            _copy(source, fd, size)
            digests = _digest_room(size)
            result = lib.lcr_digest(fd, size, CHUNK_BYTES, digests, len(digests), workers)
            if result < 0:
                raise self._failed(-result, name)
            return self._record(name, size, digests)
        except OSError as error:
            raise self._failed(error.errno or 0, name) from None
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Force all that has been stored to disk. Raises Failed."""
        try:
            for name in [*(record.name for record in self.files), _FILES]:
                self._sync(name)
        except OSError as error:
            raise self._failed(error.errno or 0, "") from None

    def verify(self) -> None:
        """Read all back that has been stored. Raises Failed."""
        try:
            verify(self._partial, self.files)
        except BadImage as bad:
            what = f"what was written reads back otherwise: {bad.what}"
            raise Failed(what, where=self.path, way_out="see whether the disk is sound") from None

    def describe(self, content: Any) -> None:
        """Write the manifest; of an image that is there already, another in its place. Raises Failed."""
        try:
            manifest.write(self._directory, content, self.files)
        except OSError as error:
            self._committed = False  # it would lack something
            raise self._failed(error.errno or 0, manifest.NAME) from None

    def commit(self, content: Any) -> None:
        """Write the manifest, force all to disk and give the image its name. Raises Failed, Refused."""
        self.sync()
        self.describe(content)
        source, target = (
            ffi.new("char[]", os.fsencode(self._partial)),
            ffi.new("char[]", os.fsencode(self.path)),
        )
        result = lib.lcr_syscall(
            *(_NR_RENAMEAT2, _AT_FDCWD, int(ffi.cast("uintptr_t", source))),
            *(_AT_FDCWD, int(ffi.cast("uintptr_t", target)), _RENAME_NOREPLACE, 0),
        )
        if result < 0:
            raise _exists(self.path) if result == -_EEXIST else self._failed(-result, "")
        self._partial = self.path  # what has to go if the name itself does not reach the disk
        parent = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        except OSError as error:
            raise self._failed(error.errno or 0, "") from None
        finally:
            os.close(parent)
        self._committed = True

    def _create(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(name, flags, 0o600, dir_fd=self._directory)
        except OSError as error:
            raise self._failed(error.errno or 0, name) from None

    def _record(self, name: str, size: int, digests: Any) -> FileRecord:
        hexadecimal = [f"{digest:016x}" for digest in digests]
        record = FileRecord(name=name, size_bytes=size, chunk_bytes=CHUNK_BYTES, xxh3=hexadecimal)
        self.files.append(record)
        return record

    def _sync(self, name: str) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _failed(self, errno: int, name: str) -> LivecrError:
        what, way_out = _FULL.get(errno, (os.strerror(errno), ""))
        where = os.path.join(self.path, name) if name else self.path
        return Failed(f"writing the image: {what}", where=where, way_out=way_out)

    def _remove(self) -> None:
        from shutil import rmtree

        rmtree(self._partial, ignore_errors=True)


def verify(path: str, files: Sequence[FileRecord], workers: int = _WORKERS) -> None:
    """Check size and digest of every file that the manifest names. Raises BadImage naming file and place."""
    _check_names(path, files)
    for record in files:
        _check_named(path, record, workers)


class Verification:
    """The digests of an image, checked while its restore begins; nothing may run before ``finish``.

    Making one checks all sizes and every first chunk, where the tables are that a restore begins with. Raises
    BadImage.
    """

    def __init__(self, path: str, files: Sequence[FileRecord]) -> None:
        _check_names(path, files)
        for record in files:
            _check_named(path, record, 1, first_only=True)
        self._path = path
        self._left = {record.name: record for record in files if record.size_bytes > CHUNK_BYTES}

    def accept(self, name: str, digests: Sequence[int]) -> None:
        """Compare with the digests that somebody has made who has read the whole file. Raises BadImage."""
        record = self._left.pop(name, None)
        if record is not None:
            _compare(digests, record, os.path.join(self._path, name))

    def finish(self) -> None:
        """Check all that has not been yet. Raises BadImage naming file and place."""
        while self._left:
            _, record = self._left.popitem()
            _check_named(self._path, record, _WORKERS)


def _check_names(path: str, files: Sequence[FileRecord]) -> None:
    names = [record.name for record in files]
    for name in names:
        if names.count(name) > 1:
            raise BadImage(f"the manifest names {name} twice", where=path)


def _check_named(path: str, record: FileRecord, workers: int, *, first_only: bool = False) -> None:
    fd = open_file(path, record.name)
    try:
        _check(fd, record, os.path.join(path, record.name), workers, first_only=first_only)
    finally:
        os.close(fd)


def open_file(path: str, name: str) -> int:
    """Open one file of the image at ``path`` for reading. ``name`` is not trusted: only a regular file of the
    image itself is opened, no link is followed. Raises BadImage."""
    where = os.path.join(path, name)
    if not _is_image_file(name):
        raise BadImage(f"the manifest names a file {name!r}, which is no name in an image", where=path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        if name.startswith(_FILES) and stat.S_ISLNK(os.lstat(os.path.join(path, _FILES)).st_mode):
            raise BadImage("it is a symbolic link", where=os.path.join(path, _FILES))
        fd = os.open(where, flags)
    except OSError as error:
        raise BadImage(f"opening it: {error.strerror}", where=where) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadImage("it is not a regular file", where=where)
    return fd


def _make_partial(parent: str, name: str) -> str:
    """Make the hidden directory; one that a killed livecr left is nobody's to take over."""
    attempt = 0
    while True:
        path = os.path.join(parent, f".{name}.partial-{os.getpid()}-{attempt}")
        try:
            os.mkdir(path, 0o700)
            return path
        except FileExistsError:
            attempt += 1


def _is_image_file(name: str) -> bool:
    """PID.core or files/N."""
    folder, slash, number = name.rpartition("/")
    if slash:
        return folder == _FILES and _is_number(number)
    return name.endswith(".core") and _is_number(name[: -len(".core")])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _check(fd: int, record: FileRecord, where: str, workers: int, *, first_only: bool) -> None:
    size = os.fstat(fd).st_size
    if size != record.size_bytes:
        raise BadImage(f"it has {size} bytes instead of {record.size_bytes}", where=where)
    if record.chunk_bytes != CHUNK_BYTES or len(record.xxh3) != -(-size // CHUNK_BYTES):
        raise BadImage("the manifest has the wrong number of digests for it", where=where)
    if first_only:
        size = min(size, CHUNK_BYTES)
    digests = _digest_room(size)
    result = lib.lcr_digest(fd, size, CHUNK_BYTES, digests, len(digests), workers)
    if result < 0:
        raise BadImage(f"reading it: {os.strerror(-result)}", where=where)
    _compare(digests, record, where)


def _compare(digests: Sequence[int], record: FileRecord, where: str) -> None:
    """The first chunks of a file, or all of them, with what the manifest says."""
    for index, (digest, expected) in enumerate(zip(digests, record.xxh3, strict=False)):
        if f"{digest:016x}" != expected:
            end = min((index + 1) * CHUNK_BYTES, record.size_bytes)
            raise BadImage(f"it is damaged somewhere in bytes {index * CHUNK_BYTES} to {end}", where=where)


def _digest_room(size: int) -> Any:
    return ffi.new("uint64_t[]", -(-size // CHUNK_BYTES))


def _copy(source: int, target: int, size: int) -> None:
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == _ENXIO:
                return
            raise
        hole = min(os.lseek(source, at, os.SEEK_HOLE), size)
        while at < hole:
            content = os.pread(source, min(_COPY_BYTES, hole - at), at)
            if not content:
                return
            while content:
                written = os.pwrite(target, content, at)
                content = content[written:]
                at += written


def _exists(path: str) -> Refused:
    return Refused("there is something at that place already", where=path, way_out="choose another with -o")
