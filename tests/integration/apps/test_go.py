"""A Go program: its own scheduler, signals (SIGURG) that preempt its goroutines, threads in system calls.

Of a restore that is not exact it would notice a wait that is early or late by its monotonic clock, a
goroutine that is never woken, a signal mask or alternate stack that is lost, or a line missing or twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.fates import FATES, Lives


@pytest.mark.parametrize("fate", FATES)
def test_goroutines_that_need_no_epoll(
    fate: str, built: Callable[[str], Path], target: Callable[..., Any], lives: Lives, tmp_path: Path
) -> None:
    """Busy goroutines, and others in nanosleep(2), on channels, and writing a file, go on."""
    command, lines = built("goroutines.go"), tmp_path / "lines"
    lives.story(
        fate,
        lambda wait_ms: target([command, lines, str(wait_ms), "calls"], GOGC="off"),
        {"nanosleep": 8},
        {"42"},
        lines,
    )


@pytest.mark.parametrize("fate", FATES)
def test_timers_of_go(
    fate: str, built: Callable[[str], Path], target: Callable[..., Any], lives: Lives, tmp_path: Path
) -> None:
    """time.Sleep and os.File make the runtime wait in epoll_pwait, woken by an eventfd: all are in time."""
    command, lines = built("goroutines.go"), tmp_path / "lines"
    lives.story(
        fate,
        lambda wait_ms: target([command, lines, str(wait_ms), "timers"]),
        {"sleep": 2, "select": 2, "context": 2, "ticker": 2},
        {"42"},
        lines,
    )
