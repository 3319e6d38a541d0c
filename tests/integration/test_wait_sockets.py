"""Calls on sockets with a timeout of their own, which a freeze ends with EINTR: no program may see that.

The program (tests/programs/wait_socket.c) would have noticed EINTR, a wait of another length, data lost or
doubled, or a changed register or socket option: it looks at all of them by itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from livecr import checkpoint
from livecr.kernel import sockopt
from livecr.kernel.pidfd import Duplicate
from livecr.waits import lent
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
#: What a socket's timeout is lent for, since being ready is not what they wait for.
LENT = {
    "sendto:named": 5,
    "sendmsg:named": 5,
    "sendmmsg:named": 1,
    "recvmsgall:unix": 5,
    "recvmsglow:unix": 5,
    "readvlow:unix": 5,
}
#: Of 32-bit programs all are. socketcall: there the arguments are in memory.
LENT_32 = {
    "read:unix": 5,
    "readv:seqpacket": 5,
    "recv:udp": 5,
    "recvfrom:udp": 5,
    "recvmsgall:unix": 5,
    "recvmmsg:udp": 1,
    "accept4:listen": 0,
    "write:unix": 5,
    "sendto:named": 5,
    "sendmsg:dgram": 5,
    "sendfile:unix": 5,
    "socketcall-recv:unix": 5,
    "socketcall-recvfrom:udp": 5,
    "send-socketcall:unix": 5,
    "sendto-socketcall:named": 5,
}
ABIS = {"x86-64": ((), LENT), "i386": (("-m32",), LENT_32)}
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
    arguments: list[Any],
    program: Callable[..., Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
    flags: tuple[str, ...] = (),
) -> dict[str, list[dict[str, Any]]]:
    """The same program under each fate, and what it has to say of its calls then."""
    twins = {fate: target([*PRIORITY, program("wait_socket", *flags), *arguments]) for fate in FATES}
    for one in twins.values():
        until_all_blocked(one)
    meet_all([(fate, one, place / f"{one.pid}.livecr") for fate, one in twins.items()], livecr)
    return {fate: answer(one) for fate, one in twins.items()}


def over_in_time(
    calls: list[str], told: dict[str, list[dict[str, Any]]], wait_ms: int
) -> dict[tuple[str, str], int]:
    """Each has said EAGAIN. By how much it was late, in ns."""
    for fate, answers in told.items():
        for call, own in zip(calls, answers, strict=True):
            assert [own[name] for name in SAME] == [EAGAIN, 1, 1, "", 0], (fate, call)
    return {
        (call, fate): own["took_ns"] - wait_ms * NS_PER_MS
        for fate, answers in told.items()
        for call, own in zip(calls, answers, strict=True)
    }


def come_in_time(
    expected: dict[str, int], calls: list[str], told: dict[str, list[dict[str, Any]]], wait_ms: int
) -> dict[tuple[str, str], int]:
    """Each has got what came. By how much it was late, in ns."""
    for fate, answers in told.items():
        for call, own in zip(calls, answers, strict=True):
            came = "hello" if call[:2] in ("re", "sp") or "recv" in call else ""
            assert [own[name] for name in SAME] == [expected[call], 1, 1, came, 0], (fate, call)
    return {
        (call, fate): own["took_ns"] - wait_ms * NS_PER_MS
        for fate, answers in told.items()
        for call, own in zip(calls, answers, strict=True)
    }


def test_it_is_over_in_time(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any, wait_ms: int
) -> None:
    """Nothing comes: EAGAIN when the time is over, as without a checkpoint."""

    def run(calls: list[str]) -> dict[tuple[str, str], int]:
        told = lead([wait_ms, 0, *calls], program, target, place, livecr)
        return over_in_time(calls, told, wait_ms)

    in_time(CALLS, run)


def test_something_comes(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any, wait_ms: int
) -> None:
    """What comes after the checkpoint is received, once, and as soon as it comes."""

    def run(calls: list[str]) -> dict[tuple[str, str], int]:
        told = lead([20_000, wait_ms, *calls], program, target, place, livecr)
        return come_in_time(CALLS, calls, told, wait_ms)

    in_time(CALLS, run, early_ns=NS_PER_MS)  # another process's clock tells when it comes


@pytest.mark.parametrize("abi", ABIS)
def test_a_lent_time_is_over(
    abi: str,
    program: Callable[..., Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
    wait_ms: int,
) -> None:
    """Not early, nor late but as the kernel's timer wheel is: by an eighth (kernel/time/timer.c)."""
    flags, rows = ABIS[abi]

    def run(calls: list[str]) -> dict[tuple[str, str], int]:
        told = lead([wait_ms, 0, *calls], program, target, place, livecr, flags)
        return over_in_time(calls, told, wait_ms)

    in_time([*rows, "recv:netlink"], run, allowed_ns=wait_ms * NS_PER_MS // 8 + NS_PER_MS)


@pytest.mark.parametrize("abi", ABIS)
def test_something_comes_in_a_lent_time(
    abi: str,
    program: Callable[..., Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
    wait_ms: int,
) -> None:
    """What comes after the checkpoint is received at once; the socket's timeout is meanwhile as it was."""
    flags, rows = ABIS[abi]

    def run(calls: list[str]) -> dict[tuple[str, str], int]:
        told = lead([20_000, wait_ms, *calls], program, target, place, livecr, flags)
        return come_in_time(rows, calls, told, wait_ms)

    in_time(rows, run, early_ns=NS_PER_MS)  # when it comes, another process's clock tells


@pytest.fixture
def full_listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A server that is another program (this one), and has accepted nothing."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "listener"))
        listener.listen(0)
        first.connect(str(tmp_path / "listener"))
        yield listener


@pytest.mark.parametrize("flags", [(), ("-m32",)], ids=ABIS)
def test_connecting_to_a_server_that_is_busy(
    flags: tuple[str, ...],
    full_listener: socket.socket,
    program: Callable[..., Path],
    target: Callable[..., Any],
    place: Path,
    livecr: Any,
    wait_ms: int,
) -> None:
    """EAGAIN when its time is over, and not before; connected when the server accepts."""
    environment = {"LISTENER": full_listener.getsockname()}

    def twins(ms: int) -> dict[str, Any]:
        command = [*PRIORITY, program("wait_socket", *flags), ms, 0, "connect:peer"]
        found = {fate: target(command, **environment) for fate in FATES}
        for one in found.values():
            until_all_blocked(one)
        meet_all([(fate, one, place / f"{one.pid}.livecr") for fate, one in found.items()], livecr)
        return found

    def run(calls: list[str]) -> dict[tuple[str, str], int]:
        told = {fate: answer(one) for fate, one in twins(wait_ms).items()}
        return over_in_time(calls, told, wait_ms)

    in_time(["connect:peer"], run, allowed_ns=wait_ms * NS_PER_MS // 8 + NS_PER_MS)
    connecting = twins(20_000)
    for _ in connecting:
        full_listener.accept()[0].close()
    for fate, one in connecting.items():
        (told,) = answer(one)
        assert [told[name] for name in SAME] == [0, 1, 1, "", 0], fate


@pytest.mark.parametrize("flags", [(), ("-m32",)], ids=ABIS)
def test_a_timeout_is_given_back_without_livecr(
    flags: tuple[str, ...],
    program: Callable[..., Path],
    target: Callable[..., Any],
    place: Path,
    wait_ms: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Had livecr been killed when it had let go: the program's own call puts the option back when it ends.

    And the next checkpoint before that.
    """
    monkeypatch.setattr(lent, "take_back_asleep", lambda *_: None)
    ends, again = (target([program("wait_socket", *flags), wait_ms, 0, "recvmsgall:unix"]) for _ in range(2))
    for one in (ends, again):
        until_all_blocked(one)
        checkpoint(one.pid, str(place / f"{one.pid}.livecr"), leave_running=True)
        until_all_blocked(one)
        assert receive_timeout_ms(one.pid) < wait_ms  # else this tests nothing
    checkpoint(again.pid, str(place / "image.livecr"))
    again.killed()
    again.restore(place / "image.livecr")
    until_all_blocked(again)
    until(lambda: receive_timeout_ms(again.pid) == wait_ms, "its option is as it was")
    for one in (ends, again):
        (told,) = answer(one)
        assert [told[name] for name in SAME] == [EAGAIN, 1, 1, "", 0]


def receive_timeout_ms(pid: int) -> int:
    """SO_RCVTIMEO of the first socket of a program."""
    links = {int(path.name): os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    with Duplicate(pid, min(fd for fd, link in links.items() if link.startswith("socket:"))) as ours:
        seconds, microseconds = struct.unpack("qq", sockopt.option(ours, socket.SO_RCVTIMEO, 16))
    return int(seconds * 1000 + microseconds // 1000)


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["plain", "SA_RESTART"])
@pytest.mark.parametrize("call", ["recv:unix", "write:unix", "recvmsgall:unix", "sendto:named"])
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
@pytest.mark.parametrize("call", ["recv:unix", "recvmsgall:unix"])
def test_a_signal_during_the_checkpoint(
    call: str, number: int, program: Callable[[str], Path], target: Callable[..., Any], place: Path
) -> None:
    """It comes while the program is frozen: its handler runs once, and the call ends with EINTR."""
    one = target([program("wait_socket"), 20_000, 0, call])
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


def test_where_no_register_is_left(
    program: Callable[..., Path], target: Callable[..., Any], place: Path, livecr: Any, wait_ms: int
) -> None:
    """A 32-bit splice from a socket with a timeout is refused by name, by `livecr check` too, and goes on."""
    one = target([program("wait_socket", "-m32"), wait_ms, 0, "splice:unix"])
    until_all_blocked(one)
    for words in (("checkpoint", one.pid, "-o", place / "image.livecr"), ("check", one.pid)):
        done = livecr(*words, exit_code=3)
        assert "it waits in splice on fd" in done.stdout + done.stderr
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
