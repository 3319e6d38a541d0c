"""The io_urings of an image made anew: the loading half of io_uring, in the order that works.

An instance is set up by the half-built process itself, whose memory and tasks it then belongs to. The kernel
keeps the positions of the rings for itself, and begins at 0: it is brought to the old ones by operations that
do nothing (native/seed/pump.c), and then the rings' memory is replaced by what was there. Called by
descriptors.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import BadImage, Failed
from livecr.kernel import clock, procfs
from livecr.kinds.io_uring import OPERATIONS_MAX, IoUring, RegisteredRing
from livecr.target import blobs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kinds.memory import Vma
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee

__all__ = ["Instances"]

NR_PIDFD_GETFD = 438
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
_PAGE_BYTES = 4096

# io_uring_setup(2), flags.
_R_DISABLED, _SQE128, _CQE32, _SINGLE_ISSUER, _NO_SQARRAY = 1 << 6, 1 << 10, 1 << 11, 1 << 12, 1 << 16
# io_uring_register(2), opcodes.
_EVENTFD, _EVENTFD_ASYNC, _ENABLE_RINGS, _FILES2, _BUFFERS2 = 4, 7, 12, 13, 15
_IOWQ_MAX_WORKERS, _RING_FDS, _FILE_ALLOC_RANGE, _CLOCK = 19, 20, 25, 29
# mmap(2) of an instance: offsets, and what they begin.
_OFF_SQ_RING, _OFF_CQ_RING, _OFF_SQES = 0, 0x8000000, 0x10000000
_MAP_PRIVATE_ANONYMOUS_FIXED = 0x100022  # MAP_FIXED_NOREPLACE
_MAP_SHARED_POPULATE = 0x8001
_MAP_PLUG = 0x104022  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
# Holes that begin below the first are not plugged without CAP_SYS_RAWIO (vm.mmap_min_addr), nor used.
_LOW, _TASK_SIZE = 1 << 20, 0x7FFFFFFFF000
_PLUGS_AT_ONCE = 1000
_MADV_DONTFORK = 10
_STACK_BYTES = 16 << 10
# struct io_uring_params, 4 bytes each: sq_entries, cq_entries, flags … 40 bytes; sq_off; cq_off.
_PARAMS_BYTES, _SQ_OFF, _CQ_OFF = 120, 40, 80
_SQ_TAIL, _SQ_FLAGS, _SQ_ARRAY = _SQ_OFF + 4, _SQ_OFF + 16, _SQ_OFF + 24
_CQ_HEAD, _CQ_TAIL, _CQ_CQES = _CQ_OFF, _CQ_OFF + 4, _CQ_OFF + 20


class Instances:
    """The instances of an image, made anew: ``make`` for their descriptors, ``finish`` for all the rest."""

    def __init__(self) -> None:
        self._params: list[tuple[IoUring, bytes]] = []

    def make(self, record: IoUring, seeds: dict[int, Seed]) -> int:
        """A descriptor in livecr of a new instance of its seed's, which has none open before or after."""
        seed = seeds[record.pid]
        program = Program()
        flags = record.flags | (_R_DISABLED if record.flags & _SINGLE_ISSUER else 0)
        words = [0, record.cq_entries, flags, 0, 0, 0, 0, 0, 0, 0]
        at = seed.put(b"".join(word.to_bytes(4, "little") for word in words) + bytes(80))
        program.add("io_uring_setup", record.sq_entries, at)
        (theirs,) = seed.run(program)
        self._params.append((record, seed.leader.read(at, _PARAMS_BYTES)))
        ours: int = lib.lcr_syscall(NR_PIDFD_GETFD, seed.process.pidfd, theirs, 0, 0, 0, 0)
        if ours < 0:
            raise Failed(f"pidfd_getfd: {os.strerror(-ours)}", where="an io_uring")
        closing = Program()
        closing.add("close", theirs)
        seed.run(closing)
        if record.status_flags & os.O_NONBLOCK:
            os.set_blocking(ours, False)
        return ours

    def finish(
        self,
        places: dict[tuple[int, int], IoUring],
        vmas: dict[int, list[Vma]],
        seeds: dict[int, Seed],
        tasks: dict[int, Tracee],
    ) -> None:
        """Bring each to where it was, when descriptors, memory and tasks are in place.

        ``places``: by PID and descriptor. ``vmas``: by PID, all mappings of instances, in whose place there
        is still plain memory with their content. Raises BadImage where one is of no instance.
        """
        if any((pid, vma.file) not in places for pid, of_one in vmas.items() for vma in of_one):
            raise BadImage("a mapping is of an io_uring that is not there", where="the image")
        for record, params in self._params:
            if record.submitter and record.submitter not in tasks:
                raise BadImage("an io_uring belongs to a task that is not there", where="the image")
            seed = seeds[record.pid]
            task = tasks[record.submitter] if record.submitter else seed.leader
            own = [
                (seeds[pid], vma)
                for pid, of_one in vmas.items()
                for vma in of_one
                if places[pid, vma.file] is record
            ]
            fds = [fd for (pid, fd), other in places.items() if other is record and pid == record.pid]
            if not fds:
                raise BadImage("an io_uring is of a process that does not have it", where="the image")
            _Instance(record, params, fds[0], seed, task).finish(own, tasks)


class _Instance:
    """One that is being brought to where it was; ``task`` makes the calls."""

    def __init__(self, record: IoUring, params: bytes, fd: int, seed: Seed, task: Tracee) -> None:
        self.record = record
        self._params = params
        self.fd = fd
        self._seed = seed
        self._task = task
        self._taken: list[tuple[int, int]] = []

    def _param(self, at: int) -> int:
        return int.from_bytes(self._params[at : at + 4], "little")

    def finish(self, mapped: list[tuple[Seed, Vma]], tasks: dict[int, Tracee]) -> None:
        record = self.record
        contents = [seed.leader.read(vma.start, vma.end - vma.start) for seed, vma in mapped]
        if record.flags & _SINGLE_ISSUER and not record.flags & _R_DISABLED:
            self._register(_ENABLE_RINGS, 0, 0)
        if not record.flags & _R_DISABLED:
            self._pump()
        self._register_all()
        for ring in record.registered:
            self._register_ring(ring, tasks)
        for (seed, vma), content in zip(mapped, contents, strict=True):
            with _OnlyHoles(seed):
                self._map(seed, vma)
            self._fill(seed, vma, content)

    def _register(self, opcode: int, argument: bytes | int, count: int) -> None:
        at = self._seed.put(argument) if isinstance(argument, bytes) else argument
        program = Program()
        program.add("io_uring_register", self.fd, opcode, at, count)
        self._seed.run(program, self._task)

    def _register_all(self) -> None:
        record = self.record
        if record.clock != clock.MONOTONIC:
            self._register(_CLOCK, _words(record.clock, 0, 0, 0), 0)
        if any(record.workers):
            self._register(_IOWQ_MAX_WORKERS, _words(*record.workers), 2)
        if record.eventfd >= 0:
            opcode = _EVENTFD_ASYNC if record.eventfd_async else _EVENTFD
            self._register(opcode, _words(record.eventfd), 1)
        if record.file_slots:
            slots = [-1] * record.file_slots
            tags = [0] * record.file_slots
            for file in record.files:
                slots[file.index], tags[file.index] = file.fd, file.tag
            data = b"".join(fd.to_bytes(4, "little", signed=True) for fd in slots)
            self._register_table(_FILES2, data, tags)
            if (record.file_alloc_start, record.file_alloc_end) != (0, record.file_slots):
                length = record.file_alloc_end - record.file_alloc_start
                self._register(_FILE_ALLOC_RANGE, _words(record.file_alloc_start, length, 0, 0), 0)
        if record.buffer_slots:
            parts = [(0, 0)] * record.buffer_slots
            tags = [0] * record.buffer_slots
            for buffer in record.buffers:
                parts[buffer.index], tags[buffer.index] = (buffer.address, buffer.size_bytes), buffer.tag
            self._register_table(_BUFFERS2, b"".join(_quads(*part) for part in parts), tags)

    def _register_table(self, opcode: int, data: bytes, tags: list[int]) -> None:
        """struct io_uring_rsrc_register; the tables can be larger than the seed's scratch memory."""
        with _Room(self._seed, [(len(data), False), (8 * len(tags), False)]) as (data_at, tags_at):
            self._seed.leader.write(data_at, data)
            self._seed.leader.write(tags_at, _quads(*tags))
            self._register(opcode, _words(len(tags), 0, 0, 0) + _quads(data_at, tags_at), 32)

    def _register_ring(self, ring: RegisteredRing, tasks: dict[int, Tracee]) -> None:
        """struct io_uring_rsrc_update: offset, 0, and the descriptor; each task has a table of its own."""
        if ring.tid not in tasks:
            raise BadImage("an io_uring is registered with a task that is not there", where="the image")
        program = Program()
        at = self._seed.put(_words(ring.index, 0) + _quads(self.fd))
        program.add("io_uring_register", self.fd, _RING_FDS, at, 1)
        self._seed.run(program, tasks[ring.tid])

    def _map(self, seed: Seed, vma: Vma) -> None:
        """Put the rings in the place of the plain memory that holds their content."""
        size = vma.end - vma.start
        program = Program()
        program.add("munmap", vma.start, size)
        program.add("mmap", 0, size, _protection(vma.perms), _MAP_SHARED_POPULATE, vma.file, vma.offset)
        if "dc" in vma.flags:
            program.add("madvise", vma.start, size, _MADV_DONTFORK)
        got = seed.run(program)[1]
        if got != vma.start:
            raise Failed(f"its rings came to be at {got:#x}, not {vma.start:#x}", where="an io_uring")

    def _fill(self, seed: Seed, vma: Vma, content: bytes) -> None:
        # What the kernel says in sq_flags is about now: it alone writes that.
        rings = vma.offset in (_OFF_SQ_RING, _OFF_CQ_RING)
        begin = self._param(_SQ_FLAGS) if rings else len(content)
        seed.leader.write(vma.start, content[:begin])
        seed.leader.write(vma.start + begin + 4, content[begin + 4 :])

    def _pump(self) -> None:
        """Bring the kernel's positions to the old ones."""
        record = self.record
        silent = record.sq_head - record.cq_tail
        if not 0 <= record.cq_tail <= record.sq_head <= OPERATIONS_MAX:
            raise Failed("its positions cannot be reached", where="an io_uring")
        sqe_bytes = 128 if record.flags & _SQE128 else 64
        cqe_bytes = 32 if record.flags & _CQE32 else 16
        sq_entries, cq_entries = self._param(0), self._param(4)
        array = 0 if record.flags & _NO_SQARRAY else self._param(_SQ_ARRAY) + 4 * sq_entries
        ring_bytes = max(array, self._param(_CQ_CQES) + cqe_bytes * cq_entries)
        code = blobs.read("pump.bin")
        told = ffi.new("struct lcr_pump *")
        rooms = [
            (len(code), True),
            (ffi.sizeof("struct lcr_pump"), False),
            (_STACK_BYTES, False),
        ]
        views = ((ring_bytes, _OFF_SQ_RING), (sq_entries * sqe_bytes, _OFF_SQES))
        with (
            _Room(self._seed, rooms) as (code_at, told_at, stack_at),
            _Views(self._seed, self.fd, views) as (ring_at, sqes_at),
        ):
            told.fd, told.entries, told.sqe_bytes = self.fd, sq_entries, sqe_bytes
            told.sq_tail, told.sqes = ring_at + self._param(_SQ_TAIL), sqes_at
            told.sq_array = ring_at + self._param(_SQ_ARRAY) if array else 0
            told.cq_head, told.cq_tail = ring_at + self._param(_CQ_HEAD), ring_at + self._param(_CQ_TAIL)
            told.completing, told.silent = record.cq_tail, silent
            self._seed.leader.write(code_at, code)
            self._seed.leader.write(told_at, bytes(ffi.buffer(told)))
            self._seed.run_each([self._task], code_at, told_at, (stack_at, _STACK_BYTES))
            size = ffi.sizeof("struct lcr_pump")
            ffi.memmove(told, self._seed.leader.read(told_at, size), size)
        if told.error:
            raise Failed(f"io_uring_enter: {os.strerror(-told.error)}", where="an io_uring")


class _Views:
    """Parts of an instance, mapped for a while: sizes in bytes and offsets to their addresses."""

    def __init__(self, seed: Seed, fd: int, parts: tuple[tuple[int, int], ...]) -> None:
        self._seed = seed
        self._fd = fd
        self._parts = parts
        self._places: list[int] = []

    def __enter__(self) -> list[int]:
        program = Program()
        for size, offset in self._parts:
            program.add("mmap", 0, size, PROT_READ | PROT_WRITE, _MAP_SHARED_POPULATE, self._fd, offset)
        self._places = self._seed.run(program)
        return self._places

    def __exit__(self, *exc: object) -> None:
        program = Program()
        for at, (size, _) in zip(self._places, self._parts, strict=True):
            program.add("munmap", at, size)
        self._seed.run(program)


class _OnlyHoles:
    """While this lasts, the address space has no hole but those that are made meanwhile.

    io_uring's mmap(2) takes no address, and mremap(2) cannot move what it made (io_uring/memmap.c,
    io_uring_get_unmapped_area): the only way to a certain place is that there is no other.
    """

    def __init__(self, seed: Seed) -> None:
        self._seed = seed
        self._plugs: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        at = _PAGE_BYTES
        for m in [*procfs.mappings(self._seed.pid, with_flags=False), None]:
            start = m.start if m is not None and m.path != "[vsyscall]" else _TASK_SIZE
            if at < _LOW < start:
                self._plugs.append((at, _LOW - at))
                at = _LOW
            if start > at:
                self._plugs.append((at, start - at))
            at = max(at, m.end if m is not None else at)
        self._each("mmap", 0, _MAP_PLUG, -1, 0)

    def __exit__(self, *exc: object) -> None:
        self._each("munmap")

    def _each(self, call: str, *more: int) -> None:
        for first in range(0, len(self._plugs), _PLUGS_AT_ONCE):
            program = Program()
            for start, size in self._plugs[first : first + _PLUGS_AT_ONCE]:
                program.add(call, start, size, *more, must=start >= _LOW)
            self._seed.run(program)


class _Room:
    """Memory in the half-built process for a while: a place for each of ``sizes`` (bytes, executable)."""

    def __init__(self, seed: Seed, sizes: list[tuple[int, bool]]) -> None:
        self._seed = seed
        self._rooms = [(-(-size // _PAGE_BYTES) * _PAGE_BYTES, executable) for size, executable in sizes]
        self._size = sum(size for size, _ in self._rooms)
        mappings = procfs.mappings(seed.pid, with_flags=False)
        taken = [(m.start, m.end) for m in mappings if m.path != "[vsyscall]"]
        self._begin = seed.free_range(taken, self._size)

    def __enter__(self) -> list[int]:
        program, places, at = Program(), [], self._begin
        for size, executable in self._rooms:
            protection = PROT_READ | (PROT_EXEC if executable else PROT_WRITE)
            program.add("mmap", at, size, protection, _MAP_PRIVATE_ANONYMOUS_FIXED, -1, 0)
            places.append(at)
            at += size
        self._seed.run(program)
        return places

    def __exit__(self, *exc: object) -> None:
        program = Program()
        program.add("munmap", self._begin, self._size)
        self._seed.run(program)


def _words(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def _quads(*words: int) -> bytes:
    return b"".join(word.to_bytes(8, "little") for word in words)


def _protection(perms: str) -> int:
    bits = zip(perms, (PROT_READ, PROT_WRITE, PROT_EXEC), strict=False)
    return sum(bit for letter, bit in bits if letter != "-")
