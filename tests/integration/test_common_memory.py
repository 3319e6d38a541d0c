"""Processes with one memory that are not threads (CLONE_VM without CLONE_THREAD), and what else they share.

They would have noticed memory that is not common any more, or has lost what was in it; handlers, descriptors
or directories that are common, or are not, as they were before; and a wait that was too short.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import LIVECR, is_as_it_was

KINDS = ["memory", "handlers", "files", "all", "nested", "waiting", "threads", "odd"]


@pytest.mark.parametrize("fate", ["left-running", "restored"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_common_afterwards(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """Of a parent and its children, and of theirs; and of one with a copy of it."""
    is_as_it_was(target([program("common_memory"), kind]), fate, place, livecr)


def test_again_and_again(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """Also of what has been restored."""
    is_as_it_was(target([program("common_memory"), "nested"]), "restored-twice", place, livecr)


def test_it_is_stored_once(
    program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """The child's core file has no pages."""
    one = target([program("common_memory"), "memory"])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    processes = json.loads((image / "manifest.json").read_text())["content"]["processes"]
    parent, child = (image / f"{record['place']['pid']}.core" for record in processes)
    assert parent.stat().st_size > 1 << 20 > child.stat().st_size
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_livecr_is_killed(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """At whatever instant of a checkpoint: the memory is also what all of them find their way back by."""
    one = target([program("common_memory"), "nested"])
    one.until_printed("ready")
    began = time.monotonic()
    livecr("checkpoint", one.pid, "-o", place / "whole", "--leave-running")
    whole_s = time.monotonic() - began
    for number in range(12):
        words = [str(LIVECR), "checkpoint", str(one.pid), "-o", str(place / f"{number}"), "--leave-running"]
        killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole_s * (4 + number / 2) / 10)
        killed.kill()
        killed.wait()
    livecr("checkpoint", one.pid, "-o", place / "again", "--leave-running")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_a_vfork_that_lasts(
    program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """Its parent does not stop, and is refused by name, also by `check`; the program runs on."""
    one = target([program("common_memory"), "vfork"])
    one.until_printed("ready")
    for command in (["check", one.pid], ["checkpoint", one.pid, "-o", image]):
        done = livecr(*command, exit_code=3)
        assert "it waits in clone for its child to execute something or to end" in done.stdout + done.stderr
    os.kill(int(Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text()), signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_of_a_brother(
    program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """What was born with CLONE_PARENT too cannot be born so again: it is refused by name, and runs on."""
    one = target([program("common_memory"), "brother"])
    one.until_printed("ready")
    for command in (["check", one.pid], ["checkpoint", one.pid, "-o", image]):
        done = livecr(*command, exit_code=3)
        assert "CLONE_VM" in done.stdout + done.stderr
        assert "which is not its parent" in done.stdout + done.stderr
    first, second = Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()
    done = livecr("check", first, exit_code=3)
    assert f"with process {second}, which is no part of the program" in done.stdout + done.stderr
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
