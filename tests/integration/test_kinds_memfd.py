"""memfds: the program checks content, holes, seals, offsets and sharing itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_memfds_are_as_they_were(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, place: Path
) -> None:
    """It would notice a lost byte, a filled hole, a missing seal, or two files that were one."""
    one = target([program("kind_memfd")])
    is_as_it_was(one, fate, place, livecr)


def test_a_shared_memfd_names_who_else_has_it(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any
) -> None:
    """Two processes would have two files of what was one."""
    one = target([program("kind_memfd")])
    one.until_printed("ready")
    ours = os.open(f"/proc/{one.pid}/fd/3", os.O_RDONLY)
    try:
        said = livecr("check", one.pid, exit_code=3).stderr
        assert f"is shared with process {os.getpid()} (descriptor {ours})" in said
    finally:
        os.close(ours)
    livecr("check", one.pid)
