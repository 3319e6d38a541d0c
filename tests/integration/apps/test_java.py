"""A Java program under load: allocation and its collection, compiled code, exceptions made of SIGSEGV, waits.

Of a restore that is not exact it would notice a wait that is early or late by System.nanoTime(), a guard page
or a protection that is not as it was (a crash), an object that has changed, or a line missing or twice.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.fates import FATES, Lives, check_story
from tests.integration.waiting import again, checkpoint

WAITS = {"sleep": 3, "wait": 3, "park": 3, "poll": 3, "scheduled": 3}


@pytest.mark.parametrize(
    ("collector", "fate"),
    [("G1", fate) for fate in FATES]
    + [("Serial", "restored"), ("Parallel", "restored"), ("Z", "restored"), ("Z", "left-running-thrice")],
)
def test_threads_of_the_jvm(
    collector: str,
    fate: str,
    built: Callable[[str], Path],
    target: Callable[..., Any],
    lives: Lives,
    tmp_path: Path,
) -> None:
    """Some forty threads, twenty of them the JVM's own, go on."""
    command = ["java", f"-XX:+Use{collector}GC", "-Xmx64m", "-cp", built("Threads.java"), "Threads"]
    lines = tmp_path / "lines"
    lives.story(fate, lambda wait_ms: target([*command, lines, str(wait_ms)]), WAITS, {"42"}, lines)


@pytest.mark.parametrize("option", ["-XX:-UsePerfData", "-XX:+UsePerfData"])
def test_another_jvm_starts_while_the_program_is_in_its_image(
    option: str,
    built: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    lives: Lives,
    tmp_path: Path,
) -> None:
    """A starting JVM deletes the mapped /tmp/hsperfdata_USER/PID of each JVM that is gone: refused by name.

    Without that file (-XX:-UsePerfData, an ordinary option) the program comes back all the same.
    """
    options = [option, "-XX:+UseSerialGC", "-Xmx64m", "-cp", built("Threads.java")]

    def attempt(number: int) -> None:
        one = target(["java", *options, "Threads", tmp_path / "lines", str(lives.wait_ms())])
        one.until_printed("ready")
        image = tmp_path / f"{number}.livecr"
        checkpoint(one, image, livecr)
        subprocess.run(["java", "-version"], check=True, capture_output=True)
        if option == "-XX:-UsePerfData":
            one.restore(image)
            check_story(one, WAITS, {"42"}, tmp_path / "lines")
        else:
            refused = livecr("restore", image, exit_code=3)
            assert f"/{one.pid} cannot be used any more (No such file or directory)" in refused.stderr
            assert "hsperfdata" in refused.stderr

    again(attempt)


def test_hundreds_of_threads_of_the_jvm(
    built: Callable[[str], Path],
    target: Callable[..., Any],
    lives_on: Callable[..., Iterator[str]],
    tmp_path: Path,
) -> None:
    """All of them are there, wake up when they are told to, and end."""
    options = ["-XX:-UsePerfData", "-XX:+UseSerialGC", "-Xmx64m", "-cp", built("Many.java")]
    one = target(["java", *options, "Many", tmp_path / "go"])
    one.until_printed("ready\n")
    for _ in lives_on(one):
        assert len(os.listdir(f"/proc/{one.pid}/task")) > 300
    (tmp_path / "go").touch()
    assert (one.wait(), one.output()) == (0, f"ready\n{sum(range(1, 301))}\n")
