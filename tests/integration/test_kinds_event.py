"""epoll, timerfd and signalfd: programs that hold them check each by themselves when they are signalled."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import until

FATES = ["left-running", "restored", "restored-twice"]


def undergo(fate: str, one: Any, image: Path, livecr: Any) -> None:
    """Checkpoint it, and bring it back after a while that must not count for it."""
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
        return
    for name in ("first", "second")[: 2 if fate == "restored-twice" else 1]:
        livecr("checkpoint", one.pid, "-o", image / name)
        one.killed()
        ended = time.monotonic()
        until(lambda: time.monotonic() > ended + 1.5, "a second and a half is over")  # noqa: B023
        one.restore(image / name)
        one.until_blocked()


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("kind", ["timerfd", "signalfd", "epoll"])
def test_it_is_as_it_was(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """The program would notice a tick too many or too few, a moved deadline, a lost or repeated event."""
    one = target([program(f"kind_{kind}")])
    one.until_printed("ready")
    one.until_blocked()
    undergo(fate, one, place if fate != "left-running" else place / "image", livecr)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


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
    kind: str, program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """Whoever has the image sees what the program waits for; the program goes on as in the other fates."""
    one = target([program(f"kind_{kind}")])
    one.until_printed("ready")
    one.until_blocked()
    livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    told = json.loads(livecr("show", image, "--json").stdout)["processes"][0]["descriptors"]
    shown = [(d["what"], d["access"]) for d in told if d["kind"] == kind]
    for wanted in SHOWN[kind]:
        assert any(wanted in what and access == "" for what, access in shown), (wanted, shown)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
