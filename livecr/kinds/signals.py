"""Signals: what each does (dispositions), and those that wait to be delivered (pending, with siginfo).

Relies on rt_sigaction(2) from inside, on PTRACE_PEEKSIGINFO from outside, and on
rt_sigqueueinfo(2), which lets a task send itself any siginfo (kernel/signal.c, do_rt_sigqueueinfo).
"""

from __future__ import annotations

from livecr._native import ffi
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.target.compat import CompatProgram
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.engine import Borrowed
    from livecr.target.process import Process
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee

__all__ = ["SHARED", "Action", "load_actions", "load_pending", "save_actions", "save_queues"]

SIGCHLD, SIGNALS = 17, 64
SHARED = 0  # no task has this TID
_SIG_IGN = 1
_SIGSET_BYTES = 8
_ACTION_BYTES = 32  # struct kernel_sigaction: handler, flags, restorer, mask
_COMPAT_ACTION_SIZES = (4, 4, 4, 8)  # struct compat_sigaction: the same
_SIGINFO_BYTES = 128
_PEEK_AT_ONCE = 32

PTRACE_PEEKSIGINFO = 0x4209
PTRACE_PEEKSIGINFO_SHARED = 1


class Action(Record):
    """What rt_sigaction tells of one signal; those with their default action are left out."""

    signal: int
    handler: int
    flags: int
    restorer: int
    mask: int


def save_actions(borrowed: Borrowed, told: dict[str, str]) -> list[Action]:
    """Ask for every signal that is caught or ignored; ``told``: the lines of the process's status file.

    Of signals with their default action only SIGCHLD has flags that mean something (SA_NOCLDWAIT).
    """
    numbers = [SIGCHLD]
    of_interest = int(told["SigIgn"], 16) | int(told["SigCgt"], 16)
    numbers += [n for n in range(1, SIGNALS + 1) if of_interest >> (n - 1) & 1 and n != SIGCHLD]
    program = Program()
    for i, number in enumerate(numbers):
        program.add("rt_sigaction", number, 0, borrowed.scratch + i * _ACTION_BYTES, _SIGSET_BYTES)
    borrowed.run(program)
    raw = borrowed.task.read(borrowed.scratch, len(numbers) * _ACTION_BYTES)
    found = []
    for i, number in enumerate(numbers):
        at = i * _ACTION_BYTES
        handler, flags, restorer, mask = (
            int.from_bytes(raw[at + 8 * k : at + 8 * k + 8], "little") for k in range(4)
        )
        if handler or flags:
            found.append(Action(signal=number, handler=handler, flags=flags, restorer=restorer, mask=mask))
    return found


def load_actions(actions: list[Action], seed: Seed) -> None:
    """Set every action; what livecr itself ignores the seed ignores too (execve(2)), until it is set back.

    SIGCHLD is ignored first, which drops those that the making of the tree has queued.
    """
    program = Program()
    ignoring = (_SIG_IGN, 0, 0, 0)
    at = seed.put(b"".join(word.to_bytes(8, "little") for word in (*ignoring, 0, 0, 0, 0)))
    program.add("rt_sigaction", SIGCHLD, at, 0, _SIGSET_BYTES)
    program.add("rt_sigaction", SIGCHLD, at + _ACTION_BYTES, 0, _SIGSET_BYTES)
    seed.run(program)
    inherited = int(procfs.status(seed.pid)["SigIgn"], 16)
    wanted = {n: (0, 0, 0, 0) for n in range(1, SIGNALS + 1) if inherited >> (n - 1) & 1}
    wanted |= {a.signal: (a.handler, a.flags, a.restorer, a.mask) for a in actions}
    # Only those set by a 32-bit call get a 32-bit frame (SA_IA32_ABI, which the kernel does not show).
    program = CompatProgram() if seed.compat else Program()
    sizes = _COMPAT_ACTION_SIZES if seed.compat else (8, 8, 8, 8)
    at = seed.put(
        b"".join(
            word.to_bytes(size, "little")
            for words in wanted.values()
            for word, size in zip(words, sizes, strict=True)
        )
    )
    for i, number in enumerate(wanted):
        program.add("rt_sigaction", number, at + i * sum(sizes), 0, _SIGSET_BYTES)
    seed.run(program)


def save_queues(frozen: Process) -> dict[int, list[bytes]]:
    """The pending signals of each task by TID, and under SHARED those of the process. Nothing is consumed."""
    queues = {task.tid: _queue(task, shared=False) for task in frozen.tasks}
    queues[SHARED] = _queue(frozen.leader, shared=True)
    return queues


def _queue(task: Tracee, *, shared: bool) -> list[bytes]:
    """The queue of one task, or the process's own, in order: 128 bytes each."""
    found: list[bytes] = []
    asked = ffi.new("uint32_t[4]")  # struct ptrace_peeksiginfo_args: off (64 bits), flags, nr
    buffer = ffi.new("char[]", _PEEK_AT_ONCE * _SIGINFO_BYTES)
    addresses = [int(ffi.cast("uintptr_t", one)) for one in (asked, buffer)]
    while True:
        asked[0], asked[2], asked[3] = len(found), int(shared), _PEEK_AT_ONCE
        got = task.request(PTRACE_PEEKSIGINFO, *addresses)
        if got:
            raw = bytes(ffi.buffer(buffer))
            found += [raw[i * _SIGINFO_BYTES : (i + 1) * _SIGINFO_BYTES] for i in range(got)]
        if got < _PEEK_AT_ONCE:
            return found


def load_pending(infos: list[bytes], seed: Seed, task: Tracee, *, shared: bool) -> None:
    """Queue them again; all signals are blocked meanwhile, and ``task`` sends them to itself."""
    for info in infos:
        program = Program()
        at = seed.put(info[:_SIGINFO_BYTES].ljust(_SIGINFO_BYTES, b"\0"))
        number = int.from_bytes(info[:4], "little")
        if shared:
            program.add("rt_sigqueueinfo", seed.pid, number, at)
        else:
            program.add("rt_tgsigqueueinfo", seed.pid, task.tid, number, at)
        seed.run(program, task)
