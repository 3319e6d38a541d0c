"""Pipes and FIFOs: the program checks packets, capacities, flags and what is in them itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
def test_pipes_are_as_they_were(
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    place: Path,
    tmp_path: Path,
) -> None:
    """It would notice packets that have run together, a FIFO that has its name again, a flag too many."""
    one = target([program("kind_pipe"), tmp_path])
    is_as_it_was(one, fate, place, livecr)


def test_what_is_refused(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, tmp_path: Path
) -> None:
    """A FIFO that others have open too, or whose name is another now."""
    one = target([program("kind_pipe"), tmp_path])
    one.until_printed("ready")
    named = tmp_path / "named"
    ours = os.open(named, os.O_RDWR | os.O_NONBLOCK)
    said = livecr("check", one.pid, exit_code=3).stderr
    os.close(ours)
    assert f"{named} is shared with process {os.getpid()}" in said
    livecr("check", one.pid)
    os.link(named, tmp_path / "elsewhere")
    named.unlink()
    said = livecr("check", one.pid, exit_code=3).stderr
    assert f"the FIFO {named} has been removed, and has another name still" in said
    os.link(tmp_path / "elsewhere", named)
    livecr("check", one.pid)
