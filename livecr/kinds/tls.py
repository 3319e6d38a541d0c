"""Segments of 32-bit code: the three descriptors that each task has in the GDT for thread-local storage.

They are part of a task (thread.tls_array) and set by set_thread_area(2) or CLONE_SETTLS; its gs selects one
of them. A tracer has PTRACE_GET_THREAD_AREA and PTRACE_SET_THREAD_AREA (arch/x86/kernel/tls.c). A local
descriptor table (modify_ldt(2)), which is another thing, is refused. Called by threads and process.
"""

from __future__ import annotations

from livecr._native import ffi
from livecr.errors import Refused
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.engine import Borrowed
    from livecr.target.tracee import Tracee

__all__ = ["ENTRIES", "USER_DESC_BYTES", "load", "refuse_ldt", "save"]

PTRACE_GET_THREAD_AREA, PTRACE_SET_THREAD_AREA = 25, 26
#: GDT_ENTRY_TLS_MIN … GDT_ENTRY_TLS_MAX of a 64-bit kernel (arch/x86/include/asm/segment.h).
ENTRIES = (12, 13, 14)
USER_DESC_BYTES = 16  # struct user_desc of <asm/ldt.h>: entry_number, base_addr, limit, flags
# As an empty one is told: no base, no limit, read_exec_only and seg_not_present.
_EMPTY = bytes(8) + (0x28).to_bytes(4, "little")

READ_LDT = 0
_LDT_ENTRY_BYTES = 8


def save(task: Tracee) -> list[bytes]:
    """Those that are set: struct user_desc, 16 bytes each."""
    found = [task.ask(PTRACE_GET_THREAD_AREA, entry, USER_DESC_BYTES) for entry in ENTRIES]
    return [descriptor for descriptor in found if descriptor[4:] != _EMPTY]


def load(descriptors: list[bytes], task: Tracee) -> None:
    """Set them, in a task that is stopped. ValueError for what is not a struct user_desc of these entries."""
    for descriptor in descriptors:
        entry = int.from_bytes(descriptor[:4], "little")
        if len(descriptor) != USER_DESC_BYTES or entry not in ENTRIES:
            raise ValueError(f"a descriptor for entry {entry} of the GDT")
        buffer = ffi.from_buffer(descriptor)
        task.request(PTRACE_SET_THREAD_AREA, entry, int(ffi.cast("uintptr_t", buffer)))


def refuse_ldt(borrowed: Borrowed) -> None:
    """Raises Refused for a process that has a local descriptor table."""
    program = Program()
    program.add("modify_ldt", READ_LDT, borrowed.scratch, _LDT_ENTRY_BYTES, must=False)
    (read_bytes,) = borrowed.run(program)
    if read_bytes > 0:  # ENOSYS where the kernel has none
        raise Refused(
            "it has a local descriptor table (modify_ldt)",
            where=f"process {borrowed.task.pid}",
            way_out="this version of livecr cannot save it",
        )
