"""Programs that seccomp confines: their filters are in force afterwards, no less and no more.

They would have noticed a filter that is lost, one of another thread, a call that is answered in another way;
and they would have been killed by a call that is not theirs.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.kernel import procfs
from tests.integration.conftest import LIVECR

CONFINED = ["errno", "kill", "trap", "root", "threads"]
#: What is said of a program that is not saved, and how it waits.
REFUSED = {
    "no-restart": "go on as restart_syscall",
    "no-munmap": "SECCOMP_RET_KILL_PROCESS to munmap",
    "no-sigprocmask": "SECCOMP_RET_KILL_PROCESS to rt_sigprocmask",
    "no-mmap": "SECCOMP_RET_KILL_PROCESS to mmap",
    "epoll": "go on as epoll_pwait2",
}
KILLS = 40


def seccomp_lines(pid: int) -> list[str]:
    """Mode and number of filters, as /proc tells."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line for line in lines if line.startswith(("Seccomp", "NoNewPrivs"))]


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
@pytest.mark.parametrize("kind", CONFINED)
def test_filters_are_in_force(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """The program makes the calls that its filters answer, after it was told to."""
    one = target([program("seccomp"), kind])
    one.until_printed("ready")
    before = seccomp_lines(one.pid)
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", place / "image", "--leave-running")
    for number in range({"left-running": 0, "restored": 1, "restored-twice": 2}[fate]):
        livecr("checkpoint", one.pid, "-o", place / f"image{number}")
        one.killed()
        one.restore(place / f"image{number}")
    assert seccomp_lines(one.pid) == before
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_sleeps_on(
    program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """A sleep that goes on as restart_syscall, which its filter allows: not shorter, and no EINTR."""
    one = target([program("seccomp"), "sleep"])
    one.until_printed("ready")
    one.until_blocked(230)
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(
    kind: str, program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """A checkpoint, or its end at a bad moment, would kill it: so it is not touched, and sleeps on."""
    one = target([program("seccomp"), kind])
    one.until_printed("ready")
    one.until_blocked(232 if kind == "epoll" else 230)
    for command in (["check", one.pid], ["checkpoint", one.pid, "-o", image]):
        done = livecr(*command, exit_code=3)
        assert REFUSED[kind] in done.stdout + done.stderr
    assert not image.exists()
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_strict_mode_is_refused(
    program: Callable[[str], Path], tmp_path: Path, livecr: Any, image: Path
) -> None:
    """It may not even be asked for its signal stack; it reads on."""
    with subprocess.Popen(
        [program("seccomp"), "strict"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdin and one.stdout and one.stdout.readline() == "ready\n"
        give_up = time.monotonic() + 20
        while "Seccomp:\t1" not in seccomp_lines(one.pid):
            assert time.monotonic() < give_up
        said = livecr("checkpoint", one.pid, "-o", image, exit_code=3).stderr
        assert "it is in seccomp's strict mode" in said
        one.stdin.write("x")
        one.stdin.close()
        assert one.wait(20) == 0


def test_listener_is_refused(
    program: Callable[[str], Path], target: Callable[..., Any], image: Path, livecr: Any
) -> None:
    """Its supervisor would be lost."""
    one = target([program("seccomp"), "listener"])
    one.until_printed("ready")
    said = livecr("checkpoint", one.pid, "-o", image, exit_code=3).stderr
    assert "SECCOMP_FILTER_FLAG_NEW_LISTENER" in said
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
@pytest.mark.parametrize("kind", ["strict-child", "without-munmap", "without-sigprocmask", "without-mmap"])
def test_the_risk_is_taken(
    kind: str, fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """With --seccomp suspend: it is confined afterwards as it was before, and has not been harmed."""
    one = target([program("seccomp"), kind])
    one.until_printed("ready")
    one.until_blocked()  # its filter is in force
    confined = [one.pid, *procfs.children(one.pid)][-1]
    before = seccomp_lines(confined)
    assert livecr("check", one.pid, exit_code=3).stderr.count("--seccomp suspend") == 1
    livecr("check", one.pid, "--seccomp", "suspend")
    for number in range({"left-running": 1, "restored": 1, "restored-twice": 2}[fate]):
        leave = ["--leave-running"] if fate == "left-running" else []
        livecr("checkpoint", one.pid, "-o", place / f"image{number}", "--seccomp", "suspend", *leave)
        if not leave:
            one.killed()
            one.restore(place / f"image{number}")
    assert seccomp_lines(confined) == before
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_what_a_freeze_itself_would_bring_about_is_no_risk(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any
) -> None:
    """But certain: its call would go on as another, when no filter is suspended any more."""
    one = target([program("seccomp"), "no-restart"])
    one.until_printed("ready")
    one.until_blocked(230)
    said = livecr("check", one.pid, "--seccomp", "suspend", exit_code=3).stderr
    assert "go on as restart_syscall" in said
    livecr("check", one.pid, "--seccomp", "ignore", exit_code=2)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.time_limit(240)
def test_livecr_killed_at_any_moment(
    program: Callable[[str], Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
    record_property: Callable[[str, object], None],
) -> None:
    """The filter is in force again the moment livecr is dead, and kills at any call that it does not know."""
    chance = random.Random(seed := random.SystemRandom().getrandbits(32))
    record_property("seed", seed)
    one = target([program("seccomp"), "busy"])
    one.until_printed("ready")
    status = Path(f"/proc/{one.pid}/status")
    began = time.monotonic()
    livecr("checkpoint", one.pid, "-o", place / "whole", "--leave-running")
    whole = time.monotonic() - began
    frozen = 0
    for number in range(KILLS):
        killed = subprocess.Popen(
            [LIVECR, "checkpoint", str(one.pid), "-o", place / f"image{number}", "--leave-running"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while killed.poll() is None and "TracerPid:\t0" in status.read_text():
            pass
        time.sleep(chance.uniform(0, whole / 5))
        frozen += f"TracerPid:\t{killed.pid}" in status.read_text()
        killed.kill()
        killed.wait()
        assert not one.has_ended(), one.output()
    assert frozen > KILLS / 10, "the kills missed the time in which the program was frozen"
    livecr("checkpoint", one.pid, "-o", place / "last")
    one.killed()
    one.restore(place / "last")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
