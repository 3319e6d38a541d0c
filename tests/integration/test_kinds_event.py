"""epoll, timerfd and signalfd: programs that hold them check each by themselves when they are signalled."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import Disturbed
from tests.integration.waiting import again

FATES = ["left-running", "restored", "restored-twice"]


def undergo(fate: str, one: Any, place: Path, livecr: Any) -> None:
    """Checkpoint it, and bring it back after a while that must not count for it."""
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", place / f"{one.pid}", "--leave-running")
        return
    for name in ("first", "second")[: 2 if fate == "restored-twice" else 1]:
        livecr("checkpoint", one.pid, "-o", place / f"{one.pid}-{name}")
        one.killed()
        time.sleep(1.5)  # not waiting for anything: time that must not count
        one.restore(place / f"{one.pid}-{name}")
        one.until_blocked()


def finds_all(one: Any) -> None:
    """It finds everything as it was; Disturbed if something was late, and that alone."""
    one.signal(signal.SIGUSR1)
    code, said = one.wait(), one.output()
    different = said.splitlines()[1:]
    if code and all(": late" in line for line in different):
        raise Disturbed(said)
    assert (code, said) == (0, "ready\nok\n")


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("kind", ["timerfd", "signalfd", "epoll"])
def test_it_is_as_it_was(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """The program would notice a tick too many or too few, a moved deadline, a lost or repeated event."""

    def attempt(number: int) -> None:
        one = target([program(f"kind_{kind}")])
        one.until_printed("ready")
        one.until_blocked()
        undergo(fate, one, place, livecr)
        finds_all(one)

    again(attempt)


# What `livecr show` tells of a descriptor of each program, by its kind.
SHOWN = {
    "timerfd": [
        "CLOCK_REALTIME, 35",
        " s left, every 7.000000000 s",
        "CLOCK_MONOTONIC, not set, 1 expirations unread",
    ],
    "signalfd": ["SIGINT", "SIGUSR2, SIGRTMIN+30"],
    "epoll": ["watches 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17", "watches 5"],
}


@pytest.mark.parametrize("kind", SHOWN)
def test_show(
    kind: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """Whoever has the image sees what the program waits for; the program goes on as in the other fates."""

    def attempt(number: int) -> None:
        one = target([program(f"kind_{kind}")])
        one.until_printed("ready")
        one.until_blocked()
        undergo("left-running", one, place, livecr)
        told = json.loads(livecr("show", place / f"{one.pid}", "--json").stdout)["processes"][0][
            "descriptors"
        ]
        shown = [(d["what"], d["access"]) for d in told if d["kind"] == kind]
        for wanted in SHOWN[kind]:
            assert any(wanted in what and access == "" for what, access in shown), (wanted, shown)
        finds_all(one)

    again(attempt)
