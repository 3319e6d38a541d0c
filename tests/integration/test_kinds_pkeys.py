"""Memory protection keys: the program would find a key free that it has, or write to what it has locked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_keys_are_as_they_were(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """A locked page, keys that are allocated, and gaps between them."""
    if " pku" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no memory protection keys")
    one = target([program("kind_pkeys")])
    is_as_it_was(one, fate, place, livecr)
