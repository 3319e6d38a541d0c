"""What every test gets: a time limit, and for the integration tests the need of root.

A restore that goes wrong likes to hang, in a wait that never ends: SIGALRM breaks such a test off where
it is, so that its clean-up runs and the next test starts. pytest calls all of this by itself.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

__all__: list[str] = []

INTEGRATION = Path(__file__).parent / "integration"
TIME_LIMIT_SECONDS = 120.0  # some are tried up to three times

# No judgement by how fast the machine is; and the same examples everywhere: a failure can be seen again.
settings.register_profile(
    "livecr", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("livecr")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root the integration tests are skipped, and -ra prints why."""
    needs_root = pytest.mark.skip(reason="needs root (ptrace, BPF, chosen PIDs): run scripts/test")
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)
            if os.geteuid() != 0:
                item.add_marker(needs_root)


def within_time_limit(item: pytest.Item) -> Generator[None, object, object]:
    """Fails the phase that runs in it (set-up, test, clean-up, each for itself) when its time is over."""
    marker = item.get_closest_marker("time_limit")
    seconds = float(marker.args[0]) if marker else TIME_LIMIT_SECONDS

    def too_long(signum: int, frame: FrameType | None) -> None:
        pytest.fail(f"not done after {seconds:g} s", pytrace=True)

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from within_time_limit(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from within_time_limit(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from within_time_limit(item))
