"""Programs that wait, the three things that may happen to one, and how their times are judged.

What may happen: nothing, a checkpoint, death and restore. The programs run with real-time priority where they
may, so that what they measure is their wait and not how busy the machine is. Even so a task may be woken too
late, or preempted, by a millisecond and more. So what is judged by a clock, and came late or missed its
moment, is tried again with fresh processes (`in_time`, `again`): an error of livecr's would be there again.
What comes too early, and any other answer than the right one, fails at once. Used by whatever test looks at
a clock.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from livecr.waits.catalog import CATALOG
from tests.integration.conftest import LIVECR, Disturbed, until

__all__ = [
    *("ALLOWED_NS", "FATES", "LEFT_RUNNING", "NUMBERS", "PRIORITY", "RESTORED", "UNDISTURBED"),
    *("again", "answer", "checkpoint", "in_time", "meet_all", "meet_and_compare", "milliseconds"),
    "starting_ms",
]

UNDISTURBED, LEFT_RUNNING, RESTORED = FATES = ("undisturbed", "left-running", "restored")
#: What a wait may be off by, beyond what the undisturbed ones are.
ALLOWED_NS = 1_000_000
#: Real-time where that is allowed (a container's cgroup may have no share of it), else the next best.
_REAL_TIME = ["chrt", "--fifo", "10"]
_MAY = subprocess.run([*_REAL_TIME, "true"], capture_output=True).returncode == 0
PRIORITY = _REAL_TIME if _MAY else ["nice", "-n", "-20"]
NUMBERS = {row.name: row.number for row in CATALOG.values()}
#: What tests/programs/wait_call.c tells that has to be the same under all three fates.
SAME = ("result", "errno", "handled", "data")
#: The pipe's buffer is emptied and filled in turn by two tasks: how often they change places is chance.
TAKES_TURNS = {"write-more"}
_TRIES = 3
#: meet_all needs as long for one kind as livecr needs to start five times: and as much again for safety.
_STARTS_A_KIND = 10


def again(attempt: Callable[[int], None]) -> None:
    """Make ``attempt(0)``; if it was Disturbed ``attempt(1)``, and then ``attempt(2)``, which counts."""
    for number in range(_TRIES - 1):
        try:
            return attempt(number)
        except Disturbed as disturbed:
            print(f"again, since {disturbed}")
    return attempt(_TRIES - 1)


def in_time(
    kinds: Iterable[str],
    run: Callable[[list[str]], dict[tuple[str, str], int]],
    *,
    allowed_ns: int = ALLOWED_NS,
    early_ns: int = 0,
) -> None:
    """Let ``run(kinds)`` tell by how much each kind was late under each fate, in ns.

    None may be early, by more than ``early_ns``, which is what their clock cannot tell. Those that are later
    than ``allowed_ns`` and the latest undisturbed one together are run again.
    """
    remaining = list(kinds)

    def attempt(number: int) -> None:
        nonlocal remaining
        late_ns = run(remaining)
        assert all(late >= -early_ns for late in late_ns.values()), f"too early, in ns: {late_ns}"
        noise_ns = max((late for (_, fate), late in late_ns.items() if fate == UNDISTURBED), default=0)
        too_late = {which: late for which, late in late_ns.items() if late > allowed_ns + noise_ns}
        remaining = sorted({kind for kind, _ in too_late})
        if remaining:
            raise Disturbed(f"too late in attempt {number} by (ns): {too_late}; noise {noise_ns}")

    again(attempt)


def starting_ms() -> int:
    """How long it takes just now to start livecr: a measure of how busy the machine is."""
    took = []
    for _ in range(2):  # the first may have to compile
        began = time.monotonic()
        subprocess.run([LIVECR, "--version"], check=True, capture_output=True)
        took.append(time.monotonic() - began)
    return round(1000 * min(took))


def milliseconds(count: int) -> int:
    """How long to wait so that ``count`` kinds can all meet their three fates before it is over."""
    return min(20_000, 1500 + count * max(300, _STARTS_A_KIND * starting_ms()))


def checkpoint(one: Any, image: Path, livecr: Any, *, leave_running: bool = False) -> None:
    """Checkpoint a program, which is left running or has been ended then. Disturbed if it was over before."""
    try:
        livecr("checkpoint", one.pid, "-o", image, *["--leave-running"] * leave_running)
    except AssertionError:
        one.must_run()
        raise
    if not leave_running:
        one.killed()


def meet_all(programs: list[tuple[str, Any, Path]], livecr: Any, *, dead_seconds: float = 0.3) -> None:
    """Let programs meet their fates; all run when this returns. Disturbed if one was over before it met its.

    Those that are to die are all dead together for at least ``dead_seconds``.
    """
    for fate, one, image in programs:
        if fate != UNDISTURBED:
            checkpoint(one, image, livecr, leave_running=fate == LEFT_RUNNING)
    dead = [(one, image) for fate, one, image in programs if fate == RESTORED]
    if dead:
        time.sleep(dead_seconds)  # not waiting for anything: time that must not count
    for one, image in dead:
        one.restore(image)


def answer(one: Any) -> Any:
    """The JSON that the program has printed, having ended well."""
    assert one.wait() == 0, one.output()
    until(lambda: one.output().endswith("\n"), "it has printed all")
    return json.loads(one.output())


def meet_and_compare(
    binary: Path, calls: dict[str, int], target: Callable[..., Any], directory: Path, livecr: Any
) -> dict[tuple[str, str], int]:
    """Three twins of wait_call for each kind (its call's number is told) meet their fates and tell the same.

    Returns by how much each was late, in ns.
    """
    wait_ms = milliseconds(len(calls))
    twins = [(kind, fate, target([*PRIORITY, binary, kind, wait_ms])) for kind in calls for fate in FATES]
    for kind, _, one in twins:
        one.until_blocked(calls[kind])
    meet_all([(fate, one, directory / f"{one.pid}.livecr") for _, fate, one in twins], livecr)
    told = {(kind, fate): answer(one) for kind, fate, one in twins}
    late_ns = {}
    for (kind, fate), one in told.items():
        undisturbed = told[kind, UNDISTURBED]
        where = f"{kind} {fate}: {one}; undisturbed: {undisturbed}"
        assert {name: one[name] for name in SAME} == {name: undisturbed[name] for name in SAME}, where
        if kind not in TAKES_TURNS:
            # What is left is less by what it was late; what it is off beyond that counts like being late.
            explained_ns = abs(one["late_ns"] - undisturbed["late_ns"])
            left_ns = abs(one["left_ns"] - undisturbed["left_ns"]) - explained_ns
            late_ns[kind, fate] = one["late_ns"] if one["late_ns"] < 0 else max(one["late_ns"], left_ns)
    return late_ns
