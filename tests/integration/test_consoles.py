"""Programs at a terminal: a test types into one, checkpoints what runs there, and types on in another."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import LIVECR, until
from tests.integration.console import Console

PYTHON = [sys.executable, "-q", "-i"]


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Callable[..., Console]]:
    """Open terminals: ``console("bash", rows=24)``."""
    opened: list[Console] = []

    def open_one(*command: str | Path, **size: int) -> Console:
        opened.append(Console(*command, cwd=tmp_path, **size))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def child_of(pid: int) -> int:
    """The one child of a process."""

    def children() -> list[str]:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    until(lambda: len(children()) == 1, f"process {pid} has one child")
    return int(children()[0])


def die(one: Console, livecr: Any, image: Path) -> None:
    """Checkpoint what leads the session of a terminal."""
    livecr("checkpoint", one.pid, "-o", image)
    assert one.wait() == -signal.SIGKILL


def restored(console: Callable[..., Console], pid: int, image: Path, **size: int) -> Console:
    """A terminal in which the program lives again; its number may be another process' for a moment."""
    while True:
        one = console(LIVECR, "restore", image, **size)
        if lives_in(one, pid):
            return one
        one.wait()
        assert " is taken by process " in one.seen, one.seen
        time.sleep(0.1)


def lives_in(one: Console, pid: int) -> bool:
    """Whether livecr has made it there."""
    until(lambda: one.has_ended() or lives(pid), "the restored program runs")
    return not one.has_ended()


def lives(pid: int) -> bool:
    """Whether the program is whole again."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        exe = os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "TracerPid:\t0" in status and "Name:\tlivecr" not in status and "livecr-seed" not in exe


def test_a_session_goes_on_in_another_terminal(
    console: Callable[..., Console], livecr: Any, image: Path
) -> None:
    """Python leads the session: what it knows, its terminal, the new size and later ones, and ^C."""
    first = console(*PYTHON)
    first.until_seen(">>> ")
    first.type("import os; x = 41; saw = []\n")
    first.until_seen(">>> ")
    first.type("import signal; _ = signal.signal(signal.SIGWINCH, lambda *_: saw.append(1))\n")
    first.until_seen(">>> ")
    die(first, livecr, image)
    second = restored(console, first.pid, image, rows=30, columns=100)
    second.type("x + 1, os.getpid(), os.getsid(0), os.tcgetpgrp(0), bool(saw)\n")
    second.until_seen(rf"\(42, {first.pid}, {first.pid}, {first.pid}, True\)")
    second.type("os.get_terminal_size(), os.open('/dev/tty', os.O_RDWR) > 2\n")
    second.until_seen(r"columns=100, lines=30\), True")
    second.resize(40, 120)
    second.type("os.get_terminal_size()\n")
    second.until_seen("columns=120, lines=40")
    second.type("import time; time.sleep(600)\n")
    second.until_seen("600")
    until(lambda: Path(f"/proc/{first.pid}/syscall").read_text().split()[0] in ("35", "230"), "it sleeps")
    second.type("\3")
    second.until_seen("KeyboardInterrupt")
    second.type("os._exit(7)\n")
    assert second.wait() == 7


def test_a_job_of_a_shell_becomes_a_job_of_another(
    console: Callable[..., Console], livecr: Any, image: Path
) -> None:
    """It is in the foreground, ^C and ^Z reach it and livecr stops with it, fg continues both; and at the end
    the shell's settings are as they were."""
    first = console("bash", "--norc")
    first.until_seen(r"\$ ")
    first.type(" ".join(PYTHON) + "\n")
    first.until_seen(">>> ")
    first.type("import os, time; x = 41\n")
    first.until_seen(">>> ")
    pid = child_of(first.pid)
    livecr("checkpoint", pid, "-o", image)
    first.until_seen(r"\$ ")
    second = console("bash", "--norc", rows=30)
    second.until_seen(r"\$ ")
    second.type("stty -a > before\n")
    second.until_seen(r"\$ ")
    second.type(f"{LIVECR} restore {image}\n")
    time.sleep(0.5)  # typed ahead or not: both must do
    second.type("x + 1, os.getpid(), os.getsid(0), os.tcgetpgrp(0)\n")
    second.until_seen(rf"\(42, {pid}, {second.pid}, {pid}\)")
    second.type("time.sleep(600)\n")
    until(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("35", "230"), "it sleeps")
    second.type("\3")
    second.until_seen("KeyboardInterrupt")
    second.until_seen(">>> ")
    second.type("\x1a")
    second.until_seen("Stopped")
    second.until_seen(r"\$ ")
    second.type("fg\n")
    second.until_seen("restore")
    second.type("x + 2\n")
    second.until_seen("43")
    second.type("os._exit(7)\n")
    second.until_seen(r"\$ ")
    second.type("echo ended $?; stty -a > after; cmp before after && echo same\n")
    second.until_seen("ended 7\r\nsame")


def test_an_editor_draws_itself_anew(
    console: Callable[..., Console], livecr: Any, image: Path, tmp_path: Path
) -> None:
    """vim, in a larger terminal: what was typed before and after is in the file."""
    first = console("vim", "-u", "NONE", "-n", "text")
    first.until_seen("text")
    first.type("ibefore ")
    first.until_seen("before")
    die(first, livecr, image)
    second = restored(console, first.pid, image, rows=40, columns=100)
    second.until_seen("before")
    second.type("after\x1b:wq\r")
    assert second.wait() == 0
    assert (tmp_path / "text").read_text() == "before after\n"


def test_top_goes_on(console: Callable[..., Console], livecr: Any, image: Path) -> None:
    """It shows itself in the new terminal, and ends by its key."""
    first = console("top", "-d", "1")
    first.until_seen("load average")
    die(first, livecr, image)
    second = restored(console, first.pid, image)
    second.until_seen("load average")
    second.until_seen("load average")
    second.type("q")
    assert second.wait() == 0


def test_without_a_terminal_it_is_refused(console: Callable[..., Console], livecr: Any, image: Path) -> None:
    """Nothing is made, and livecr says what to do."""
    first = console(*PYTHON)
    first.until_seen(">>> ")
    die(first, livecr, image)
    said = ""
    while not said or " is taken by process " in said:
        said = livecr("restore", image, "--detach", exit_code=3).stderr
    assert "started at a terminal" in said and "without --detach" in said
    assert not os.path.exists(f"/proc/{first.pid}")
