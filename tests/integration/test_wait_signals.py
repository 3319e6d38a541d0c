"""A signal ends a wait, or does not, just as it would have without the checkpoint.

The program installs a handler and blocks. The signal comes after a restore, in the middle of a checkpoint,
or while the program is stopped. It would have noticed another result, a handler that did not run or ran
twice, or a remaining time that does not fit the moment at which its handler ran.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import LIVECR, Disturbed, until
from tests.integration.waiting import (
    FATES,
    NUMBERS,
    PRIORITY,
    UNDISTURBED,
    again,
    answer,
    in_time,
    meet_all,
    milliseconds,
)

EINTR = 4
WAIT_MS = 60_000
NS_PER_MS = 1_000_000
WAIT_NS = WAIT_MS * NS_PER_MS
LONG_NS = 60_000_000_000  # the timeout of the kinds that are woken before it
EARLY_NS = 1000  # select tells what is left in whole microseconds
UNTOUCHED_NS = 7_000_000_007

#: kind, how the handler is installed, the call, result, errno, what rmtp and the like are to add up to with
#: the time of the handler, None where nothing is written.
ROWS = [
    ("nanosleep", "handler", "nanosleep", -1, EINTR, WAIT_NS),
    ("nanosleep", "restart", "nanosleep", -1, EINTR, WAIT_NS),
    ("nanosleep-same", "restart", "nanosleep", -1, EINTR, WAIT_NS),
    ("relative-boottime", "handler", "clock_nanosleep", -1, EINTR, WAIT_NS),
    ("absolute-monotonic", "restart", "clock_nanosleep", -1, EINTR, None),
    ("futex", "restart", "futex", -1, EINTR, None),
    ("futex-forever", "handler", "futex", -1, EINTR, None),
    ("futex-forever", "restart", "futex", 0, 0, None),
    ("poll", "restart", "poll", -1, EINTR, None),
    ("ppoll-woken", "restart", "ppoll", -1, EINTR, LONG_NS),
    ("ppoll", "handler", "ppoll", 0, 0, None),  # its mask holds the signal back until the timeout
    ("select", "restart", "select", -1, EINTR, WAIT_NS),
    ("pause", "restart", "pause", -1, EINTR, None),
    ("read", "handler", "read", -1, EINTR, None),
    ("read", "restart", "read", 5, 0, None),
    ("write", "restart", "write", 4096, 0, None),
]
#: Those that the signal does not end wait until they are due, the others have time enough to be signalled.
GROUPS = {
    "a remaining time": [row for row in ROWS if row[5]],
    "none": [row for row in ROWS if not row[5] and row[4]],
    "goes on": [row for row in ROWS if not row[4]],
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_signal_after_the_checkpoint(
    group: str, program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """EINTR or a restart as SA_RESTART has it, one run of the handler, and the time that is really left."""
    rows = {f"{row[0]} {row[1]}": row for row in GROUPS[group]}

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        wait_ms = milliseconds(len(kinds)) if group == "goes on" else WAIT_MS
        twins = {
            (kind, fate): target([*PRIORITY, program("wait_call"), rows[kind][0], wait_ms, rows[kind][1]])
            for kind in kinds
            for fate in FATES
        }
        for (kind, _), one in twins.items():
            one.until_blocked(NUMBERS[rows[kind][2]])
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for (_, fate), one in twins.items()], livecr)
        for one in twins.values():
            one.must_run()
            one.signal(signal.SIGUSR1)
        late_ns = {}
        for (kind, fate), told in {which: answer(one) for which, one in twins.items()}.items():
            name, _, _, result, errno, asked_ns = rows[kind]
            where = f"{kind} {fate}: {told}"
            assert (told["result"], told["errno"], told["handled"]) == (result, errno, 1), where
            if asked_ns is not None:
                late_ns[kind, fate] = handler_late_ns(told, asked_ns)
            elif name != "ppoll":
                assert told["left_ns"] == UNTOUCHED_NS, where
        return late_ns

    in_time(rows, run, early_ns=EARLY_NS)


def handler_late_ns(told: Any, asked_ns: int) -> int:
    """How much later the handler looked at its clock than the kernel at what was left of the wait.

    A task can be preempted between the two, so it may be late; the kernel comes first, so it is not early.
    """
    return int(told["left_ns"]) + int(told["handled_ns"]) - asked_ns


@pytest.mark.parametrize("kind", ["nanosleep", "poll", "read"])
def test_a_signal_in_the_middle_of_a_checkpoint(
    kind: str, program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path
) -> None:
    """It comes while the program stands still, and is handled as soon as it runs on: once, with EINTR."""

    def attempt(number: int) -> None:
        one = target([*PRIORITY, program("wait_call"), kind, WAIT_MS, "handler"])
        one.until_blocked(NUMBERS[kind])
        began_ns = time.monotonic_ns()
        image = tmp_path / f"{number}.livecr"
        with subprocess.Popen(
            [LIVECR, "checkpoint", str(one.pid), "-o", image, "--leave-running"]
        ) as checkpoint:
            # No pause in between: it is frozen for some milliseconds only.
            frozen = False
            while not frozen and checkpoint.poll() is None:
                frozen = "TracerPid:\t0" not in Path(f"/proc/{one.pid}/status").read_text()
            one.signal(signal.SIGUSR1)
            assert checkpoint.wait(40) == 0
        told = answer(one)
        took_ns = time.monotonic_ns() - began_ns
        assert (told["result"], told["errno"], told["handled"]) == (-1, EINTR, 1)
        if kind == "nanosleep":
            # The sleep was over when it was interrupted by the freeze, the handler ran when that was over.
            assert -EARLY_NS <= handler_late_ns(told, WAIT_NS) <= took_ns
        if not frozen:
            raise Disturbed("nobody saw it frozen")

    again(attempt)


STOPPED_KINDS = {
    "nanosleep": "nanosleep",
    "nanosleep-null": "nanosleep",
    "relative-tai": "clock_nanosleep",
    "absolute-boottime": "clock_nanosleep",
    "futex": "futex",
    "bitset-monotonic": "futex",
    "poll": "poll",
    "select": "select",
}


def stop_and_continue(one: Any) -> None:
    """As a shell's job control would: where a restart block is used, the task is now in restart_syscall."""
    one.signal(signal.SIGSTOP)
    until(lambda: "\nState:\tT" in Path(f"/proc/{one.pid}/status").read_text(), "it is stopped")
    one.signal(signal.SIGCONT)
    one.until_blocked()


def stopped_twins(
    kinds: list[str], wait_ms: int, program: Any, target: Any, tmp_path: Path, livecr: Any
) -> list[Any]:
    """(kind, fate, program), all stopped and continued, and then met by their fates."""
    twins = [
        (kind, fate, target([*PRIORITY, program("wait_call"), kind, wait_ms, "handler"]))
        for kind in kinds
        for fate in FATES
    ]
    for kind, _, one in twins:
        one.until_blocked(NUMBERS[STOPPED_KINDS[kind]])
        stop_and_continue(one)
    meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for _, fate, one in twins], livecr)
    return twins


def test_a_wait_that_was_stopped_and_continued_before(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """It is in restart_syscall already, and must not notice that it is restarted once more."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        twins = stopped_twins(kinds, milliseconds(len(kinds)), program, target, tmp_path, livecr)
        told = {(kind, fate): answer(one) for kind, fate, one in twins}
        for (kind, fate), one in told.items():
            undisturbed = told[kind, UNDISTURBED]
            for name in ("result", "errno", "handled"):
                assert one[name] == undisturbed[name], f"{kind} {fate}: {one}; undisturbed: {undisturbed}"
        return {which: one["late_ns"] for which, one in told.items()}

    in_time(STOPPED_KINDS, run)


def test_a_signal_to_a_sleep_that_was_stopped_and_continued_before(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """The second interruption tells the remaining time just as the first would have."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        twins = stopped_twins(kinds, WAIT_MS, program, target, tmp_path, livecr)
        for _, _, one in twins:
            one.signal(signal.SIGUSR1)
        told = {(kind, fate): answer(one) for kind, fate, one in twins}
        for which, one in told.items():
            assert (one["result"], one["errno"], one["handled"]) == (-1, EINTR, 1), f"{which}: {one}"
        return {which: handler_late_ns(one, WAIT_NS) for which, one in told.items()}

    in_time(["nanosleep", "relative-tai"], run, early_ns=EARLY_NS)


def test_a_timeout_in_read_only_memory_is_refused(
    program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """A freeze would end such a ppoll with EINTR; refused, it comes to its end."""
    one = target([*PRIORITY, program("wait_call"), "ppoll-constant", 5000])
    one.until_blocked(NUMBERS["ppoll"])
    said = livecr("checkpoint", one.pid, "-o", image, "--leave-running", exit_code=3).stderr
    assert "ppoll" in said and "read-only" in said
    told = answer(one)
    assert (told["result"], told["errno"]) == (0, 0)
    assert not image.exists()
