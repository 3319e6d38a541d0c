"""CPython's multiprocessing.Pool in the middle of its traffic; its workers are forks, or started anew.

Of a restore that is not exact it would notice a result that is lost, twice or damaged, a semaphore that
nobody gives back (it would hang), a worker that has died and was replaced, or is not its child any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.conftest import APPS


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool(
    method: str, target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path
) -> None:
    """It has all results, and no others, after it was left running and then restored."""
    go = tmp_path / "go"
    one = target(["/usr/bin/python3", APPS / "pool.py", method, go])
    one.until_printed("ready")
    for _ in lives_on(one):
        pass
    go.touch()
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
