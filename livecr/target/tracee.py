"""One task under ptrace: seize, interrupt, registers, signal mask, memory.

Relies on PTRACE_SEIZE (never PTRACE_ATTACH, whose SIGSTOP the program's parent can see) and on the stop that
PTRACE_INTERRUPT gives, PTRACE_EVENT_STOP, which lies on the kernel's signal-delivery path: there, and only
there, the registers that a tracer leaves behind decide what system call is restarted
(arch/x86/kernel/signal.c, arch_do_signal_or_restart).
"""

from __future__ import annotations

import os
from operator import attrgetter
from struct import Struct

from livecr._native import ffi, lib
from livecr.errors import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from livecr.kernel.seccomp import Filters

__all__ = ["REGISTERS", "USER32_CS", "Gone", "Registers", "Tracee"]

# Requests and options of ptrace(2), <linux/ptrace.h>.
CONT = 7
GETREGS = 12
SETREGS = 13
DETACH = 17
SYSCALL = 24
SETOPTIONS = 0x4200
GETSIGINFO = 0x4202
SEIZE = 0x4206
INTERRUPT = 0x4207
GETSIGMASK = 0x420A
SETSIGMASK = 0x420B

O_TRACESYSGOOD = 0x01
O_TRACEFORK = 0x02
O_TRACEVFORK = 0x04
O_TRACECLONE = 0x08
O_TRACEEXEC = 0x10
O_EXITKILL = 0x100000
O_SUSPEND_SECCOMP = 0x200000

EVENT_EXEC = 4
EVENT_STOP = 128

NT_X86_XSTATE = 0x202

SIGTRAP = 5
SIGSTOP = 19
SYSCALL_STOP = SIGTRAP | 0x80
WNOHANG = 1
WALL = 0x40000000

# Names of struct user_regs_struct, in its order: 27 registers of 8 bytes.
REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)

_WORDS = Struct(f"<{len(REGISTERS)}Q")
REGISTERS_BYTES = _WORDS.size
_all_of = attrgetter(*REGISTERS)
#: cs of 32-bit code (arch/x86/include/asm/segment.h, __USER32_CS).
USER32_CS = 0x23

_XSTATE_ROOM = 16384  # AMX tiles make it 11 KiB


class Gone(Failed):
    """The task ended while livecr held it."""


class Registers:
    """The general registers of a task, unsigned 64-bit, under the kernel's names."""

    __slots__ = tuple(REGISTERS)

    if TYPE_CHECKING:
        r15: int
        r14: int
        r13: int
        r12: int
        rbp: int
        rbx: int
        r11: int
        r10: int
        r9: int
        r8: int
        rax: int
        rcx: int
        rdx: int
        rsi: int
        rdi: int
        orig_rax: int
        rip: int
        cs: int
        eflags: int
        rsp: int
        ss: int
        fs_base: int
        gs_base: int
        ds: int
        es: int
        fs: int
        gs: int

    def __init__(self, **values: int) -> None:
        for name in REGISTERS:
            setattr(self, name, values.get(name, 0) & 0xFFFFFFFFFFFFFFFF)

    def copy(self, **changes: int) -> Registers:
        """The same registers with some of them replaced (negative values wrap to 64 bits)."""
        same = Registers._of(_all_of(self))
        for name, value in changes.items():
            setattr(same, name, value & 0xFFFFFFFFFFFFFFFF)
        return same

    @property
    def is_compat(self) -> bool:
        """Whether they are of 32-bit code."""
        return self.cs == USER32_CS

    def result(self) -> int:
        """rax as the signed number that the kernel keeps there: a result, or -errno."""
        return self._signed(self.rax)

    def call(self) -> int:
        """orig_rax, signed: the number of the system call, or -1 outside of one."""
        return self._signed(self.orig_rax)

    def _signed(self, value: int) -> int:
        if self.is_compat:
            value &= 0xFFFFFFFF
            return value - (1 << 32) if value >> 31 else value
        return value - (1 << 64) if value >> 63 else value

    def arguments(self) -> tuple[int, int, int, int, int, int]:
        """The six arguments of the system call, by the convention of x86-64, or that of i386."""
        if self.is_compat:
            a, b, c, d, e, f = (self.rbx, self.rcx, self.rdx, self.rsi, self.rdi, self.rbp)
            m = 0xFFFFFFFF
            return (a & m, b & m, c & m, d & m, e & m, f & m)
        return (self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9)

    def pack(self) -> bytes:
        """struct user_regs_struct, 216 bytes."""
        return _WORDS.pack(*_all_of(self))

    @classmethod
    def unpack(cls, raw: bytes) -> Registers:
        """From struct user_regs_struct, 216 bytes."""
        return cls._of(_WORDS.unpack(raw))

    @classmethod
    def _of(cls, words: tuple[int, ...]) -> Registers:
        registers = cls.__new__(cls)
        for name, word in zip(REGISTERS, words, strict=True):
            setattr(registers, name, word)
        return registers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Registers) and self.pack() == other.pack()

    __hash__ = None  # type: ignore[assignment]


class Tracee:
    """A task that livecr traces. Made by freeze.freeze(), or by seize() for a task of our own making."""

    def __init__(self, pid: int, tid: int, status: int = 0) -> None:
        self.pid = pid
        self.tid = tid
        self.status = status  # of the last wait
        self.stopped = bool(status)
        self.deferred: list[int] = []  # signals that arrived while borrowed; given back on release
        self.filters: Filters | None = None  # of seccomp, while it is frozen (target/seccomp)
        self.logged_filters: list[int] = []  # which of them log
        self.risks_filters = False  # whether calls are made in it that would harm it if livecr were killed

    # -- stopping and going on ---------------------------------------------------------------------------

    def request(self, number: int, addr: int = 0, data: int = 0) -> int:
        """One ptrace request. Raises Gone when the task is no more, Failed for any other error."""
        result: int = lib.lcr_ptrace(number, self.tid, addr & 0xFFFFFFFFFFFFFFFF, data)
        if result < 0:
            self.fail(-result, f"ptrace request {number:#x}")
        return result

    def fail(self, errno: int, doing: str) -> None:
        """Raise what ``errno`` means for this task."""
        where = f"task {self.tid} of process {self.pid}"
        if errno in (3, 10):  # ESRCH, ECHILD
            raise Gone("the task is gone", where=where)
        raise Failed(f"{doing}: {os.strerror(errno)}", where=where)

    def seize(self, options: int) -> None:
        """PTRACE_SEIZE: from now on traced, but not stopped."""
        self.request(SEIZE, 0, options)

    def interrupt(self) -> None:
        """PTRACE_INTERRUPT; in a stop it takes effect at the next resume."""
        self.request(INTERRUPT)

    def wait(self) -> int:
        """Wait for the next stop and return the wait status. Raises Gone if the task ends instead."""
        status = ffi.new("int *")
        result = lib.lcr_wait(self.tid, status, 0)
        if result < 0:
            self.fail(-result, "waiting for it")
        self.status = status[0]
        if (self.status & 0xFF) != 0x7F:
            raise Gone("the task ended", where=f"task {self.tid} of process {self.pid}")
        self.stopped = True
        return self.status

    @property
    def stop_signal(self) -> int:
        """WSTOPSIG of the last stop; SYSCALL_STOP for entry and exit stops."""
        return (self.status >> 8) & 0xFF

    @property
    def event(self) -> int:
        """The PTRACE_EVENT_* of the last stop, 0 if none."""
        return self.status >> 16

    def cont(self, signal: int = 0) -> None:
        """Resume until the next signal or event."""
        self.request(CONT, 0, signal)
        self.stopped = False

    def cont_to_syscall(self, signal: int = 0) -> None:
        """Resume until the entry to, or the exit from, a system call."""
        self.request(SYSCALL, 0, signal)
        self.stopped = False

    def wait_for(self, *, event: int | None = None, signal: int | None = None, resume: int = CONT) -> None:
        """Wait for one kind of stop; signals that arrive instead are deferred, never lost.

        SIGSTOP is let through: the kernel then knows that the process is stopped, and keeps to it at detach.
        """
        while True:
            self.wait()
            if event is not None and self.event == event:
                return
            if signal is not None and self.event == 0 and self.stop_signal == signal:
                return
            passed_on = SIGSTOP if self.event == 0 and self.stop_signal == SIGSTOP else 0
            if self.event == 0 and self.stop_signal not in (SYSCALL_STOP, SIGSTOP):
                self.deferred.append(self.stop_signal)
            self.request(resume, 0, passed_on)

    def stop_again(self) -> None:
        """From any running state or stop to PTRACE_EVENT_STOP, on the signal-delivery path."""
        self.interrupt()
        if self.stopped:
            self.cont()
        self.wait_for(event=EVENT_STOP)

    def detach(self) -> None:
        """Let it go; group-stopped tasks stay stopped. Deferred signals are sent again first."""
        for number in self.deferred:
            lib.lcr_syscall(234, self.pid, self.tid, number, 0, 0, 0)  # tgkill
        self.deferred.clear()
        self.request(DETACH)
        self.stopped = False

    # -- what it holds -----------------------------------------------------------------------------------

    def registers(self) -> Registers:
        """The general registers now."""
        # Not PTRACE_GETREGSET, whose layout for a 32-bit task is another one.
        return Registers.unpack(self._get(GETREGS, 0, REGISTERS_BYTES))

    def set_registers(self, registers: Registers) -> None:
        """Set them all, orig_rax included."""
        buffer = ffi.from_buffer(registers.pack())
        self.request(SETREGS, 0, int(ffi.cast("uintptr_t", buffer)))

    def xstate(self) -> bytes:
        """The XSAVE area (standard format) as large as this CPU has it."""
        buffer = ffi.new("char[]", _XSTATE_ROOM)
        size = self._regset(lib.lcr_getregset(self.tid, NT_X86_XSTATE, buffer, _XSTATE_ROOM))
        return bytes(ffi.buffer(buffer, size))

    def set_xstate(self, raw: bytes) -> None:
        """Put an XSAVE area back."""
        self._regset(lib.lcr_setregset(self.tid, NT_X86_XSTATE, raw, len(raw)))

    def _regset(self, result: int) -> int:
        if result < 0:
            self.fail(-result, "register set")
        return result

    def signal_mask(self) -> int:
        """The blocked signals, bit n-1 for signal n; inside sigsuspend and its like the mask to come back."""
        return int.from_bytes(self._get(GETSIGMASK, 8, 8), "little")

    def set_signal_mask(self, mask: int) -> None:
        """Set the blocked signals."""
        buffer = ffi.new("uint64_t *", mask)
        self.request(SETSIGMASK, 8, int(ffi.cast("uintptr_t", buffer)))

    def siginfo(self) -> bytes:
        """struct siginfo of the current signal stop, 128 bytes."""
        return self._get(GETSIGINFO, 0, 128)

    def ask(self, request: int, addr: int, size: int = 0) -> bytes:
        """What a request writes to its data, ``size`` bytes (``addr`` where that is the size)."""
        return self._get(request, addr, size or addr)

    def _get(self, request: int, addr: int, size: int) -> bytes:
        buffer = ffi.new("char[]", size)
        self.request(request, addr, int(ffi.cast("uintptr_t", buffer)))
        return bytes(ffi.buffer(buffer))

    # -- memory ------------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes of its memory; protection does not matter. Raises Failed where nothing is mapped."""
        return bytes(self._memory(os.O_RDONLY, os.pread, size, address))

    def read_some(self, address: int, size: int) -> bytes:
        """As much of it as is mapped without a gap; nothing where nothing is."""
        try:
            with open(f"/proc/{self.tid}/mem", "rb", buffering=0) as memory:
                return os.pread(memory.fileno(), size, address)
        except OSError:
            return b""

    def write(self, address: int, content: bytes) -> None:
        """Change its memory; protection does not matter (private mappings are copied on write)."""
        self._memory(os.O_RDWR, os.pwrite, content, address)

    def _memory(self, flags: int, act: Any, what: Any, address: int) -> Any:
        try:
            fd = os.open(f"/proc/{self.tid}/mem", flags | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise Gone("the process is gone", where=f"process {self.pid}") from None
        try:
            done = act(fd, what, address)
        except OSError as error:
            raise Failed(
                f"memory at {address:#x}: {error.strerror}", where=f"task {self.tid} of process {self.pid}"
            ) from None
        finally:
            os.close(fd)
        wanted = what if isinstance(what, int) else len(what)
        got = done if isinstance(done, int) else len(done)
        if got != wanted:
            raise Failed(f"only {got} of {wanted} bytes at {address:#x}", where=f"process {self.pid}")
        return done
