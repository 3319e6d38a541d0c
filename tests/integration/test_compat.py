"""32-bit programs on the 64-bit kernel: everything that 64-bit ones have, and what only they have.

The programs are those of the other tests, built for i386; each checks itself. Waits: test_compat_waits.py.
"""

from __future__ import annotations

import difflib
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import LIVECR, frame, until
from tests.integration.test_everything import layout

M32 = "-m32"
FATES = ["left-running", "restored"]


def undergo(fate: str, one: Any, image: Path, livecr: Any) -> None:
    """Let it live through a checkpoint, or through its death and restore."""
    if fate == "restored":
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        one.restore(image)
    else:
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")


def checks_itself(one: Any) -> None:
    """It looks at all that it has, and ends."""
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("linked", ["dynamic", "static"])
def test_what_only_32_bit_programs_have(
    linked: str,
    fate: str,
    program: Callable[..., Path],
    target: Callable[..., Any],
    image: Path,
    livecr: Any,
    tmp_path: Path,
) -> None:
    """It would find another segment, a handler's frame of 64 bits, a mutex whose owner's end nobody told."""
    one = target([program("compat", *(["-static"] if linked == "static" else [])), tmp_path])
    one.until_printed("ready")
    one.until_blocked()
    undergo(fate, one, image, livecr)
    checks_itself(one)


@pytest.mark.parametrize("fate", FATES)
def test_everything_is_as_it_was(
    fate: str,
    program: Callable[..., Path],
    target: Callable[..., Any],
    image: Path,
    livecr: Any,
    tmp_path: Path,
) -> None:
    """The program would notice a changed byte, register, offset, signal, timer or setting."""
    one = target([program("everything", M32), "128", tmp_path])
    one.until_printed("ready")
    before, outside = frame(one.pid), layout(one.pid)
    undergo(fate, one, image, livecr)
    assert not list(difflib.unified_diff(before, frame(one.pid), lineterm=""))
    assert layout(one.pid) == outside
    checks_itself(one)


@pytest.mark.parametrize("kind", ["epoll", "timerfd", "signalfd", "memfd", "inotify", "locks"])
def test_kinds_of_descriptors(
    kind: str,
    program: Callable[..., Path],
    target: Callable[..., Any],
    image: Path,
    livecr: Any,
    tmp_path: Path,
) -> None:
    """It would notice a lost event, another deadline, content or lock."""
    directory = tmp_path / "its own"
    directory.mkdir()
    words = [directory] if kind in ("inotify", "locks") else []
    one = target([program(f"kind_{kind}", M32, "-D_FILE_OFFSET_BITS=64"), *words])
    one.until_printed("ready")
    one.until_blocked()
    undergo("restored", one, image, livecr)
    checks_itself(one)


def test_killed_at_any_moment(
    program: Callable[..., Path], target: Callable[..., Any], livecr: Any, tmp_path: Path
) -> None:
    """Every thread of it checks itself all the time; a livecr that is killed must harm none of them."""
    seed = random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    numbers = tmp_path / "numbers"
    one = target([program("selfcheck", M32, "-no-pie"), numbers])
    one.until_printed("ready")
    began = time.monotonic()
    livecr("checkpoint", one.pid, "-o", tmp_path / "first.livecr", "--leave-running")
    whole_s = time.monotonic() - began
    for number in range(12):
        image = tmp_path / f"{number}.livecr"
        with subprocess.Popen(
            [LIVECR, "checkpoint", str(one.pid), "-o", image, "--leave-running"], stderr=subprocess.DEVNULL
        ) as killed:
            time.sleep(chance.uniform(0, 1.1 * whole_s))
            killed.kill()
        assert not one.has_ended(), (seed, one.output())
    size = numbers.stat().st_size
    until(lambda: one.has_ended() or numbers.stat().st_size > size, "it goes on writing")
    undergo("restored", one, tmp_path / "image.livecr", livecr)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nsignals: 0\nok\n"), seed
    lines = numbers.read_text().splitlines()
    assert lines == [str(number) for number in range(len(lines))]


@pytest.mark.parametrize("command", ["check", "checkpoint"])
def test_a_32_bit_call_of_a_64_bit_program_is_refused(
    command: str, program: Callable[..., Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """Its number is that of another call: taken for that it would be lost. Refused, it goes on."""
    one = target([program("int80")])
    one.until_printed("waiting")
    one.until_blocked()
    options = ["-o", image] if command == "checkpoint" else []
    assert "int $0x80" in livecr(command, one.pid, *options, exit_code=3).stderr
    assert "pause" in livecr("waits", one.pid).stdout
    assert not image.exists()
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "waiting\nresult -4, handled 1\n")


def test_an_image_says_what_it_is(
    program: Callable[..., Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """Whoever looks finds the 32-bit call under its own name, also if it was restarted."""
    one = target([program("wait_call", M32), "nanosleep", "20000"])
    one.until_blocked()
    one.signal(signal.SIGSTOP)
    until(lambda: "\nState:\tT" in Path(f"/proc/{one.pid}/status").read_text(), "it is stopped")
    one.signal(signal.SIGCONT)
    one.until_blocked(0)
    assert " nanosleep " in livecr("waits", one.pid).stdout
    livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    assert " nanosleep " in livecr("show", image).stdout


@pytest.mark.parametrize("machines", [("", M32, ""), (M32, "", M32)])
def test_a_tree_of_both_kinds(
    machines: tuple[str, ...],
    program: Callable[..., Path],
    target: Callable[..., Any],
    image: Path,
    livecr: Any,
) -> None:
    """Each would notice a child that is not its own, or is of another kind than it was."""
    one = target([program("mixed", *([machine] if machine else [])) for machine in machines])
    until(lambda: one.output().count("ready") == len(machines), "all are ready")
    undergo("restored", one, image, livecr)
    one.signal(signal.SIGUSR1)
    assert one.wait() == 0, one.output()
    bits = ["4" if machine else "8" for machine in machines]
    assert one.output().splitlines()[len(bits) :] == [f"done {size}" for size in reversed(bits)]


@pytest.mark.parametrize("machine", ["-m64", M32])
def test_a_local_descriptor_table_is_refused(
    machine: str, program: Callable[..., Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """It would find its segments gone. Refused, it goes on."""
    one = target([program("ldt", machine)])
    until(lambda: "ready" in one.output() or one.has_ended(), "it is ready")
    if one.has_ended():
        pytest.skip("this kernel has no modify_ldt(2)")
    one.until_blocked()
    said = livecr("checkpoint", one.pid, "-o", image, "--leave-running", exit_code=3).stderr
    assert "modify_ldt" in said
    one.signal(signal.SIGUSR1)
    assert one.wait() == 0
