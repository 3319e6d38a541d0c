"""System V message queues that a task waits in: they live on without it; one that is gone is made again.

Messages are copied without being taken by msgrcv(2) with MSG_COPY (CONFIG_CHECKPOINT_RESTORE). Which other
queues a process uses nobody can tell: it has no descriptor of them. Called by sysv.
"""

from __future__ import annotations

import os

from livecr.errors import Refused
from livecr.image.record import Record
from livecr.kernel import sysvipc
from livecr.kinds import sysv_object
from livecr.kinds.sysv_object import IPC_NOWAIT, IpcObject
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.spawn import Seed
    from livecr.waits.classify import Wait

__all__ = ["CALLS", "Message", "Queue", "make", "save"]

#: Calls that wait in a queue, and which of their arguments is its id; the last two are 32-bit programs'.
CALLS = {"msgsnd": 0, "msgrcv": 0, "ipc(msgsnd)": 1, "ipc(msgrcv)": 1}
_BEFORE_QBYTES = 40  # of struct msqid64_ds, between its permissions and msg_qbytes: times, cbytes, qnum


class Message(Record):
    """``kind``: what msgrcv calls its type, above 0."""

    kind: int
    data: bytes


class Queue(IpcObject):
    """``bytes_max``: msg_qbytes, how much may wait in it."""

    bytes_max: int
    messages: list[Message]


def save(waits: list[Wait]) -> list[Queue]:
    """Of a frozen process; nothing is taken."""
    ids = {wait.arguments[CALLS[wait.name]] & 0xFFFFFFFF for wait in waits if wait.name in CALLS}
    known = sysvipc.objects(sysvipc.MESSAGES) if ids else {}
    found = []
    for id in ids & set(known):
        held = sysvipc.messages(id, known[id]["cbytes"])
        found.append(
            Queue(
                **sysv_object.shared(known[id], id),
                bytes_max=sysvipc.queue_bytes_max(id),
                messages=[Message(kind=kind, data=data) for kind, data in held],
            )
        )
    return found


def make(record: Queue, seed: Seed) -> bool:
    """See that the queue is there; whether it had to be made. Raises Refused where it is another one."""
    there = sysvipc.objects(sysvipc.MESSAGES).get(record.id)
    where = sysv_object.where(sysvipc.MESSAGES, record.id)
    if there is not None:
        if there["key"] != record.key:
            raise Refused(
                "its number is taken", where=where, way_out=f"remove that one: ipcrm -q {record.id}"
            )
        return False
    behind = bytes(_BEFORE_QBYTES) + record.bytes_max.to_bytes(8, "little")
    sysv_object.create(sysvipc.MESSAGES, record, None, seed, behind)
    for message in record.messages:
        at = seed.put(message.kind.to_bytes(8, "little") + message.data)
        program = Program()
        program.add("msgsnd", record.id, at, len(message.data), IPC_NOWAIT, must=False)
        (result,) = seed.run(program)
        if result < 0:
            raise Refused(f"its messages cannot be put back: {os.strerror(-result)}", where=where)
    return True
