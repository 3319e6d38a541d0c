"""System V shared memory that the program has attached, with its content and at the same addresses.

A segment of which nobody else has a part is as it was at the checkpoint when the program comes back: made
again if it is gone, else filled with what the image holds. Only shmat(2) makes a mapping that shmdt(2) and
shm_nattch know, and it maps a whole segment: so it maps it elsewhere, and mremap(2) moves the parts that are
wanted. Relies on /proc/sysvipc/shm and /proc/PID/map_files. Called by sysv and memory.
"""

from __future__ import annotations

import os

from livecr.errors import Failed, Obstacle, Refused
from livecr.kernel import kcmp, procfs, sysvipc
from livecr.kernel.prompt import copying
from livecr.kinds import sysv_object
from livecr.kinds.files import copy_data
from livecr.kinds.sysv_object import IPC_RMID, IpcObject
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.image.integrity import NewImage
    from livecr.kinds.memory import Vma
    from livecr.target.spawn import Seed

__all__ = ["KIND", "Segment", "attach", "fill", "finish", "is_segment", "make", "obstacles", "save"]

KIND = "sysv"  # of the VMAs, whose ``file`` is the id of the segment
SHM_RDONLY, SHM_LOCK = 0o10000, 11
SHM_DEST, SHM_LOCKED = 0o1000, 0o2000  # bits of the mode in /proc/sysvipc/shm
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
_PAGE_BYTES = 4096


class Segment(IpcObject):
    """``removed``: by IPC_RMID, so that it goes with its last user; ``locked``: by SHM_LOCK.

    ``content``: the file of the image with what it held; ``tail``: what stood behind that in its last page.
    """

    size_bytes: int
    removed: bool
    locked: bool
    content: str
    tail: bytes


def is_segment(m: procfs.Mapping) -> bool:
    """Whether a mapping shows a segment: it is named by the key, and its inode number is the id."""
    return m.shared and m.path.startswith("/SYSV") and m.path.endswith(" (deleted)")


def _room(size: int) -> int:
    return -(-size // _PAGE_BYTES) * _PAGE_BYTES


# -- what stands in the way --------------------------------------------------------------------------------


def obstacles(pids: list[int]) -> list[Obstacle]:
    """Segments of the tree that others have attached too. The kernel counts mappings (shm_nattch)."""
    known = sysvipc.objects(sysvipc.SHARED_MEMORY)
    own: dict[int, int] = {}
    users: dict[int, int] = {}
    same = [group[1:] for group in kcmp.groups(pids, kcmp.VM)] if known else []
    for pid in pids if known else ():
        if any(pid in others for others in same):
            continue
        for m in procfs.mappings(pid, with_flags=False):
            if is_segment(m):
                own[m.inode] = own.get(m.inode, 0) + 1
                users.setdefault(m.inode, pid)
    found = []
    for id, count in own.items():
        if id in known and known[id]["nattch"] > count:
            other = sysvipc.attached(id, pids)
            whom = f"process {other[0]} ({other[1]})" if other else "a process that livecr cannot see"
            what = f"the System V segment {id} is attached by {whom} too"
            found.append(Obstacle(f"process {users[id]}", what, "end that process first"))
    return found


# -- saving ------------------------------------------------------------------------------------------------


def save(mappings: dict[int, list[procfs.Mapping]], image: NewImage) -> list[Segment]:
    """Of a frozen tree: every segment that it has attached. ``mappings``: by PID."""
    parts: dict[int, list[tuple[int, procfs.Mapping]]] = {}
    for pid, own in mappings.items():
        for m in own:
            if is_segment(m):
                parts.setdefault(m.inode, []).append((pid, m))
    known = sysvipc.objects(sysvipc.SHARED_MEMORY) if parts else {}
    found = []
    for id, shown in parts.items():
        row, (pid, m) = known[id], shown[0]
        fd = os.open(procfs.path(pid, f"map_files/{m.start:x}-{m.end:x}"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with copying(os.fstat(fd).st_size):
                content = image.store_file(fd).name
        finally:
            os.close(fd)
        found.append(
            Segment(
                **sysv_object.shared(row, id),
                size_bytes=row["size"],
                removed=bool(row["perms"] & SHM_DEST),
                locked=bool(row["perms"] & SHM_LOCKED),
                content=content,
                tail=_tail(row["size"], shown),
            )
        )
    return found


def _tail(size: int, shown: list[tuple[int, procfs.Mapping]]) -> bytes:
    """A file's bytes end at its size, those of the memory at the end of the page."""
    for pid, m in shown:
        if m.offset <= size < m.offset + m.end - m.start:
            with open(procfs.path(pid, "mem"), "rb", 0) as memory:
                tail = os.pread(memory.fileno(), _room(size) - size, m.start + size - m.offset)
            return tail if tail.strip(b"\0") else b""
    return b""


# -- loading -----------------------------------------------------------------------------------------------


def make(record: Segment, numbers: list[int], seed: Seed) -> bool:
    """See that the segment is there; whether it had to be made. ``numbers``: of the processes in the image.

    Raises Refused where it is another one, or somebody has used it meanwhile.
    """
    there = sysvipc.objects(sysvipc.SHARED_MEMORY).get(record.id)
    where = sysv_object.where(sysvipc.SHARED_MEMORY, record.id)
    if there is None:
        sysv_object.create(sysvipc.SHARED_MEMORY, record, record.size_bytes, seed)
        return True
    if (there["key"], there["size"]) != (record.key, record.size_bytes) or record.removed:
        raise Refused("its number is taken", where=where, way_out=f"remove that one: ipcrm -m {record.id}")
    if there["nattch"] or there["lpid"] not in numbers:
        by = f"process {there['lpid']}"
        raise Refused(
            f"{by} has attached it since the checkpoint",
            where=where,
            way_out=f"remove the segment (ipcrm -m {record.id}): what it held is in the image",
        )
    return False


def fill(record: Segment, image: str, seed: Seed, taken: list[tuple[int, int]]) -> None:
    """Put its content back, through a mapping that is not kept."""
    from livecr.image import integrity

    at = seed.free_range(taken, _room(record.size_bytes))
    end = at + _room(record.size_bytes)
    program = Program()
    program.add("shmat", record.id, at, 0)
    seed.run(program)
    source = integrity.open_file(image, record.content)
    target = os.open(f"/proc/{seed.pid}/map_files/{at:x}-{end:x}", os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(source).st_size != record.size_bytes:
            raise Failed("its content is of another size", where=f"segment {record.id}")
        _punch(target, record.size_bytes)
        copy_data(source, target)
    finally:
        os.close(source)
        os.close(target)
    if record.tail:
        seed.leader.write(at + record.size_bytes, record.tail)
    program = Program()
    program.add("shmdt", at)
    seed.run(program)


_NR_FALLOCATE = 285
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2


def _punch(fd: int, size: int) -> None:
    """Nothing of what is there stays where the image has a hole."""
    from livecr._native import lib

    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    result = lib.lcr_syscall(_NR_FALLOCATE, fd, mode, 0, _room(size), 0, 0)
    if result < 0:
        raise Failed(f"fallocate: {os.strerror(-result)}", where="a System V segment")


def attach(vmas: list[Vma], sizes: dict[int, int], seed: Seed) -> None:
    """Make every mapping of a segment in the process. ``sizes``: of the segments, in bytes.

    What was one shmat is one again, also if protections have split it or holes are in it: by that shmdt finds
    all of its parts.
    """
    taken = [(vma.start, vma.end) for vma in vmas]
    attachments: dict[tuple[int, int, bool], list[Vma]] = {}
    for vma in vmas:
        if vma.kind == KIND:
            which = (vma.file, vma.start - vma.offset, "mw" in vma.flags)
            attachments.setdefault(which, []).append(vma)
    for (id, _, writable), parts in attachments.items():
        room = _room(sizes[id])
        at = seed.free_range([*taken, *seed.borrowed], room)
        program = Program()
        program.add("shmat", id, at, 0 if writable else SHM_RDONLY)
        for vma in parts:
            length = vma.end - vma.start
            how = MREMAP_MAYMOVE | MREMAP_FIXED
            program.add("mremap", at + vma.offset, length, length, how, vma.start)
            bits = zip(vma.perms, (PROT_READ, PROT_WRITE, PROT_EXEC), strict=False)
            program.add("mprotect", vma.start, length, sum(bit for letter, bit in bits if letter != "-"))
        program.add("munmap", at, room)
        seed.run(program)


def finish(record: Segment, seed: Seed) -> None:
    """When it is attached everywhere."""
    program = Program()
    if record.locked:
        program.add("shmctl", record.id, SHM_LOCK, 0)
    if record.removed:
        program.add("shmctl", record.id, IPC_RMID, 0)
    seed.run(program)
