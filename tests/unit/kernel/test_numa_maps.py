"""A NUMA policy shows in numa_maps, in whatever mapping it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from livecr.kinds.numa import policy

DEFAULT = "00400000 default file=/usr/bin/sleep mapped=3 N0=3 kernelpagesize_kB=4\n"


@pytest.mark.parametrize("found", ["bind:0-1", "interleave:0,1", "prefer:1", "prefer=static:0"])
def test_a_policy_is_found(found: str) -> None:
    """Also when only the last mapping has it."""
    assert policy(DEFAULT * 3 + f"7f0000000000 {found} anon=1 dirty=1 N0=1\n") == found


def test_none_is_found() -> None:
    """In a process of the running kernel that has none."""
    assert policy(DEFAULT * 3) == ""
    own = Path("/proc/self/numa_maps")
    assert not own.exists() or policy(own.read_text()) == ""
