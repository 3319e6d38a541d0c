"""Keys of a process: those that would be lost are refused, and a session keyring that is another one is told.

The program would have noticed that a key that it has put away is not there any more.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import until


@pytest.fixture
def keeper(program: Callable[[str], Path], target: Callable[..., Any]) -> Callable[[str], Any]:
    """A program with a key in one of its keyrings."""

    def start(kind: str) -> Any:
        one = target([program("keyrings"), kind])
        until(lambda: one.output() != "", "it says whether there are keys")
        if one.output() == "no keys here\n":
            pytest.skip("add_key(2) is forbidden or missing here")  # a container's filters may say ENOSYS
        return one

    return start


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_keys_that_would_be_lost(kind: str, keeper: Callable[[str], Any], image: Path, livecr: Any) -> None:
    """They are refused by name, and the program has them still."""
    one = keeper(kind)
    for command in (["check", one.pid], ["checkpoint", one.pid, "-o", image]):
        said = livecr(*command, exit_code=3).stderr
        assert f"there are keys in its {kind} keyring" in said
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_the_session_keyring(keeper: Callable[[str], Any], place: Path, livecr: Any) -> None:
    """Left running it is as it was; after a restore the program has livecr's, which is told."""
    one = keeper("session")
    livecr("check", one.pid)
    livecr("checkpoint", one.pid, "-o", place / "one", "--leave-running")
    livecr("checkpoint", one.pid, "-o", place / "two")
    one.killed()
    done = livecr("restore", place / "two", "--detach")
    os.kill(int(done.stdout), signal.SIGKILL)
    assert "its session keyring was 0x" in done.stderr


def test_the_session_keyring_of_one_that_runs_on(
    keeper: Callable[[str], Any], image: Path, livecr: Any
) -> None:
    """It finds its key."""
    one = keeper("session")
    livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
