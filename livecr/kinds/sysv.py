"""System V IPC, sysvipc(7): what is saved of it, and objects that are gone made again with their ids.

Segments belong to who has them attached. Semaphore sets and message queues have no owner that could be
found: those that a task waits in are saved, and what semaphores get back when the process ends (SEM_UNDO).
All of them live on in the kernel without the program; so at restore they are mostly still there. Called by
checkpoint and restore.
"""

from __future__ import annotations

from livecr.errors import Refused
from livecr.image.record import Record
from livecr.kernel import sysvipc
from livecr.kinds import sysv_msg, sysv_object, sysv_sem, sysv_shm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.errors import Obstacle
    from livecr.image.integrity import NewImage
    from livecr.kernel import procfs
    from livecr.kinds.memory import Vma
    from livecr.target.process import Tree
    from livecr.target.spawn import Seed
    from livecr.waits.classify import Wait

__all__ = ["Objects", "Sysv", "obstacles", "save"]


class Sysv(Record):
    """``undo``: what the semaphores get back when the process ends."""

    segments: list[sysv_shm.Segment]
    sets: list[sysv_sem.Set]
    undo: list[sysv_sem.Undo]
    queues: list[sysv_msg.Queue]


def obstacles(pids: list[int]) -> list[Obstacle]:
    """What of it could not be saved of the tree ``pids``."""
    return sysv_shm.obstacles(pids) + sysv_sem.obstacles(pids)


def save(
    frozen: Tree,
    mappings: dict[int, list[procfs.Mapping]],
    waits: list[Wait],
    undoes: dict[int, bool | None],
    image: NewImage,
) -> Sysv:
    """Of a frozen tree. ``undoes``: by PID whether it has used SEM_UNDO, None where that is not known.

    Raises Refused for what cannot be saved.
    """
    in_the_way = sysv_shm.obstacles(frozen.pids)
    if in_the_way:
        raise Refused.because(in_the_way)
    undo = sysv_sem.save_undo(frozen.processes, undoes)
    return Sysv(
        segments=sysv_shm.save(mappings, image),
        sets=sysv_sem.save(waits, undo),
        undo=undo,
        queues=sysv_msg.save(waits),
    )


class Objects:
    """The objects of an image, in the kernel again.

    As a context manager: what was made for a restore that fails is removed.
    """

    def __init__(self, record: Sysv, numbers: list[int], image: str) -> None:
        """``numbers``: those of the processes in the image."""
        self._record = record
        self._numbers = numbers
        self._image = image
        self._made: list[tuple[str, int]] = []
        self._filled: set[int] = set()

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            for what, id in self._made:
                sysv_object.remove(what, id)

    def attach(self, vmas: list[Vma], seed: Seed) -> None:
        """The mappings of segments in one process, when all its others are made; and segments that are gone.

        Raises Refused where a segment is not what it was.
        """
        shown = {vma.file for vma in vmas if vma.kind == sysv_shm.KIND}
        segments = [segment for segment in self._record.segments if segment.id in shown]
        taken = [(vma.start, vma.end) for vma in vmas]
        for segment in segments:
            if segment.id not in self._filled:
                if sysv_shm.make(segment, self._numbers, seed):
                    self._made.append((sysvipc.SHARED_MEMORY, segment.id))
                sysv_shm.fill(segment, self._image, seed, taken)
        sysv_shm.attach(vmas, {segment.id: segment.size_bytes for segment in segments}, seed)
        for segment in segments:
            if segment.id not in self._filled:
                sysv_shm.finish(segment, seed)
                self._filled.add(segment.id)

    def redo(self, seeds: dict[int, Seed]) -> None:
        """Sets and queues that are gone; and what is undone when the processes end. ``seeds``: by PID."""
        record, first = self._record, next(iter(seeds.values()))
        for group in record.sets:
            if sysv_sem.make(group, record.undo, first):
                self._made.append((sysvipc.SEMAPHORES, group.id))
        for queue in record.queues:
            if sysv_msg.make(queue, first):
                self._made.append((sysvipc.MESSAGES, queue.id))
        sysv_sem.redo(record.undo, seeds)
