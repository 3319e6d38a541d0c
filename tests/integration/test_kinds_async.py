"""io_uring and AIO: the programs check rings, registered things and completions themselves; fio its data."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import until
from tests.integration.waiting import LEFT_RUNNING, RESTORED, meet_all

RINGS = ("plain", "silent", "single", "big", "two", "used", "forked")
#: What fio writes, of 4 KiB each.
BLOCKS = 8192
#: Kinds that are refused, and what is said of them.
REFUSED = {
    "kind_io_uring timeout": "1 io_uring request (a timeout among them) in flight",
    "kind_io_uring read": "1 io_uring request in flight",
    "kind_io_uring closed": "registered files that the program has no descriptor of any more",
    "kind_aio poll": "1 AIO request in flight",
}


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize("command", [*(f"kind_io_uring {kind}" for kind in RINGS), "kind_aio none"])
def test_rings_are_as_they_were(
    command: str,
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    image: Path,
) -> None:
    """It would notice a completion lost or twice, a position that jumps, a file, buffer or eventfd less."""
    name, kind = command.split()
    one = target([program(name), kind])
    one.until_printed("ready")
    meet_all([(fate, one, image)], livecr, dead_seconds=0)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.parametrize("command", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(
    command: str, program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, image: Path
) -> None:
    """A request in flight would be lost, a file that nothing leads to could not be registered again."""
    name, kind = command.split()
    one = target([program(name), kind])
    one.until_printed("ready")
    assert REFUSED[command] in livecr("check", one.pid, exit_code=3).stderr
    livecr("checkpoint", one.pid, "-o", image, exit_code=3)
    assert not one.has_ended()
    assert not image.exists()


def test_without_bpf_nothing_is_known_of_requests(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any
) -> None:
    """Nothing else tells what is in flight, so a program that might have some is refused."""
    one = target([program("kind_aio"), "none"])
    one.until_printed("ready")
    assert "only BPF tells" in livecr("check", one.pid, exit_code=3, LIVECR_WITHOUT="bpf").stderr


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize("engine", ["io_uring", "libaio"])
def test_fio_finds_its_data(
    engine: str,
    fate: str,
    target: Callable[..., Any],
    livecr: Any,
    image: Path,
) -> None:
    """Checkpointed while it writes, with requests in flight; in the end it reads all and verifies it."""
    began = time.monotonic()
    livecr("--version")
    writes_s = 3 + 10 * (time.monotonic() - began)  # a checkpoint fits in, also on a busy machine
    rate = max(100, round(BLOCKS / writes_s))
    job = f"--thread --filename=data --size={4 * BLOCKS}k --bs=4k --rw=randwrite --iodepth=16"
    job += f" --rate_iops={rate} --verify=crc32c --verify_fatal=1 --eta=never"
    if engine == "io_uring":
        job += " --fixedbufs --registerfiles"
    command = ["fio", "--name=job", f"--ioengine={engine}", *job.split()]
    one = target(command)  # what it knows of its jobs is in System V shared memory
    one.until_printed("Laying out IO file")
    until_written(one.output_file.parent / "data")
    meet_all([(fate, one, image)], livecr)
    assert one.wait() == 0, one.output()
    assert "err= 0" in one.output()


def until_written(file: Path) -> None:
    """Until somebody writes to it, now."""
    until(file.exists, f"there is a file {file}")
    seen = file.stat().st_mtime_ns
    until(lambda: file.stat().st_mtime_ns != seen, f"{file} is written to")
