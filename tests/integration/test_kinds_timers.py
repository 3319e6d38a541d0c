"""Periodic timers go on ticking: setitimer(2), and timer_create(2) with every expiration counted.

The program compares with its clock how often its timer has expired, so it would notice an expiration that is
lost, early or counted twice, and an interval timer that has stopped.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.kernel import procfs
from tests.integration.conftest import until

#: As long as some twenty expirations; any of them may fall into a checkpoint.
_BETWEEN_S = 0.2


@pytest.mark.parametrize("kind", ["taken", "pending"])
@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_every_expiration_counts(
    kind: str,
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    tmp_path: Path,
) -> None:
    """Four times, since it is chance when a timer fires: while the program is frozen, or being made."""
    one = target([program("kind_timers"), kind])
    one.until_printed("ready")
    for number in range(4):
        time.sleep(_BETWEEN_S)
        image = tmp_path / f"image-{number}"
        if fate == "left-running":
            livecr("checkpoint", one.pid, "-o", image, "--leave-running")
        else:
            livecr("checkpoint", one.pid, "-o", image)
            one.killed()
            one.restore(image)
    time.sleep(_BETWEEN_S)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_of_several_processes(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, tmp_path: Path
) -> None:
    """Two of each kind, children of a shell: every one's own timers are its own, after a restore too."""
    kinds = ["taken", "pending"] * 2
    script = "".join(f"{program('kind_timers')} {kind} & " for kind in kinds) + "wait"
    one = target(["sh", "-c", script])
    until(lambda: one.output().count("ready") == len(kinds), "all count")
    for number, leave in enumerate((["--leave-running"], [], ["--leave-running"], [])):
        time.sleep(_BETWEEN_S)
        livecr("checkpoint", one.pid, "-o", tmp_path / f"image-{number}", *leave)
        if not leave:
            one.killed()
            one.restore(tmp_path / f"image-{number}")
    time.sleep(_BETWEEN_S)
    for pid in procfs.children(one.pid):
        os.kill(pid, signal.SIGUSR1)
    assert one.wait() == 0
    assert sorted(one.output().split()) == ["ok"] * len(kinds) + ["ready"] * len(kinds)
