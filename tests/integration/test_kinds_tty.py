"""Terminals: pairs of a program's own, which checks them itself, and programs that are at a terminal of others."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
def test_terminals_are_as_they_were(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, place: Path
) -> None:
    """It would notice a lost byte in either direction, a changed setting, a session without its terminal."""
    one = target([program("kind_tty")])
    one.until_printed("ready")
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", place / "image", "--leave-running")
    for number in range({"restored": 1, "restored-twice": 2}.get(fate, 0)):
        livecr("checkpoint", one.pid, "-o", place / f"image{number}")
        one.killed()
        one.restore(place / f"image{number}")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
