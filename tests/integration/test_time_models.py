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
from tests.integration.waiting import RESTORED, in_time

PROGRAM = """
import time
began = time.monotonic()
print("sleeping", flush=True)
time.sleep(4)
print(time.monotonic() - began, flush=True)
"""
DEAD_SECONDS = 2.0
#: Half of that: what all the rest may take, beside the sleep and the time in the image.
LATE_NS = 1_000_000_000
CASES = {
    # options of restore, environment of the program, whether the time in the image counts
    "default": ([], {}, False),
    "absolute": (["--time-model", "absolute"], {}, True),
    "wished": ([], {"LIVECR_TIME_MODEL": "absolute"}, True),
    "wished-but-overruled": (["--time-model", "relative"], {"LIVECR_TIME_MODEL": "absolute"}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_whether_time_in_the_image_counts(
    case: str, target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """It sleeps for 4 s by its own clock either way; the model says whether these are 4 s of the world's."""
    options, environment, counts = CASES[case]

    def run(clocks: list[str]) -> dict[tuple[str, str], int]:
        one = target(["/usr/bin/python3", "-c", PROGRAM], **environment)
        began = time.monotonic()
        one.until_printed("sleeping")
        one.until_blocked(230)
        image = tmp_path / f"{one.pid}.livecr"
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        died = time.monotonic()
        time.sleep(DEAD_SECONDS)
        away = 0 if counts else time.monotonic() - died
        one.restore(image, *options)
        assert one.wait() == 0
        took = {"world": time.monotonic() - began, "own": float(one.output().split()[1])}
        assert read(str(image)).time_model == environment.get("LIVECR_TIME_MODEL", "relative")
        sleeps = {"world": 4 + away, "own": 4}
        return {(clock, RESTORED): round((took[clock] - sleeps[clock]) * 1e9) for clock in clocks}

    in_time(["world", "own"], run, allowed_ns=LATE_NS)


def test_a_wait_that_is_over_ends_at_once(target: Callable[..., Any], tmp_path: Path, livecr: Any) -> None:
    """By the absolute model, for a sleep whose end has passed while it was in its image."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        one = target(["sleep", "2"])
        one.until_blocked(230)
        image = tmp_path / f"{one.pid}.livecr"
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        time.sleep(DEAD_SECONDS + 0.5)
        began_ns = time.monotonic_ns()
        livecr("restore", image, "--time-model", "absolute")
        return {("sleep", RESTORED): time.monotonic_ns() - began_ns}

    in_time(["sleep"], run, allowed_ns=LATE_NS)


def test_another_time_model_is_refused(livecr: Any, image: Path) -> None:
    """A clear error, and nothing done."""
    done = livecr("restore", image, "--time-model", "backwards", exit_code=2)
    assert "backwards" in done.stderr
