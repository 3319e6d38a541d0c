"""What a stopped task was blocked in, from registers and memory alone: this is what is left without BPF."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable

import pytest
from livecr.errors import Failed, Refused
from livecr.kernel import clock, cpu_clock
from livecr.kernel.bpf import RestartBlock
from livecr.target.tracee import Registers
from livecr.waits import classify, restart
from livecr.waits.abi import X86_64
from livecr.waits.catalog import CATALOG
from livecr.waits.classify import disagreement_ns, first_call
from livecr.waits.deadlines import Deadline, Evidence, asked, moment

TIMEOUT_AT = 0x7000
TEXT_AT = 0x401000
MOV_CLOCK_NANOSLEEP = b"\xb8\xe6\x00\x00\x00\x0f\x05"  # mov $230,%eax; syscall
S, MS = 1_000_000_000, 1_000_000


def memory(**pieces: bytes) -> Callable[[int, int], bytes]:
    """A program's memory: "x7000=..." is what lies at 0x7000."""
    content = {int(name[1:], 16): piece for name, piece in pieces.items()}

    def read(address: int, size: int) -> bytes:
        for start, piece in content.items():
            if start <= address and address + size <= start + len(piece):
                return piece[address - start : address - start + size]
        raise Failed("nothing is mapped")

    return read


def two_words(first: int, second: int) -> Callable[[int, int], bytes]:
    return memory(x7000=struct.pack("=qq", first, second))


def frozen(pid: int) -> Evidence:
    evidence = Evidence(pid, None)
    evidence.after_freeze(pid, moment())
    return evidence


# -- the timeout that a call was given -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "words", "expected"),
    [
        ("nanosleep", [TIMEOUT_AT], (2, 5), (clock.MONOTONIC, 2 * S + 5, False)),
        ("clock_nanosleep", [clock.TAI, 0, TIMEOUT_AT], (2, 5), (clock.TAI, 2 * S + 5, False)),
        ("clock_nanosleep", [clock.TAI, 1, TIMEOUT_AT], (2, 5), (clock.TAI, 2 * S + 5, True)),
        ("clock_nanosleep", [clock.REALTIME, 0, TIMEOUT_AT], (2, 5), (clock.MONOTONIC, 2 * S + 5, False)),
        ("clock_nanosleep", [clock.REALTIME, 1, TIMEOUT_AT], (2, 5), (clock.REALTIME, 2 * S + 5, True)),
        ("futex", [0, 0 | 128, 0, TIMEOUT_AT], (1, 0), (clock.MONOTONIC, S, False)),
        ("futex", [0, 9 | 128, 0, TIMEOUT_AT], (1, 0), (clock.MONOTONIC, S, True)),
        ("futex", [0, 9 | 128 | 256, 0, TIMEOUT_AT], (1, 0), (clock.REALTIME, S, True)),
        ("futex", [0, 6, 0, TIMEOUT_AT], (1, 0), (clock.REALTIME, S, True)),
        ("poll", [0, 0, 0xFFFF_FFFF_0000_0007], (0, 0), (clock.MONOTONIC, 7 * MS, False)),
        ("select", [0, 0, 0, 0, TIMEOUT_AT], (3, 4), (clock.MONOTONIC, 3 * S + 4000, False)),
        ("mq_timedreceive", [0, 0, 0, 0, TIMEOUT_AT], (3, 4), (clock.REALTIME, 3 * S + 4, True)),
        ("futex_waitv", [0, 0, 0, TIMEOUT_AT, clock.REALTIME], (3, 4), (clock.REALTIME, 3 * S + 4, True)),
    ],
)
def test_a_timeout_is_read_as_the_kernel_reads_it(
    name: str, arguments: list[int], words: tuple[int, int], expected: tuple[int, int, bool]
) -> None:
    row = next(row for row in CATALOG.values() if row.name == name)
    timeout = asked(row, [*arguments, 0, 0, 0, 0, 0, 0][:6], two_words(*words), interrupted=True)
    assert timeout is not None
    assert (timeout.clock, timeout.ns, timeout.absolute) == expected


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (7, [0, 0, 0xFFFF_FFFF, 0, 0, 0]),  # poll, -1
        (202, [0, 128, 0, 0, 0, 0]),  # FUTEX_WAIT, no timeout
        (202, [0, 3 | 128, 0, TIMEOUT_AT, 0, 0]),  # FUTEX_REQUEUE: the argument is val2
        (271, [0, 0, 0, 0, 0, 0]),  # ppoll, NULL
        (0, [0, TIMEOUT_AT, 1, 0, 0, 0]),  # read
    ],
)
def test_no_timeout_is_none(number: int, arguments: list[int]) -> None:
    assert asked(CATALOG[number], arguments, two_words(1, 1), interrupted=True) is None


# -- which call restart_syscall goes on with -------------------------------------------------------


def block(function: str, rmtp: int = 0) -> RestartBlock:
    made = RestartBlock()
    made.function, made.rmtp = function, rmtp
    return made


def test_the_instructions_tell_the_first_call() -> None:
    text = memory(x401000=MOV_CLOCK_NANOSLEEP)
    assert first_call(X86_64, None, [0] * 6, TEXT_AT + 7, text, "task 1") == 230


def test_the_restart_function_tells_the_first_call() -> None:
    assert first_call(X86_64, block("do_restart_poll"), [0] * 6, TEXT_AT, memory(), "task 1") == 7
    assert first_call(X86_64, block("futex_wait_restart"), [0] * 6, TEXT_AT, memory(), "task 1") == 202


def test_nanosleep_and_clock_nanosleep_differ_in_where_rmtp_stands() -> None:
    nanosleep = [TIMEOUT_AT, 0x8000, 0, 0, 0, 0]
    clock_nanosleep = [clock.TAI, 0, TIMEOUT_AT, 0x8000, 0, 0]
    made = block("hrtimer_nanosleep_restart", rmtp=0x8000)
    assert first_call(X86_64, made, nanosleep, TEXT_AT, memory(), "task 1") == 35
    assert first_call(X86_64, made, clock_nanosleep, TEXT_AT, memory(), "task 1") == 230


def test_instructions_that_say_restart_syscall_tell_nothing() -> None:
    text = memory(x401000=b"\xb8\xdb\x00\x00\x00\x0f\x05")
    with pytest.raises(Refused, match="nothing tells"):
        first_call(X86_64, None, [0] * 6, TEXT_AT + 7, text, "task 1")


def test_a_restart_function_that_is_not_known_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        first_call(X86_64, block("brand_new_restart"), [0] * 6, TEXT_AT, memory(), "task 5 of process 4")
    assert refused.value.where == "task 5 of process 4"
    assert refused.value.way_out


@pytest.mark.parametrize("function", ["posix_cpu_nsleep_restart", "alarm_timer_nsleep_restart"])
def test_only_clock_nanosleep_goes_on_so(function: str) -> None:
    assert first_call(X86_64, block(function), [0] * 6, TEXT_AT, memory(), "task 1") == 230


# -- the whole -------------------------------------------------------------------------------------


def test_a_task_in_no_call_waits_for_nothing() -> None:
    running = Registers(orig_rax=-1, rax=restart.ERESTARTSYS)
    returned = Registers(orig_rax=0, rax=17)
    evidence = frozen(os.getpid())
    assert classify.classify(1, running, evidence, memory()) is None
    assert classify.classify(1, returned, evidence, memory()) is None


def test_a_point_in_time_is_exact_without_any_other_source() -> None:
    at_ns = clock.host_now_ns(clock.REALTIME) + 90 * S
    sleeping = Registers(
        orig_rax=230, rax=restart.ERESTARTNOHAND, rdi=clock.REALTIME, rsi=1, rdx=TIMEOUT_AT, r10=0
    )
    wait = classify.classify(1, sleeping, frozen(os.getpid()), two_words(*divmod(at_ns, S)))
    assert wait is not None
    assert (wait.clock, wait.deadline_ns, wait.source) == (clock.REALTIME, at_ns, "argument")
    assert (wait.uncertainty_ns, wait.how, wait.absolute) == (0, "redo", True)
    assert wait.remaining_ns is not None
    assert 80 * S < wait.remaining_ns <= 90 * S


def test_a_bare_argument_is_an_upper_bound_and_says_so() -> None:
    sleeping = Registers(orig_rax=35, rax=restart.ERESTART_RESTARTBLOCK, rdi=TIMEOUT_AT)
    wait = classify.classify(1, sleeping, frozen(os.getpid()), two_words(60, 0))
    assert wait is not None
    assert (wait.remaining_ns, wait.source, wait.uncertainty_ns) == (60 * S, "argument", 60 * S)
    assert (wait.how, wait.arguments[0]) == ("rearm", TIMEOUT_AT)


def test_a_call_that_is_not_catalogued_is_refused_by_name() -> None:
    in_getpid = Registers(orig_rax=39, rax=restart.ERESTARTSYS)
    with pytest.raises(Refused, match="getpid"):
        classify.classify(1, in_getpid, frozen(os.getpid()), memory())


# -- CPU clocks and alarm clocks --------------------------------------------------------------------

OWN_PID_CLOCK = ~os.getpid() << 3 | 2


def asleep(code: int, clock_id: int, flags: int = 0, call: int = 230) -> Registers:
    return Registers(orig_rax=call, rax=code, rdi=clock_id & 0xFFFFFFFF, rsi=flags, rdx=TIMEOUT_AT, r10=0)


@pytest.mark.parametrize("clock_id", [clock.PROCESS_CPUTIME, OWN_PID_CLOCK])
def test_a_sleep_on_a_cpu_clock_counts_cpu_time(clock_id: int) -> None:
    """Until an hour of it has been used: what is left is that, less what this process has used."""
    used_ns = time.process_time_ns()
    wait = classify.classify(
        1, asleep(restart.ERESTARTNOHAND, clock_id, 1), frozen(os.getpid()), two_words(3600, 0)
    )
    assert wait is not None and wait.remaining_ns is not None
    assert (wait.clock, wait.deadline_ns, wait.kind, wait.how) == (clock_id, 3600 * S, "cpu", "redo")
    assert (wait.source, wait.uncertainty_ns, wait.clock_owner) == ("argument", 0, "")
    assert used_ns <= 3600 * S - wait.remaining_ns <= time.process_time_ns()


def test_another_process_is_named_so_that_none_can_take_its_place() -> None:
    other = os.getppid()
    sleeping = asleep(restart.ERESTARTNOHAND, ~other << 3 | 2, 1)
    wait = classify.classify(1, sleeping, frozen(os.getpid()), two_words(10**9, 0))
    assert wait is not None
    assert wait.clock_owner == cpu_clock.born(other)


def test_a_point_in_time_of_before_a_restore_tells_nothing() -> None:
    """It has a restart block, so it was restored, and its argument is on the clock as it was before."""
    for call in (230, restart.NR_RESTART_SYSCALL):
        sleeping = asleep(restart.ERESTART_RESTARTBLOCK, clock.PROCESS_CPUTIME, 1, call)
        sleeping.rip = TEXT_AT + 7
        read = memory(x7000=struct.pack("=qq", 3600, 0), x401000=MOV_CLOCK_NANOSLEEP)
        with pytest.raises(Refused, match="how much is left"):
            classify.classify(1, sleeping, frozen(os.getpid()), read)


@pytest.mark.parametrize(
    ("clock_id", "says"),
    [
        (~0x500000 << 3 | 2, "it has ended"),  # no process has that number
        (~0x500000 << 3 | 6, "it has ended"),  # no thread
        (~os.getpid() << 3 | 5, "cannot be read"),  # user time of one thread
        (~5 << 3 | 3, "no such clock"),  # of a device
    ],
)
def test_a_clock_that_cannot_be_brought_back_is_refused_by_name(clock_id: int, says: str) -> None:
    with pytest.raises(Refused, match=says):
        classify.classify(
            1, asleep(restart.ERESTART_RESTARTBLOCK, clock_id), frozen(os.getpid()), two_words(1, 0)
        )


@pytest.mark.parametrize(
    ("clock_id", "alarm_type", "counted"),
    [(clock.REALTIME_ALARM, 0, clock.REALTIME), (clock.BOOTTIME_ALARM, 1, clock.BOOTTIME)],
)
def test_an_alarm_sleep_is_read_from_its_restart_block(
    clock_id: int, alarm_type: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clockid is an alarmtimer_type; the time is on the clock that the alarm clock counts."""
    evidence = frozen(os.getpid())
    made = block("alarm_timer_nsleep_restart")
    made.clockid, made.expires_ns = alarm_type, evidence.now_ns[counted] + 5 * S
    monkeypatch.setattr(evidence, "restart_block", lambda tid: made)
    wait = classify.classify(1, asleep(restart.ERESTART_RESTARTBLOCK, clock_id), evidence, two_words(60, 0))
    assert wait is not None
    assert (wait.clock, wait.remaining_ns, wait.source) == (counted, 5 * S, "restart-block")
    assert (wait.how, wait.kind, wait.uncertainty_ns) == ("rearm", "alarm", 0)


def test_an_alarm_sleep_until_a_point_in_time_is_made_again() -> None:
    at_ns = clock.host_now_ns(clock.REALTIME) + 90 * S
    sleeping = asleep(restart.ERESTARTNOHAND, clock.REALTIME_ALARM, 1)
    wait = classify.classify(1, sleeping, frozen(os.getpid()), two_words(*divmod(at_ns, S)))
    assert wait is not None
    assert (wait.clock, wait.deadline_ns, wait.how, wait.absolute) == (clock.REALTIME, at_ns, "redo", True)


def test_every_obstacle_is_named_at_once() -> None:
    tasks = [(5, Registers(orig_rax=39, rax=-512)), (6, Registers(orig_rax=110, rax=-512))]
    with pytest.raises(Refused) as refused:
        classify.classify_all(tasks, frozen(os.getpid()), memory())
    assert "getpid" in str(refused.value)
    assert "getppid" in str(refused.value)


def test_sources_that_disagree_beyond_what_they_may_be_off_are_told() -> None:
    exact = Deadline(1, 5_000_000_000, "restart-block")
    near = Deadline(1, 5_000_900_000, "sleeper")  # the task's slack explains it
    far = Deadline(1, 5_500_000_000, "timer-list", 100_000_000)
    assert disagreement_ns([exact, near]) == 0
    assert disagreement_ns([exact, near, far]) == 500_000_000 - 100_000_000 - 1_000_000
    assert disagreement_ns([exact, Deadline(0, 9_000_000_000, "sleeper")]) == 0  # of another clock
