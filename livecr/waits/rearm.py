"""Put a task back inside the call that it was blocked in.

A call that left -ERESTART_RESTARTBLOCK is made again with the time that it has left, while an interrupt is
pending: the kernel arms the task's own restart block and leaves at once. With the program's registers back
and rax = -516, the kernel's own restart code then goes on with that block (arch/x86/kernel/signal.c). All
other restart codes need nothing: the kernel makes the call again from the registers alone. But for one: a
restored program's CPU clock begins anew, so a sleep until a point in time on it gets a restart block too. The
program cannot tell: a handler ends both with EINTR, and without rmtp neither writes anything.
"""

from __future__ import annotations

import time

from livecr._native import ffi, lib
from livecr.kernel import clock, machine
from livecr.kernel.prompt import undelayed
from livecr.waits import abi, catalog
from livecr.waits.clocks import ABSOLUTE
from livecr.waits.restart import ERESTART_RESTARTBLOCK
from livecr.waits.written import rmtp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Registers, Tracee
    from livecr.waits.classify import Wait
    from livecr.waits.clocks import ProgramTime

__all__ = ["deadline_ns", "rearm", "remaining_ns"]

_NS = 1_000_000_000
_MS = 1_000_000
_MILLISECONDS_MAX = 0x7FFFFFFF
#: A duration counts from when the kernel gets it, so a wait ends later by what goes by after it was reckoned.
#: Some 50 us are usual; more of them mean that livecr or the task was preempted in between.
_PROMPT_NS = 200_000
_TRIES = 20
_AWAKE_NS = 150_000


def remaining_ns(wait: Wait, now: ProgramTime) -> int:
    """What the wait has left now; 0 when it is over. Time counts from the freeze on the program's clocks."""
    assert wait.remaining_ns is not None
    if wait.kind == "cpu":
        return _cpu_remaining_ns(wait, now)
    if wait.absolute and wait.clock not in clock.SHIFTED and wait.deadline_ns is not None:
        return max(0, wait.deadline_ns - clock.host_now_ns(wait.clock or 0))
    return max(0, wait.remaining_ns - now.elapsed_ns())


def _cpu_remaining_ns(wait: Wait, now: ProgramTime) -> int:
    """The program itself used none while it was frozen; whether another's counts, the time model tells."""
    left_ns = wait.remaining_ns or 0
    if not wait.clock_owner or now.model != ABSOLUTE or wait.deadline_ns is None:
        return left_ns
    from livecr.kernel import cpu_clock

    counted = cpu_clock.decode(wait.clock or 0, 0)
    try:
        return left_ns if counted is None else max(0, wait.deadline_ns - counted.now_ns())
    except OSError:  # that process has ended since it was looked at: its clock stands still
        return left_ns


def _loses_its_deadline(wait: Wait) -> bool:
    """Whether it is until a point in time on a CPU clock of the restored program's own."""
    return wait.kind == "cpu" and wait.absolute and not wait.clock_owner


def deadline_ns(wait: Wait, now: ProgramTime) -> int:
    """Until when the wait is to last, for a call that takes a point in time, on the program's new clock."""
    assert wait.deadline_ns is not None and wait.clock is not None
    if wait.clock in clock.SHIFTED and not now.is_shifted(wait.clock):
        left_ns = remaining_ns(wait, now)
        return clock.now_ns(wait.clock) + left_ns  # it lives in the namespace of livecr
    return wait.deadline_ns


def rearm(wait: Wait, registers: Registers, seed: Seed, task: Tracee, now: ProgramTime) -> Registers:
    """Arm the restart block of ``task`` again. Returns the registers to resume it with.

    These are the saved ones, or, if the call has come to its end meanwhile, those that say so. The task is
    left in PTRACE_EVENT_STOP.
    """
    if wait.how != "rearm" and not _loses_its_deadline(wait):
        task.stop_again()
        return registers
    for _ in range(_TRIES):
        with undelayed():
            result, took_ns = _interrupted_call(wait, seed, task, now)
        if took_ns < _PROMPT_NS or result != ERESTART_RESTARTBLOCK:
            break  # else armed anew, with what is left now
    if result == ERESTART_RESTARTBLOCK:
        return registers.copy(rax=result)
    if wait.at_rmtp and rmtp(wait):
        task.write(rmtp(wait), wait.at_rmtp)
    return registers.copy(rax=result, orig_rax=-1)


def _interrupted_call(wait: Wait, seed: Seed, task: Tracee, now: ProgramTime) -> tuple[int, int]:
    """What the call returned, and the ns from when its timeout was reckoned until it had returned."""
    call = ffi.new("struct lcr_call *")
    call.nr = wait.call
    arguments = list(wait.arguments)
    known = abi.of(wait.abi).find(wait.call, arguments)
    seed.reset_scratch()
    if wait.remaining_ns is not None and known is not None and known.timeout is not None:
        if known.encoding == catalog.MILLISECONDS:
            arguments[known.timeout] = _milliseconds(wait, now)
        else:
            arguments[known.timeout] = seed.put(known.timespec.pack(*divmod(_given(wait, now), _NS)))
    if _loses_its_deadline(wait):
        arguments[1] = arguments[3] = 0  # flags, rmtp
    reckoned_ns = clock.host_now_ns(clock.MONOTONIC)
    for i, value in enumerate(arguments):
        call.args[i] = value
    deferred = ffi.new("uint64_t *")
    call.ia32 = wait.abi == machine.I386
    result = lib.lcr_interrupted_call(task.tid, seed.entry_for(call.ia32), seed.base, call, deferred)
    if result < 0:
        task.fail(-result, f"entering {wait.name} again")
    task.stopped = True
    return int(call.result), clock.host_now_ns(clock.MONOTONIC) - reckoned_ns


def _given(wait: Wait, now: ProgramTime) -> int:
    """The timeout to hand over: what is left, or for an absolute one the point in time."""
    if not wait.absolute or wait.deadline_ns is None or wait.kind == "cpu":
        return remaining_ns(wait, now)
    return deadline_ns(wait, now)


def _milliseconds(wait: Wait, now: ProgramTime) -> int:
    """poll(2) takes whole milliseconds: wait out the fraction here, so that no wait comes out longer.

    The last of it awake: what a sleep is longer than it was to be would be added to the wait.
    """
    left_ns = remaining_ns(wait, now)
    whole_ns = left_ns // _MS * _MS
    time.sleep(max(0, left_ns - whole_ns - _AWAKE_NS) / _NS)
    while (left_ns := remaining_ns(wait, now)) > whole_ns:
        pass
    return min(-(-left_ns // _MS), _MILLISECONDS_MAX)
