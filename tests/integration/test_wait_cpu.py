"""Waits for CPU time: sleeps on CPU clocks, and timers that count it.

The program would have noticed a wait that ended after another amount of CPU time than it asked for, EINTR
without a signal, a wrong remaining time or a timeout that was written to. It counts what it uses by itself,
since its CPU clocks begin anew when it is restored. The kernel looks at these timers when a tick finds their
tasks on a CPU, so even an undisturbed wait is some ticks too long; what livecr could do wrong (not counting
what was used before, or counting it twice) is half of the wait.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.waits.live import live_waits
from tests.integration.conftest import LIVECR, Target, until
from tests.integration.waiting import FATES, LEFT_RUNNING, PRIORITY, RESTORED, meet_all

MS = 1_000_000
WAIT_MS, PAUSE_MS = 240, 120
WAIT_NS, PAUSE_NS = WAIT_MS * MS, PAUSE_MS * MS
UNTOUCHED_NS = 7_000_000_007
EINTR = 4
#: What livecr's own calls in the program may use of its time, and what the program uses besides counting.
EARLY_NS = 5 * MS
#: Some ticks (1 to 10 ms each), and the time until the waiting task runs while the other uses more.
LATE_NS = 50 * MS
#: User and system time is counted in whole ticks, each for whoever it finds on the CPU.
BY_TICKS_NS = 90 * MS
CLOCK_NANOSLEEP, RT_SIGTIMEDWAIT = 230, 128

SLEEPS = ("relative", "relative-null", "relative-pid", "relative-thread", "absolute", "absolute-thread")
TIMERS = {
    "timer": signal.SIGALRM,
    "timer-absolute": signal.SIGALRM,
    "timer-thread": signal.SIGALRM,
    "itimer-prof": signal.SIGPROF,
    "itimer-virtual": signal.SIGVTALRM,
}
BY_TICKS = ("relative-prof", "itimer-prof", "itimer-virtual")


@pytest.fixture
def start(program: Callable[[str], Path], target: Callable[..., Target]) -> Callable[..., Target]:
    """Start one that waits, ``pause_ms`` into its wait; what uses the time stands still."""

    def begin(
        kind: str, *words: object, pause_ms: int = PAUSE_MS, built: tuple[str, ...] = (), call: int = 0
    ) -> Target:
        one = target([*PRIORITY, program("wait_cpu", *built), kind, WAIT_MS, pause_ms, *words])
        if pause_ms or kind.endswith("-other"):
            one.until_printed("paused")
        one.until_blocked(call or (RT_SIGTIMEDWAIT if "timer" in kind else CLOCK_NANOSLEEP))
        return one

    return begin


@pytest.fixture
def spinner(program: Callable[[str], Path], target: Callable[..., Target]) -> Target:
    """A process that uses CPU time when it is not stopped."""
    one = target([program("wait_cpu"), "spin"])
    stop(one)
    return one


def stop(one: Target) -> None:
    """Let it use no more."""
    one.signal(signal.SIGSTOP)
    until(lambda: "\nState:\tT" in Path(f"/proc/{one.pid}/status").read_text(), "it is stopped")


def answer(one: Target) -> Any:
    """What the program says when its wait is over."""
    assert one.wait() == 0, one.output()
    until(lambda: one.output().endswith("}\n"), "it has printed all")
    return json.loads(one.output().splitlines()[-1])


def waited_as_asked(kind: str, told: Any, result: int = 0) -> None:
    """It was woken when what it asked for had been used."""
    assert (told["result"], told["errno"], told["handled"], told["timeout_kept"]) == (result, 0, 0, 1), kind
    assert told["left_ns"] == UNTOUCHED_NS, f"{kind}: rmtp was written to"
    over_ns = told["used_ns"] - WAIT_NS
    if kind in BY_TICKS:
        assert abs(over_ns) <= BY_TICKS_NS, f"{kind} {over_ns}"
    else:
        assert -EARLY_NS <= over_ns <= LATE_NS, f"{kind} {over_ns}"


@pytest.mark.parametrize("fate", FATES)
def test_it_ends_when_the_time_has_been_used(
    fate: str, start: Callable[..., Target], tmp_path: Path, livecr: Any
) -> None:
    """What was used before the freeze counts, and what livecr uses to build the process does not."""
    waiting = [(kind, start(kind)) for kind in (*SLEEPS, "relative-prof", *TIMERS)]
    meet_all([(fate, one, tmp_path / f"{kind}.livecr") for kind, one in waiting], livecr)
    for kind, one in waiting:  # one after the other, so that they don't keep each other off the CPUs
        one.until_blocked()
        one.signal(signal.SIGUSR2)
        waited_as_asked(kind, answer(one), TIMERS.get(kind, 0))


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize("kind", ["relative", "absolute-thread"])
def test_the_time_is_being_used_all_the_while(
    kind: str, fate: str, start: Callable[..., Target], tmp_path: Path, livecr: Any
) -> None:
    """The checkpoint falls into the wait anywhere."""
    one = start(kind, pause_ms=0)
    meet_all([(fate, one, tmp_path / "image.livecr")], livecr)
    waited_as_asked(kind, answer(one))


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize(
    ("built", "call"),
    [(("-m32",), 267), (("-m32", "-D_TIME_BITS=64", "-D_FILE_OFFSET_BITS=64"), 407)],
    ids=["32-bit", "64-bit time"],
)
def test_of_a_32_bit_program(
    built: tuple[str, ...],
    call: int,
    fate: str,
    start: Callable[..., Target],
    tmp_path: Path,
    livecr: Any,
) -> None:
    """Twice, so that the second checkpoint finds it in restart_syscall, where both calls look alike."""
    waiting = [
        (kind, start(kind, "handler", built=built, call=call)) for kind in ("relative", "absolute-thread")
    ]
    for turn in range(2):
        meet_all([(fate, one, tmp_path / f"{kind}{turn}.livecr") for kind, one in waiting], livecr)
        for _, one in waiting:
            one.until_blocked()
    for kind, one in waiting:
        one.signal(signal.SIGUSR2)
        waited_as_asked(kind, answer(one))


@pytest.mark.parametrize("kind", ["relative", "absolute", "absolute-thread"])
def test_it_is_restored_twice(kind: str, start: Callable[..., Target], tmp_path: Path, livecr: Any) -> None:
    """Now it is in restart_syscall; the absolute one's timeout is on a clock that began anew twice."""
    one = start(kind)
    for turn in range(2):
        meet_all([(RESTORED, one, tmp_path / f"{turn}.livecr")], livecr, dead_seconds=0)
        one.until_blocked(219)
    one.signal(signal.SIGUSR2)
    waited_as_asked(kind, answer(one))


@pytest.mark.parametrize("fate", FATES)
def test_a_signal_ends_a_sleep_with_what_is_left(
    fate: str, start: Callable[..., Target], tmp_path: Path, livecr: Any
) -> None:
    """EINTR also with SA_RESTART, one run of the handler, and in rmtp CPU time; none if it is absolute."""
    rows = [("relative", "handler"), ("relative-thread", "restart"), ("absolute", "restart")]
    waiting = [(kind, start(kind, how)) for kind, how in rows]
    meet_all([(fate, one, tmp_path / f"{kind}.livecr") for kind, one in waiting], livecr)
    for kind, one in waiting:
        one.until_blocked()
        one.signal(signal.SIGUSR1)
        one.signal(signal.SIGUSR2)
        told = answer(one)
        assert (told["result"], told["errno"], told["handled"]) == (-1, EINTR, 1), kind
        assert told["timeout_kept"]
        if kind == "absolute":
            assert told["left_ns"] == UNTOUCHED_NS
        else:
            assert abs(told["left_ns"] + told["used_when_handled_ns"] - WAIT_NS) <= EARLY_NS, f"{kind} {told}"


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
def test_a_sleep_that_was_stopped_and_continued_before(
    fate: str, start: Callable[..., Target], tmp_path: Path, livecr: Any
) -> None:
    """As a shell's job control would: it is in restart_syscall, or was made again, before the checkpoint."""
    for kind in ("relative", "absolute"):
        one = start(kind, "handler")
        stop(one)
        one.signal(signal.SIGCONT)
        one.until_blocked(219 if kind == "relative" else CLOCK_NANOSLEEP)
        meet_all([(fate, one, tmp_path / f"{kind}.livecr")], livecr)
        one.until_blocked()
        one.signal(signal.SIGUSR1)
        one.signal(signal.SIGUSR2)
        told = answer(one)
        assert (told["result"], told["errno"], told["handled"]) == (-1, EINTR, 1), kind
        if kind == "relative":
            assert abs(told["left_ns"] + told["used_when_handled_ns"] - WAIT_NS) <= EARLY_NS, told


def test_a_signal_in_the_middle_of_a_checkpoint(start: Callable[..., Target], image: Path) -> None:
    """It comes while the program stands still, and is handled as soon as it runs on: once, with EINTR."""
    one = start("relative", "handler")
    with subprocess.Popen([LIVECR, "checkpoint", str(one.pid), "-o", image, "--leave-running"]) as checkpoint:
        # No pause in between: it is frozen for some milliseconds only.
        while "TracerPid:\t0" in Path(f"/proc/{one.pid}/status").read_text() and checkpoint.poll() is None:
            pass
        one.signal(signal.SIGUSR1)
        assert checkpoint.wait(20) == 0
    one.signal(signal.SIGUSR2)
    told = answer(one)
    assert (told["result"], told["errno"], told["handled"]) == (-1, EINTR, 1)
    assert abs(told["left_ns"] + told["used_when_handled_ns"] - WAIT_NS) <= EARLY_NS, told


# -- what is told, and what is refused ----------------------------------------------------------------


@pytest.mark.parametrize("kind", SLEEPS)
def test_what_is_left_is_shown(kind: str, start: Callable[..., Target]) -> None:
    """From the timer on the kernel stack, to the tick, without stopping it."""
    one = start(kind)
    (wait,) = [wait for wait in live_waits(one.pid) if wait.tid == one.pid]
    assert (wait.call, wait.source) == ("clock_nanosleep", "sleeper")
    assert wait.remaining_ns is not None
    assert abs(wait.remaining_ns - (WAIT_NS - PAUSE_NS)) <= wait.uncertainty_ns + EARLY_NS
    assert "CPUTIME" in wait.on or f"CPU clock of {'thread' if 'thread' in kind else 'process'}" in wait.on


@pytest.mark.parametrize("kind", ["relative-child", "absolute-child", "timer-child"])
@pytest.mark.parametrize("fate", FATES)
def test_its_child_uses_the_time(
    kind: str, fate: str, start: Callable[..., Target], tmp_path: Path, livecr: Any
) -> None:
    """It is frozen and restored with it, and so its clock begins anew too."""
    one = start(kind)
    (child,) = [int(word) for word in Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()]
    meet_all([(fate, one, tmp_path / "image.livecr")], livecr)
    one.until_blocked()
    os.kill(child, signal.SIGUSR2)
    waited_as_asked(kind, answer(one), signal.SIGALRM if "timer" in kind else 0)


@pytest.mark.parametrize("kind", ["relative-other", "absolute-other", "timer-other"])
@pytest.mark.parametrize("fate", FATES)
def test_another_process_uses_the_time(
    kind: str, fate: str, start: Callable[..., Target], spinner: Target, tmp_path: Path, livecr: Any
) -> None:
    """That one lives on by itself, and its clock goes on."""
    one = start(kind, "handler", spinner.pid)
    meet_all([(fate, one, tmp_path / "image.livecr")], livecr)
    spinner.signal(signal.SIGCONT)
    waited_as_asked(kind, answer(one), signal.SIGALRM if "timer" in kind else 0)


@pytest.mark.parametrize("kind", ["relative-other", "absolute-other", "timer-other"])
def test_the_other_process_has_ended_meanwhile(
    kind: str, start: Callable[..., Target], spinner: Target, image: Path, livecr: Any
) -> None:
    """Nothing is made of the image: the kernel would let it wait on the clock of whoever has that number."""
    one = start(kind, "handler", spinner.pid)
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    spinner.end()
    said = livecr("restore", image, exit_code=3).stderr
    assert f"CPU clock of process {spinner.pid}" in said and "has ended" in said
    assert not Path(f"/proc/{one.pid}").exists()


def test_a_sleep_on_the_clock_of_a_process_that_has_ended_is_refused_before_the_freeze(
    start: Callable[..., Target], spinner: Target, image: Path, livecr: Any
) -> None:
    """It sleeps for ever; after a mere interruption the kernel would end it with EINVAL."""
    one = start("relative-other", "handler", spinner.pid)
    spinner.end()
    said = livecr("checkpoint", one.pid, "-o", image, exit_code=3).stderr
    assert f"CPU clock of process {spinner.pid}" in said and "has ended" in said
    assert f"CPU clock of process {spinner.pid}" in livecr("check", one.pid, exit_code=3).stderr
    one.until_blocked(CLOCK_NANOSLEEP)
    one.signal(signal.SIGUSR1)
    told = answer(one)
    assert (told["result"], told["errno"], told["handled"]) == (-1, EINTR, 1)


def test_a_timer_of_which_nothing_tells_whose_time_it_counts_is_refused(
    start: Callable[..., Target], livecr: Any
) -> None:
    """The thread that made it did so without naming itself, and the kernel does not name it either."""
    one = start("timer-self")
    assert "CPU clock of one thread" in livecr("check", one.pid, exit_code=3).stderr


def test_without_bpf_a_restored_point_in_time_is_refused(
    start: Callable[..., Target], tmp_path: Path, livecr: Any
) -> None:
    """Its argument is on the clock as it was before the restore; refused, it comes to its end."""
    one = start("absolute")
    meet_all([(RESTORED, one, tmp_path / "0.livecr")], livecr, dead_seconds=0)
    one.until_blocked(219)
    again = ("checkpoint", one.pid, "-o", tmp_path / "1.livecr")
    said = livecr(*again, exit_code=3, LIVECR_WITHOUT="bpf").stderr
    assert "nothing tells" in said
    one.signal(signal.SIGUSR2)
    waited_as_asked("absolute", answer(one))
