"""The build-id of an ELF file: NT_GNU_BUILD_ID in its PT_NOTE segments (elf(5), ld(1) --build-id).

Called by kinds/memory to tell whether a mapped program or library is the same at restore.
"""

from __future__ import annotations

__all__ = ["of_file"]

_PT_NOTE = 4
_NT_GNU_BUILD_ID = 3
_SEGMENTS_MAX = 64


class _Class:
    """Where e_phoff, e_phentsize, e_phnum are in an ELF header, p_offset, p_filesz in a program header."""

    __slots__ = ("entry_bytes", "filesz", "offset", "phentsize", "phnum", "phoff", "word_bytes")

    def __init__(
        self, word_bytes: int, phoff: int, phentsize: int, offset: int, filesz: int, entry: int
    ) -> None:
        self.word_bytes = word_bytes
        self.phoff = phoff
        self.phentsize = phentsize
        self.phnum = phentsize + 2
        self.offset = offset
        self.filesz = filesz
        self.entry_bytes = entry


#: By what an ELF file begins with: ELFCLASS32, ELFCLASS64.
_CLASSES = {
    b"\x7fELF\x01": _Class(4, 28, 42, offset=4, filesz=16, entry=32),
    b"\x7fELF\x02": _Class(8, 32, 54, offset=8, filesz=32, entry=56),
}


def of_file(path: str) -> str:
    """The build-id in hex, or "" for a file that has none or is no ELF file. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        head = file.read(4096)
        elf = _CLASSES.get(head[:5])
        if elf is None:
            return ""
        at = _word(head, elf.phoff, elf.word_bytes)
        size, count = _word(head, elf.phentsize, 2), _word(head, elf.phnum, 2)
        for i in range(min(count, _SEGMENTS_MAX)):
            entry = head[at + i * size : at + (i + 1) * size]
            if len(entry) == elf.entry_bytes and _word(entry, 0, 4) == _PT_NOTE:
                file.seek(_word(entry, elf.offset, elf.word_bytes))
                found = _in_notes(file.read(min(_word(entry, elf.filesz, elf.word_bytes), 4096)))
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
