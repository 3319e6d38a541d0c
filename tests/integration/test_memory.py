"""Every sort of mapping, in a program (tests/programs/mem_kinds.c) that looks at all of them afterwards."""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from livecr.image.elfcore import Core
from tests.integration.conftest import frame

PAGE = 4096


def difference(before: list[str], after: list[str]) -> str:
    """What is not the same in two frames.

    But for "gu": the kernel never takes it from a mapping that was part of one with a guard page, so it says
    that there may be one; whether there is, the program tries out.
    """
    first, second = ([line.replace(" gu", "") for line in lines] for lines in (before, after))
    return "\n".join(difflib.unified_diff(first, second, lineterm=""))


class Mapped:
    """The program, with the ranges of addresses that it told."""

    def __init__(self, process: Any, directory: Path) -> None:
        self.process = process
        self.pid: int = process.pid
        self.directory = directory
        self.told = dict(line.split(maxsplit=1) for line in process.output().splitlines() if " " in line)

    def finish(self) -> None:
        """What it has to say."""
        self.process.signal(signal.SIGUSR1)
        code, said = self.process.wait(), self.process.output().splitlines()
        assert (code, said[-1]) == (0, "ok"), said

    def stored(self, image: Path, name: str) -> list[int]:
        """The numbers of the pages of one of its ranges that are in the image."""
        start, end = (int(word, 16) for word in self.told[name].split("-"))
        with Core.open(str(image / f"{self.pid}.core")) as core:
            runs = [(core.runs[i].start, core.runs[i].end) for i in range(core.run_count)]
        pages = []
        for run_start, run_end in runs:
            first, last = max(start, run_start), min(end, run_end)
            pages += [(at - start) // PAGE for at in range(first, last, PAGE)]
        return pages


@pytest.fixture
def mapped(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path
) -> Callable[..., Mapped]:
    """Start the program."""

    def start(*arguments: str) -> Mapped:
        directory = tmp_path / "files"
        directory.mkdir()
        process = target([program("mem_kinds"), directory, *arguments])
        process.until_printed("ready")
        return Mapped(process, directory)

    return start


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
def test_every_kind(
    fate: str, mapped: Callable[..., Mapped], image: Path, livecr: Any, tmp_path: Path
) -> None:
    """The program would notice a page, a protection, a guard or a limit that is not as it was."""
    one = mapped()
    before = frame(one.pid)
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    else:
        livecr("checkpoint", one.pid, "-o", image)
        one.process.killed()
        one.process.restore(image)
    if fate == "restored-twice":
        assert difference(before, frame(one.pid)) == ""
        livecr("checkpoint", one.pid, "-o", tmp_path / "second.livecr")
        one.process.killed()
        one.process.restore(tmp_path / "second.livecr")
    assert difference(before, frame(one.pid)) == ""
    one.finish()


def test_only_what_it_has_of_its_own_travels(mapped: Callable[..., Mapped], image: Path, livecr: Any) -> None:
    """Of a mapped file the pages that were changed; of memory that was only read none; of 4 TiB three."""
    one = mapped()
    began = time.monotonic()
    livecr("checkpoint", one.pid, "-o", image)
    took = time.monotonic() - began
    assert one.stored(image, "private") == [3, 7]
    assert one.stored(image, "zeros") == [100]
    assert one.stored(image, "sparse") == [
        number * (4 << 40) // PAGE // 2 - (number > 0) for number in range(3)
    ]
    # The image is about as large as what the program has in its memory, and less than that.
    size = sum(file.stat().st_size for file in image.rglob("*") if file.is_file())
    assert size < 24 << 20
    # Looking at each of the 2^30 pages of 4 TiB would take longer than this by far.
    assert took < 20
    one.process.killed()
    one.process.restore(image)
    one.finish()


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    """Somewhere to swap to: what the machine has, or else a file for as long as the test takes."""
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        yield
        return
    file = tmp_path / "swap"
    file.touch(mode=0o600)
    with file.open("r+b") as content:
        os.posix_fallocate(content.fileno(), 0, 16 << 20)
    subprocess.run(["mkswap", file], check=True, capture_output=True)
    done = subprocess.run(["swapon", file], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"there is no swap here, and none can be made: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["swapoff", file], check=True)


def test_swapped_out(swap: None, mapped: Callable[..., Mapped], image: Path, livecr: Any) -> None:
    """Memory that is not there just now is the program's all the same."""
    one = mapped("pageout")
    status = Path(f"/proc/{one.pid}/status").read_text()
    swapped_kib = int(status.split("VmSwap:")[1].split()[0])
    assert swapped_kib > 0, "the kernel has swapped nothing out"
    livecr("checkpoint", one.pid, "-o", image)
    assert one.stored(image, "out") == list(range(256))
    one.process.killed()
    one.process.restore(image)
    one.finish()


def _append(file: Path) -> None:
    with file.open("ab") as content:
        content.write(b"more")


def _change(file: Path) -> None:
    with file.open("r+b") as content:
        content.seek(50000)
        content.write(b"other")


def _replace(file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(bytes(file.stat().st_size))
    new.rename(file)


# What is in a file that the program itself writes to is everybody's; but it has to be there, and as large.
@pytest.mark.parametrize(
    ("name", "change"),
    [
        *[("private", change) for change in (_append, _change, _replace, Path.unlink)],
        *[("shared", change) for change in (_append, Path.unlink)],
    ],
)
def test_a_mapped_file_is_no_longer_the_same(
    name: str, change: Callable[[Path], None], mapped: Callable[..., Mapped], image: Path, livecr: Any
) -> None:
    """The program would run on with bytes that it has never seen, or meet SIGBUS: refused, the file named."""
    one = mapped()
    file = one.directory / name
    livecr("checkpoint", one.pid, "-o", image)
    one.process.killed()
    content, times = file.read_bytes(), file.stat()
    change(file)
    try:
        said = livecr("restore", "--detach", image, exit_code=3)
    finally:
        restored = not one.process.has_ended()
        if restored:
            os.kill(one.pid, signal.SIGKILL)
    assert str(file) in said.stderr
    assert not restored
    # And with the file as it was, the image is as good as ever.
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    one.process.restore(image)
    one.finish()


def test_a_mapped_file_is_gone_before(mapped: Callable[..., Mapped], image: Path, livecr: Any) -> None:
    """What it had mapped goes on being mapped, whatever is at that name now."""
    one = mapped()
    file = one.directory / "private"
    file.unlink()
    file.write_bytes(b"another")
    livecr("checkpoint", one.pid, "-o", image)
    one.process.killed()
    one.process.restore(image)
    one.finish()
    assert file.read_bytes() == b"another"
