"""The build-id of an ELF file: NT_GNU_BUILD_ID in its PT_NOTE segments (elf(5), ld(1) --build-id).

Called by kinds/memory to tell whether a mapped program or library is the same at restore.
"""

from __future__ import annotations

__all__ = ["of_file"]

_PT_NOTE = 4
_NT_GNU_BUILD_ID = 3
_SEGMENTS_MAX = 64


def of_file(path: str) -> str:
    """The build-id in hex, or "" for a file that has none or is no ELF file. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        head = file.read(4096)
        if head[:5] != b"\x7fELF\x02":
            return ""
        at, size, count = _word(head, 32, 8), _word(head, 54, 2), _word(head, 56, 2)
        for i in range(min(count, _SEGMENTS_MAX)):
            entry = head[at + i * size : at + (i + 1) * size]
            if len(entry) == 56 and _word(entry, 0, 4) == _PT_NOTE:
                file.seek(_word(entry, 8, 8))
                found = _in_notes(file.read(min(_word(entry, 32, 8), 4096)))
                if found:
                    return found
    return ""


def _word(raw: bytes, at: int, size: int) -> int:
    return int.from_bytes(raw[at : at + size], "little")


def _in_notes(notes: bytes) -> str:
    at = 0
    while at + 12 <= len(notes):
        name_size, content_size, kind = (_word(notes, at + 4 * i, 4) for i in range(3))
        content = at + 12 + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[content : content + content_size].hex()
        at = content + (content_size + 3 & ~3)
    return ""
