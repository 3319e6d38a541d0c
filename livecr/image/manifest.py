"""manifest.json: the records of an image in an envelope, human-readable, sealed with a digest of itself.

The seal is the last member, ``"xxh3"``, of the bytes before it, so that jq reads the file like any other and
yet no byte of it can change unseen. Called by checkpoint.py (write) and by all that read an image (read).
"""

from __future__ import annotations

import os
import time

from livecr._native import lib
from livecr.errors import BadImage, Failed
from livecr.image.record import Record, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Generic, TypeVar

    T = TypeVar("T")

    class Manifest(Generic[T]):
        """A manifest that has been read; ``content`` is of the type that was asked for."""

        format: str
        version: int
        livecr: str
        kernel: str
        created: str
        files: list[FileRecord]
        content: T
        xxh3: str


__all__ = ["FORMAT", "NAME", "VERSION", "FileRecord", "encode", "read", "write"]

FORMAT = "livecr"
VERSION = 1
NAME = "manifest.json"
_WRITTEN = "manifest.json.new"
LIVECR_VERSION = "0.1.0"
_BYTES_MAX = 1 << 30


class FileRecord(Record):
    """One file of the image; ``xxh3`` has the XXH3-64 of each ``chunk_bytes`` of it, in hexadecimal."""

    name: str
    size_bytes: int
    chunk_bytes: int
    xxh3: list[str]


def encode(content: Any, files: Sequence[FileRecord]) -> bytes:
    """The manifest of an image with these files; ``content`` is a record. Raises Failed for text that is
    not Unicode."""
    envelope = {
        "format": FORMAT,
        "version": VERSION,
        "livecr": LIVECR_VERSION,
        "kernel": os.uname().release,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": plain(files),
        "content": plain(content),
    }
    pieces: list[str] = []
    try:
        _json(envelope, "\n", pieces)
        sealed = "".join(pieces)[: -len("\n}")].encode()
    except UnicodeEncodeError as error:
        raise Failed(
            f"a name is not UTF-8: {error.object!r}", way_out="rename the file, then try again"
        ) from None
    return sealed + _seal(sealed)


def write(directory_fd: int, content: Any, files: Sequence[FileRecord]) -> None:
    """Make manifest.json in an image's directory, and force it to disk: this one, or the one that was there
    before. Raises OSError, Failed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(_WRITTEN, flags, 0o600, dir_fd=directory_fd)
    try:
        rest = memoryview(encode(content, files))
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(_WRITTEN, NAME, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    os.fsync(directory_fd)


def read(path: str, content: type[T]) -> Manifest[T]:
    """The manifest of the image at ``path``, with a content of that type.

    Raises BadImage when there is none, it is of another version, or one byte of it has changed.
    """
    where = os.path.join(path, NAME)
    text = _text(where)
    sealed = text[:-_SEAL_BYTES]
    if len(text) <= _SEAL_BYTES or text[-_SEAL_BYTES:] != _seal(sealed):
        raise BadImage(*_unsealed(text), where=where)
    import msgspec

    class Envelope(msgspec.Struct):
        format: str
        version: int
        livecr: str

    try:
        envelope = msgspec.json.decode(text, type=Envelope)
        if envelope.format != FORMAT:
            raise BadImage("it is not a manifest of livecr", where=where)
        if envelope.version != VERSION:
            raise BadImage(
                f"its format version is {envelope.version} (written by livecr {envelope.livecr}); "
                f"this livecr reads {VERSION}",
                where=where,
                way_out=f"restore it with livecr {envelope.livecr}",
            )
        whole: Manifest[T] = _decoder(content).decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadImage(f"it does not hold what it should: {error}", where=where) from None
    return whole


def _decoder(content: Any) -> Any:
    import msgspec

    fields = [(name, str) for name in ("livecr", "kernel", "created")]
    whole = msgspec.defstruct(
        "Manifest",
        [
            ("format", str),
            ("version", int),
            *fields,
            ("files", list[FileRecord]),
            ("content", content),
            ("xxh3", str),
        ],
        frozen=True,
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(whole)


def _text(where: str) -> bytes:
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadImage("there is no image here", where=os.path.dirname(where)) from None
    except OSError as error:
        raise BadImage(f"opening it: {error.strerror}", where=where) from None
    try:
        size = os.fstat(fd).st_size
        if size > _BYTES_MAX:
            raise BadImage(f"it is {size} bytes long, which no manifest is", where=where)
        with open(fd, "rb", closefd=False) as file:
            return file.read(size + 1)
    except OSError as error:
        raise BadImage(f"reading it: {error.strerror}", where=where) from None
    finally:
        os.close(fd)


def _seal(sealed: bytes) -> bytes:
    """The end of the file: the one right continuation of ``sealed``."""
    return b',\n  "xxh3": "%016x"\n}\n' % lib.lcr_xxh3(sealed, len(sealed))


_SEAL_BYTES = len(_seal(b""))


def _unsealed(text: bytes) -> tuple[str]:
    if text.startswith(b'{\n  "format": "livecr"'):
        return ("the manifest is damaged: it does not agree with the digest in it",)
    return ("it is not a manifest of livecr, or a damaged one",)


# What JSON wants escaped in a string (RFC 8259, 7); everything else is written as UTF-8.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127)} | {
    34: '\\"',
    92: "\\\\",
    10: "\\n",
    9: "\\t",
}


#: Names of members as they are written: the same few, over and over.
_NAMES: dict[str, str] = {}


def _json(value: Any, line: str, out: list[str]) -> None:
    """Append JSON with one member a line, lists of plain values on one line; importing ``json`` takes 10 ms.

    A list and no generator: of programs with a thousand threads there are hundreds of thousands of values.
    """
    deeper = line + "  "
    if isinstance(value, dict) and value:
        before = "{" + deeper
        for name, member in value.items():
            if name not in _NAMES:
                _NAMES[name] = _scalar(name) + ": "
            out.append(before + _NAMES[name])
            _json(member, deeper, out)
            before = "," + deeper
        out.append(line + "}")
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        before = "[" + deeper
        for item in value:
            out.append(before)
            _json(item, deeper, out)
            before = "," + deeper
        out.append(line + "]")
    elif isinstance(value, list):
        out.append("[" + ", ".join(map(_scalar, value)) + "]")
    else:
        out.append(_scalar(value))


def _scalar(value: object) -> str:
    if type(value) is int:
        return repr(value)
    if isinstance(value, str):
        return '"' + value.translate(_ESCAPES) + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) or (isinstance(value, float) and value - value == 0):
        return repr(value)
    if value == {}:
        return "{}"
    raise TypeError(f"a record holds {value!r}, which JSON cannot say")
