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
from tests.integration.conftest import LIVECR, until
from tests.integration.waiting import (
    ALLOWED_NS,
    FATES,
    NUMBERS,
    PRIORITY,
    UNDISTURBED,
    answer,
    in_time,
    meet_all,
    milliseconds,
)

EINTR = 4
WAIT_MS = 25000
NS_PER_MS = 1_000_000
WAIT_NS = WAIT_MS * NS_PER_MS
LONG_NS = 60_000_000_000  # the timeout of the kinds that are woken before it
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
    twins = [
        (
            row,
            fate,
            target(
                [*PRIORITY, program("wait_call"), row[0], 8000 if group == "goes on" else WAIT_MS, row[1]]
            ),
        )
        for row in GROUPS[group]
        for fate in FATES
    ]
    for row, _, one in twins:
        one.until_blocked(NUMBERS[row[2]])
    meet_all([(fate, one, tmp_path / f"{n}.livecr") for n, (_, fate, one) in enumerate(twins)], livecr)
    for _, _, one in twins:
        one.signal(signal.SIGUSR1)
    told = [(row, fate, answer(one)) for row, fate, one in twins]
    for row, fate, one in told:
        where = f"{row[0]} {row[1]} {fate}: {one}"
        assert (one["result"], one["errno"], one["handled"]) == (row[3], row[4], 1), where
        if row[5] is not None:
            assert abs(one["left_ns"] + one["handled_ns"] - row[5]) <= ALLOWED_NS + noise_ns(told, row), where
        elif row[0] != "ppoll":
            assert one["left_ns"] == UNTOUCHED_NS, where


def noise_ns(told: list[Any], row: tuple[Any, ...]) -> int:
    """By how much the undisturbed ones of the same kind are off: how late a handler runs on this machine."""
    return max(
        abs(int(one["left_ns"]) + int(one["handled_ns"]) - int(other[5]))
        for other, fate, one in told
        if fate == UNDISTURBED and other[5] == row[5]
    )


@pytest.mark.parametrize("kind", ["nanosleep", "poll", "read"])
def test_a_signal_in_the_middle_of_a_checkpoint(
    kind: str, program: Callable[[str], Path], target: Callable[..., Any], image: Path
) -> None:
    """It comes while the program stands still, and is handled as soon as it runs on: once, with EINTR."""
    one = target([*PRIORITY, program("wait_call"), kind, WAIT_MS, "handler"])
    one.until_blocked(NUMBERS[kind])
    began_ns = time.monotonic_ns()
    with subprocess.Popen([LIVECR, "checkpoint", str(one.pid), "-o", image, "--leave-running"]) as checkpoint:
        # No pause in between: it is frozen for some milliseconds only.
        while "TracerPid:\t0" in Path(f"/proc/{one.pid}/status").read_text() and checkpoint.poll() is None:
            pass
        one.signal(signal.SIGUSR1)
        assert checkpoint.wait(20) == 0
    took_ns = time.monotonic_ns() - began_ns
    told = answer(one)
    assert (told["result"], told["errno"], told["handled"]) == (-1, EINTR, 1)
    if kind == "nanosleep":
        # The sleep was over when it was interrupted by the freeze, the handler ran when that was over.
        assert -ALLOWED_NS <= told["left_ns"] + told["handled_ns"] - WAIT_NS <= took_ns


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


def stopped_twins(kinds: list[str], program: Any, target: Any, tmp_path: Path, livecr: Any) -> list[Any]:
    """(kind, fate, program), all stopped and continued, and then met by their fates."""
    twins = [
        (kind, fate, target([*PRIORITY, program("wait_call"), kind, milliseconds(len(kinds)), "handler"]))
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
        twins = stopped_twins(kinds, program, target, tmp_path, livecr)
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
    kinds = ["nanosleep", "relative-tai"]
    twins = stopped_twins(kinds, program, target, tmp_path, livecr)
    for _, _, one in twins:
        one.signal(signal.SIGUSR1)
    told = [
        ((kind, "", "", -1, EINTR, milliseconds(len(kinds)) * NS_PER_MS), fate, answer(one))
        for kind, fate, one in twins
    ]
    for row, fate, one in told:
        where = f"{row[0]} {fate}: {one}"
        assert (one["result"], one["errno"], one["handled"]) == (-1, EINTR, 1), where
        assert abs(one["left_ns"] + one["handled_ns"] - row[5]) <= ALLOWED_NS + noise_ns(told, row), where


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
