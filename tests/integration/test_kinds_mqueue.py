"""POSIX message queues: the program checks messages, their order, flags, sharing and notifications itself."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_RT = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def name() -> Iterator[str]:
    """Of a queue, which is unlinked whatever happens."""
    queue = f"/livecr-test-{os.getpid()}"
    yield queue
    for each in (queue, *(f"{queue}-{which}" for which in ("gone", "signal", "none"))):
        _RT.mq_unlink(each.encode())


@pytest.fixture
def holder(program: Callable[[str], Path], target: Callable[..., Any], name: str) -> Any:
    """The program, ready."""
    one = target([program("kind_mqueue"), name])
    one.until_printed("ready")
    return one


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_queues_are_as_they_were(fate: str, holder: Any, livecr: Any, image: Path) -> None:
    """It would notice a message that is lost, taken, out of order or of another priority, and a registration
    that is gone."""
    if fate == "restored":
        livecr("checkpoint", holder.pid, "-o", image)
        holder.killed()
        holder.restore(image)
    else:
        livecr("checkpoint", holder.pid, "-o", image, "--leave-running")
    holder.signal(signal.SIGUSR1)
    assert (holder.wait(), holder.output()) == (0, "ready\nok\n")


def test_a_queue_that_is_gone_is_refused_at_restore(holder: Any, livecr: Any, image: Path, name: str) -> None:
    """What was in it is not in the image: the program would wait for a message that is lost."""
    livecr("checkpoint", holder.pid, "-o", image)
    holder.killed()
    _RT.mq_unlink(name.encode())
    said = livecr("restore", image, exit_code=3).stderr
    assert f"message queue {name}: it cannot be opened" in said
    assert holder.has_ended()


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_a_message_that_comes_meanwhile_is_told(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, image: Path, name: str
) -> None:
    """It would wait for its signal for ever: the kernel tells only of the first message in an empty queue."""
    one = target([program("kind_mqueue"), name, "told"])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image, *(["--leave-running"] if fate == "left-running" else []))
    if fate == "restored":
        one.killed()
    queue = _RT.mq_open(f"{name}-signal".encode(), os.O_WRONLY)
    assert queue >= 0
    assert _RT.mq_send(queue, b"m", 1, 0) == 0
    _RT.mq_close(queue)
    if fate == "restored":
        one.restore(image)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_without_bpf_messages_and_notifications_are_refused(holder: Any, livecr: Any) -> None:
    """Nothing else gives them without taking them; the program goes on unharmed."""
    said = livecr("check", holder.pid, exit_code=3, LIVECR_WITHOUT="bpf").stderr
    assert "-gone (deleted) has messages in it" in said
    assert "it waits for a notification of the message queue" in said
    holder.signal(signal.SIGUSR1)
    assert (holder.wait(), holder.output()) == (0, "ready\nok\n")


def test_a_shared_queue_without_a_name_is_refused(holder: Any, livecr: Any) -> None:
    """Two processes would have two queues of what was one."""
    fd = next(
        int(fd.name)
        for fd in Path(f"/proc/{holder.pid}/fd").iterdir()
        if os.readlink(fd).endswith("-gone (deleted)")
    )
    ours = os.open(f"/proc/{holder.pid}/fd/{fd}", os.O_RDONLY)
    try:
        said = livecr("check", holder.pid, exit_code=3).stderr
        assert f"is shared with process {os.getpid()} (descriptor {ours})" in said
    finally:
        os.close(ours)
    livecr("check", holder.pid)
