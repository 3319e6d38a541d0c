"""Waits in POSIX message queues end when they would have ended, with the answer that they would have had.

The program would have noticed EINTR, a message of another queue, one that is lost, or a wait of another
length. Each is one of three twins, as in test_waits.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.conftest import until
from tests.integration.waiting import (
    FATES,
    NUMBERS,
    PRIORITY,
    UNDISTURBED,
    in_time,
    meet_all,
    milliseconds,
)

#: Kinds of tests/programs/wait_ipc.c, and the call that each is blocked in.
KINDS = {
    "receive": "mq_timedreceive",
    "receive-woken": "mq_timedreceive",
    "receive-forever": "mq_timedreceive",
    "send": "mq_timedsend",
    "send-woken": "mq_timedsend",
    "send-forever": "mq_timedsend",
}
#: Those that end by their own timeout; the others are woken by a thread, whose sleep other tests are for.
TIMED = ("receive", "send")
SAME = ("result", "errno", "priority", "type", "data")


def answer(one: Any) -> Any:
    """The JSON that the program has printed behind its first line, having ended well."""
    assert one.wait() == 0, one.output()
    until(lambda: one.output().endswith("}\n"), "it has printed all")
    return json.loads(one.output().splitlines()[1])


def run_twins(
    kinds: list[str],
    calls: dict[str, str],
    program: Callable[[str], Path],
    target: Callable[..., Any],
    tmp_path: Path,
    livecr: Any,
) -> dict[tuple[str, str], int]:
    """By how much each that has a timeout was late, in ns. All answers are the same, and none is early."""
    twins = {
        (kind, fate): target([*PRIORITY, program("wait_ipc"), kind, milliseconds(2 * len(kinds))])
        for kind in kinds
        for fate in FATES
    }
    for (kind, _), one in twins.items():
        one.until_blocked(NUMBERS[calls[kind]])
    meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for (_, fate), one in twins.items()], livecr)
    told = {which: answer(one) for which, one in twins.items()}
    for (kind, fate), one in told.items():
        undisturbed = told[kind, UNDISTURBED]
        where = f"{kind} {fate}: {one}; undisturbed: {undisturbed}"
        assert {name: one[name] for name in SAME} == {name: undisturbed[name] for name in SAME}, where
        assert one["late_ns"] >= 0, where
    return {(kind, fate): one["late_ns"] for (kind, fate), one in told.items() if kind in TIMED}


def test_a_wait_in_a_queue_ends_as_if_nothing_had_happened(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """With timeout, woken before it, and without."""
    in_time(KINDS, lambda kinds: run_twins(kinds, KINDS, program, target, tmp_path, livecr))
