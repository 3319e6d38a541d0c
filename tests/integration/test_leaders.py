"""Processes whose first thread has exited while others run on: /proc/PID tells next to nothing of them.

They look for themselves whether they have their memory, descriptors, timers and threads, and whether the
first thread is what it was: a zombie with its name, its user and its status.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was, until


@pytest.mark.parametrize("fate", ["untouched", "left-running", "restored", "restored-twice"])
@pytest.mark.parametrize("kind", ["root", "child"])
def test_without_its_first_thread(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """As the first process of a tree, and as a child, whose parent gets its status."""
    is_as_it_was(target([program("no_leader"), kind]), fate, place, livecr)


def test_stopped_without_its_first_thread(
    program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """It stays stopped, and goes on when it is told to."""
    one = target([program("no_leader"), "root"])
    one.until_printed("ready")
    one.signal(signal.SIGSTOP)

    def stopped() -> bool:
        states = []
        for tid in os.listdir(f"/proc/{one.pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                stat = Path(f"/proc/{one.pid}/task/{tid}/stat").read_text()
                states.append(stat.rpartition(")")[2].split()[0])
        return {"Z", "T"} == set(states)

    until(stopped, "it is stopped")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    until(stopped, "it is stopped again")
    one.signal(signal.SIGCONT)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_what_its_threads_wait_in(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any
) -> None:
    """`livecr waits` tells it of those that live."""
    one = target([program("no_leader"), "root"])
    one.until_printed("ready")
    until(lambda: "rt_sigtimedwait" in livecr("waits", one.pid).stdout, "it waits for its signal")
    said = livecr("waits", one.pid).stdout
    assert "read" in said
    assert str(one.pid) not in [line.split()[0] for line in said.splitlines() if line.strip()]
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
