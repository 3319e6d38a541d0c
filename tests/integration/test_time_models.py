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

PROGRAM = """
import time
began = time.monotonic()
print("sleeping", flush=True)
time.sleep(4)
print(time.monotonic() - began, flush=True)
"""
DEAD_SECONDS = 2.0
CASES = {
    # options of restore, environment of the program, whether the time in the image counts
    "default": ([], {}, False),
    "absolute": (["--time-model", "absolute"], {}, True),
    "wished": ([], {"LIVECR_TIME_MODEL": "absolute"}, True),
    "wished-but-overruled": (["--time-model", "relative"], {"LIVECR_TIME_MODEL": "absolute"}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_whether_time_in_the_image_counts(
    case: str, target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """It sleeps for 4 s by its own clock either way; the model says whether these are 4 s of the world's."""
    options, environment, counts = CASES[case]
    one = target(["/usr/bin/python3", "-c", PROGRAM], **environment)
    began = time.monotonic()
    one.until_printed("sleeping")
    one.until_blocked(230)
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    died = time.monotonic()
    time.sleep(DEAD_SECONDS)
    one.restore(image, *options)
    away = time.monotonic() - died
    assert one.wait() == 0
    took = time.monotonic() - began
    slept = float(one.output().split()[1])
    assert 4 <= slept < 4.5
    expected = 4 if counts else 4 + away
    assert expected - 0.3 <= took < expected + 1.2, (took, away)
    assert read(str(image)).time_model == environment.get("LIVECR_TIME_MODEL", "relative")


def test_a_wait_that_is_over_ends_at_once(target: Callable[..., Any], image: Path, livecr: Any) -> None:
    """By the absolute model, for a sleep whose end has passed while it was in its image."""
    one = target(["sleep", "2"])
    one.until_blocked(230)
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    time.sleep(DEAD_SECONDS + 0.5)
    began = time.monotonic()
    livecr("restore", image, "--time-model", "absolute")
    assert time.monotonic() - began < 1.5


def test_another_time_model_is_refused(livecr: Any, image: Path) -> None:
    """A clear error, and nothing done."""
    done = livecr("restore", image, "--time-model", "backwards", exit_code=2)
    assert "backwards" in done.stderr
