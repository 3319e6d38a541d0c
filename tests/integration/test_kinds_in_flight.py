"""Descriptors and credentials in flight in unix sockets: the program checks them when they arrive."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import LIVECR, until

SO_PEEK_OFF = 42
KILLS = 12


def checks_itself(one: Any) -> None:
    """All arrives as it was sent."""
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.parametrize("words", [[], ["empty"]], ids=["", "empty"])
@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice", "left-and-restored"])
def test_what_is_in_flight_arrives(
    fate: str,
    words: list[str],
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    tmp_path: Path,
) -> None:
    """It would notice a descriptor that is lost, closed or another one, or that comes with other bytes; a
    sender that is not the one it was; and options that were changed for a look at what waits."""
    if words and fate == "left-and-restored":
        fate = "left-running"  # an empty message can be looked at once: test_kinds_unix.py
    one = target([program("kind_in_flight"), tmp_path, *words])
    one.until_printed("ready")
    if fate.startswith("left"):
        livecr("checkpoint", one.pid, "-o", tmp_path / "left", "--leave-running")
    for turn in range({"left-running": 0, "restored-twice": 2}.get(fate, 1)):
        image = tmp_path / str(turn)
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        one.restore(image)
    checks_itself(one)


def test_a_kill_leaves_it_as_it_was(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path
) -> None:
    """livecr is killed in the midst of its looks: the program would notice an option that is still set."""
    one = target([program("kind_in_flight"), tmp_path])
    one.until_printed("ready")
    chance = random.Random(os.environ.get("LIVECR_SEED"))
    frozen = 0
    for number in range(KILLS):
        killed = subprocess.Popen(
            [LIVECR, "checkpoint", str(one.pid), "-o", tmp_path / f"killed-{number}", "--leave-running"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while killed.poll() is None and f"TracerPid:\t{killed.pid}\n" not in status(one.pid):
            pass
        time.sleep(chance.uniform(0, 0.05))
        frozen += killed.poll() is None
        killed.kill()
        killed.wait()
    assert frozen
    until(lambda: "TracerPid:\t0\n" in status(one.pid), "it is let go")
    checks_itself(one)


def status(pid: int) -> str:
    """/proc/PID/status."""
    return Path(f"/proc/{pid}/status").read_text()


# Sets an option, and puts it back after a pause, by one call to the native part.
SETS_AND_PUTS_BACK = """
import sys
from livecr._native import ffi, lib
set, back, pause = ffi.new("int *", 7), ffi.new("int *", -1), ffi.new("long[2]", [1, 0])
calls = ffi.new("struct lcr_call[]", 3)
for call, number, arguments in zip(calls, (54, 35, 54), (
    (int(sys.argv[1]), 1, 42, ffi.cast("uintptr_t", set), 4),
    (ffi.cast("uintptr_t", pause), 0),
    (int(sys.argv[1]), 1, 42, ffi.cast("uintptr_t", back), 4),
)):
    call.nr = number
    for i, argument in enumerate(arguments):
        call.args[i] = int(argument)
sys.exit(lib.lcr_calls_to_the_end(calls, 3))
"""


@pytest.mark.parametrize("whom", ["the process", "its group"])
def test_what_is_begun_is_done_to_the_end(whom: str) -> None:
    """SIGKILL comes between the option that is set and the one that is put back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:

        def option() -> int:
            return sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)

        driver = subprocess.Popen(
            [sys.executable, "-c", SETS_AND_PUTS_BACK, str(sock.fileno())],
            pass_fds=[sock.fileno()],
            start_new_session=True,
        )
        until(lambda: option() == 7, "it is set")
        (os.killpg if whom == "its group" else os.kill)(driver.pid, signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        until(lambda: option() == -1, "it is put back")


# -- refusals ----------------------------------------------------------------------------------------------

START = "import os, select, signal, socket, sys, time\na, b = socket.socketpair(1, socket.SOCK_DGRAM)\n"
WAIT = "\nprint('ready', flush=True)\nwhile True: time.sleep(0.01)\n"

REFUSED = {
    "epoll": ("e = select.epoll(); socket.send_fds(a, [b'x'], [e.fileno()]); e.close()", "an epoll instance"),
    "time": ("b.setsockopt(1, 29, 1); a.send(b'x')", "a message with the time when it came (SO_TIMESTAMP)"),
    "signals": (
        "import fcntl\nr, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, os.getpid())\n"
        "socket.send_fds(a, [b'x'], [r]); os.close(r)",
        "sends signals (F_SETOWN",
    ),
    "no kind": (
        "p = socket.socket(17, 3); socket.send_fds(a, [b'x'], [p.fileno()]); p.close()",
        "a packet socket",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(
    what: str, target: Callable[..., Any], livecr: Any, image: Path
) -> None:
    """The program would lose it; it runs on as it was."""
    does, named = REFUSED[what]
    one = target([sys.executable, "-c", START + does + WAIT])
    one.until_printed("ready")
    for words in ([], ["--leave-running"]):
        said = livecr("checkpoint", one.pid, "-o", image, *words, exit_code=3).stderr
        assert named in said and "unix socket (socket:[" in said
    assert not image.exists() and not one.has_ended()


def test_an_epoll_instance_may_be_sent_that_stays_open(
    target: Callable[..., Any], livecr: Any, image: Path
) -> None:
    """What comes in is the same instance, and still watches what it watched."""
    does = (
        "e = select.epoll(); e.register(a, select.EPOLLOUT); socket.send_fds(a, [b'x'], [e.fileno()])\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}); print('ready', flush=True)\n"
        "signal.sigwait({signal.SIGUSR1})\n"
        "f = select.epoll.fromfd(socket.recv_fds(b, 9, 1)[1][0])\n"
        "assert f.poll(0) == [(a.fileno(), select.EPOLLOUT)]; f.unregister(a); assert not e.poll(0)\n"
        "print('ok', flush=True)"
    )
    one = target([sys.executable, "-c", START + does])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    checks_itself(one)
