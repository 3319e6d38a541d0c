"""A process and all its descendants: parents, sessions, groups, what they share, and those that have ended.

The programs look for themselves whether everything is as it was. They would have noticed a parent that is not
theirs, a status that was lost, memory that is not common any more, a pipe with another end.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KINDS = ["family", "sessions", "zombies", "stopped", "common", "sharing", "deep", "wide", "forking"]


@pytest.mark.parametrize("fate", ["left-running", "restored"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_is_as_it_was(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """Of those that have memory in common: it is also common afterwards, and takes its room once."""
    one = target([program("tree"), kind])
    one.until_printed("ready")
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", place / "image", "--leave-running")
    else:
        livecr("checkpoint", one.pid, "-o", place / "image")
        one.killed()
        one.restore(place / "image")
    one.signal(signal.SIGUSR1)
    assert (one.wait(60), one.output()) == (0, "ready\nok\n")
