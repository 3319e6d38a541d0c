"""A Rust program, standard library only: sleep, Condvar, mpsc and park with timeouts, busy threads, a file.

Of a restore that is not exact it would notice a wait that is early or late by Instant, a clock that goes
back, a thread that is not woken, or a line of its file that is missing or twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.fates import FATES, Lives

WAITS = {"sleep": 2, "condvar": 2, "channel": 2, "park": 2}


@pytest.mark.parametrize("fate", FATES)
def test_threads_of_rust(
    fate: str, built: Callable[[str], Path], target: Callable[..., Any], lives: Lives, tmp_path: Path
) -> None:
    """Its threads wait, work and write as if nothing had been."""
    command, lines = built("threads.rs"), tmp_path / "lines"
    lives.story(fate, lambda wait_ms: target([command, lines, str(wait_ms)]), WAITS, {"42"}, lines)
