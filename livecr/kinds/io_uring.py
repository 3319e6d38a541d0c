"""io_uring(7): instances with nothing in flight, with their rings and all that is registered in them.

Neither fdinfo nor any call tells what is registered, so it is read by BPF (kernel/async_io). What cannot be
known or made again is refused by name. Made anew by io_uring_made; requests in flight are the affair of
requests. Called by descriptors and memory.
"""

from __future__ import annotations

import os

from livecr._native import lib
from livecr.errors import Obstacle
from livecr.image.record import Record
from livecr.kernel import async_io, holders, leader, procfs
from livecr.kernel.async_io import RING_PATH
from livecr.kernel.bpf import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.async_io import AsyncIo, Ring

__all__ = [
    *("OPERATIONS_MAX", "IoUring", "RegisteredBuffer", "RegisteredFile", "RegisteredRing", "Rings"),
    *("mapped", "obstacles", "obstacles_of_rings"),
]

NR_KCMP, KCMP_FILE = 312, 0

# io_uring_setup(2), flags; behind each that is not supported, what it is.
_SUPPORTED = sum(
    1 << bit
    for bit in (
        0,  # IOPOLL
        3,  # CQSIZE
        4,  # CLAMP
        6,  # R_DISABLED
        7,  # SUBMIT_ALL
        8,  # COOP_TASKRUN
        9,  # TASKRUN_FLAG
        10,  # SQE128
        11,  # CQE32
        12,  # SINGLE_ISSUER
        13,  # DEFER_TASKRUN
        16,  # NO_SQARRAY
        17,  # HYBRID_IOPOLL
    )
)
_UNSUPPORTED = {
    1 << 1: "a thread of the kernel that submits (SQPOLL)",
    1 << 5: "workers shared with another instance (ATTACH_WQ)",
    1 << 14: "rings in memory of the program's own (NO_MMAP)",
    1 << 15: "no descriptor (REGISTERED_FD_ONLY)",
}
# Fields of kernel/async_io.Ring that must not be set, and what they are.
_MUST_NOT_HAVE = {
    "restricted": "restrictions",
    "has_personalities": "registered personalities",
    "has_provided_buffers": "provided buffers",
    "has_zcrx": "zero-copy receive queues",
    "has_overflown": "completions that have not found room in its ring",
    "napi_busy_poll_ns": "NAPI busy polling",
    "region_pages": "a registered region for wait arguments",
}
#: As many operations as can be made again in about half a minute.
OPERATIONS_MAX = 1 << 26
_NOT_KNOWN = "this version of livecr cannot save it"


class RegisteredFile(Record):
    """A slot of the file table: ``fd`` is a descriptor of the same open file description."""

    index: int
    fd: int
    tag: int


class RegisteredBuffer(Record):
    """A slot of the buffer table."""

    index: int
    address: int
    size_bytes: int
    tag: int


class RegisteredRing(Record):
    """The instance is known to task ``tid`` by ``index`` (IORING_REGISTER_RING_FDS)."""

    tid: int
    index: int


class IoUring(Record, tag="io_uring"):
    """One instance, of process ``pid``. ``flags``: IORING_SETUP_*; ``status_flags``: O_NONBLOCK or 0.

    ``sq_head`` and ``cq_tail``: the kernel's positions. ``submitter``: the TID of the only task that may
    submit, 0 for any. ``eventfd``: a descriptor, -1 for none. ``workers``: the most, bounded and unbounded, 0
    where not set.
    """

    pid: int
    flags: int
    status_flags: int
    sq_entries: int
    cq_entries: int
    sq_head: int
    cq_tail: int
    submitter: int
    clock: int
    eventfd: int
    eventfd_async: bool
    file_slots: int
    files: list[RegisteredFile]
    file_alloc_start: int
    file_alloc_end: int
    buffer_slots: int
    buffers: list[RegisteredBuffer]
    workers: list[int]
    registered: list[RegisteredRing]


# -- what stands in the way --------------------------------------------------------------------------------


def obstacles(ours: list[procfs.Descriptor], insiders: frozenset[int]) -> list[Obstacle]:
    """Of all that a tree has open. The first descriptor of each counts: its process makes it anew."""
    seen: set[int] = set()
    found = []
    try:
        for pid in dict.fromkeys(d.pid for d in ours):
            told = async_io.reader().read(pid)
            for d in ours:
                ring = told.rings.get(d.fd) if d.pid == pid else None
                if ring is not None and ring.file not in seen:
                    seen.add(ring.file)
                    found += [Obstacle(d.where, *what) for what in _in_the_way(told, ring)]
    except Unavailable:
        return []  # requests has said so
    return found + _outsiders(ours, insiders)


def obstacles_of_rings(pid: int, told: AsyncIo) -> list[Obstacle]:
    """Instances of one process that no descriptor leads to. Called by requests."""
    found = []
    for start, file in told.mappings.items():
        if file not in told.files.values():
            what = f"the rings at {start:#x} belong to an io_uring that is not open any more"
            found.append(Obstacle(f"process {pid}", what, _NOT_KNOWN))
    for (tid, index), file in told.registered_rings.items():
        if file not in told.files.values():
            what = f"an io_uring without a descriptor is registered as number {index}"
            found.append(Obstacle(f"task {tid} of process {pid}", what, _NOT_KNOWN))
    return found


def _in_the_way(told: AsyncIo, ring: Ring) -> list[tuple[str, str]]:
    having = [what for flag, what in _UNSUPPORTED.items() if ring.flags & flag]
    having += [what for name, what in _MUST_NOT_HAVE.items() if getattr(ring, name)]
    unknown = ring.flags & ~_SUPPORTED & ~sum(_UNSUPPORTED)
    if unknown:
        having.append(f"set-up flags {unknown:#x}")
    if any(file.file not in told.files.values() for file in ring.files):
        having.append("registered files that the program has no descriptor of any more")
    if any(buffer.is_kernels for buffer in ring.buffers):
        having.append("registered buffers of the kernel's own")
    if ring.eventfd and ring.eventfd not in told.private.values():
        having.append("a registered eventfd that the program has no descriptor of any more")
    if ring.submitter and ring.submitter not in told.tasks:
        having.append("a submitter that has ended")
    if ring.cached_cq_tail and ring.file not in told.mappings.values():
        having.append("rings that are not mapped")
    found = [(f"an io_uring with {what}", _NOT_KNOWN) for what in having]
    if not 0 <= ring.cached_sq_head - ring.cached_cq_tail <= OPERATIONS_MAX:
        found.append(("an io_uring with more completions than it was given requests", _NOT_KNOWN))
    elif ring.cached_sq_head > OPERATIONS_MAX:
        what = (
            f"an io_uring that has had {ring.cached_sq_head} requests: its positions would take long to reach"
        )
        found.append((what, f"at most {OPERATIONS_MAX} can be"))
    return found


def _outsiders(ours: list[procfs.Descriptor], insiders: frozenset[int]) -> list[Obstacle]:
    """Instances that another process has open too. All have one inode: only kcmp(2) tells them apart."""
    found = []
    for pid in holders.outsiders(insiders) if ours else []:
        try:
            for fd in os.listdir(procfs.path(pid, "fd")):
                if procfs.link(pid, f"fd/{fd}") != RING_PATH:
                    continue
                for d in ours:
                    if lib.lcr_syscall(NR_KCMP, leader.number(d.pid), pid, KCMP_FILE, d.fd, int(fd), 0) == 0:
                        what = f"the io_uring is shared with process {pid} (descriptor {fd})"
                        found.append(Obstacle(d.where, what, "let that process close it"))
        except OSError:
            continue  # it has ended, or the descriptor has been closed
    return found


# -- saving ------------------------------------------------------------------------------------------------


def mapped(pid: int) -> dict[int, int]:
    """Which instance each mapping shows: start address -> the first descriptor of it."""
    told = async_io.reader().read(pid)
    first = {file: fd for fd, file in sorted(told.files.items(), reverse=True)}
    return {start: first[file] for start, file in told.mappings.items() if file in first}


class Rings:
    """Saves the instances of frozen processes, which have nothing in flight."""

    def __init__(self) -> None:
        self._told: dict[int, AsyncIo] = {}

    def save(self, d: procfs.Descriptor) -> IoUring:
        """One of them, by the first descriptor of it."""
        if d.pid not in self._told:
            self._told[d.pid] = async_io.reader().read(d.pid)
        told = self._told[d.pid]
        ring = told.rings[d.fd]
        fds = {file: fd for fd, file in sorted(told.files.items(), reverse=True)}
        eventfds = {private: fd for fd, private in sorted(told.private.items(), reverse=True)}
        return IoUring(
            pid=d.pid,
            flags=ring.flags,
            status_flags=d.flags & os.O_NONBLOCK,
            sq_entries=ring.sq_entries,
            cq_entries=ring.cq_entries,
            sq_head=ring.cached_sq_head,
            cq_tail=ring.cached_cq_tail,
            submitter=told.tasks.get(ring.submitter, 0),
            clock=ring.clockid,
            eventfd=eventfds[ring.eventfd] if ring.eventfd else -1,
            eventfd_async=bool(ring.eventfd_async),
            file_slots=ring.file_slots,
            files=[RegisteredFile(index=f.index, fd=fds[f.file], tag=f.tag) for f in ring.files],
            file_alloc_start=ring.file_alloc_start,
            file_alloc_end=ring.file_alloc_end,
            buffer_slots=ring.buffer_slots,
            buffers=[
                RegisteredBuffer(index=b.index, address=b.address, size_bytes=b.size_bytes, tag=b.tag)
                for b in ring.buffers
            ],
            workers=[ring.bounded_workers, ring.unbounded_workers],
            registered=[
                RegisteredRing(tid=tid, index=index)
                for (tid, index), file in told.registered_rings.items()
                if file == ring.file
            ],
        )
