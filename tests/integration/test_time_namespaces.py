"""Programs that live in a time namespace of their own, and machines that booted earlier or later.

To a restore these are one case: the program's clocks are far from the host's, and have to go on from where
they were. The program would have noticed a clock that jumps or runs backwards, a vDSO that disagrees with the
system call, or a wait of another length by any of its clocks.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.kernel import clock
from livecr.restore import read
from tests.integration.conftest import Disturbed
from tests.integration.every_wait import long_enough_ms, until_all_block
from tests.integration.waiting import (
    LEFT_RUNNING,
    PRIORITY,
    RESTORED,
    UNDISTURBED,
    again,
    answer,
    checkpoint,
    in_time,
    meet_all,
)

NS = 1_000_000_000
DAYS = 86400
FIRST_MS = 4000
ALLOWED_NS = NS // 10  # gross errors are looked for here; test_waits tells how exact waits are
DEAD_SECONDS = 1.0
RELATIVE, ABSOLUTE = "relative", "absolute"
#: Kinds of wait_all that have a deadline on a clock that the namespace shifts, or on one that it does not.
KINDS = (
    *("nanosleep", "sleep-boottime", "until-monotonic", "until-boottime", "futex", "bitset", "lock-pi2"),
    *("requeue-pi-till", "waitv-until", "poll", "ppoll", "select", "epoll", "sigwait"),
    *("sleep-realtime", "until-realtime", "until-tai", "bitset-realtime"),
)


def offsets() -> dict[str, int]:
    """What is added to the program's clocks, in s: as if its machine had run for long, or just booted."""
    uptime = clock.host_now_ns(clock.MONOTONIC) // NS
    return {"long before": 10 * DAYS, "just booted": 60 - uptime}


def in_namespace(seconds: int, command: list[Any]) -> list[Any]:
    return ["unshare", "--time", "--monotonic", seconds, "--boottime", seconds + 5, *command]


def assert_shifted(one: Any) -> None:
    if os.readlink(f"/proc/{one.pid}/ns/time") == os.readlink("/proc/self/ns/time"):
        pytest.skip("this kernel lets only children into a new time namespace, not the program executed")


@pytest.mark.parametrize("model", [RELATIVE, ABSOLUTE])
@pytest.mark.parametrize("when", ["long before", "just booted"])
def test_waits(
    when: str,
    model: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    tmp_path: Path,
    livecr: Any,
) -> None:
    """Whether the time in the image counts or not: by its own clocks each wait is over in its time."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        waiting = [
            *PRIORITY,
            program("wait_all"),
            long_enough_ms((2 if model == ABSOLUTE else 1) * FIRST_MS),
            "handler",
            "once",
            *kinds,
        ]
        fates = (UNDISTURBED, LEFT_RUNNING, RESTORED)
        twins = {
            fate: target(in_namespace(offsets()[when], waiting), LIVECR_TIME_MODEL=model) for fate in fates
        }
        for one in twins.values():
            until_all_block(one, kinds)
            assert_shifted(one)
        fated = [(fate, one, tmp_path / f"{one.pid}") for fate, one in twins.items()]
        meet_all(fated, livecr, dead_seconds=DEAD_SECONDS)
        told = {fate: {one["kind"]: one for one in answer(twin)} for fate, twin in twins.items()}
        for fate, by_kind in told.items():
            for kind, one in by_kind.items():
                assert one["result"] == told[UNDISTURBED][kind]["result"], (fate, one)
        return {(kind, fate): one["late_ns"] for fate in fates for kind, one in told[fate].items()}

    in_time(KINDS, run)


def judge(late_ns: dict[str, float], early_ns: float = 0) -> None:
    """None may be early; a busy machine may have spoiled what is late."""
    assert all(late >= -early_ns for late in late_ns.values()), f"too early, in ns: {late_ns}"
    if any(late >= ALLOWED_NS for late in late_ns.values()):
        raise Disturbed(f"too late, in ns: {late_ns}")


@pytest.mark.time_limit(240)
@pytest.mark.parametrize("model", [RELATIVE, ABSOLUTE])
def test_clocks(
    model: str, program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """They go on from where they were or would have been; the vDSO and the system call agree."""

    def attempt(number: int) -> None:
        twins = {
            target(in_namespace(seconds, [program("wait_clock")]), LIVECR_TIME_MODEL=model): seconds
            for seconds in offsets().values()
        }
        for one in twins:
            one.until_printed("ready")
            assert_shifted(one)
        began_ns = time.monotonic_ns()
        images = {one: tmp_path / f"{one.pid}" for one in twins}
        meet_all([(RESTORED, one, images[one]) for one in twins], livecr, dead_seconds=DEAD_SECONDS)
        for one, seconds in twins.items():
            frozen_at = read(str(images[one])).frozen_at
            ago_ns = time.monotonic_ns() - began_ns
            behind_ns = {
                clock.MONOTONIC: clock.host_now_ns(clock.MONOTONIC) + seconds * NS - frozen_at.monotonic_ns,
                clock.BOOTTIME: clock.host_now_ns(clock.BOOTTIME)
                + (seconds + 5) * NS
                - frozen_at.boottime_ns,
            }
            assert all(DEAD_SECONDS * NS <= behind <= ago_ns + NS // 10 for behind in behind_ns.values())
            time.sleep(0.1)  # some readings behind the checkpoint
            one.signal(10)
            assert one.wait() == 0
            took_ns = time.monotonic_ns() - began_ns
            told = json.loads(one.output().splitlines()[-1])
            assert told["backwards"] == 0
            assert told["count"] > 1000
            if model == ABSOLUTE:
                assert DEAD_SECONDS * NS <= told["longest_ns"] <= took_ns, told
            else:
                assert told["longest_ns"] <= took_ns - DEAD_SECONDS * NS, told

    again(attempt)


@pytest.mark.time_limit(240)
def test_a_second_restore_goes_on_from_the_first(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """The namespace that the first restore made is one like any other: offsets do not add up wrongly."""

    def attempt(number: int) -> None:
        first_ms = long_enough_ms(FIRST_MS, number)
        waiting = [*PRIORITY, program("wait_all"), first_ms, "handler", "once", *KINDS]
        one = target(in_namespace(10 * DAYS, waiting))
        until_all_block(one, list(KINDS))
        for n in range(2):
            meet_all([(RESTORED, one, tmp_path / f"{one.pid}-{n}")], livecr)
        judge({wait["kind"]: wait["late_ns"] for wait in answer(one)})

    again(attempt)


@pytest.mark.time_limit(240)
def test_deadlines_of_the_real_world_pass_meanwhile(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """On CLOCK_REALTIME and CLOCK_TAI, which nothing stops: such a wait is over as soon as it is back."""
    kinds = ["until-realtime", "until-tai", "bitset-realtime", "lock-pi-until", "waitv-realtime"]

    def attempt(number: int) -> None:
        due_ms = long_enough_ms(2000, number)
        one = target([program("wait_all"), due_ms, "handler", "once", *kinds])
        until_all_block(one, kinds)
        due = time.monotonic() + due_ms / 1000 + 1
        image = tmp_path / f"{one.pid}"
        meet_all([(RESTORED, one, image)], livecr, dead_seconds=max(0.0, due - time.monotonic()))
        restored = time.monotonic()
        told = {wait["kind"]: wait["result"] for wait in answer(one)}
        judge({"all": (time.monotonic() - restored - 1) * NS}, early_ns=NS)
        assert told == {kind: 0 if kind.startswith("until") else -110 for kind in kinds}

    again(attempt)


#: The kinds above with deadlines on a clock that would be shifted.
SHIFTED = [kind for kind in KINDS if not kind.endswith(("realtime", "tai"))]


@pytest.mark.time_limit(240)
@pytest.mark.parametrize("model", [RELATIVE, ABSOLUTE])
def test_without_a_time_namespace(
    model: str, program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """Its clock jumps, and the tool says so and by how much; but every wait is as long as it had to be.

    Also those until a point in time, which the program has in its own memory.
    """
    others = ["until-realtime", "bitset-realtime"]

    def attempt(number: int) -> None:
        first_ms = long_enough_ms(2 * FIRST_MS, number)
        one = target([*PRIORITY, program("wait_all"), first_ms, "handler", "once", *SHIFTED, *others])
        until_all_block(one, [*SHIFTED, *others])
        image = tmp_path / f"{one.pid}"
        began_ns = time.monotonic_ns()
        checkpoint(one, image, livecr)
        time.sleep(DEAD_SECONDS)
        said = livecr("restore", image, "--time-model", model, LIVECR_WITHOUT="time-namespace").stderr
        jumped = re.search(r"jumps by ([+-][0-9.]+) s", said)
        assert jumped and "its own memory" in said, said
        jumped_ns = float(jumped.group(1)) * NS
        if model == ABSOLUTE:
            assert abs(jumped_ns) < 0.1 * NS
        else:
            assert DEAD_SECONDS * NS <= jumped_ns < time.monotonic_ns() - began_ns
        told = {wait["kind"]: wait for wait in json.loads(one.output())}
        assert all(wait["result"] in (0, -110, -11) and wait["registers_kept"] for wait in told.values()), (
            told
        )
        # What is said is rounded to ms.
        judge({kind: told[kind]["late_ns"] - jumped_ns for kind in SHIFTED}, early_ns=1_000_000)
        judge({kind: told[kind]["late_ns"] for kind in others})

    again(attempt)


@pytest.mark.time_limit(240)
def test_with_one_after_a_restore_without(
    program: Callable[[str], Path],
    target: Callable[..., Any],
    tmp_path: Path,
    livecr: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deadlines that were shifted once are not those in its memory; the next image has the right ones."""

    def attempt(number: int) -> None:
        first_ms = long_enough_ms(2 * FIRST_MS, number)
        one = target([*PRIORITY, program("wait_all"), first_ms, "handler", "once", *SHIFTED])
        until_all_block(one, SHIFTED)
        monkeypatch.setenv("LIVECR_WITHOUT", "time-namespace")
        meet_all([(RESTORED, one, tmp_path / f"{one.pid}-1")], livecr, dead_seconds=DEAD_SECONDS)
        monkeypatch.delenv("LIVECR_WITHOUT")
        meet_all([(LEFT_RUNNING, one, tmp_path / f"{one.pid}-2")], livecr)
        meet_all([(RESTORED, one, tmp_path / f"{one.pid}-3")], livecr, dead_seconds=DEAD_SECONDS)
        late_ns = {wait["kind"]: wait["late_ns"] for wait in answer(one)}
        jumped_ns = min(late_ns.values())
        assert jumped_ns >= DEAD_SECONDS * NS
        judge({kind: late - jumped_ns for kind, late in late_ns.items()})

    again(attempt)
