"""A signal before, during and after a checkpoint, with and without SA_RESTART, in every kind of wait.

Made from the one table of every_wait: whether a signal with a handler ends a call with EINTR follows from its
restart code. The program would have noticed a call that goes on though a signal should have ended it (the
lost wake-up of a loop around epoll_pwait), one that ended though it should not, a handler that ran twice or
not at all, or a signal mask that is not the one from before the call.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr._native import lib
from livecr.kernel import procfs
from tests.integration.conftest import LIVECR, until
from tests.integration.every_wait import (
    KINDS,
    all_wait,
    before_any_ends,
    is_ended,
    long_enough_ms,
    objects,
    threads,
    until_all_block,
)
from tests.integration.waiting import (
    FATES,
    LEFT_RUNNING,
    PRIORITY,
    UNDISTURBED,
    again,
    answer,
    meet_all,
)

__all__ = ["objects"]

HANDLERS = ("handler", "restart")
SAME = ("result", "registers_kept", "calls", "mask", "handled", "data")
FIRST_MS = 6000  # the time in which all is over that happens to a program
NR_TGKILL, SIGUSR1, EINTR = 234, 10, 4
#: What ends them is a signal, by the program's own doing if by nobody else's.
SIGNALLED = {"pause", "sigsuspend"}


def signal_all(one: Any, kinds: list[str]) -> None:
    """SIGUSR1 to each thread that waits."""
    for tid in all_wait(one, kinds).values():
        assert lib.lcr_syscall(NR_TGKILL, one.pid, tid, SIGUSR1, 0, 0, 0) == 0


def until_handled(one: Any, kinds: list[str]) -> None:
    """Wait until no thread has a signal left to handle, and all are blocked in their calls again."""

    def handled() -> bool:
        found = [procfs.status(one.pid, tid) for tid in threads(one.pid).values()]
        return not any(int(told["SigPnd"], 16) & ~int(told["SigBlk"], 16) for told in found)

    until(handled, "all signals are handled")
    until_all_block(one, kinds)


def start(
    fates: tuple[str, ...], manner: str, first_ms: int, program: Any, target: Any, objects: Any
) -> dict[tuple[str, str], Any]:
    """One program for each handler and fate, all of whose threads are blocked."""
    found = {}
    for handler in HANDLERS:
        for fate in fates:
            command = [*PRIORITY, program("wait_all"), first_ms, handler, manner, *KINDS]
            found[handler, fate] = target(command, **objects())
    with before_any_ends(found.values()):
        for one in found.values():
            until_all_block(one, list(KINDS))
    return found


def compare(programs: dict[tuple[str, str], Any], *, before: bool) -> None:
    """Each with its undisturbed twin, and that one with what signal(7) says."""
    told = {which: {one["kind"]: one for one in answer(program)} for which, program in programs.items()}
    for (handler, fate), by_kind in told.items():
        for name, one in by_kind.items():
            undisturbed = told[handler, UNDISTURBED][name]
            where = f"{handler} {fate} {one}; undisturbed: {undisturbed}"
            assert {key: one[key] for key in SAME} == {key: undisturbed[key] for key in SAME}, where
            assert one["registers_kept"], where
            ended = is_ended(KINDS[name], sa_restart=handler == "restart")
            assert one["calls"] == (2 if before and ended else 1), where
            ended &= not before
            assert (one["result"] == -EINTR) == (ended or name in SIGNALLED), where
            assert one["handled"] == (2 if before and name in SIGNALLED else 1), where
            # How exact it is, is a matter of test_waits.
            assert ended or one["late_ns"] >= 0, where


@pytest.mark.time_limit(240)
def test_a_signal_before(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any, objects: Any
) -> None:
    """It has been handled, or is held back by the call's own mask; what it ended is made again."""

    def run(attempt: int) -> None:
        first_ms = long_enough_ms(FIRST_MS, attempt)
        programs = start(FATES, "again", first_ms, program, target, objects)
        with before_any_ends(programs.values()):
            for one in programs.values():
                signal_all(one, list(KINDS))
                until_handled(one, list(KINDS))
            meet_all([(fate, one, tmp_path / f"{one.pid}") for (_, fate), one in programs.items()], livecr)
            for one in programs.values():
                all_wait(one, list(KINDS))
        compare(programs, before=True)

    again(run)


def signal_in_the_freeze(one: Any, image: Path) -> None:
    """While a checkpoint that leaves it running holds it."""
    words: list[str | Path] = [LIVECR, "checkpoint", str(one.pid), "-o", image, "--leave-running"]
    with subprocess.Popen(words) as checkpoint:
        # No pause in between: it is frozen for some milliseconds only.
        while "TracerPid:\t0" in Path(f"/proc/{one.pid}/status").read_text():
            assert checkpoint.poll() is None
        signal_all(one, list(KINDS))
        assert checkpoint.wait(60) == 0


@pytest.mark.time_limit(240)
def test_a_signal_during(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, objects: Any
) -> None:
    """It comes while the program stands still for a checkpoint, and is handled as soon as it runs on."""

    def run(attempt: int) -> None:
        first_ms = long_enough_ms(FIRST_MS, attempt)
        programs = start((UNDISTURBED, LEFT_RUNNING), "once", first_ms, program, target, objects)
        with before_any_ends(programs.values()):
            for (_, fate), one in programs.items():
                if fate == UNDISTURBED:
                    signal_all(one, list(KINDS))
                else:
                    signal_in_the_freeze(one, tmp_path / f"{one.pid}")
        compare(programs, before=False)

    again(run)


@pytest.mark.time_limit(240)
def test_a_signal_after(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any, objects: Any
) -> None:
    """It does to a wait that was left running or restored what it does to any other."""

    def run(attempt: int) -> None:
        first_ms = long_enough_ms(FIRST_MS, attempt)
        programs = start(FATES, "once", first_ms, program, target, objects)
        with before_any_ends(programs.values()):
            meet_all([(fate, one, tmp_path / f"{one.pid}") for (_, fate), one in programs.items()], livecr)
            for one in programs.values():
                signal_all(one, list(KINDS))
        compare(programs, before=False)

    again(run)
