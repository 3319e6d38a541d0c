"""A Rust program, standard library only: sleep, Condvar, mpsc and park with timeouts, busy threads, a file.

Of a restore that is not exact it would notice a wait that is early or late by Instant, a clock that goes
back, a thread that is not woken, or a line of its file that is missing or twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.fates import FATES, Lives, check_story

WAITS = {"sleep": 2, "condvar": 2, "channel": 2, "park": 2}


@pytest.mark.parametrize("fate", FATES)
def test_threads_of_rust(
    fate: str, built: Callable[[str], Path], target: Callable[..., Any], lives: Lives, tmp_path: Path
) -> None:
    """Its threads wait, work and write as if nothing had been."""
    one = target([built("threads.rs"), tmp_path / "lines", str(lives.wait_ms())])
    one.until_printed("ready")
    lives.through(fate, one)
    check_story(one, WAITS, {"42"}, tmp_path / "lines")
