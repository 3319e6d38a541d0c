"""System V segments and semaphores: the program checks content, addresses, ids, owners and values itself.

What it has taken with SEM_UNDO it gives back when its checkpoint ends it, and takes again when it is
restored.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_C = ctypes.CDLL(None, use_errno=True)
_C.shmat.restype = ctypes.c_void_p
_C.shmdt.argtypes = [ctypes.c_void_p]
IPC_RMID, GETVAL, IPC_NOWAIT = 0, 12, 0o4000
AS_THE_PROGRAM_HAS_THEM, GIVEN_BACK = [8, 0, 6], [5, 1, 6]


class Holder:
    """The program and the ids of what it uses."""

    def __init__(self, one: Any) -> None:
        self.one = one
        self.segment, self.removed, self.set = map(int, one.output().split()[:3])

    def values(self) -> list[int]:
        """Of the three semaphores."""
        return [_C.semctl(self.set, number, GETVAL) for number in range(3)]

    def change(self, number: int, by: int) -> int:
        """semop by this process; 0 if it did not have to wait."""
        operation = (ctypes.c_short * 3)(number, by, IPC_NOWAIT)
        return int(_C.semop(self.set, operation, 1))

    def remove(self) -> None:
        """As after a reboot."""
        _C.shmctl(self.segment, IPC_RMID, None)
        _C.semctl(self.set, 0, IPC_RMID)

    def ends_well(self) -> None:
        """It finds everything as it was, and the kernel then undoes what it did."""
        self.one.signal(signal.SIGUSR1)
        assert self.one.wait() == 0, self.one.output()
        assert self.one.output().endswith("ready\nok\n")
        assert self.values() == GIVEN_BACK


@pytest.fixture
def holder(program: Callable[[str], Path], target: Callable[..., Any]) -> Iterator[Holder]:
    """The program, ready; what it leaves behind is removed."""
    one = target([program("kind_sysv"), 0x1C000000 + os.getpid()])
    one.until_printed("ready")
    found = Holder(one)
    assert found.values() == AS_THE_PROGRAM_HAS_THEM
    yield found
    one.end()
    found.remove()


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored after a reboot"])
def test_all_is_as_it_was(fate: str, holder: Holder, livecr: Any, image: Path) -> None:
    """It would notice a lost byte, another id or key, memory that is not shared, or a semaphore that it has
    taken and that is free."""
    if fate == "left-running":
        livecr("checkpoint", holder.one.pid, "-o", image, "--leave-running")
    else:
        livecr("checkpoint", holder.one.pid, "-o", image)
        holder.one.killed()
        assert holder.values() == GIVEN_BACK
        if fate == "restored after a reboot":
            holder.remove()
        holder.one.restore(image)
    assert holder.values() == AS_THE_PROGRAM_HAS_THEM
    holder.ends_well()


def test_a_segment_that_others_use_is_refused(holder: Holder, livecr: Any) -> None:
    """Its content would be one thing for the program and another for them."""
    ours = _C.shmat(holder.segment, None, 0)
    try:
        said = livecr("check", holder.one.pid, exit_code=3).stderr
        assert f"the System V segment {holder.segment} is attached by process {os.getpid()} (" in said
    finally:
        _C.shmdt(ours)
    livecr("check", holder.one.pid)
    holder.ends_well()


def test_a_segment_that_was_used_meanwhile_is_refused_at_restore(
    holder: Holder, livecr: Any, image: Path
) -> None:
    """What somebody has written to it would be lost. Removed, it is made again from the image."""
    livecr("checkpoint", holder.one.pid, "-o", image)
    holder.one.killed()
    _C.shmdt(_C.shmat(holder.segment, None, 0))
    said = livecr("restore", image, exit_code=3).stderr
    assert f"segment {holder.segment}: process {os.getpid()} has attached it since the checkpoint" in said
    assert holder.one.has_ended()
    assert holder.values() == GIVEN_BACK
    _C.shmctl(holder.segment, IPC_RMID, None)
    holder.one.restore(image)
    holder.ends_well()


def test_a_semaphore_that_somebody_else_has_now_is_refused_at_restore(
    holder: Holder, livecr: Any, image: Path
) -> None:
    """Two would believe that they alone have it. Nothing of the failed restore is left."""
    livecr("checkpoint", holder.one.pid, "-o", image)
    holder.one.killed()
    assert holder.change(1, -1) == 0
    said = livecr("restore", image, exit_code=3).stderr
    assert "semaphore 1, which the program had taken, is now taken by somebody else" in said
    assert holder.one.has_ended()
    assert holder.values() == [5, 0, 6]
    assert holder.change(1, 1) == 0
    holder.one.restore(image)
    holder.ends_well()


def test_without_bpf_semaphores_that_it_used_are_refused(holder: Holder, livecr: Any) -> None:
    """What it has to give back nothing else tells."""
    said = livecr("check", holder.one.pid, exit_code=3, LIVECR_WITHOUT="bpf").stderr
    assert f"whether it has to give back semaphores of set {holder.set} (SEM_UNDO) is not known" in said
    holder.ends_well()


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_a_tree_goes_on_working_together(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, image: Path
) -> None:
    """The parent would get the semaphore too early or never, or look at memory that is not the child's."""
    one = target([program("tree_ipc")])
    one.until_printed("ready")
    child = int(one.output().split()[2])
    one.until_blocked()
    if fate == "restored":
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        one.restore(image)
    else:
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    one.until_blocked()
    os.kill(child, signal.SIGUSR1)
    assert one.wait() == 0, one.output()
    assert one.output().splitlines()[1:] == ["ok"]
