"""A hole in an address space, below where 32-bit ones end if need be."""

from __future__ import annotations

import pytest
from livecr.errors import Failed
from livecr.target.compat import TASK_SIZE
from livecr.target.engine import PAGE, free_range

LOW = [(0x8048000, 0x8100000), (0xF7000000, TASK_SIZE)]
HIGH = [(0x7F0000000000, 0x7F0000001000)]  # of a 64-bit process in the same tree


def test_it_is_in_no_range_and_below_the_limit() -> None:
    at = free_range([*LOW, *HIGH], 16 * PAGE, TASK_SIZE)
    assert at % PAGE == 0
    assert at + 16 * PAGE <= TASK_SIZE
    assert all(at + 16 * PAGE <= start or end <= at for start, end in LOW)


def test_a_full_address_space_has_none() -> None:
    with pytest.raises(Failed, match="no hole"):
        free_range([(1 << 20, TASK_SIZE), *HIGH], 16 * PAGE, TASK_SIZE)
