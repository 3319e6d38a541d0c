"""A process and all its descendants: parents, sessions, groups, what they share, and those that have ended.

The programs look for themselves whether everything is as it was. They would have noticed a parent that is not
theirs, a status that was lost, memory that is not common any more, a pipe with another end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was

KINDS = ["family", "sessions", "zombies", "stopped", "common", "sharing", "deep", "wide", "forking"]


@pytest.mark.parametrize("fate", ["left-running", "restored"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_is_as_it_was(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """Of those that have memory in common: it is also common afterwards, and takes its room once."""
    is_as_it_was(target([program("tree"), kind]), fate, place, livecr)
