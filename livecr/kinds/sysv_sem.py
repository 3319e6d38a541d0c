"""System V semaphores: what they get back when the process ends (SEM_UNDO), and sets that tasks wait in.

When a checkpoint ends the program, the kernel undoes what it has done to its semaphores, as it should: others
do not wait for one that is not there. When the program comes back it does it again, as it takes its file
locks again; where somebody else has a semaphore now, that is refused. Nothing but BPF tells what will be
undone (kernel/peek.py); whether anything will be, the task iterator tells. Where that is not to be had,
semaphores that the process was the last to use (sempid) are refused. A set that is gone is made again.
Called by sysv.
"""

from __future__ import annotations

import os

from livecr.errors import Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import kcmp, sysvipc
from livecr.kernel.bpf import Unavailable
from livecr.kernel.peek import Peek
from livecr.kinds import sysv_object
from livecr.kinds.sysv_object import IPC_NOWAIT, IpcObject
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.process import Process
    from livecr.target.spawn import Seed
    from livecr.waits.classify import Wait

__all__ = ["CALLS", "Set", "Undo", "make", "obstacles", "redo", "save", "save_undo"]

#: Calls that wait in a set, and which of their arguments is its id; the last three are 32-bit programs'.
CALLS = {"semop": 0, "semtimedop": 0, "semtimedop_time64": 0, "ipc(semop)": 1, "ipc(semtimedop)": 1}
SEM_UNDO = 0x1000
SETALL = 17
_VALUE_MAX = 32767  # SEMVMX
_EAGAIN = 11
_LARGEST_STEP = 32767  # sem_op is a short
_WAY_OUT = "only BPF tells that: let `livecr doctor` say why it cannot be used"


class Set(IpcObject):
    """A set: the value of each of its semaphores, as they were when nothing was undone yet."""

    values: list[int]


class Undo(Record):
    """What semaphore ``number`` of set ``id`` gets when process ``pid`` ends."""

    pid: int
    id: int
    number: int
    by: int


# -- what stands in the way --------------------------------------------------------------------------------


def obstacles(pids: list[int]) -> list[Obstacle]:
    """Semaphores that a process of the tree has used last, and no BPF to say whether it gives any back."""
    used = _last_used(pids)
    if not used:
        return []
    try:
        Peek.open()
        return []
    except Unavailable:
        return [Obstacle(f"process {pid}", _what(id), _WAY_OUT) for pid, id in used.items()]


def _last_used(pids: list[int]) -> dict[int, int]:
    """By PID, a set in which it was the last to use one."""
    found = {}
    for id, row in sysvipc.objects(sysvipc.SEMAPHORES).items():
        for pid in sysvipc.last_users(id, row["nsems"]).intersection(pids):
            found[pid] = id
    return found


def _what(id: int) -> str:
    return f"whether it has to give back semaphores of set {id} (SEM_UNDO) is not known"


# -- saving ------------------------------------------------------------------------------------------------


def save_undo(processes: list[Process], undoes: dict[int, bool | None]) -> list[Undo]:
    """Of a frozen tree. ``undoes``: by PID whether there is anything, None where that is not known."""
    sizes = {id: row["nsems"] for id, row in sysvipc.objects(sysvipc.SEMAPHORES).items()}
    unknown = _last_used([pid for pid, has in undoes.items() if has is None])
    for pid, id in unknown.items():
        raise Refused(_what(id), where=f"process {pid}", way_out=_WAY_OUT)
    found: list[Undo] = []
    undoing = [process for process in processes if undoes[process.pid] and sizes]
    _refuse_shared([process.pid for process in undoing])
    for process in undoing:
        try:
            told = Peek.open().undo(process.pidfd, sizes)
        except Unavailable as reason:
            what = f"what it has to give back to semaphores (SEM_UNDO) is not known: {reason}"
            raise Refused(what, where=f"process {process.pid}", way_out=_WAY_OUT) from None
        found += [Undo(pid=process.pid, id=id, number=number, by=by) for id, number, by in told]
    return found


def _refuse_shared(pids: list[int]) -> None:
    for first, pid in ((first, pid) for pid in pids for first in pids if first < pid):
        if kcmp.is_same(first, pid, kcmp.SYSVSEM):
            what = f"it gives back semaphores together with process {first} (CLONE_SYSVSEM)"
            raise Refused(what, where=f"process {pid}", way_out="this version of livecr cannot save that")


def save(waits: list[Wait], undo: list[Undo]) -> list[Set]:
    """The sets that it waits in or has to give back to."""
    ids = {wait.arguments[CALLS[wait.name]] & 0xFFFFFFFF for wait in waits if wait.name in CALLS}
    ids |= {one.id for one in undo}
    known = sysvipc.objects(sysvipc.SEMAPHORES) if ids else {}
    return [
        Set(**sysv_object.shared(row, id), values=sysvipc.values(id, row["nsems"]))
        for id, row in known.items()
        if id in ids
    ]


# -- loading -----------------------------------------------------------------------------------------------


def make(record: Set, undo: list[Undo], seed: Seed) -> bool:
    """See that the set is there; whether it had to be made, with the values that it has without the program.

    Raises Refused where it is another one.
    """
    there = sysvipc.objects(sysvipc.SEMAPHORES).get(record.id)
    if there is not None:
        if (there["key"], there["nsems"]) != (record.key, len(record.values)):
            raise Refused(
                "its number is taken",
                where=sysv_object.where(sysvipc.SEMAPHORES, record.id),
                way_out=f"remove that one: ipcrm -s {record.id}",
            )
        return False
    sysv_object.create(sysvipc.SEMAPHORES, record, len(record.values), seed)
    values = list(record.values)
    for one in undo:
        if one.id == record.id:
            values[one.number] = min(max(values[one.number] + one.by, 0), _VALUE_MAX)
    program = Program()
    at = seed.put(b"".join(value.to_bytes(2, "little") for value in values))
    program.add("semctl", record.id, 0, SETALL, at)
    seed.run(program)
    return True


def redo(undo: list[Undo], seeds: dict[int, Seed]) -> None:
    """Do again, in each process, what will be undone when it ends; giving comes before taking.

    Raises Refused where that would wait. ``seeds``: by PID.
    """
    for one in sorted(undo, key=lambda one: one.by):
        left = -one.by
        while left:
            step = max(-_LARGEST_STEP, min(_LARGEST_STEP, left))
            left -= step
            _operate(one, step, seeds[one.pid])


def _operate(undo: Undo, step: int, seed: Seed) -> None:
    where = sysv_object.where(sysvipc.SEMAPHORES, undo.id)
    operation = (undo.number, step & 0xFFFF, SEM_UNDO | IPC_NOWAIT)  # struct sembuf
    at = seed.put(b"".join(word.to_bytes(2, "little") for word in operation))
    program = Program()
    program.add("semop", undo.id, at, 1, must=False)
    (result,) = seed.run(program)
    if result == -_EAGAIN:
        raise Refused(
            f"semaphore {undo.number}, which the program had taken, is now taken by somebody else",
            where=where,
            way_out="let it be given back first (ipcs -s -i tells by whom it was taken)",
        )
    if result < 0:
        what = f"semaphore {undo.number} cannot be taken again: {os.strerror(-result)}"
        raise Refused(what, where=where)
