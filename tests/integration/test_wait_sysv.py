"""Waits in System V message queues and semaphores: they go on, also where the object has gone meanwhile.

The program would have noticed EINTR, EIDRM, a message or a value that is lost, or a wait of another length.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_wait_mqueue import answer, run_twins
from tests.integration.waiting import NUMBERS

#: Kinds of tests/programs/wait_ipc.c, and the call that each is blocked in.
KINDS = {
    "msgrcv": "msgrcv",
    "msgrcv-less": "msgrcv",
    "msgsnd": "msgsnd",
    "semop": "semop",
    "semop-glibc": "semtimedop",
}
#: What each returns, and what it then finds; msgrcv-less puts three bytes over "hello".
ANSWERS = {
    "msgrcv": (16, "other"),
    "msgrcv-less": (3, "othlo"),
    "msgsnd": (0, "other"),
    "semop": (0, "0 0"),
    "semop-glibc": (0, "0 0"),
}
_C = ctypes.CDLL(None, use_errno=True)
IPC_RMID = 0


@pytest.fixture
def tidy(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Start programs; what System V objects they leave behind is removed."""
    started = []

    def start(*words: Any, **environment: str) -> Any:
        started.append(target(*words, **environment))
        return started[-1]

    yield start
    for one in started:
        one.end()
        for remove, id in zip((_remove_queue, _remove_set), one.output().split()[:2], strict=False):
            if int(id):
                remove(int(id))


def _remove_queue(id: int) -> None:
    _C.msgctl(id, IPC_RMID, None)


def _remove_set(id: int) -> None:
    _C.semctl(id, 0, IPC_RMID)


def test_a_wait_ends_as_if_nothing_had_happened(
    program: Callable[[str], Path], tidy: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """Left alone, left running, restored: the same."""
    run_twins(list(KINDS), KINDS, program, tidy, tmp_path, livecr)


def test_an_object_that_is_gone_is_made_again(
    program: Callable[[str], Path], tidy: Callable[..., Any], livecr: Any, tmp_path: Path
) -> None:
    """As after a reboot: with its id, and with what was in it."""
    waiting = {kind: tidy([program("wait_ipc"), kind, 5000]) for kind in KINDS}
    for kind, one in waiting.items():
        one.until_blocked(NUMBERS[KINDS[kind]])
        livecr("checkpoint", one.pid, "-o", tmp_path / kind)
        one.killed()
    for kind, one in waiting.items():
        queue, group = map(int, one.output().split())
        _remove_set(group) if group else _remove_queue(queue)
        one.restore(tmp_path / kind)
    for kind, one in waiting.items():
        told = answer(one)
        assert (told["result"], told["data"]) == ANSWERS[kind], kind
        assert told["late_ns"] >= 0
