"""Digests of whole files: of each chunk the same as of its bytes, and holes cost nothing."""

from __future__ import annotations

import os
from pathlib import Path

from livecr._native import ffi, lib

CHUNK = 1 << 20


def digests(fd: int, size: int) -> list[int]:
    found = ffi.new("uint64_t[]", -(-size // CHUNK))
    assert lib.lcr_digest(fd, size, CHUNK, found, len(found), 2) == 0
    return list(found)


def test_chunks_with_and_without_data(tmp_path: Path) -> None:
    """Holes before, between and behind data, data across a border, and a last chunk that is not whole."""
    size = 7 * CHUNK + 12345
    path = tmp_path / "file"
    with path.open("wb+") as file:
        file.truncate(size)
        for at, content in ((CHUNK + 77, b"a" * 5000), (4 * CHUNK - 3, b"border"), (size - 9, b"the end")):
            os.pwrite(file.fileno(), content, at)
        content = path.read_bytes()
        expected = [
            lib.lcr_xxh3(content[at : at + CHUNK], len(content[at : at + CHUNK]))
            for at in range(0, size, CHUNK)
        ]
        assert digests(file.fileno(), size) == expected


def test_a_terabyte_of_nothing(tmp_path: Path) -> None:
    """All its chunks are alike but for the one with a byte in it; to read them all would take minutes."""
    size = 1 << 40
    with (tmp_path / "file").open("wb+") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"x", size // 2)
        found = digests(file.fileno(), size)
    zeros = lib.lcr_xxh3(bytes(CHUNK), CHUNK)
    assert [i for i, digest in enumerate(found) if digest != zeros] == [size // 2 // CHUNK]
