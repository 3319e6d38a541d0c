"""The two time models: whether the time that a program spends in its image counts.

The program would have noticed a sleep that ends too early or too late by its own clock, or a clock that
stands still where it should have gone on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from livecr.restore import read
from tests.integration.waiting import RESTORED, checkpoint, in_time, milliseconds, starting_ms

PROGRAM = """
import os, sys, time
WISH
began = time.monotonic()
print("sleeping", flush=True)
time.sleep(float(sys.argv[1]))
print(time.monotonic() - began, time.time(), flush=True)
"""
#: The program's own wish, in lines of it; the first is how any language can make it.
BY_MEMFD = 'os.memfd_create("livecr:time=absolute")'
BY_ADVICE = 'import livecr; livecr.advise(time_model="relative"); livecr.advise(time_model="absolute")'
BY_ENVIRONMENT = {"LIVECR_TIME_MODEL": "absolute"}
OVERRULED = ["--time-model", "relative"]
CASES = {
    # options of restore, its environment, its wish, whether time in the image counts, what `show` tells
    "default": ([], {}, "", False, "relative"),
    "command-line": (["--time-model", "absolute"], {}, "", True, "relative"),
    "environment": ([], BY_ENVIRONMENT, "", True, "absolute, as LIVECR_TIME_MODEL"),
    "environment-overruled": (OVERRULED, BY_ENVIRONMENT, "", False, "absolute, as LIVECR_TIME_MODEL"),
    "memfd": ([], {}, BY_MEMFD, True, "absolute, as the name of a memfd"),
    "memfd-overruled": (OVERRULED, {}, BY_MEMFD, False, "absolute, as the name of a memfd"),
    "environment-before-memfd": (
        [],
        {"LIVECR_TIME_MODEL": "relative"},
        BY_MEMFD,
        False,
        "relative, as LIVECR_TIME_MODEL",
    ),
    "advice": ([], {}, BY_ADVICE, True, "absolute, as the name of a m"),  # mapping or memfd
}


def seconds_to_tell() -> float:
    """A time of which half is more than livecr takes here and now to checkpoint and to restore."""
    return max(2.0, 0.025 * starting_ms())


def test_whether_time_in_the_image_counts(target: Callable[..., Any], tmp_path: Path, livecr: Any) -> None:
    """They sleep for as long by their own clocks; the model says whether they do by the world's."""
    dead_seconds = seconds_to_tell()

    def run(cases: list[str]) -> dict[tuple[str, str], int]:
        asked = dead_seconds + milliseconds(len(cases)) / 1000  # by the absolute model not over in the image
        programs, began, died, away = {}, {}, {}, {}
        for case in cases:
            code = PROGRAM.replace("WISH", CASES[case][2])
            programs[case] = target([sys.executable, "-c", code, str(asked)], **CASES[case][1])
            began[case] = time.time()
        images = {case: tmp_path / f"{one.pid}.livecr" for case, one in programs.items()}
        for case, one in programs.items():
            one.until_printed("sleeping")
            one.until_blocked(230)
            checkpoint(one, images[case], livecr)
            died[case] = time.monotonic()
        time.sleep(dead_seconds)
        for case, one in programs.items():
            away[case] = 0 if CASES[case][3] else time.monotonic() - died[case]
            one.restore(images[case], *CASES[case][0])
        late = {}
        for case, one in programs.items():
            assert one.wait() == 0
            assert CASES[case][4] in livecr("show", images[case]).stdout
            own, ended = (float(word) for word in one.output().split()[1:])
            late[case] = max(ended - began[case] - away[case], own) - asked
            assert own >= asked and ended - began[case] >= asked + away[case], case
        return {(case, RESTORED): round(seconds * 1e9) for case, seconds in late.items()}

    in_time(CASES, run, allowed_ns=round(dead_seconds / 2 * 1e9))


def test_a_wish_outlives_a_restore(target: Callable[..., Any], tmp_path: Path, livecr: Any) -> None:
    """An image of a restored program tells the same wish, from the same origin."""
    one = target([sys.executable, "-c", PROGRAM.replace("WISH", BY_ADVICE), "100"])
    one.until_printed("sleeping")
    one.until_blocked(230)
    first, second = tmp_path / "first", tmp_path / "second"
    checkpoint(one, first, livecr)
    one.restore(first)
    checkpoint(one, second, livecr, leave_running=True)
    wishes = [(image.time_model, image.time_model_from) for image in (read(str(first)), read(str(second)))]
    assert wishes[0] == wishes[1]
    assert wishes[0][0] == "absolute" and wishes[0][1] in ("mapping", "memfd")


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
