"""What a process and each of its tasks has set for itself with prctl(2), sched_setattr(2) and the like.

The program looks at all of it again, in each task. It would have noticed a setting that is another task's, or
livecr's own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was, until


def cpu_ticks(pid: int) -> int:
    """User time that a process has used."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11])


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
@pytest.mark.parametrize("kind", ["prctl", "scheduling"])
def test_settings_are_as_they_were(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """Each of three tasks has other ones."""
    one = target([program("settings"), kind])
    one.until_printed("ready")
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", place / "image", "--leave-running")
    for number in range({"left-running": 0, "restored": 1, "restored-twice": 2}[fate]):
        livecr("checkpoint", one.pid, "-o", place / f"image{number}")
        one.killed()
        one.restore(place / f"image{number}")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_a_parent_that_leaves(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """Threads are to get a signal when their parent ends: not at once, because livecr does not stay."""
    one = target([program("settings"), "prctl"])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", place / "image")
    one.killed()
    said = livecr("restore", place / "image", "--detach", exit_code=3).stderr
    assert "PR_SET_PDEATHSIG" in said
    root = int(livecr("restore", place / "image", "--detach", "--new-pid-namespace").stdout)
    os.kill(root, signal.SIGUSR1)
    until(lambda: one.output() == "ready\nok\n", "it has found all as it was")
    one.restore(place / "image")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
@pytest.mark.parametrize("kind", ["dispatch", "inclusive"])
def test_system_calls_that_are_dispatched(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """A call that is not allowed still comes back as SIGSYS, in this task only."""
    one = target([program("settings"), kind])
    until(lambda: one.output() != "", "it says something")
    if one.output() == "not here\n":
        pytest.skip("this kernel has no PR_SYS_DISPATCH_INCLUSIVE_ON")
    is_as_it_was(one, fate, place, livecr)


def test_while_no_call_is_allowed(
    program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """A call made in such a task would come back to it as SIGSYS: it is refused, and runs on."""
    one = target([program("settings"), "blocked"])
    one.until_printed("ready")
    # It is in its own code, which allows no calls, when it has used some time there.
    until(lambda: cpu_ticks(one.pid) > 20, "it counts")
    said = livecr("checkpoint", one.pid, "-o", image, exit_code=3).stderr
    assert "PR_SET_SYSCALL_USER_DISPATCH" in said
    assert not image.exists()
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
