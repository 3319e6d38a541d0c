"""A thousand threads, and two hundred processes: as many, and each as it was.

Most of them are alike, which livecr makes use of, and some are not. They would have noticed another name,
mask, stack, priority or parent, and a wait that has ended. The limits are as low as a service may have.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was

FILES = 1024


@pytest.fixture(autouse=True)
def few_files() -> Iterator[None]:
    """livecr is started with the soft limit that most services have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, soft), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("fate", ["left-running", "restored"])
@pytest.mark.parametrize(("name", "count"), [("threads_alike", 1000), ("processes_alike", 200)])
def test_all_are_as_they_were(
    name: str,
    count: int,
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
) -> None:
    """Each checks itself."""
    is_as_it_was(target([program(name), str(count)]), fate, place, livecr)
