"""A program is put back into its control groups; where one is gone, a warning says so.

Its limits and its accounting would have been those of another group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.waiting import milliseconds


def mounted() -> dict[str, Path]:
    """Hierarchies in which a group can be made here: the name in /proc/PID/cgroup, and where it is."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words, _, after = line.partition(" - ")
        kind, _, options = after.split(maxsplit=2)
        root, point = words.split()[3:5]
        name = "" if kind == "cgroup2" else options.split(",")[-1].strip()
        is_one = kind == "cgroup2" or (kind == "cgroup" and name in ("pids", "freezer"))
        if is_one and root == "/" and os.access(Path(point) / "cgroup.procs", os.W_OK):
            found[name] = Path(point)
    return found


@pytest.fixture(params=sorted(mounted()) or ["none"])
def group(request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    """A group of its own in each hierarchy; removed again."""
    where = mounted().get(request.param)
    if where is None:
        pytest.skip("no hierarchy of control groups is mounted for writing")
    directory = where / f"livecr-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    yield request.param, directory
    give_up = time.monotonic() + 20
    while directory.exists():
        try:
            directory.rmdir()
        except OSError:  # the last of it has not been waited for
            assert time.monotonic() < give_up
            time.sleep(0.05)


def group_of(pid: int, hierarchy: str) -> str:
    """As /proc tells."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, name, path = line.split(":", 2)
        if name == hierarchy:
            return path
    raise AssertionError(hierarchy)


def test_back_in_its_group(
    group: tuple[str, Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """Also when livecr itself is in another."""
    hierarchy, directory = group
    one = target(["sleep", "600"])
    one.until_blocked()
    (directory / "cgroup.procs").write_text(str(one.pid))
    assert group_of(one.pid, hierarchy) == f"/{directory.name}"
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    assert group_of(one.pid, hierarchy) == f"/{directory.name}"
    one.signal(signal.SIGKILL)
    assert one.wait() == 128 + signal.SIGKILL


def test_a_group_that_is_gone(
    group: tuple[str, Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """It runs nevertheless, and livecr names the group."""
    hierarchy, directory = group
    one = target(["sleep", milliseconds(1) / 1000])
    one.until_blocked()
    (directory / "cgroup.procs").write_text(str(one.pid))
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    give_up = time.monotonic() + 20
    while directory.exists():
        try:
            directory.rmdir()
        except OSError:
            assert time.monotonic() < give_up
            time.sleep(0.05)
    done: subprocess.CompletedProcess[str] = livecr("restore", image)
    assert f"control group /{directory.name} ({hierarchy or 'version 2'})" in done.stdout + done.stderr
