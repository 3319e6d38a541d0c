"""A core in an image is an ELF core like the kernel's own: gdb finds threads, stacks and data in it.

The program would notice nothing: it is frozen, its pages are copied, and it is let go again.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from livecr._native import ffi, lib
from livecr.image import elfcore, integrity
from livecr.kernel import procfs
from livecr.target.freeze import freeze, thaw

SOURCE = Path(__file__).parent.parent / "programs" / "two_stacks.c"
ROOM = 4096
CLOCK_NANOSLEEP = "230"
PROT = {"r": 1, "w": 2, "x": 4, "-": 0}
DEVICE_PAGES = ("[vvar]", "[vvar_vclock]", "[vsyscall]")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("program") / "two_stacks"
    subprocess.run(["gcc", "-g", "-O0", "-pthread", "-o", binary, SOURCE], check=True)
    return binary


@pytest.fixture
def child(program: Path) -> Iterator[int]:
    with subprocess.Popen([program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            wait_until_asleep(process.pid)
            yield process.pid
        finally:
            process.kill()


def wait_until_asleep(pid: int) -> None:
    """Until both threads are in clock_nanosleep, which glibc's nanosleep calls."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        calls = [(task / "syscall").read_text().split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
        if calls == [CLOCK_NANOSLEEP] * 2:
            return
    raise AssertionError(f"the threads are in {calls}, not asleep")


@pytest.fixture
def core(child: int, tmp_path: Path) -> Path:
    """The core of the frozen child; afterwards it runs on."""
    process = freeze(child)
    try:
        mappings = [
            elfcore.Mapping(
                vma.start,
                vma.end,
                sum(PROT[letter] for letter in vma.perms[:3]),
                vma.path if vma.path.startswith("/") else "",
                vma.offset,
            )
            for vma in procfs.mappings(child, with_flags=False)
            if vma.path not in DEVICE_PAGES
        ]
        threads = [
            elfcore.Thread(task.tid, task.registers().pack(), task.xstate(), signal_mask=task.signal_mask())
            for task in process.tasks
        ]
        auxv, arguments = procfs.read(child, "auxv"), procfs.read(child, "cmdline")
        notes = elfcore.Process(child, auxv=auxv, comm=b"two_stacks", arguments=arguments)
        layout = elfcore.layout(notes, threads, mappings, *stored_pages(child, mappings))
        with integrity.new_image(str(tmp_path / "image")) as image:
            image.store_core(child, layout, workers=2)
            image.commit({})
    finally:
        thaw(process)
    return tmp_path / "image" / f"{child}.core"


def stored_pages(pid: int, mappings: list[elfcore.Mapping]) -> tuple[object, int]:
    vdso = next(vma.start for vma in procfs.mappings(pid, with_flags=False) if vma.path == "[vdso]")
    runs = ffi.new("struct lcr_run[]", ROOM)
    walk_end = ffi.new("uint64_t *")
    count = 0
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for mapping in mappings:
            found = lib.lcr_scan_private(
                pagemap, mapping.start, mapping.end, runs + count, ROOM - count, walk_end
            )
            assert found >= 0
            assert walk_end[0] == mapping.end
            count += found
            if mapping.start == vdso:  # gdb wants to read it; its pages are the kernel's, not the process'
                runs[count] = (mapping.start, mapping.end, 0)
                count += 1
    finally:
        os.close(pagemap)
    return runs, count


def gdb(program: Path, core: Path, *commands: str) -> str:
    arguments = [argument for command in commands for argument in ("-ex", command)]
    start = ["gdb", "-batch", "-nx", "-iex", "set debuginfod enabled off"]
    command: list[str | Path] = [*start, *arguments, program, core]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    return done.stdout + done.stderr


def test_gdb_shows_both_threads_with_their_whole_stacks(program: Path, core: Path) -> None:
    shown = gdb(program, core, "thread apply all bt")
    stacks = shown.split("\nThread ")[1:]
    assert len(stacks) == 2
    main_stack = next(stack for stack in stacks if "main ()" in stack)
    other_stack = next(stack for stack in stacks if "second_thread (" in stack)
    for stack, seconds in ((main_stack, 2000), (other_stack, 500)):
        assert f"innermost (seconds={seconds * 2})" in stack
        assert f"middle (seconds={seconds})" in stack
        assert "nanosleep" in stack


def test_gdb_reads_the_heap_and_misses_nothing(program: Path, core: Path) -> None:
    shown = gdb(program, core, "print on_the_heap", "info sharedlibrary")
    assert '"remember the milk"' in shown
    assert "libc.so" in shown
    assert f"generated by `{str(program)[:40]}" in shown
    # gdb 13 takes Intel's XSAVE layout for granted, and says this on AMD also of a kernel's own core.
    complaints = [line for line in shown.lower().splitlines() if "warning" in line or "failed" in line]
    assert [line for line in complaints if ".reg-xstate" not in line] == []


def test_readelf_finds_nothing_wrong(core: Path) -> None:
    done = subprocess.run(
        ["readelf", "-W", "-h", "-l", "-n", core], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count("NT_PRSTATUS") == 2
    assert done.stdout.count("NT_X86_XSTATE") == 2
