"""Core files: whatever is laid out comes back the same, and readelf agrees."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from livecr.errors import BadImage
from livecr.image import elfcore
from livecr.image.elfcore import Core, Layout, Mapping, Process, Thread

PAGE = 4096
PID = 4242
WORDS = [0, 1, 4096, 1 << 32, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1]


def thread(tid: int, xstate_bytes: int = 832) -> Thread:
    registers = bytes((tid + i) % 251 for i in range(216))
    xstate = bytes((tid * 3 + i) % 249 for i in range(xstate_bytes))
    return Thread(tid, registers, xstate, signal_mask=1 << tid % 64, signals_pending=tid)


def write(path: Path, layout: Layout) -> bytes:
    """What lcr_dump does, with invented memory."""
    data_bytes = layout.size - len(layout.head)
    data = (os.urandom(PAGE) * (data_bytes // PAGE + 1))[:data_bytes]
    path.write_bytes(layout.head + data)
    return layout.head + data


@st.composite
def address_spaces(draw: st.DrawFn) -> tuple[list[Mapping], list[tuple[int, int]]]:
    """Mappings in ascending order, and runs of stored pages inside them."""
    at = draw(st.integers(1, 1 << 30))
    mappings, runs = [], []
    for _ in range(draw(st.integers(0, 8))):
        at += draw(st.integers(0, 3))
        start = at
        for _ in range(draw(st.integers(0, 6))):
            at += draw(st.integers(0, 2))
            length = draw(st.integers(1, 4))
            runs.append((at * PAGE, (at + length) * PAGE))
            at += length
        at += draw(st.integers(0 if at > start else 1, 2))
        path = draw(st.sampled_from(["", "/usr/bin/true", "/tmp/a b\n\udcff"]))
        mappings.append(Mapping(start * PAGE, at * PAGE, draw(st.integers(0, 7)), path, 3 * PAGE))
    return mappings, runs


@given(address_spaces(), st.integers(1, 5), st.sampled_from([576, 832, 2440, 11008]))
def test_what_is_laid_out_is_read_back(
    space: tuple[list[Mapping], list[tuple[int, int]]], thread_count: int, xstate_bytes: int
) -> None:
    mappings, runs = space
    threads = [thread(PID + i, xstate_bytes) for i in range(thread_count)]
    layout = elfcore.layout(Process(PID, auxv=bytes(range(32))), threads, mappings, list(runs))
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory) / "core", layout)
        with Core.open(os.path.join(directory, "core")) as core:
            read = [
                (core.runs[i].start, core.runs[i].end, core.runs[i].offset) for i in range(core.run_count)
            ]
            assert [(start, end) for start, end, _ in read] == runs
            assert [t.tid for t in core.threads] == [t.tid for t in threads]
            for got, put in zip(core.threads, threads, strict=True):
                assert (got.registers, got.xstate) == (put.registers, put.xstate)
                assert (got.signal_mask, got.signals_pending) == (put.signal_mask, put.signals_pending)
            assert core.auxv == bytes(range(32))
            at = len(layout.head)
            for start, end, offset in read:
                assert offset == at
                at += end - start
            assert at == core.size == layout.size


def test_runs_outside_their_mappings_are_an_error_of_the_caller() -> None:
    mappings = [Mapping(10 * PAGE, 20 * PAGE, 3), Mapping(20 * PAGE, 30 * PAGE, 3)]
    process = Process(PID, auxv=bytes(16))
    for runs in (
        [(9 * PAGE, 11 * PAGE)],
        [(19 * PAGE, 21 * PAGE)],
        [(30 * PAGE, 31 * PAGE)],
        [(12 * PAGE, 13 * PAGE), (11 * PAGE, 12 * PAGE)],
        [(12 * PAGE, 12 * PAGE)],
        [(12 * PAGE + 1, 13 * PAGE)],
    ):
        with pytest.raises(ValueError, match="ascend"):
            elfcore.layout(process, [thread(PID)], mappings, runs)


def readelf(path: Path, *options: str) -> str:
    done = subprocess.run(["readelf", "-W", *options, path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


# One PT_NOTE comes on top; 65535 headers do not fit the ELF header's own field any more.
@pytest.mark.parametrize("load_count", [65533, 65534, 100_000])
def test_more_runs_than_an_elf_header_can_count(load_count: int, tmp_path: Path) -> None:
    runs = [(2 * i * PAGE, (2 * i + 1) * PAGE) for i in range(1, load_count // 2 + 1)]
    end = runs[-1][1] + PAGE * (1 - load_count % 2)
    mappings = [Mapping(runs[0][0], end, 3)]
    before = time.monotonic()
    layout = elfcore.layout(Process(PID, auxv=bytes(16)), [thread(PID)], mappings, list(runs))
    assert time.monotonic() - before < 5  # tens of milliseconds; here stands only that nothing is quadratic
    path = tmp_path / "core"
    with path.open("wb") as file:
        file.write(layout.head)
        file.truncate(layout.size)
    with Core.open(str(path)) as core:
        assert [(core.runs[i].start, core.runs[i].end) for i in range(core.run_count)] == runs
    loads = readelf(path, "-l").count("\n  LOAD ")
    gaps = len(runs) - 1 + (end > runs[-1][1])
    assert loads == len(runs) + gaps
    assert "NT_PRSTATUS" in readelf(path, "-n")


def test_readelf_sees_protections_and_file_names(tmp_path: Path) -> None:
    mappings = [
        Mapping(0x1000, 0x3000, 5, "/usr/bin/true", 0x2000),
        Mapping(0x3000, 0x4000, 3),
        Mapping(0x5000, 0x6000, 0),
    ]
    layout = elfcore.layout(Process(PID, auxv=bytes(16)), [thread(PID)], mappings, [(0x3000, 0x4000)])
    path = tmp_path / "core"
    write(path, layout)
    loads = [line.split() for line in readelf(path, "-l").splitlines() if line.startswith("  LOAD")]
    assert [(fields[2], fields[4], fields[5], "".join(fields[6:-1])) for fields in loads] == [
        ("0x0000000000001000", "0x000000", "0x002000", "RE"),
        ("0x0000000000003000", "0x001000", "0x001000", "RW"),
        ("0x0000000000005000", "0x000000", "0x001000", ""),
    ]
    assert b"/usr/bin/true\0" in path.read_bytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    mappings = [Mapping(0x1000, 0x9000, 3, "/usr/bin/true"), Mapping(0xA000, 0xB000, 1)]
    process = Process(PID, auxv=bytes(range(48)))
    layout = elfcore.layout(
        process, [thread(PID), thread(PID + 1)], mappings, [(0x2000, 0x3000), (0xA000, 0xB000)]
    )
    return write(tmp_path_factory.mktemp("core") / "core", layout)


@settings(max_examples=400)
@given(data=st.data())
def test_a_damaged_core_is_refused_or_read_and_never_a_crash(sound: bytes, data: st.DataObject) -> None:
    """Digests find every change; this is the second line, against a core that somebody made to do harm."""
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 6000))
        kind = data.draw(st.sampled_from(["byte", "word", "cut", "insert"]))
        if kind == "byte":
            content[at % len(content)] = data.draw(st.integers(0, 255))
        elif kind == "word":
            at = at % len(content) // 8 * 8
            content[at : at + 8] = data.draw(
                st.sampled_from([0, 1, 1 << 32, 1 << 63, (1 << 64) - 1])
            ).to_bytes(8)
        elif kind == "cut":
            del content[max(1, at % len(content)) :]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "core"
        path.write_bytes(content)
        try:
            with Core.open(str(path)) as core:
                for i in range(core.run_count):
                    run = core.runs[i]
                    assert 0 < run.offset < run.offset + run.end - run.start <= len(content)
                assert all(len(t.registers) == 216 for t in core.threads)
        except BadImage as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)


def test_what_is_no_core_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"x" * 10000)
    (tmp_path / "link").symlink_to("text")
    os.mkfifo(tmp_path / "fifo")
    for name in ("empty", "text", "link", "fifo", "nothing", "/usr/bin/true"):
        with pytest.raises(BadImage):
            Core.open(str(tmp_path / name))
