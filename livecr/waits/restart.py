"""Restart codes: what the kernel leaves in rax when a freeze ends a blocking call, and what it does next.

Relies on arch/x86/kernel/signal.c, arch_do_signal_or_restart: on the signal-delivery path, with no signal to
deliver, it looks at orig_rax and rax and sets the task back before its `syscall` instruction. A tracer sees
both before that happens. Used by classify, rearm and for the engine's way back.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Registers

__all__ = [
    *("CODES", "EINTR", "ERESTARTNOHAND", "ERESTARTNOINTR", "ERESTARTSYS", "ERESTART_RESTARTBLOCK"),
    *("NR_RESTART_SYSCALL", "Code", "as_kernel_resumes", "how", "interrupted_call"),
]

NR_RESTART_SYSCALL = 219

# <linux/errno.h>, negative as rax holds them. EINTR is what a call leaves that the kernel does not restart.
EINTR = -4
ERESTARTSYS = -512
ERESTARTNOINTR = -513
ERESTARTNOHAND = -514
ERESTART_RESTARTBLOCK = -516


class Code:
    """One restart code.

    ``resumes_with``: the call number that the kernel makes when no handler runs, None for the call's own.
    ``handler``: what the program sees when a handler runs.
    """

    __slots__ = ("handler", "name", "resumes_with", "value")

    def __init__(self, value: int, name: str, resumes_with: int | None, handler: str) -> None:
        self.value = value
        self.name = name
        self.resumes_with = resumes_with
        self.handler = handler


# __NR_ia32_restart_syscall, for a restart block that a 32-bit call has left.
_NR_IA32_RESTART_SYSCALL = 0

CODES = {
    code.value: code
    for code in (
        # rax                       name                     made again as       with a handler
        Code(ERESTARTSYS,           "ERESTARTSYS",           None,               "EINTR (SA_RESTART: again)"),
        Code(ERESTARTNOINTR,        "ERESTARTNOINTR",        None,               "again"),
        Code(ERESTARTNOHAND,        "ERESTARTNOHAND",        None,               "EINTR"),
        Code(ERESTART_RESTARTBLOCK, "ERESTART_RESTARTBLOCK", NR_RESTART_SYSCALL, "EINTR"),
    )
}  # fmt: skip

_SYSCALL_BYTES = 2  # of the `syscall` instruction (and of `int $0x80` and `sysenter`)


def interrupted_call(registers: Registers) -> int | None:
    """The restart code in rax (negative) if the task was taken out of a call that the kernel will restart."""
    code = registers.result()
    return code if registers.call() >= 0 and code in CODES else None


def as_kernel_resumes(registers: Registers) -> Registers:
    """What the kernel itself would resume the task with if no signal is delivered.

    Back before the `syscall` instruction with the number of the call to make; orig_rax is -1, so that
    nothing is restarted a second time. Unchanged where nothing is restarted.
    """
    code = interrupted_call(registers)
    if code is None:
        return registers
    resumes_with = CODES[code].resumes_with
    if resumes_with is not None and registers.is_compat:
        resumes_with = _NR_IA32_RESTART_SYSCALL
    return registers.copy(
        rax=registers.orig_rax if resumes_with is None else resumes_with,
        rip=registers.rip - _SYSCALL_BYTES,
        orig_rax=-1,
    )


def how(code: int) -> str:
    """How a call that left ``code`` is entered again.

    "redo": the kernel makes it again by itself; "rearm": its restart block must be made first; "eintr": it
    ended for good, so the program sees EINTR unless the call is made again from outside.
    """
    if code == EINTR:
        return "eintr"
    return "redo" if CODES[code].resumes_with is None else "rearm"
