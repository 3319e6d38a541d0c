"""What seccomp filters answer to a system call: classic BPF programs run here, in livecr, on a made-up call.

So it is known beforehand which calls would harm a confined program. The machine is that of
net/core/filter.c as kernel/seccomp.c narrows it (seccomp_check_filter); of several filters the strictest
answer counts. Called by target/seccomp and kinds/seccomp.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ALLOW", "ARCH_I386", "ARCH_X86_64", "MODE_FILTER", "MODE_STRICT", "NAMES", "Filters", "Strict"]

#: "Seccomp" of /proc/PID/status.
MODE_STRICT, MODE_FILTER = 1, 2
#: AUDIT_ARCH_* of <linux/audit.h>.
ARCH_X86_64, ARCH_I386 = 0xC000003E, 0x40000003

#: SECCOMP_RET_* of <linux/seccomp.h>.
ALLOW, LOG = 0x7FFF0000, 0x7FFC0000
USER_NOTIF, ERRNO = 0x7FC00000, 0x00050000
NAMES = {
    0x80000000: "SECCOMP_RET_KILL_PROCESS",
    0x00000000: "SECCOMP_RET_KILL_THREAD",
    0x00030000: "SECCOMP_RET_TRAP",
    ERRNO: "SECCOMP_RET_ERRNO",
    USER_NOTIF: "SECCOMP_RET_USER_NOTIF",
    0x7FF00000: "SECCOMP_RET_TRACE",
    LOG: "SECCOMP_RET_LOG",
    ALLOW: "SECCOMP_RET_ALLOW",
}
_KILL_PROCESS, _KILL_THREAD = 0x80000000, 0x00000000
#: read, write, exit and rt_sigreturn (of i386 sigreturn): all that strict mode allows (mode1_syscalls).
_STRICT = {ARCH_X86_64: {0, 1, 60, 15}, ARCH_I386: {3, 4, 1, 119}}
_ACTION = 0xFFFF0000

# struct sock_filter: code, jt, jf, k; struct seccomp_data: nr, arch, instruction_pointer, args.
_INSTRUCTION = Struct("<HBBI")
_DATA = Struct("<iIQ6Q")
_DATA_BYTES = 64
_MASK = 0xFFFFFFFF

# Opcodes of <linux/bpf_common.h>: class, and within it size and mode, or operation and source.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_IMM, _ABS, _MEM, _LEN = 0x00, 0x20, 0x60, 0x80
_FROM_X = 0x08
_RET_A = 0x10
_TXA = 0x80

_ARITHMETIC: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x30: lambda a, b: a // b if b else 0,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << (b & 31),
    0x70: lambda a, b: a >> (b & 31),
    0x80: lambda a, _: -a,
    0x90: lambda a, b: a % b if b else 0,
    0xA0: lambda a, b: a ^ b,
}
_COMPARISONS: dict[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: a & b != 0,
}


class Filters:
    """The filters of a task, the oldest first, each as an array of struct sock_filter."""

    __slots__ = ("_known", "programs")

    def __init__(self, programs: list[bytes]) -> None:
        self.programs = programs
        self._known: dict[bytes, int] = {}

    def action(self, number: int, args: tuple[int, ...] = (), *, at: int = 0, arch: int = ARCH_X86_64) -> int:
        """SECCOMP_RET_* for a call, without its data. ``at``: where it is made."""
        words = [arg & 0xFFFFFFFFFFFFFFFF for arg in (*args, *(0,) * 6)[:6]]
        data = _DATA.pack(number, arch, at, *words)
        if data not in self._known:
            answers = [_run(program, data) & _ACTION for program in self.programs]
            # KILL_PROCESS is below all others: the kernel compares them as signed numbers.
            self._known[data] = min(answers, key=lambda a: -1 if a == _KILL_PROCESS else a, default=ALLOW)
        return self._known[data]

    def allows(
        self, number: int, args: tuple[int, ...] = (), *, at: int = 0, arch: int = ARCH_X86_64
    ) -> bool:
        """Whether the call is made as if there was no filter."""
        return self.action(number, args, at=at, arch=arch) in (ALLOW, LOG)

    def harms(self, number: int, args: tuple[int, ...] = (), *, at: int = 0, arch: int = ARCH_X86_64) -> bool:
        """Whether the call would do more than to fail: a signal, an end, a question to a supervisor."""
        return self.action(number, args, at=at, arch=arch) not in (ALLOW, LOG, ERRNO)

    def asks(self) -> bool:
        """Whether one may answer SECCOMP_RET_USER_NOTIF."""
        return any(
            code & 7 == _RET and not code & _RET_A and k & _ACTION == USER_NOTIF
            for program in self.programs
            for code, _, _, k in _INSTRUCTION.iter_unpack(program)
        )


class Strict(Filters):
    """What SECCOMP_MODE_STRICT answers, as if that was a filter."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__([])

    def action(self, number: int, args: tuple[int, ...] = (), *, at: int = 0, arch: int = ARCH_X86_64) -> int:
        """See Filters."""
        return ALLOW if number in _STRICT.get(arch, ()) else _KILL_THREAD


def _run(program: bytes, data: bytes) -> int:
    """What one filter returns. The kernel has checked it: it only jumps forward, and ends with a return."""
    instructions = list(_INSTRUCTION.iter_unpack(program))
    a = x = pc = 0
    memory = [0] * 16
    while pc < len(instructions):
        code, if_true, if_false, k = instructions[pc]
        pc += 1
        kind, operand = code & 7, x if code & _FROM_X else k
        if kind == _RET:
            return a if code & 0x18 == _RET_A else k
        if kind in (_LD, _LDX):
            value = _loaded(code & 0xE0, k, data, memory)
            a, x = (value, x) if kind == _LD else (a, value)
        elif kind in (_ST, _STX):
            memory[k & 15] = a if kind == _ST else x
        elif kind == _ALU:
            a = _ARITHMETIC[code & 0xF0](a, operand) & _MASK
        elif kind == _MISC:
            a, x = (x, x) if code & 0xF8 == _TXA else (a, a)
        elif code & 0xF0 == 0:  # BPF_JA
            pc += k
        else:
            pc += if_true if _COMPARISONS[code & 0xF0](a, operand) else if_false
    return _KILL_PROCESS


def _loaded(mode: int, k: int, data: bytes, memory: list[int]) -> int:
    if mode == _ABS:
        return int.from_bytes(data[k : k + 4], "little")
    if mode == _MEM:
        return memory[k & 15]
    return _DATA_BYTES if mode == _LEN else k
