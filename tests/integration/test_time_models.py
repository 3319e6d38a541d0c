"""The two time models: whether the time that a program spends in its image counts.

The program would have noticed a sleep that ends too early or too late by its own clock, or a clock that
stands still where it should have gone on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.restore import read
from tests.integration.waiting import RESTORED, checkpoint, in_time, milliseconds, starting_ms

PROGRAM = """
import sys, time
began = time.monotonic()
print("sleeping", flush=True)
time.sleep(float(sys.argv[1]))
print(time.monotonic() - began, flush=True)
"""
CASES = {
    # options of restore, environment of the program, whether the time in the image counts
    "default": ([], {}, False),
    "absolute": (["--time-model", "absolute"], {}, True),
    "wished": ([], {"LIVECR_TIME_MODEL": "absolute"}, True),
    "wished-but-overruled": (["--time-model", "relative"], {"LIVECR_TIME_MODEL": "absolute"}, False),
}


def seconds_to_tell() -> float:
    """A time of which half is more than livecr takes here and now to checkpoint and to restore."""
    return max(2.0, 0.025 * starting_ms())


@pytest.mark.parametrize("case", CASES)
def test_whether_time_in_the_image_counts(
    case: str, target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """It sleeps for as long by its own clock either way; the model says whether it does by the world's."""
    options, environment, counts = CASES[case]
    dead_seconds = seconds_to_tell()

    def run(clocks: list[str]) -> dict[tuple[str, str], int]:
        asked = dead_seconds + milliseconds(1) / 1000  # by the absolute model it is not over in the image
        one = target(["/usr/bin/python3", "-c", PROGRAM, str(asked)], **environment)
        began = time.monotonic()
        one.until_printed("sleeping")
        one.until_blocked(230)
        image = tmp_path / f"{one.pid}.livecr"
        checkpoint(one, image, livecr)
        died = time.monotonic()
        time.sleep(dead_seconds)
        away = 0 if counts else time.monotonic() - died
        one.restore(image, *options)
        assert one.wait() == 0
        took = {"world": time.monotonic() - began, "own": float(one.output().split()[1])}
        assert read(str(image)).time_model == environment.get("LIVECR_TIME_MODEL", "relative")
        sleeps = {"world": asked + away, "own": asked}
        return {(clock, RESTORED): round((took[clock] - sleeps[clock]) * 1e9) for clock in clocks}

    in_time(["world", "own"], run, allowed_ns=round(dead_seconds / 2 * 1e9))


def test_a_wait_that_is_over_ends_at_once(target: Callable[..., Any], tmp_path: Path, livecr: Any) -> None:
    """By the absolute model, for a sleep whose end has passed while it was in its image."""
    asked = seconds_to_tell()

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        one = target(["sleep", str(asked)])
        one.until_blocked(230)
        image = tmp_path / f"{one.pid}.livecr"
        checkpoint(one, image, livecr)
        time.sleep(asked)
        began_ns = time.monotonic_ns()
        livecr("restore", image, "--time-model", "absolute")
        return {("sleep", RESTORED): time.monotonic_ns() - began_ns}

    in_time(["sleep"], run, allowed_ns=round(asked / 2 * 1e9))


def test_another_time_model_is_refused(livecr: Any, image: Path) -> None:
    """A clear error, and nothing done."""
    done = livecr("restore", image, "--time-model", "backwards", exit_code=2)
    assert "backwards" in done.stderr
