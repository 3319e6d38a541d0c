"""Requests of io_uring and AIO that are in flight: waited for, or refused by name.

A request that is in the kernel's hands cannot be saved. Before the freeze, requests that come to no end are
an obstacle; in the freeze those that are left are given a moment. Completions of io_uring are work that the
kernel leaves to the task (task_work): it is done whenever the task passes through the kernel, so the engine
makes it pass. Called by process; the counts are those of kernel/async_io.
"""

from __future__ import annotations

import os
import time

from livecr.errors import Failed, Obstacle, Refused
from livecr.kernel import async_io, machine, procfs
from livecr.kernel.async_io import AIO_PATH, RING_PATH
from livecr.kernel.bpf import Unavailable
from livecr.kinds import aio, io_uring
from livecr.target.engine import Engine
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.kernel.async_io import AsyncIo
    from livecr.kernel.procfs import Mapping
    from livecr.target.process import Process
    from livecr.target.tracee import Registers

__all__ = ["obstacles", "settle"]

_SETUP_IOPOLL, _SETUP_DEFER_TASKRUN = 1 << 0, 1 << 13
_ENTER_GETEVENTS = 1
_WATCHED_S, _SETTLED_S, _PAUSE_S = 0.3, 1.0, 0.005
_WAY_OUT = "let the program wait for them to complete, then try again"


def _has_any(pid: int, mappings: list[Mapping]) -> bool:
    if any(m.path in (RING_PATH, AIO_PATH) for m in mappings):
        return True
    for fd in os.listdir(procfs.path(pid, "fd")):
        try:
            if procfs.link(pid, f"fd/{fd}") == RING_PATH:
                return True
        except FileNotFoundError:
            continue  # it has just been closed
    return False


def obstacles(pid: int, mappings: list[Mapping]) -> list[Obstacle]:
    """Of a running process: requests of which none completes while they are watched."""
    if not _has_any(pid, mappings):
        return []
    if machine.of_process(pid) != machine.X86_64:
        what = "it is a 32-bit program that uses io_uring or AIO"
        return [Obstacle(f"process {pid}", what, "this version of livecr cannot save it")]
    try:
        reader = async_io.reader()
        told = reader.read(pid)
        if lost := io_uring.obstacles_of_rings(pid, told) + aio.obstacles(pid, mappings, told):
            return lost
        begin, until = _progress(pid, told), time.monotonic() + _WATCHED_S
        while (left := _in_flight(told)) and _progress(pid, told) == begin:
            if time.monotonic() > until:
                return [Obstacle(f"process {pid}", left, _WAY_OUT)]
            time.sleep(_PAUSE_S)
            told = reader.read(pid)
    except Unavailable as why:
        return [
            Obstacle(
                f"process {pid}",
                f"it uses io_uring or AIO, of which only BPF tells what is in flight ({why})",
                "let `livecr doctor` say why BPF cannot be used",
            )
        ]
    return []


def _in_flight(told: AsyncIo) -> str:
    """How many, in words; "" for none."""
    counts = (
        (sum(told.in_flight.values()), "io_uring"),
        (sum(context.in_flight for context in told.contexts), "AIO"),
    )
    text = " and ".join(f"{n} {name} request{'s'[: n != 1]}" for n, name in counts if n)
    if text and any(ring.has_timeouts for ring in told.rings.values()):
        text += " (a timeout among them)"
    return text and f"{text} in flight"


def _progress(pid: int, told: AsyncIo) -> list[object]:
    """Something that changes with each completion."""
    tails: list[object] = [ring.cached_cq_tail for ring in told.rings.values()]
    with open(procfs.path(pid, "mem"), "rb", buffering=0) as memory:
        for context in told.contexts:
            try:
                tails.append(os.pread(memory.fileno(), 4, context.address + 12))  # struct aio_ring, tail
            except OSError:
                continue  # the context has just been destroyed
    return tails


def settle(frozen: Process, mappings: list[Mapping], resume: Callable[[Registers], Registers]) -> None:
    """Let what is in flight complete. Raises Refused if it does not.

    ``resume``: the registers that the kernel would go on with from a stop's.
    """
    if not _has_any(frozen.pid, mappings):
        return
    where = f"process {frozen.pid}"
    until = time.monotonic() + _SETTLED_S
    try:
        while left := _in_flight(told := async_io.reader().read(frozen.pid)):
            if time.monotonic() > until:
                raise Refused(left, where=where, way_out=_WAY_OUT)
            _do_their_work(frozen, told, resume)
            time.sleep(_PAUSE_S)
    except Unavailable as why:
        raise Failed(f"its requests in flight: {why}", where=where) from None


def _do_their_work(frozen: Process, told: AsyncIo, resume: Callable[[Registers], Registers]) -> None:
    """Make tasks pass through the kernel; some rings want to be asked for completions as well."""
    with Engine(frozen, resume) as engine:
        for task in frozen.tasks:
            if not told.in_flight.get(task.tid):
                continue
            asking = Program()
            for fd, ring in told.rings.items():
                is_submitter = told.tasks.get(ring.submitter, task.tid) == task.tid
                if ring.flags & (_SETUP_IOPOLL | _SETUP_DEFER_TASKRUN) and is_submitter:
                    asking.add("io_uring_enter", fd, 0, 0, _ENTER_GETEVENTS, 0, 0, must=False)
            with engine.borrow(task) as borrowed:
                if len(asking):
                    borrowed.run(asking)
