"""Every wait of a program ends when it would have ended, with the answer that it would have had.

Three twins of one program block in the same calls, each in a thread of its own. One is left alone, one is
checkpointed and runs on, one is ended by its checkpoint and restored. Each measures its waits with its own
clocks. The program would have noticed EINTR, another result, a changed register, out parameter or signal
mask, or a wait that took shorter or longer. What is measured is left in build/waits.json, for scripts/waits.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.restore import read
from tests.integration.every_wait import (
    KINDS,
    POSIX_LOCK,
    all_wait,
    before_any_ends,
    long_enough_ms,
    objects,
    until_all_block,
)
from tests.integration.waiting import (
    FATES,
    PRIORITY,
    RESTORED,
    UNDISTURBED,
    answer,
    in_time,
    meet_all,
)

__all__ = ["objects"]

#: What the program tells that has to be the same in all three.
SAME = ("result", "registers_kept", "calls", "mask", "handled", "data")
RESULTS = Path(__file__).parent.parent.parent / "build" / "waits.json"
FIRST_MS = 4000  # the time in which all meet their fates


def deadline_sources(image: Path) -> dict[str, str]:
    """Where the deadline of each kind was read, by the name of its thread."""
    content = read(str(image))
    names = {thread.tid: thread.name for process in content.processes for thread in process.threads}
    return {names[waiting.tid]: waiting.wait.source for waiting in content.waits}


@pytest.mark.time_limit(240)
def test_a_wait_ends_as_if_nothing_had_happened(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any, objects: Any
) -> None:
    """Whatever its call is: the same answer, and not a moment too early or too late."""
    results: dict[str, Any] = {}
    attempts = 0

    def fated(kinds: list[str], first_ms: int) -> dict[str, Any]:
        command = [*PRIORITY, program("wait_all"), first_ms, "handler", "once", *kinds]
        twins = {fate: target(command, **objects()) for fate in FATES}
        with before_any_ends(twins.values()):
            for one in twins.values():
                until_all_block(one, kinds)
            meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for fate, one in twins.items()], livecr)
            for one in twins.values():
                all_wait(one, kinds)
        return twins

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        nonlocal attempts
        attempts += 1
        twins = fated(kinds, long_enough_ms(FIRST_MS, attempts - 1))
        told = {fate: {one["kind"]: one for one in answer(twin)} for fate, twin in twins.items()}
        sources = deadline_sources(tmp_path / f"{twins[RESTORED].pid}.livecr")
        for kind in kinds:
            late = {fate: told[fate][kind]["late_ns"] for fate in FATES}
            off_ns = {fate: late[fate] - late[UNDISTURBED] for fate in FATES}
            results[kind] = {"source": sources.get(kind, ""), "off_ns": off_ns}
        late_ns = {}
        for fate in FATES:
            for kind, one in told[fate].items():
                undisturbed = told[UNDISTURBED][kind]
                where = f"{kind} {fate}: {one}; undisturbed: {undisturbed}"
                assert {name: one[name] for name in SAME} == {name: undisturbed[name] for name in SAME}, where
                assert one["registers_kept"], where
                # What is left is less by what it was late; what it is off beyond that counts as being late.
                explained_ns = abs(one["late_ns"] - undisturbed["late_ns"])
                left_ns = abs(one["left_ns"] - undisturbed["left_ns"]) - explained_ns
                late_ns[kind, fate] = one["late_ns"] if one["late_ns"] < 0 else max(one["late_ns"], left_ns)
        return late_ns

    in_time(KINDS, run)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))


def test_a_lock_of_another_process(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """F_SETLKW gets the lock when the test gives it up, and not before."""
    twins, locked = {}, {}
    try:
        for fate in FATES:
            path = tmp_path / fate
            locked[fate] = os.open(path, os.O_CREAT | os.O_RDWR)
            fcntl.lockf(locked[fate], fcntl.LOCK_EX)
            twins[fate] = target([program("wait_all"), 0, "handler", "once", POSIX_LOCK], LOCKED=str(path))
            until_all_block(twins[fate], [POSIX_LOCK])
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for fate, one in twins.items()], livecr)
        for fate, one in twins.items():
            until_all_block(one, [POSIX_LOCK])
            assert not one.has_ended(), fate
            fcntl.lockf(locked[fate], fcntl.LOCK_UN)
            given_up = time.monotonic()
            (told,) = answer(one)
            assert (told["result"], told["registers_kept"]) == (0, 1), (fate, told)
            assert time.monotonic() - given_up < 1, fate
    finally:
        for fd in locked.values():
            os.close(fd)
