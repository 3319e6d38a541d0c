"""Transfers that a freeze interrupts in the middle: they go on with the rest, and nothing is lost or doubled.

The program (tests/programs/wait_transfer.c) would have noticed a short count, which no call returns in it
unless a signal handler runs, or bytes that are not those that were sent: both ends are in it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import until
from tests.integration.waiting import FATES, LEFT_RUNNING, PRIORITY, RESTORED, meet_all, milliseconds

NS_PER_MS = 1_000_000


def until_all_blocked(one: Any) -> None:
    """Every thread of it is in its call."""
    one.until_printed("waiting")
    for path in Path(f"/proc/{one.pid}/task").iterdir():
        one.until_blocked(tid=int(path.name))


def moving(program: Callable[[str], Path], target: Callable[..., Any], *arguments: Any) -> Any:
    """A program that is in a transfer of more than there is room for, or has come."""
    one = target([*PRIORITY, program("wait_transfer"), *arguments])
    until_all_blocked(one)
    return one


def until_moved_on(one: Any) -> None:
    """Let the other end move an eighth, and wait until the program is blocked again with that."""

    def switches() -> int:
        told = Path(f"/proc/{one.pid}/status").read_text()
        return int(told.split("\nvoluntary_ctxt_switches:")[1].split()[0])

    before = switches()
    one.signal(signal.SIGUSR1)
    until(lambda: switches() > before, "it has moved something")
    until_all_blocked(one)


TRANSFERS = [
    ("write", "pipe", 1_000_000),
    ("writev", "pipe", 1_000_000),
    ("write", "unix", 4_000_000),
    ("write", "unix", 4_000_000, 20_000),
    ("send", "unix", 4_000_000),
    ("sendmsg", "unix", 4_000_000),
    ("recv", "unix", 800),
    ("recv", "unix", 800, 20_000),
    ("read", "unix", 800, 20_000),
    ("recvmsg", "unix", 800),
    ("recvmsg", "unix", 800, 20_000),
    ("readv", "unix", 800, 20_000),
]


@pytest.mark.parametrize("transfer", TRANSFERS, ids=lambda words: "-".join(map(str, words)))
def test_a_transfer_goes_on_with_the_rest(
    transfer: tuple[Any, ...],
    program: Callable[[str], Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
) -> None:
    """No short count, nothing lost, nothing twice: two checkpoints and two restores, with data in between."""
    one = moving(program, target, *transfer)
    for n, fate in enumerate([LEFT_RUNNING, RESTORED, LEFT_RUNNING, RESTORED]):
        until_moved_on(one)
        meet_all([(fate, one, place / f"{n}.livecr")], livecr, dead_seconds=0)
        until_all_blocked(one)
    one.signal(signal.SIGUSR2)
    told = end_of_transfer(one)
    assert (told["result"], told["at_other_end"]) == (transfer[2], transfer[2])
    assert told["registers_kept"] and told["right"]


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize("transfer", [TRANSFERS[0], TRANSFERS[6], TRANSFERS[7]], ids=lambda words: words[0])
def test_a_signal_ends_a_transfer_with_what_was_moved(
    transfer: tuple[Any, ...],
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
) -> None:
    """The short count that any handler causes, and just so much has been moved."""
    one = moving(program, target, *transfer)
    until_moved_on(one)
    meet_all([(fate, one, place / "image.livecr")], livecr, dead_seconds=0)
    until_all_blocked(one)
    until_moved_on(one)
    one.signal(signal.SIGHUP)
    told = end_of_transfer(one)
    sends = transfer[0] == "write"
    assert 0 < told["result"] < transfer[2]
    assert told["result"] == (told["at_other_end"] if sends else transfer[2] // 8 * 2)
    assert told["registers_kept"] and told["right"]


@pytest.mark.parametrize("fate", FATES)
def test_a_transfer_is_over_in_time(
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
) -> None:
    """MSG_WAITALL with a timeout: the time counts for all of it, and then there is what has come."""
    wait_ms = -(-milliseconds(2) // 100) * 100  # whole ticks of any HZ
    one = moving(program, target, "recv", "unix", 800, wait_ms)
    until_moved_on(one)
    meet_all([(fate, one, place / "image.livecr")], livecr)
    until_moved_on(one)
    told = end_of_transfer(one)
    assert (told["result"], told["registers_kept"], told["right"]) == (200, 1, 1)
    assert 0 <= told["took_ns"] - wait_ms * NS_PER_MS < wait_ms * NS_PER_MS // 2  # it has not begun anew


def end_of_transfer(one: Any) -> Any:
    """What the program says when its call has returned."""
    assert one.wait() == 0, one.output()
    until(lambda: one.output().endswith("}\n"), "it has printed all")
    return json.loads(one.output().removeprefix("waiting\n"))
