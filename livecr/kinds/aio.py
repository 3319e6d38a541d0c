"""AIO contexts (io_setup(2)) with nothing in flight: where they are, and what has not been fetched from them.

A context is known by the address of its ring, a mapping of the kernel's making, and follows when that is
moved by mremap(2) (fs/aio.c, aio_ring_mremap). The kernel keeps the ring's tail for itself, so in a new
context it is brought to where it was by requests that complete at once, and then what they left in the ring
is replaced by what was there. Called by memory and process; requests in flight are the affair of requests.
"""

from __future__ import annotations

import os

from livecr.errors import BadImage, Failed, Obstacle
from livecr.image.record import Record
from livecr.kernel import async_io
from livecr.kernel.async_io import AIO_PATH
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.async_io import AsyncIo
    from livecr.kernel.procfs import Mapping
    from livecr.kinds.memory import Vma
    from livecr.target.spawn import Seed

__all__ = ["Context", "load", "obstacles", "save"]

# struct aio_ring (fs/aio.c): id, nr, head, tail …, 4 bytes each; the events are behind the header.
_NR, _HEAD, _TAIL, _HEADER_BYTES, _EVENT_BYTES = 4, 8, 12, 32, 32
_IOCB_BYTES, _IOCB_OPCODE, _IOCB_FD, _IOCB_BUF, _IOCB_NBYTES = 64, 16, 20, 24, 32
_IOCB_CMD_PREAD = 0
_AT_ONCE = 256
_MREMAP_MAYMOVE_FIXED = 3


class Context(Record):
    """``address``: its id. ``max_reqs``: what io_setup was asked for. ``size_bytes``: of the mapping."""

    address: int
    size_bytes: int
    max_reqs: int


def obstacles(pid: int, mappings: list[Mapping], told: AsyncIo) -> list[Obstacle]:
    """Rings that came by fork(2): the child has their memory, but not the context."""
    own = {context.address for context in told.contexts}
    return [
        Obstacle(
            f"process {pid}",
            f"the ring of an AIO context of its parent's is mapped at {m.start:#x}",
            "this version of livecr cannot save it",
        )
        for m in mappings
        if m.path == AIO_PATH and m.start not in own
    ]


def save(pid: int, sizes: dict[int, int]) -> list[Context]:
    """Of a frozen process. ``sizes``: the bytes of each mapping of a ring, by its start."""
    if not sizes:
        return []
    told = async_io.reader().read(pid).contexts
    if {context.address for context in told} != sizes.keys():
        raise Failed("its AIO contexts and their mappings do not match", where=f"process {pid}")
    return [Context(address=c.address, size_bytes=sizes[c.address], max_reqs=c.max_reqs) for c in told]


# -- loading -----------------------------------------------------------------------------------------------


def load(contexts: list[Context], vmas: list[Vma], seed: Seed) -> None:
    """Make each where its ring's content has been loaded as plain memory, which it takes the place of.

    ``vmas``: all of the process. Raises BadImage where one has no such memory.
    """
    rings = {(vma.start, vma.end - vma.start) for vma in vmas if vma.kind == "aio"}
    if rings != {(context.address, context.size_bytes) for context in contexts}:
        raise BadImage("its AIO contexts and their mappings do not match", where=f"process {seed.pid}")
    if not contexts:
        return
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = seed.fetch([null])[null]
        for context in contexts:
            _make(context, theirs, seed)
        seed.drop_fetched()
    finally:
        os.close(null)


def _make(context: Context, null: int, seed: Seed) -> None:
    where = f"AIO context {context.address:#x}"
    content = seed.leader.read(context.address, context.size_bytes)
    nr, head, tail = (_word(content, at) for at in (_NR, _HEAD, _TAIL))
    program = Program()
    at = seed.room(8)
    program.add("io_setup", context.max_reqs, at)
    seed.run(program)
    new = int.from_bytes(seed.leader.read(at, 8), "little")
    made = _word(seed.leader.read(new, _HEADER_BYTES), _NR)
    if made != nr or context.size_bytes < _HEADER_BYTES + _EVENT_BYTES * nr or max(head, tail) >= max(nr, 1):
        # The kernel makes rings larger than asked for, by the number of CPUs that there may be.
        raise Failed(f"its ring has room for {made} events here, and had for {nr}", where=where)
    unread = (tail - head) % nr
    _complete(new, context.max_reqs, (tail - unread) % nr, null, seed, fetch=True)
    _complete(new, context.max_reqs, unread, null, seed, fetch=False)
    seed.leader.write(new + _HEAD, content[_HEAD:_TAIL])
    seed.leader.write(new + _HEADER_BYTES, content[_HEADER_BYTES:])
    moving = Program()
    size = context.size_bytes
    moving.add("mremap", new, size, size, _MREMAP_MAYMOVE_FIXED, context.address)
    seed.run(moving)
    if _word(seed.leader.read(context.address, _HEADER_BYTES), _TAIL) != tail:
        raise Failed("it could not be brought to where it was", where=where)


def _complete(context: int, max_reqs: int, count: int, null: int, seed: Seed, *, fetch: bool) -> None:
    """Submit ``count`` reads of nothing; ``fetch``: as if the program had fetched what they left."""
    done = 0
    while done < count:
        wanted = min(count - done, max_reqs, _AT_ONCE)
        iocb = bytearray(_IOCB_BYTES)
        buffer = seed.room(8)
        iocb[_IOCB_OPCODE : _IOCB_OPCODE + 2] = _IOCB_CMD_PREAD.to_bytes(2, "little")
        iocb[_IOCB_FD : _IOCB_FD + 4] = null.to_bytes(4, "little")
        iocb[_IOCB_BUF : _IOCB_BUF + 8] = buffer.to_bytes(8, "little")
        iocb[_IOCB_NBYTES : _IOCB_NBYTES + 8] = (1).to_bytes(8, "little")
        at = seed.put(bytes(iocb))
        program = Program()
        program.add("io_submit", context, wanted, seed.put(at.to_bytes(8, "little") * wanted))
        done += seed.run(program)[0]
        if fetch:
            seed.leader.write(context + _HEAD, seed.leader.read(context + _TAIL, 4))


def _word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")
