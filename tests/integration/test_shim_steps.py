"""A task that is stopped anywhere inside a shim is seen as the program would be without it.

Each shim is stepped through, an instruction at a time; what livecr makes of every step must be what the
program then has when it is out.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr import checkpoint
from livecr.target import tracee
from livecr.target.shim import Shims
from livecr.target.shim_code import ARGUMENTS
from livecr.target.tracee import Tracee
from livecr.waits import lent
from tests.integration.conftest import until
from tests.integration.waiting import milliseconds

SINGLESTEP = 9
STEPS_MAX = 20_000
SOON = "soon"  # in so many ms that it can be frozen before, however busy the machine is
SAME = ("rip", "rax", "rbx", *ARGUMENTS)


def step_out(task: Tracee, handled: int = 0) -> tuple[list[tuple[bool, dict[str, int]]], dict[str, int]]:
    """From a stop, until it has left a shim, if a signal is to be ``handled`` after its handler.

    For each step in it: whether it is seen as interrupted, and its registers as livecr takes them for the
    program's own; and those that it has outside.
    """
    shims = Shims(task)
    seen: list[tuple[bool, dict[str, int]]] = []
    deliver = handled
    for _ in range(STEPS_MAX):
        real = task.registers()
        own = shims.own_registers(task)
        values = {name: getattr(own, name) for name in SAME}
        if own != real:
            if not (handled and real.call() >= 0):
                seen.append((own.call() >= 0, values))
        elif seen:
            return seen, values
        task.request(SINGLESTEP, 0, deliver)
        deliver = 0
        task.wait()
    raise AssertionError("it does not leave the shim")


def until_exit(task: Tracee, meanwhile: Callable[[], object]) -> None:
    """Stop a task that is in a call which can be interrupted, and let it go on to the end of the call."""
    task.seize(tracee.O_TRACESYSGOOD)
    task.interrupt()
    task.wait()
    task.cont_to_syscall()
    task.wait_for(signal=tracee.SYSCALL_STOP, resume=tracee.SYSCALL)
    meanwhile()
    task.cont_to_syscall()
    task.wait_for(signal=tracee.SYSCALL_STOP, resume=tracee.SYSCALL)


def waiter(pid: int, call: str) -> int:
    """The TID of the thread whose call was made again by ``call`` (a number)."""
    tasks = {p.name: (p / "syscall").read_text().split()[0] for p in Path(f"/proc/{pid}/task").iterdir()}
    return next((int(tid) for tid, number in tasks.items() if number == call), 0)


@pytest.mark.parametrize(
    ("arguments", "made_again", "rax"),
    [
        (["wait_socket", 60_000, SOON, "recv:unix"], "271", 45),  # ready: about to make its own call
        (["wait_socket", SOON, 0, "recv:unix"], "271", -11),
        (["wait_transfer", "write", "pipe", 200_000], "1", 200_000),
    ],
    ids=["ready", "expired", "rest"],
)
def test_at_the_end_of_a_call(
    arguments: list[Any],
    made_again: str,
    rax: int,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    image: Path,
    livecr: Any,
) -> None:
    soon_ms = -(-milliseconds(2) // 100) * 100  # whole ticks of any HZ
    one = target([program(arguments[0]), *(soon_ms if word == SOON else word for word in arguments[1:])])
    one.until_printed("waiting")
    for path in Path(f"/proc/{one.pid}/task").iterdir():
        one.until_blocked(tid=int(path.name))
    livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    until(lambda: waiter(one.pid, made_again), "it is in its call again")
    task = Tracee(one.pid, waiter(one.pid, made_again))
    moves = arguments[0] == "wait_transfer"
    until_exit(task, lambda: moves and one.signal(signal.SIGUSR2))  # nothing more is in its way
    inside, outside = step_out(task)
    task.detach()
    assert outside["rax"] == rax & 0xFFFFFFFFFFFFFFFF
    # Until a result is added up it might as well have been interrupted with that.
    decided = [own for interrupted, own in inside if not (moves and interrupted)]
    assert len(decided) > 5
    for own in decided:
        assert own == outside
    assert one.wait() == 0
    assert '"registers_kept": 1' in one.output()


@pytest.mark.parametrize(
    ("arguments", "made_again", "killed"),
    [
        (["wait_socket", 60_000, 0, "recv:unix"], "271", False),
        (["wait_again", "epoll_wait", 60_000], "441", False),
        (["wait_again", "rt_sigtimedwait", 60_000], "128", False),
        (["wait_socket", 60_000, 0, "recvmsgall:unix"], "47", False),
        (["wait_socket", 60_000, 0, "recvmsgall:unix"], "47", True),
    ],
    ids=["poll", "r10", "rdx", "lent", "lent-killed"],
)
def test_after_a_handler(
    arguments: list[Any],
    made_again: str,
    killed: bool,
    monkeypatch: pytest.MonkeyPatch,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    image: Path,
) -> None:
    """EINTR, which is then the program's own: there is no call left to be made again.

    ``killed``: livecr has not put back the timeout that a socket has lent, so the shim does.
    """
    if killed:
        monkeypatch.setattr(lent, "take_back_asleep", lambda *_: None)
    one = target([program(arguments[0]), *arguments[1:]])
    one.until_printed("waiting")
    for path in Path(f"/proc/{one.pid}/task").iterdir():
        one.until_blocked(tid=int(path.name))
    checkpoint(one.pid, str(image), leave_running=True)
    until(lambda: waiter(one.pid, made_again), "it is in its call again")
    task = Tracee(one.pid, waiter(one.pid, made_again))
    task.seize(tracee.O_TRACESYSGOOD)
    one.signal(signal.SIGUSR1)
    task.wait()
    assert task.stop_signal == signal.SIGUSR1
    inside, outside = step_out(task, signal.SIGUSR1)
    task.detach()
    assert outside["rax"] == -4 & 0xFFFFFFFFFFFFFFFF
    assert len(inside) > (15 if killed else 5)
    for interrupted, own in inside:
        assert own == outside and not interrupted
    assert one.wait() == 0
    assert '"registers_kept": 1' in one.output()
