"""Waits under harder conditions: several checkpoints in one sleep, lesser sources, many threads, and clocks.

The programs would have noticed a sleep that is not over when it should be, or a clock that jumps.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.restore import read
from tests.integration.waiting import (
    ALLOWED_NS,
    FATES,
    LEFT_RUNNING,
    NUMBERS,
    PRIORITY,
    RESTORED,
    UNDISTURBED,
    answer,
    in_time,
    meet_all,
    milliseconds,
)

NS_PER_MS = 1_000_000
SLEEP_NS = 50 * NS_PER_MS  # what `sleep` may be off by: it is seen from outside, start and end included


def seconds_until_ended(pid: int, within_seconds: float = 30) -> Callable[[], float]:
    """A function that waits until this process has ended, and tells when that was (time.monotonic)."""
    pidfd = os.pidfd_open(pid)

    def wait() -> float:
        try:
            assert select.select([pidfd], [], [], within_seconds)[0], "it has not ended"
            return time.monotonic()
        finally:
            os.close(pidfd)

    return wait


def shift_seconds(pid: int) -> float:
    """By how much a program's CLOCK_MONOTONIC is behind the host's: how long it was dead."""
    rows = [line.split() for line in Path(f"/proc/{pid}/timens_offsets").read_text().splitlines()]
    return -next(int(row[1]) + int(row[2]) / 1e9 for row in rows if row[0] == "monotonic")


@pytest.mark.time_limit(120)
def test_sleep(target: Callable[..., Any], tmp_path: Path, livecr: Any) -> None:
    """`sleep 60`, met after 20 s, exits 0 after 40 s more; strace sees its call return 0, no EINTR."""
    began, sleepers = {}, {}
    for fate in FATES:
        began[fate] = time.monotonic()
        sleepers[fate] = target(["sleep", "60"])
    for one in sleepers.values():
        one.until_blocked(NUMBERS["clock_nanosleep"])
    time.sleep(max(0, began[RESTORED] + 20 - time.monotonic()))
    meet_all([(fate, one, tmp_path / fate) for fate, one in sleepers.items()], livecr, dead_seconds=1)
    seen = tmp_path / "strace"
    strace = subprocess.Popen(["strace", "-qq", "-o", seen, "-p", str(sleepers[LEFT_RUNNING].pid)])
    dead = shift_seconds(sleepers[RESTORED].pid)
    assert dead > 1
    took = {fate: seconds_until_ended(one.pid, 60)() - began[fate] for fate, one in sleepers.items()}
    took[RESTORED] -= dead
    assert [one.wait() for one in sleepers.values()] == [0, 0, 0]
    assert all(seconds * 1e9 >= 60_000 * NS_PER_MS for seconds in took.values()), took
    assert all(abs(took[fate] - took[UNDISTURBED]) * 1e9 <= SLEEP_NS for fate in FATES), took
    assert strace.wait(10) == 0
    calls = seen.read_text()
    assert "EINTR" not in calls
    assert re.search(r"(clock_nanosleep|restart_syscall)\(.*= 0$", calls, re.MULTILINE), calls


ROUNDS = {
    "nanosleep": "nanosleep",
    "relative-null": "clock_nanosleep",
    "futex": "futex",
    "poll": "poll",
    "select": "select",
}


def test_three_checkpoints_in_one_wait(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """Nothing adds up: it ends as exactly as if there had been none."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        twins = [
            (kind, fate, target([*PRIORITY, program("wait_call"), kind, 3 * milliseconds(len(kinds)) - 5000]))
            for kind in kinds
            for fate in FATES
        ]
        for kind, _, one in twins:
            one.until_blocked(NUMBERS[ROUNDS[kind]])
        for n in range(3):
            meet_all(
                [(fate, one, tmp_path / f"{one.pid}-{n}") for _, fate, one in twins], livecr, dead_seconds=0.1
            )
            for _, _, one in twins:
                one.until_blocked()
        told = {(kind, fate): answer(one) for kind, fate, one in twins}
        for (kind, _), one in told.items():
            for name in ("result", "errno"):
                assert one[name] == told[kind, UNDISTURBED][name], (one, told[kind, UNDISTURBED])
        return {which: one["late_ns"] for which, one in told.items()}

    in_time(ROUNDS, run)


@pytest.mark.parametrize(
    ("without", "sources"),
    [
        ("restart-block", {"sleeper"}),
        ("restart-block,sleeper", {"timer-list", "scheduler"}),
        ("bpf", {"timer-list", "scheduler"}),
        ("bpf,timer-list", {"scheduler"}),
        ("bpf,timer-list,scheduler", {"argument"}),
    ],
)
def test_a_lesser_source_is_off_by_no_more_than_it_says(
    without: str,
    sources: set[str],
    program: Callable[[str], Path],
    target: Callable[..., Any],
    tmp_path: Path,
    livecr: Any,
) -> None:
    """The image tells where the deadline was read and by how much it may be off, and that is so."""
    kinds = {"nanosleep-null": "nanosleep", "futex": "futex", "poll": "poll"}
    twins = [
        (fate, target([*PRIORITY, program("wait_call"), kind, 3000]), tmp_path / f"{kind}-{fate}")
        for kind in kinds
        for fate in (UNDISTURBED, RESTORED)
    ]
    for (_, one, _), call in zip(twins, [call for call in kinds.values() for _ in range(2)], strict=True):
        one.until_blocked(NUMBERS[call])
    meet_all(twins, lambda *words: livecr(*words, LIVECR_WITHOUT=without))
    late_ns = [answer(one)["late_ns"] for _, one, _ in twins]
    noise_ns = max(late_ns[::2])
    for (_, _, image), late in zip(twins[1::2], late_ns[1::2], strict=True):
        (waiting,) = read(str(image)).waits
        wait = waiting.wait
        assert wait.source in sources
        assert abs(late) <= wait.uncertainty_ns + ALLOWED_NS + noise_ns, (image.name, late, wait)


def test_eight_threads_in_different_waits(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """Each thread's call comes back in its own time, with its own answer."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        twins = {fate: target([*PRIORITY, program("wait_threads"), 3000]) for fate in FATES}
        for one in twins.values():
            one.until_blocked(NUMBERS["futex"])
            tids = sorted(int(path.name) for path in Path(f"/proc/{one.pid}/task").iterdir())
            assert len(tids) == 9
            for tid in tids:
                one.until_blocked(tid=tid)
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for fate, one in twins.items()], livecr)
        told = {fate: answer(one) for fate, one in twins.items()}
        for fate in FATES:
            for own, undisturbed in zip(told[fate], told[UNDISTURBED], strict=True):
                assert (own["result"], own["errno"]) == (undisturbed["result"], undisturbed["errno"]), fate
        assert all(own["late_ns"] >= 0 for all_threads in told.values() for own in all_threads), told
        return {("threads", fate): max(own["late_ns"] for own in told[fate]) for fate in FATES}

    in_time(["threads"], run)


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
def test_clocks_go_on(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """The vDSO and the system call agree all the time, and a second of death is no step."""
    one = target([program("wait_clock")])
    one.until_printed("ready")
    meet_all([(fate, one, image)], livecr, dead_seconds=1)
    time.sleep(0.1)  # some readings behind the checkpoint
    one.signal(10)
    assert one.wait() == 0
    told = json.loads(one.output().splitlines()[-1])
    assert told["backwards"] == 0 and told["count"] > 1000
    assert told["longest_ns"] < 700 * NS_PER_MS, told
