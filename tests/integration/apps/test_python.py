"""CPython with many threads: sleeping, waiting on conditions, queues and locks, computing, writing a file.

Of a restore that is not exact it would notice a wait that ends early or late by time.monotonic(), a condition
or queue that never wakes, a lost GIL, or a line of its file that is missing or twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.conftest import APPS
from tests.integration.apps.fates import FATES, Lives

WAITS = dict.fromkeys(("sleep", "event_wait", "timer", "condition_wait", "queue_get", "lock_acquire"), 2)


def run(python: Path, fate: str, target: Callable[..., Any], lives: Lives, lines_file: Path) -> None:
    """One interpreter, one fate."""

    def start(wait_ms: int) -> Any:
        return target([python, APPS / "threads.py", lines_file, str(wait_ms)])

    lives.story(fate, start, WAITS, {"41", "42"}, lines_file)


@pytest.mark.parametrize("fate", FATES)
def test_threads_of_debians_python(
    fate: str, target: Callable[..., Any], lives: Lives, tmp_path: Path
) -> None:
    """Its threads wait, work and write as if nothing had been."""
    run(Path("/usr/bin/python3"), fate, target, lives, tmp_path / "lines")


def test_threads_in_a_virtual_environment(
    venv_python: Path, target: Callable[..., Any], lives: Lives, tmp_path: Path
) -> None:
    """The interpreter is found by a symbolic link."""
    run(venv_python, "restored", target, lives, tmp_path / "lines")
