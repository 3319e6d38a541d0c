"""32-bit (i386) tasks: what livecr has to do in another way inside them.

On a 64-bit kernel a tracer sees and sets their registers in the 64-bit layout (PTRACE_GETREGS), and may
set cs; so the engine, the seed and all that runs in it are 64-bit code there too, below 4 GiB. A few things
only a 32-bit call can do, since the kernel looks at TS_COMPAT: handlers get 32-bit frames if rt_sigaction was
such a call (kernel/signal.c, sigaction_compat_abi), robust lists of 32-bit pointers have a set_robust_list of
their own, and restart blocks go on with the restart_syscall of their call's kind (arch_set_restart_data).
`int $0x80` makes a 32-bit call from 64-bit code as well. Used by engine, spawn and by the kinds that differ.
"""

from __future__ import annotations

from livecr.errors import Refused
from livecr.target.program import Program
from livecr.target.tracee import USER32_CS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.process import Process
    from livecr.target.tracee import Registers, Tracee

__all__ = [
    *("IA32_ENTRY", "INT_80", "TASK_SIZE", "USER_CS", "CompatProgram", "far_pointer", "refuse_mixed"),
]

#: Where 32-bit user space ends (IA32_PAGE_OFFSET, arch/x86/include/asm/page_64_types.h).
TASK_SIZE = 0xFFFFE000
#: Of 64-bit code (arch/x86/include/asm/segment.h, __USER_CS); that of 32-bit code is tracee.USER32_CS.
USER_CS = 0x33
#: How far behind the engine's `syscall` its `int $0x80` stands (native/engine/engine.S).
IA32_ENTRY = 4
INT_80 = b"\xcd\x80"

PTRACE_GET_SYSCALL_INFO = 0x420E
_INFO_BYTES = 88  # struct ptrace_syscall_info: op, 3 pads, arch, …
AUDIT_ARCH_I386 = 0x40000003

# Numbers of the 32-bit calls (arch/x86/entry/syscalls/syscall_32.tbl).
_NR_IA32 = {
    "munmap": 91,
    "rt_sigaction": 174,
    "set_robust_list": 311,
    "get_robust_list": 312,
}


class CompatProgram(Program):
    """System calls made by `int $0x80`."""

    ia32 = True
    numbers = _NR_IA32


def far_pointer(registers: Registers) -> int:
    """cs:rip as the operand of a far jump to 32-bit code, in 8 bytes."""
    return registers.rip & 0xFFFFFFFF | registers.cs << 32


def refuse_mixed(process: Process, task: Tracee, registers: Registers) -> None:
    """Code of the other kind in a program: 32-bit calls of a 64-bit program, far jumps. Raises Refused.

    Their calls look like others, and livecr could not get back into them.
    """
    expected = USER32_CS if process.compat else USER_CS
    if registers.cs != expected:
        what = f"it runs {'64' if registers.cs == USER_CS else '32'}-bit code"
    elif registers.call() >= 0 and not process.compat and _arch(task) == AUDIT_ARCH_I386:
        what = "it is in a 32-bit system call (int $0x80)"
    else:
        return
    raise Refused(
        f"{what}, in a {'32' if process.compat else '64'}-bit program",
        where=f"task {task.tid} of process {task.pid}",
        way_out="try again while it does not",
    )


def _arch(task: Tracee) -> int:
    """AUDIT_ARCH_* of the system call that it is in (ptrace(2))."""
    raw = task.ask(PTRACE_GET_SYSCALL_INFO, _INFO_BYTES)
    return int.from_bytes(raw[4:8], "little")
