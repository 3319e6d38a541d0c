"""Every wait of a program ends when it would have ended, with the answer that it would have had.

Three twins of one program block in the same call. One is left alone, one is checkpointed and runs on, one
is ended by its checkpoint and restored. Each measures its wait with its own clock. The program would have
noticed EINTR, another result, a changed out parameter, or a wait that took shorter or longer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.waiting import NUMBERS, in_time, meet_and_compare

#: Kinds of tests/programs/wait_call.c, and the call that each is blocked in. A group runs at the same time.
GROUPS = {
    "sleeps": {
        "nanosleep": "nanosleep",
        "nanosleep-null": "nanosleep",
        "nanosleep-same": "nanosleep",
        "relative-realtime": "clock_nanosleep",
        "relative-monotonic": "clock_nanosleep",
        "relative-boottime": "clock_nanosleep",
        "relative-tai": "clock_nanosleep",
        "relative-null": "clock_nanosleep",
    },
    "points in time": {
        "absolute-realtime": "clock_nanosleep",
        "absolute-monotonic": "clock_nanosleep",
        "absolute-boottime": "clock_nanosleep",
        "absolute-tai": "clock_nanosleep",
        "bitset-monotonic": "futex",
        "bitset-realtime": "futex",
    },
    "futexes": {
        "futex": "futex",
        "futex-shared": "futex",
        "futex-forever": "futex",
        "futex-woken": "futex",
        "bitset-forever": "futex",
        "lock-pi": "futex",
        "join": "futex",
    },
    "polls": {
        "poll": "poll",
        "poll-pipe": "poll",
        "poll-woken": "poll",
        "poll-forever": "poll",
        "ppoll": "ppoll",
        "ppoll-woken": "ppoll",
        "select": "select",
        "select-forever": "select",
        "pselect": "pselect6",
    },
    "pipes": {
        "read": "read",
        "readv": "readv",
        "write": "write",
        "write-more": "write",
        "splice": "splice",
        "tee": "tee",
        "read-event": "read",
    },
    "FIFOs and signals": {
        "open-fifo": "openat",
        "read-fifo": "read",
        "pause": "pause",
        "sigsuspend": "rt_sigsuspend",
    },
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_wait_ends_as_if_nothing_had_happened(
    group: str, program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """It would have noticed another result, another ``rmtp``, or a wait of another length."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        calls = {kind: NUMBERS[GROUPS[group][kind]] for kind in kinds}
        return meet_and_compare(program("wait_call"), calls, target, tmp_path, livecr)

    in_time(GROUPS[group], run)
