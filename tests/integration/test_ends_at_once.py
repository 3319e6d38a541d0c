"""A restored program that ends before livecr has let go of all its tasks.

Whoever called `livecr restore` would have been told that it failed, and not how the program ended.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.conftest import LIVECR, Target

WAIT_MS = 2500


def test_its_status_is_passed_on(
    program: Callable[[str], Path], target: Callable[..., Target], image: Path, livecr: Any
) -> None:
    """Its sleep is over when it is restored, so the first task that runs ends the thirty others."""
    started = time.monotonic()
    one = target([program("ends_at_once"), WAIT_MS])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    time.sleep(max(0.0, started + WAIT_MS / 1000 + 0.1 - time.monotonic()))  # time that counts in the image
    for _ in range(3):
        done = subprocess.run(
            [LIVECR, "restore", image, "--time-model", "absolute"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (7, ""), done
