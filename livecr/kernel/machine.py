"""For which machine a program is: x86-64, i386 or x32, as its executable's ELF header tells (elf(5)).

execve(2) takes from there whether a task has a 32-bit address space and 32-bit vDSO (fs/compat_binfmt_elf.c).
Called by check, target/freeze and kinds.
"""

from __future__ import annotations

from livecr.kernel import leader

__all__ = ["I386", "OTHER", "X32", "X86_64", "of_header", "of_process"]

X86_64, I386, X32, OTHER = "x86-64", "i386", "x32", "another machine"

# (EI_CLASS, e_machine): ELFCLASS32 is 1, ELFCLASS64 2; EM_386 is 3, EM_X86_64 62.
_MACHINES = {(2, 62): X86_64, (1, 3): I386, (1, 62): X32}
_HEADER_BYTES = 20


def of_header(header: bytes) -> str:
    """One of the names above, from the first 20 bytes of an ELF file."""
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        return OTHER
    return _MACHINES.get((header[4], int.from_bytes(header[18:20], "little")), OTHER)


def of_process(pid: int) -> str:
    """The same of the executable of a process. Raises OSError."""
    with open(leader.path(pid, "exe"), "rb", buffering=0) as file:
        return of_header(file.read(_HEADER_BYTES))
