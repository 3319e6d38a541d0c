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
SAME = ("result", "registers_kept", "timeout_kept", "handled")
EINTR, EAGAIN = -4, -11


def answer(one: Any) -> Any:
    """What the program says when its call has returned."""
    assert one.wait() == 0, one.output()
    until(lambda: one.output().endswith("}\n"), "it has printed all")
    return json.loads(one.output().splitlines()[1])


def test_it_goes_on_with_the_time_left(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
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
            one.until_blocked(KINDS[kind])
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for (_, fate), one in twins.items()], livecr)
        told = {which: answer(one) for which, one in twins.items()}
        for (kind, fate), one in told.items():
            undisturbed = told[kind, UNDISTURBED]
            assert {name: one[name] for name in SAME} == {name: undisturbed[name] for name in SAME}, (
                kind,
                fate,
            )
            assert undisturbed["result"] == (0 if "epoll" in kind else EAGAIN)
            assert undisturbed["registers_kept"]
        return {which: one["took_ns"] - wait_ms * 1_000_000 for which, one in told.items()}

    in_time(KINDS, run)


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize("timeout_ms", [60_000, -1])
@pytest.mark.parametrize("kind", KINDS)
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
    one.until_blocked(KINDS[kind])
    livecr("checkpoint", one.pid, "-o", tmp_path / "before.livecr", "--leave-running")
    one.until_blocked()
    meet_all([(fate, one, tmp_path / "image.livecr")], livecr)
    one.until_blocked()
    one.signal(signal.SIGUSR1)
    told = answer(one)
    assert {name: told[name] for name in SAME} == dict(zip(SAME, (EINTR, 1, 1, 1), strict=True))
