"""Terminals: pairs of a program's own, which it checks itself, and what is refused of them."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was, until


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
def test_terminals_are_as_they_were(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, place: Path
) -> None:
    """It would notice a lost byte in either direction, a changed setting, a session without its terminal."""
    is_as_it_was(target([program("kind_tty")]), fate, place, livecr)


def test_a_number_that_is_taken(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, image: Path
) -> None:
    """The program gets another terminal, and livecr says so."""
    one = target([program("kind_tty")])
    one.until_printed("ready")
    told = json.loads(livecr("show", _checkpoint(one, image, livecr), "--json").stdout)
    wanted = next(d["what"] for d in told["processes"][0]["descriptors"] if d["kind"] == "tty")
    taken: list[tuple[int, str]] = []
    try:
        while wanted not in [path for _, path in taken]:
            taken.append(_open_pair())
        said = livecr("restore", image, "--detach").stderr
        assert "since that number is taken" in said
        one.signal(signal.SIGUSR1)
        until(one.has_ended, "it ends")
        different = one.output().splitlines()[1:]
        assert different and all("/dev/pts/" in line for line in different), different
    finally:
        for master, _ in taken:
            os.close(master)


def _checkpoint(one: Any, image: Path, livecr: Any) -> Path:
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    return image


def _open_pair() -> tuple[int, str]:
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    os.close(slave)
    return master, path


def test_what_is_refused(program: Callable[[str], Path], target: Callable[..., Any], livecr: Any) -> None:
    """`livecr check` tells each: a terminal that others share, one in the middle of a packet, no BPF."""
    one = target([program("kind_tty")])
    one.until_printed("ready")
    fds = {path.name: os.readlink(path) for path in Path(f"/proc/{one.pid}/fd").iterdir()}
    master = next(path for path in fds.values() if path.endswith("/ptmx"))  # /dev/pts/ptmx in a container
    slave = next(path for path in fds.values() if path.startswith("/dev/pts/") and path != master)
    ours = os.open(slave, os.O_RDWR | os.O_NOCTTY)
    try:
        said = livecr("check", one.pid, exit_code=3).stderr
        assert f"the terminal {slave} is shared with process {os.getpid()}" in said
    finally:
        os.close(ours)
    said = livecr("check", one.pid, exit_code=3, LIVECR_WITHOUT="bpf").stderr
    assert f"what waits in the terminal of {master} cannot be read" in said
    livecr("check", one.pid)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


TIMED_READ = """
import os, pty, termios, tty
master, slave = pty.openpty()
tty.setraw(slave)
settings = termios.tcgetattr(slave)
settings[6][termios.VMIN], settings[6][termios.VTIME] = 0, 200
termios.tcsetattr(slave, termios.TCSANOW, settings)
print("ready", flush=True)
os.read(slave, 1)
"""
OPENS = """
import os, sys, time
opened = [os.open(path, os.O_RDWR | os.O_NOCTTY) for path in sys.argv[1:]]
print("ready", flush=True)
time.sleep(600)
"""


def test_a_timed_read_is_refused(target: Callable[..., Any], livecr: Any) -> None:
    """Its time would begin anew."""
    one = target([sys.executable, "-c", TIMED_READ])
    one.until_printed("ready")
    one.until_blocked(0)
    said = livecr("check", one.pid, exit_code=3).stderr
    assert "it is in a read of /dev/pts/" in said and "that waits by VTIME" in said


def test_two_terminals_of_others_are_refused(target: Callable[..., Any], livecr: Any) -> None:
    """livecr restore is run in one terminal; one alone is no obstacle."""
    pairs = [pty.openpty() for _ in range(2)]
    try:
        paths = [os.ttyname(slave) for _, slave in pairs]
        one, both = (target([sys.executable, "-c", OPENS, *names]) for names in (paths[:1], paths))
        one.until_printed("ready")
        both.until_printed("ready")
        livecr("check", one.pid)
        said = livecr("check", both.pid, exit_code=3).stderr
        assert "it is at several terminals of others" in said and all(path in said for path in paths)
    finally:
        for fd in [fd for ends in pairs for fd in ends]:
            os.close(fd)
