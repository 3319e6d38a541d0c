"""File locks through a checkpoint: those that the program holds, those that it waits for, those that it lost.

tests/programs/kind_locks.c checks by itself what it holds: a lock that is missing, of another range or type,
or of another owner would let two programs write to one file.
"""

from __future__ import annotations

import fcntl
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import Target, until

FATES = ("left-running", "restored")


def checkpoint(one: Target, fate: str, livecr: Any, image: Path) -> None:
    """Through the fate that a test is for."""
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
        return
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)


@pytest.fixture
def holder(program: Callable[[str], Path], target: Callable[..., Target], tmp_path: Path) -> Any:
    """Start the program on a directory of its own."""
    directory = tmp_path / "locked"
    directory.mkdir()

    def start(*words: str) -> tuple[Target, Path]:
        one = target([program("kind_locks"), directory, *words])
        one.until_printed("ready")
        return one, directory

    return start


@pytest.mark.parametrize("fate", FATES)
def test_locks_are_held_as_before(fate: str, holder: Any, livecr: Any, image: Path) -> None:
    """The program would find another range, type, owner or description than its locks had."""
    one, _ = holder()
    checkpoint(one, fate, livecr, image)
    shown = json.loads(livecr("show", image, "--json").stdout)["processes"][0]["descriptors"]
    locked = {Path(d["what"].split(" (")[0]).name: d["what"] for d in shown if "locked by" in d["what"]}
    assert set(locked) == {"posix", "ofd", "flock-exclusive", "flock-shared", "deleted"}
    assert locked["flock-exclusive"].endswith("(locked by flock)")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.parametrize("fate", FATES)
def test_waiting_for_a_lock_goes_on(fate: str, holder: Any, livecr: Any, image: Path, tmp_path: Path) -> None:
    """Its flock and its F_SETLKW would come back early, with an error, or never."""
    directory = tmp_path / "locked"
    with (directory / "wanted-flock").open("w") as flocked, (directory / "wanted-posix").open("w") as locked:
        fcntl.flock(flocked, fcntl.LOCK_EX)
        fcntl.lockf(locked, fcntl.LOCK_EX)
        one, _ = holder("wait")
        until(lambda: waiters(one.pid) == 2, "both threads wait for their locks")
        checkpoint(one, fate, livecr, image)
        one.signal(signal.SIGUSR1)
        one.until_printed("ok")
        until(lambda: waiters(one.pid) == 2, "both threads wait again")
        assert one.output() == "ready\nok\n"
    assert (one.wait(), one.output()) == (0, "ready\nok\ngot\n")


def waiters(pid: int) -> int:
    """How many tasks of the process wait for a lock: lines of /proc/locks with an arrow."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(words[1] == "->" and words[5] == str(pid) for words in lines)


@pytest.mark.parametrize("name", ["posix", "ofd", "flock-exclusive"])
def test_a_lock_that_somebody_else_has_taken_is_refused_at_restore(
    name: str, holder: Any, livecr: Any, image: Path
) -> None:
    """The program would believe that it alone writes to the file. Once the lock is free it is restored."""
    one, directory = holder()
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    with (directory / name).open("r+") as file:
        if name.startswith("flock"):
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX)
        said = livecr("restore", image, exit_code=3).stderr
        assert f"{directory / name}: a {name.split('-')[0]} lock that the program held" in said
        assert one.has_ended()
    one.restore(image)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
