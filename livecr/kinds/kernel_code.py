"""The kernel's code in a process, the vDSO: is it the same, how is it mapped; and its `syscall` instruction.

Relies on arch_prctl(ARCH_MAP_VDSO_64, ARCH_MAP_VDSO_32). Called by memory and restore.
"""

from __future__ import annotations

from livecr.errors import Failed
from livecr.kernel import machine, vdso
from livecr.target.compat import INT_80

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kinds.memory import Memory, Vma
    from livecr.target.tracee import Tracee

__all__ = ["ARCH_MAP_VDSO", "syscall_instruction", "vdso_xxh3"]

# Of arch_prctl(2), by the abi of the process.
ARCH_MAP_VDSO = {machine.X86_64: 0x2003, machine.I386: 0x2002}

_SEARCH_BYTES = 1 << 20


def vdso_xxh3(vmas: list[Vma], task: Tracee, *, compat: bool) -> str:
    """XXH3-64 of the vDSO of ``task``'s process, "" if it has none."""
    there = next((vma for vma in vmas if vma.name == vdso.NAME), None)
    if there is None:
        return ""
    # livecr has none of 32 bits itself.
    return vdso.digest_of(task.read(there.start, there.end - there.start)) if compat else vdso.digest()


def syscall_instruction(memory: Memory, task: Tracee) -> int:
    """The address of a `syscall` instruction of the program's own: in the vDSO, or in any of its code.

    Of a 32-bit one: of an `int $0x80`.
    """
    instruction = b"\x0f\x05" if memory.abi == machine.X86_64 else INT_80
    executable = [v for v in memory.vmas if v.perms[2] == "x" and v.perms[0] == "r"]
    executable.sort(key=lambda v: v.name != vdso.NAME)
    for vma in executable:
        for at in range(vma.start, vma.end, _SEARCH_BYTES):
            found = task.read(at, min(_SEARCH_BYTES, vma.end - at)).find(instruction)
            if found >= 0:
                return at + found
    raise Failed("the program has no instruction for a system call anywhere", where=f"process {task.pid}")
