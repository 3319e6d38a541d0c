"""Building programs: batches of system calls that the engine makes in a target.

A call's arguments are numbers; ``Result(i)`` stands for what call i of the same batch returned.
"""

from __future__ import annotations

from livecr._native import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NR", "Program", "Result"]

# Numbers of the system calls that livecr makes inside a target (arch/x86/entry/syscalls/syscall_64.tbl).
NR = {
    "open": 2,
    "close": 3,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "ioctl": 16,
    "mremap": 25,
    "madvise": 28,
    "shmget": 29,
    "shmat": 30,
    "shmctl": 31,
    "getitimer": 36,
    "setitimer": 38,
    "socket": 41,
    "connect": 42,
    "listen": 50,
    "socketpair": 53,
    "exit": 60,
    "semget": 64,
    "semop": 65,
    "semctl": 66,
    "shmdt": 67,
    "msgget": 68,
    "msgsnd": 69,
    "msgctl": 71,
    "wait4": 61,
    "kill": 62,
    "fcntl": 72,
    "fchdir": 81,
    "umask": 95,
    "chroot": 161,
    "setpgid": 109,
    "setsid": 112,
    "setgroups": 116,
    "setresuid": 117,
    "setresgid": 119,
    "setfsuid": 122,
    "setfsgid": 123,
    "capset": 126,
    "rt_sigtimedwait": 128,
    "rt_sigqueueinfo": 129,
    "sigaltstack": 131,
    "personality": 135,
    "mlock": 149,
    "prctl": 157,
    "arch_prctl": 158,
    "modify_ldt": 154,
    "set_tid_address": 218,
    "io_setup": 206,
    "io_submit": 209,
    "timer_create": 222,
    "timer_settime": 223,
    "timer_gettime": 224,
    "timer_getoverrun": 225,
    "timer_delete": 226,
    "clock_gettime": 228,
    "exit_group": 231,
    "epoll_wait": 232,
    "epoll_ctl": 233,
    "mq_notify": 244,
    "unshare": 272,
    "set_robust_list": 273,
    "accept4": 288,
    "waitid": 247,
    "dup3": 292,
    "rt_tgsigqueueinfo": 297,
    "mlock2": 325,
    "pkey_mprotect": 329,
    "pkey_alloc": 330,
    "pkey_free": 331,
    "seccomp": 317,
    "prlimit64": 302,
    "userfaultfd": 323,
    "rseq": 334,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "pidfd_getfd": 438,
}

_UNSIGNED = 0xFFFFFFFFFFFFFFFF


class Result:
    """What call ``index`` of the same program returned."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Program:
    """A list of system calls to be made one after the other.

    ``numbers``: of each call by its name. ``ia32``: they are 32-bit calls (target/compat).
    """

    numbers = NR
    ia32 = False

    def __init__(self) -> None:
        self._calls: list[tuple[str, tuple[int | Result, ...], bool]] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, name: str, *args: int | Result, must: bool = True) -> Result:
        """Append a call; ``must`` means that an error ends the program."""
        self._calls.append((name, args, must))
        return Result(len(self._calls) - 1)

    def name(self, index: int) -> str:
        """Which call stands at ``index``, for messages."""
        return self._calls[index][0]

    def calls(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Name, number and arguments of each; 0 for what another call is yet to return."""
        return [
            (name, self.numbers[name], tuple(0 if isinstance(arg, Result) else arg for arg in args))
            for name, args, _ in self._calls
        ]

    def native(self) -> Any:
        """As ``struct lcr_call[]``."""
        calls = ffi.new("struct lcr_call[]", len(self._calls))
        for call, (name, args, must) in zip(calls, self._calls, strict=True):
            call.nr = self.numbers[name]
            call.ia32 = self.ia32
            call.must = must
            origin = call.origin
            for i in range(6):
                origin[i] = -1
            for i, arg in enumerate(args):
                if isinstance(arg, Result):
                    origin[i] = arg.index
                else:
                    call.args[i] = arg & _UNSIGNED
        return calls
