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
SLEEP_S, MET_AFTER_S = 20, 6
SLEEP_NS = 50 * NS_PER_MS  # what `sleep` may be late by: it is seen from outside, start and end included


def when_ended_ns(pid: int, within_seconds: float = 60) -> int:
    """Wait until this process has ended; when that was (time.monotonic_ns)."""
    pidfd = os.pidfd_open(pid)
    try:
        assert select.select([pidfd], [], [], within_seconds)[0], "it has not ended"
        return time.monotonic_ns()
    finally:
        os.close(pidfd)


def shift_ns(pid: int) -> int:
    """By how much a program's CLOCK_MONOTONIC is behind the host's: how long it was dead."""
    rows = [line.split() for line in Path(f"/proc/{pid}/timens_offsets").read_text().splitlines()]
    return -next(int(row[1]) * 1_000_000_000 + int(row[2]) for row in rows if row[0] == "monotonic")


def test_sleep(target: Callable[..., Any], tmp_path: Path, livecr: Any) -> None:
    """`sleep 20`, met after 6 s, exits 0 after 14 s more; strace sees its call return 0, no EINTR."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        began_ns, sleepers = {}, {}
        for fate in FATES:
            began_ns[fate] = time.monotonic_ns()
            sleepers[fate] = target([*PRIORITY, "sleep", SLEEP_S])
        for one in sleepers.values():
            one.until_blocked(NUMBERS["clock_nanosleep"])
        time.sleep(max(0, began_ns[RESTORED] / 1e9 + MET_AFTER_S - time.monotonic()))
        meet_all(
            [(fate, one, tmp_path / f"{one.pid}.livecr") for fate, one in sleepers.items()],
            livecr,
            dead_seconds=1,
        )
        seen = tmp_path / "strace"
        strace = subprocess.Popen(["strace", "-qq", "-o", seen, "-p", str(sleepers[LEFT_RUNNING].pid)])
        dead_ns = shift_ns(sleepers[RESTORED].pid)
        assert dead_ns > 1000 * NS_PER_MS
        took_ns = {fate: when_ended_ns(one.pid) - began_ns[fate] for fate, one in sleepers.items()}
        took_ns[RESTORED] -= dead_ns
        assert [one.wait() for one in sleepers.values()] == [0, 0, 0]
        assert strace.wait(10) == 0
        calls = seen.read_text()
        assert "EINTR" not in calls
        assert re.search(r"(clock_nanosleep|restart_syscall)\(.*= 0$", calls, re.MULTILINE), calls
        return {("sleep", fate): took - SLEEP_S * 1000 * NS_PER_MS for fate, took in took_ns.items()}

    in_time(["sleep"], run, allowed_ns=SLEEP_NS)


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
        wait_ms = 2 * milliseconds(len(kinds))
        twins = [
            (kind, fate, target([*PRIORITY, program("wait_call"), kind, wait_ms]))
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


LESSER = {"nanosleep-null": "nanosleep", "futex": "futex", "poll": "poll"}


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

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        wait_ms = milliseconds(len(kinds))
        twins = {
            (kind, fate): target([*PRIORITY, program("wait_call"), kind, wait_ms])
            for kind in kinds
            for fate in (UNDISTURBED, RESTORED)
        }
        for (kind, _), one in twins.items():
            one.until_blocked(NUMBERS[LESSER[kind]])
        images = {which: tmp_path / f"{one.pid}.livecr" for which, one in twins.items()}
        meet_all(
            [(which[1], one, images[which]) for which, one in twins.items()],
            lambda *words: livecr(*words, LIVECR_WITHOUT=without),
        )
        off_ns = {which: answer(one)["late_ns"] for which, one in twins.items()}
        for kind in kinds:
            (waiting,) = read(str(images[kind, RESTORED])).waits
            assert waiting.wait.source in sources
            off, said = off_ns[kind, RESTORED], waiting.wait.uncertainty_ns
            off_ns[kind, RESTORED] = max(0, off - said) if off > 0 else min(0, off + said)
        return off_ns

    in_time(LESSER, run, early_ns=ALLOWED_NS)


def test_eight_threads_in_different_waits(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """Each thread's call comes back in its own time, with its own answer."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        wait_ms = 1500 + milliseconds(1)
        twins = {fate: target([*PRIORITY, program("wait_threads"), wait_ms]) for fate in FATES}
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
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """The vDSO and the system call agree all the time, and a second of death is no step."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        one = target([program("wait_clock")])
        one.until_printed("ready")
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr")], livecr, dead_seconds=1)
        time.sleep(0.1)  # some readings behind the checkpoint
        one.signal(10)
        assert one.wait() == 0
        told = json.loads(one.output().splitlines()[-1])
        assert told["backwards"] == 0 and told["count"] > 1000
        return {("longest step", fate): told["longest_ns"]}

    in_time(["longest step"], run, allowed_ns=700 * NS_PER_MS)
