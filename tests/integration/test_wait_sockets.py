"""Calls on sockets with a timeout of their own, which a freeze ends with EINTR: no program may see that.

The program (tests/programs/wait_socket.c) would have noticed EINTR, a wait of another length, data lost or
doubled, or a changed register or socket option: it looks at all of them by itself.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import LIVECR, until
from tests.integration.waiting import (
    FATES,
    LEFT_RUNNING,
    PRIORITY,
    RESTORED,
    in_time,
    meet_all,
    milliseconds,
)

#: What may wait, and what it returns when there is something to do.
CALLS = {
    "read:unix": 5,
    "readv:seqpacket": 5,
    "recv:udp": 5,
    "recvmsg:dgram": 5,
    "recvmmsg:udp": 1,
    "accept:listen": 0,
    "accept4:tcp": 0,
    "splice:unix": 5,
    "write:unix": 5,
    "writev:seqpacket": 5,
    "send:unix": 5,
    "sendmsg:dgram": 5,
    "sendmmsg:unix": 1,
    "sendfile:unix": 5,
}
EINTR, EAGAIN = -4, -11
SAME = ("result", "registers_kept", "timeout_kept", "received", "handled")
NS_PER_MS = 1_000_000


def answer(one: Any) -> Any:
    """What the program says when all its calls have returned."""
    assert one.wait() == 0, one.output()
    until(lambda: one.output().endswith("]\n"), "it has printed all")
    return json.loads(one.output().removeprefix("waiting\n"))


@pytest.fixture(scope="module")
def wait_ms() -> int:
    """How long to wait so that the three fates fit in."""
    return -(-milliseconds(2) // 100) * 100  # whole ticks of any HZ


def until_all_blocked(one: Any) -> None:
    """Every thread of it is in its call."""
    one.until_printed("waiting")
    for path in Path(f"/proc/{one.pid}/task").iterdir():
        one.until_blocked(tid=int(path.name))


def lead(
    arguments: list[Any], program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> dict[str, list[dict[str, Any]]]:
    """The same program under each fate, and what it has to say of its calls then."""
    twins = {fate: target([*PRIORITY, program("wait_socket"), *arguments]) for fate in FATES}
    for one in twins.values():
        until_all_blocked(one)
    meet_all([(fate, one, place / f"{one.pid}.livecr") for fate, one in twins.items()], livecr)
    return {fate: answer(one) for fate, one in twins.items()}


def test_it_is_over_in_time(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any, wait_ms: int
) -> None:
    """Nothing comes: EAGAIN when the time is over, as without a checkpoint."""

    def run(calls: list[str]) -> dict[tuple[str, str], int]:
        told = lead([wait_ms, 0, *calls], program, target, place, livecr)
        for fate, answers in told.items():
            for call, own in zip(calls, answers, strict=True):
                assert [own[name] for name in SAME] == [EAGAIN, 1, 1, "", 0], (fate, call)
        return {
            (call, fate): own["took_ns"] - wait_ms * NS_PER_MS
            for fate, answers in told.items()
            for call, own in zip(calls, answers, strict=True)
        }

    in_time(CALLS, run)


def test_something_comes(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any, wait_ms: int
) -> None:
    """What comes after the checkpoint is received, once, and as soon as it comes."""

    def run(calls: list[str]) -> dict[tuple[str, str], int]:
        told = lead([20_000, wait_ms, *calls], program, target, place, livecr)
        for fate, answers in told.items():
            for call, own in zip(calls, answers, strict=True):
                came = "hello" if call[:2] in ("re", "sp") else ""
                assert [own[name] for name in SAME] == [CALLS[call], 1, 1, came, 0], (fate, call)
        return {
            (call, fate): own["took_ns"] - wait_ms * NS_PER_MS
            for fate, answers in told.items()
            for call, own in zip(calls, answers, strict=True)
        }

    in_time(CALLS, run)


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["plain", "SA_RESTART"])
@pytest.mark.parametrize("call", ["recv:unix", "write:unix"])
def test_a_signal_after_the_checkpoint(
    call: str,
    number: int,
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
) -> None:
    """EINTR, SA_RESTART or not, as always when a timeout is set (signal(7)); two checkpoints in one wait."""
    one = target([program("wait_socket"), 20_000, 0, call])
    until_all_blocked(one)
    livecr("checkpoint", one.pid, "-o", place / "before.livecr", "--leave-running")
    until_all_blocked(one)
    meet_all([(fate, one, place / "image.livecr")], livecr)
    until_all_blocked(one)
    one.signal(number)
    (told,) = answer(one)
    assert [told[name] for name in SAME] == [EINTR, 1, 1, "", 1]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["plain", "SA_RESTART"])
def test_a_signal_during_the_checkpoint(
    number: int, program: Callable[[str], Path], target: Callable[..., Any], place: Path
) -> None:
    """It comes while the program is frozen: its handler runs once, and the call ends with EINTR."""
    one = target([program("wait_socket"), 20_000, 0, "recv:unix"])
    until_all_blocked(one)
    checkpoint = subprocess.Popen(
        [LIVECR, "checkpoint", str(one.pid), "-o", place / "image.livecr", "--leave-running"],
        stdout=subprocess.DEVNULL,
    )
    try:
        while "TracerPid:\t0" in Path(f"/proc/{one.pid}/status").read_text() and checkpoint.poll() is None:
            pass  # a freeze is too short to be looked for at leisure
        one.signal(number)
        assert checkpoint.wait(20) == 0
    finally:
        if checkpoint.poll() is None:
            checkpoint.kill()
            checkpoint.wait()
    (told,) = answer(one)
    assert [told[name] for name in SAME] == [EINTR, 1, 1, "", 1]


@pytest.mark.parametrize(
    ("call", "why"),
    [("connect:listen", "poll does not tell when the listener has room"), ("recvmsgall:unix", "MSG_WAITALL")],
)
def test_where_poll_means_something_else(
    call: str,
    why: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
    wait_ms: int,
) -> None:
    """Refused by name, and the call goes on to its end."""
    one = target([program("wait_socket"), wait_ms, 0, call])
    until_all_blocked(one)
    done = livecr("checkpoint", one.pid, "-o", place / "image.livecr", exit_code=3)
    assert why in done.stderr
    (told,) = answer(one)
    assert [told[name] for name in SAME] == [EAGAIN, 1, 1, "", 0]


def test_it_is_shown_as_the_program_made_it(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """`livecr waits` names the program's own call and what it has left, not what stands in for it."""
    one = target([program("wait_socket"), 20_000, 0, "recv:unix"])
    until_all_blocked(one)
    livecr("checkpoint", one.pid, "-o", place / "image.livecr", "--leave-running")
    until_all_blocked(one)
    waits = json.loads(livecr("waits", one.pid, "--json").stdout)
    (call,) = [wait for wait in waits["tasks"] if wait["call"] != "futex"]
    assert call["call"] == "recvfrom"
    assert 10_000 * NS_PER_MS < call["remaining_ns"] < 20_000 * NS_PER_MS


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
def test_a_thread_in_it_can_be_cancelled(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> None:
    """pthread_cancel in the midst of calls made again, by epoll and by poll: at once, with its clean-up."""
    one = target([program("wait_cancelled")])
    until_all_blocked(one)
    meet_all([(fate, one, place / "image.livecr")], livecr)
    until_all_blocked(one)
    one.signal(signal.SIGUSR1)
    assert one.wait() == 0
    assert one.output() == "waiting\ncancelled 2 cleaned 3\n"
