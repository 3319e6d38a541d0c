"""Calls that a freeze ends with EINTR: it must not reach the program, unless a signal of its own causes it.

The program would have noticed EINTR, a wait of another length, or a changed register or timeout: it looks at
all of them by itself.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import until
from tests.integration.waiting import (
    FATES,
    LEFT_RUNNING,
    NUMBERS,
    PRIORITY,
    RESTORED,
    UNDISTURBED,
    in_time,
    meet_all,
    milliseconds,
)

KINDS = {
    "epoll_wait": 232,
    "epoll_pwait": 281,
    "epoll_pwait2": 441,
    "rt_sigtimedwait": 128,
    "semtimedop": 220,
}
#: The same of calls that wait for completions; "-some": they tell that they had some already.
COMPLETIONS = {
    "io_getevents": 208,
    "io_getevents-some": 208,
    "io_pgetevents": 333,
    "io_uring_enter": 426,
    "io_uring_enter-some": 426,
    "io_uring_enter-until": 426,
}
#: And with a least time to wait (min_wait_usec).
LEAST = {"io_uring_enter-least": 426, "io_uring_enter-both": 426, "io_uring_enter-alone": 426}
SAME = ("result", "registers_kept", "timeout_kept", "handled")
EINTR, EAGAIN, ETIME = -4, -11, -62
#: What the calls return when their time is over, and when a signal ends them.
AT_LAST = {
    "rt_sigtimedwait": EAGAIN,
    "semtimedop": EAGAIN,
    "io_getevents-some": 1,
    "io_uring_enter": ETIME,
    "io_uring_enter-some": 1,
    "io_uring_enter-until": ETIME,
    "io_uring_enter-least": 1,
    "io_uring_enter-both": ETIME,
    "io_uring_enter-alone": ETIME,
}
BY_SIGNAL = {"io_getevents-some": 1, "io_uring_enter-some": 1, "io_uring_enter-least": 1}


def answer(one: Any) -> Any:
    """What the program says when its call has returned."""
    assert one.wait() == 0, one.output()
    until(lambda: one.output().endswith("}\n"), "it has printed all")
    return json.loads(one.output().splitlines()[1])


@pytest.mark.parametrize("group", [KINDS, COMPLETIONS, LEAST], ids=["events", "completions", "least"])
def test_it_goes_on_with_the_time_left(
    group: dict[str, int],
    program: Callable[[str], Path],
    target: Callable[..., Any],
    tmp_path: Path,
    livecr: Any,
) -> None:
    """Undisturbed, left running and restored: the same answer, registers and length."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        wait_ms = milliseconds(len(kinds))
        twins = {
            (kind, fate): target([*PRIORITY, program("wait_again"), kind, wait_ms])
            for kind in kinds
            for fate in FATES
        }
        for (kind, _), one in twins.items():
            one.until_blocked(group[kind])
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for (_, fate), one in twins.items()], livecr)
        told = {which: answer(one) for which, one in twins.items()}
        for (kind, fate), one in told.items():
            undisturbed = told[kind, UNDISTURBED]
            assert {name: one[name] for name in SAME} == {name: undisturbed[name] for name in SAME}, (
                kind,
                fate,
            )
            assert undisturbed["result"] == AT_LAST.get(kind, 0)
            assert undisturbed["registers_kept"]
        return {which: one["took_ns"] - wait_ms * 1_000_000 for which, one in told.items()}

    in_time(group, run)


SIGNALLED = [(kind, ms, fate) for kind in KINDS for ms in (60_000, -1) for fate in (LEFT_RUNNING, RESTORED)]
SIGNALLED += [(kind, 60_000, LEFT_RUNNING) for kind in COMPLETIONS]
SIGNALLED += [(kind, 60_000, RESTORED) for kind in LEAST]
SIGNALLED += [(kind, -1, RESTORED) for kind in COMPLETIONS if kind != "io_uring_enter-until"]


@pytest.mark.parametrize(("kind", "timeout_ms", "fate"), SIGNALLED)
def test_a_signal_of_its_own_ends_it(
    kind: str,
    timeout_ms: int,
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    tmp_path: Path,
    livecr: Any,
) -> None:
    """EINTR after its handler ran, once, and all registers as they were; two checkpoints in one wait."""
    one = target([program("wait_again"), kind, timeout_ms])
    one.until_blocked((KINDS | COMPLETIONS | LEAST)[kind])
    livecr("checkpoint", one.pid, "-o", tmp_path / "before.livecr", "--leave-running")
    one.until_blocked()
    meet_all([(fate, one, tmp_path / "image.livecr")], livecr)
    one.until_blocked()
    one.signal(signal.SIGUSR1)
    told = answer(one)
    ended = BY_SIGNAL.get(kind, EINTR)
    assert {name: told[name] for name in SAME} == dict(zip(SAME, (ended, 1, 1, 1), strict=True))


def shim_pages(pid: int) -> list[str]:
    """The addresses of mappings that only shims are made of: executable, and of no file."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line.split()[0] for line in lines if line.split()[1] == "r-xp" and len(line.split()) == 5]


@pytest.mark.parametrize("kind", ["epoll_wait", "rt_sigtimedwait"])
def test_a_handler_returns_into_it_after_a_restore(
    kind: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    tmp_path: Path,
    livecr: Any,
) -> None:
    """Checkpointed in a handler that has interrupted a call made again: EINTR, and registers as they were."""
    one = target([program("wait_again"), kind, 20_000, "stay"])
    one.until_blocked(KINDS[kind])
    livecr("checkpoint", one.pid, "-o", tmp_path / "before.livecr", "--leave-running")
    one.until_blocked()
    one.signal(signal.SIGUSR1)
    one.until_blocked(NUMBERS["pause"])
    meet_all([(RESTORED, one, tmp_path / "image.livecr")], livecr)
    assert len(shim_pages(one.pid)) == 1
    one.until_blocked(NUMBERS["pause"])
    one.signal(signal.SIGHUP)
    told = answer(one)
    assert {name: told[name] for name in SAME} == dict(zip(SAME, (EINTR, 1, 1, 1), strict=True))


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
def test_what_a_wait_needed_goes_with_the_next_checkpoint(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """Memory for shims does not grow by checkpoints, and is gone when no task waits any more."""
    one = target([program("wait_pool"), 3, milliseconds(3), 100, 1])
    for n in range(3):
        one.until_blocked(tid=max(tids(one.pid)))
        meet_all([(fate, one, tmp_path / f"{n}.livecr")], livecr, dead_seconds=0)
        assert len(shim_pages(one.pid)) == 1
    until(lambda: len(tids(one.pid)) == 1 or one.has_ended(), "its threads have ended", 30)
    assert not one.has_ended(), one.output()
    livecr("checkpoint", one.pid, "-o", tmp_path / "last.livecr", "--leave-running")
    assert not shim_pages(one.pid)


def tids(pid: int) -> list[int]:
    """Of all its tasks."""
    return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]


def test_many_threads_each_with_a_timeout_of_its_own(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """Sixty-four in epoll_wait, 7 ms apart: none returns anything but 0, nor early, nor late."""
    first_ms = milliseconds(2)

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        twins = {fate: target([*PRIORITY, program("wait_pool"), 64, first_ms, 7, 1]) for fate in FATES}
        for one in twins.values():
            one.until_printed("waiting")
            for tid in sorted(tids(one.pid)):
                one.until_blocked(tid=tid)
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for fate, one in twins.items()], livecr)
        for one in twins.values():
            one.signal(signal.SIGUSR1)
        told = {fate: answer(one) for fate, one in twins.items()}
        assert all(one["wrong"] == 0 and one["earliest_ns"] >= 0 for one in told.values()), told
        return {("pool", fate): one["latest_ns"] for fate, one in told.items()}

    in_time(["pool"], run)
