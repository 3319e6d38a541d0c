"""Descriptions that send signals (F_SETOWN, F_SETSIG, O_ASYNC): a program checks them when it is signalled.

It would notice an owner that is another or none, a signal of another number, or the wrong
descriptor in its siginfo.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FATES = ["left-running", "restored", "restored-twice"]


@pytest.mark.parametrize("fate", FATES)
def test_owners_are_as_they_were(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """Signals come to whom they came before, and no earlier than there is something to tell."""
    one = target([program("kind_owners")])
    one.until_printed("ready")
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", place / "image", "--leave-running")
    else:
        for name in ("first", "second")[: 2 if fate == "restored-twice" else 1]:
            livecr("checkpoint", one.pid, "-o", place / name)
            one.killed()
            one.restore(place / name)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_an_owner_outside_is_refused(target: Callable[..., Any], place: Path, livecr: Any) -> None:
    """It could not be told any more; the program runs on."""
    script = (
        "import fcntl, os, socket, time; a, b = socket.socketpair();"
        "fcntl.fcntl(a, fcntl.F_SETOWN, os.getppid()); print('ready', flush=True); time.sleep(60)"
    )
    one = target(["/usr/bin/python3", "-c", script])
    one.until_printed("ready")
    refused = livecr("checkpoint", one.pid, "-o", place / "image", exit_code=3)
    assert "sends signals to pid" in refused.stderr
    assert not one.has_ended()
