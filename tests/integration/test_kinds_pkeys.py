"""Memory protection keys: the program would find a key free that it has, or write to what it has locked."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_keys_are_as_they_were(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """A locked page, keys that are allocated, and gaps between them."""
    if " pku" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no memory protection keys")
    one = target([program("kind_pkeys")])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", place / "image", *["--leave-running"] * (fate == "left-running"))
    if fate == "restored":
        one.killed()
        one.restore(place / "image")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
