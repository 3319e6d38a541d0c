"""The story of a checkpoint, read top to bottom.

Find out what stands in the way; look at the sleepers; freeze; describe and copy; make the image durable; only
then kill, or let go. Whatever fails on the way, the program is let go as it was.
"""

from __future__ import annotations

import os
import time

from livecr import check
from livecr.content import Content, Waiting
from livecr.errors import Refused
from livecr.image import elfcore, integrity
from livecr.kernel import bpf, clock, procfs
from livecr.kinds import pages, process, threads
from livecr.target.freeze import end, freeze, thaw
from livecr.waits.classify import Wait, classify_all
from livecr.waits.clocks import Instant
from livecr.waits.deadlines import Evidence
from livecr.waits.restart import as_kernel_resumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.image.integrity import NewImage
    from livecr.target.process import Process
    from livecr.target.tracee import Registers

__all__ = ["Checkpoint", "checkpoint"]


class Checkpoint:
    """What was done: where the image is, how long the program stood still, and what each task waits in."""

    def __init__(self, pid: int, image: str, waits: dict[int, Wait], frozen_ns: int, size_bytes: int) -> None:
        self.pid = pid
        self.image = image
        self.waits = waits
        self.frozen_ns = frozen_ns
        self.size_bytes = size_bytes

    def __repr__(self) -> str:
        return f"Checkpoint(pid={self.pid}, image={self.image!r}, frozen_ns={self.frozen_ns})"


def checkpoint(pid: int, image: str | None = None, *, leave_running: bool = False) -> Checkpoint:
    """Write the running process ``pid`` to a new directory ``image``, by default ./COMM-PID.livecr.

    Raises Refused (nothing was touched) or Failed (the process runs on unharmed).
    """
    in_the_way = check.obstacles(pid)
    if in_the_way:
        raise Refused.because(in_the_way)
    with integrity.new_image(image or default_name(pid)) as new:
        evidence = Evidence.before_freeze(pid, _task_iterator())
        frozen = freeze(pid)
        began_ns = time.monotonic_ns()
        try:
            content = save(frozen, evidence, new)
            if not leave_running:
                new.commit(content)
                integrity.verify(new.path, new.files)
        except BaseException:
            thaw(frozen)
            raise
        frozen_ns = time.monotonic_ns() - began_ns
        if leave_running:
            thaw(frozen)
            frozen_ns = time.monotonic_ns() - began_ns
            new.commit(content)
        else:
            end(frozen)
        size = sum(record.size_bytes for record in new.files)
        return Checkpoint(pid, new.path, {w.tid: w.wait for w in content.waits}, frozen_ns, size)


def default_name(pid: int) -> str:
    """COMM-PID.livecr in the current directory; what a path cannot hold is replaced."""
    try:
        comm = procfs.read(pid, "comm").decode("utf-8", "replace").strip()
    except OSError:
        raise Refused("there is no such process", where=f"process {pid}") from None
    return f"{comm.replace('/', '_')}-{pid}.livecr"


def _task_iterator() -> bpf.TaskIterator | None:
    """The BPF reader of sleepers and restart blocks; without it the lesser sources have to do."""
    try:
        return bpf.TaskIterator.open()
    except bpf.Unavailable:
        return None


def save(frozen: Process, evidence: Evidence, new: NewImage) -> Content:
    """Everything of a frozen process into a new image."""
    threads.leave_critical_sections(frozen)
    registers = {task.tid: task.registers() for task in frozen.tasks}
    evidence.after_freeze(frozen.pid)
    waits = classify_all(registers.items(), evidence, frozen.leader.read)
    mappings = procfs.mappings(frozen.pid)
    record = process.save(frozen, mappings, new, as_kernel_resumes)
    _store_core(frozen, registers, record, mappings, new)
    return Content(
        name=procfs.read(frozen.pid, "comm").decode("utf-8", "replace").strip(),
        frozen_at=_instant(evidence),
        process=record,
        waits=[Waiting(tid=tid, wait=wait) for tid, wait in waits.items()],
    )


def _instant(evidence: Evidence) -> Instant:
    now, offsets = evidence.now_ns, evidence.offsets
    return Instant(
        monotonic_ns=now[clock.MONOTONIC] + offsets[clock.MONOTONIC],
        boottime_ns=now[clock.BOOTTIME] + offsets[clock.BOOTTIME],
        realtime_ns=now[clock.REALTIME],
    )


def _store_core(
    frozen: Process,
    registers: dict[int, Registers],
    record: process.Process,
    mappings: list[procfs.Mapping],
    new: NewImage,
) -> None:
    pid, own = frozen.pid, record.credentials[record.threads[0].credentials]
    runs = pages.stored(pid, mappings)
    notes = [
        elfcore.Thread(task.tid, registers[task.tid].pack(), task.xstate(), signal_mask=thread.signal_mask)
        for task, thread in zip(frozen.tasks, record.threads, strict=True)
    ]
    about = elfcore.Process(
        pid,
        auxv=procfs.read(pid, "auxv"),
        ppid=procfs.stat(pid)["ppid"],
        pgid=record.session.pgid,
        sid=record.session.sid,
        uid=own.uids[0],
        gid=own.gids[0],
        comm=procfs.read(pid, "comm").strip(),
        arguments=procfs.read(pid, "cmdline"),
    )
    layout = elfcore.layout(about, notes, process.core_mappings(mappings), runs.native, runs.count)
    new.store_core(pid, layout, workers=len(os.sched_getaffinity(0)))
