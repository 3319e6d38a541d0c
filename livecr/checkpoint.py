"""The story of a checkpoint, read top to bottom.

Find out what stands in the way; look at the sleepers; freeze; describe and copy; make the image durable; only
then kill, or let go. Whatever fails on the way, the program is let go as it was.
"""

from __future__ import annotations

import os
import time

from livecr import check
from livecr.content import Content, Waiting
from livecr.errors import Failed, Refused
from livecr.image import elfcore, integrity
from livecr.interruption import Postponed
from livecr.kernel import bpf, clock, procfs
from livecr.kinds import pages, process, threads
from livecr.target.freeze import confirm, end, freeze, thaw
from livecr.target.shim import Shims
from livecr.target.tracee import Gone
from livecr.waits import written
from livecr.waits.classify import Wait, classify_all
from livecr.waits.clocks import MODELS, RELATIVE, Instant
from livecr.waits.deadlines import Evidence
from livecr.waits.reenter import Reentry
from livecr.waits.restart import as_kernel_resumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.image.integrity import NewImage
    from livecr.target.process import Process
    from livecr.target.tracee import Registers, Tracee

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

    Raises Refused (nothing was touched) or Failed (the process runs on unharmed). SIGINT, SIGTERM and their
    like are held back in the calling thread until the process is let go; they then end the checkpoint.
    """
    with Postponed() as interruption:
        return _checkpoint(pid, image, leave_running, interruption)


def _checkpoint(pid: int, image: str | None, leave_running: bool, interruption: Postponed) -> Checkpoint:
    in_the_way = check.obstacles(pid)
    if in_the_way:
        raise Refused.because(in_the_way)
    with integrity.new_image(image or default_name(pid)) as new:
        try:
            evidence = Evidence.before_freeze(pid, _task_iterator())
            evidence.at_rmtp = written.remember(pid)
            frozen = freeze(pid)
        except (FileNotFoundError, ProcessLookupError):
            raise Refused("the process ended before it could be frozen", where=f"process {pid}") from None
        began_ns = time.monotonic_ns()
        waits: dict[int, Wait] = {}
        reentry = None
        try:
            shims = Shims(frozen.leader)
            registers = look(frozen, shims, evidence)
            waits = classify_all(registers.items(), evidence, frozen.leader.read)
            reentry = Reentry(shims)
            reentry.enter(frozen.tasks, waits, registers)
            content = save(frozen, registers, waits, evidence, new)
            interruption.check()
            confirm(frozen)
            if not leave_running:
                new.commit(content)
                integrity.verify(new.path, new.files)
        except BaseException as error:
            _give_up(frozen, waits, reentry, evidence, error)
            raise
        frozen_ns = time.monotonic_ns() - began_ns
        if leave_running:
            let_go(frozen, waits, reentry, evidence)
            frozen_ns = time.monotonic_ns() - began_ns
            interruption.check()
            new.commit(content)
        else:
            end(frozen)
        size = sum(record.size_bytes for record in new.files)
        return Checkpoint(pid, new.path, {w.tid: w.wait for w in content.waits}, frozen_ns, size)


def _give_up(
    frozen: Process,
    waits: dict[int, Wait],
    reentry: Reentry | None,
    evidence: Evidence,
    error: BaseException,
) -> None:
    """Let the process go. Raises Failed if what went wrong is that it was killed."""
    try:
        confirm(frozen)
    except Gone:
        thaw(frozen)
        if isinstance(error, Exception):
            raise Failed("it was ended during its checkpoint", where=f"process {frozen.pid}") from error
    else:
        let_go(frozen, waits, reentry, evidence)


def default_name(pid: int) -> str:
    """COMM-PID.livecr in the current directory; what a path or a terminal had better not see is replaced."""
    try:
        comm = procfs.read(pid, "comm").decode("utf-8", "replace").strip()
    except OSError:
        raise Refused("there is no such process", where=f"process {pid}") from None
    name = "".join(letter if letter.isprintable() and letter != "/" else "_" for letter in comm)
    return f"{name}-{pid}.livecr"


def _task_iterator() -> bpf.TaskIterator | None:
    """The BPF reader of sleepers and restart blocks; without it the lesser sources have to do."""
    try:
        return bpf.TaskIterator.open()
    except bpf.Unavailable:
        return None


def look(frozen: Process, shims: Shims, evidence: Evidence) -> dict[int, Registers]:
    """Where each task stands, by TID, and what the freeze has brought to light about their waits."""
    threads.leave_critical_sections(frozen)
    registers = {task.tid: shims.own_registers(task.registers()) for task in frozen.tasks}
    evidence.after_freeze(frozen.pid)
    return registers


def let_go(frozen: Process, waits: dict[int, Wait], reentry: Reentry | None, evidence: Evidence) -> None:
    """Every task goes on in its call, with the time that passed in the freeze taken off what it has left."""

    def set_time_left(task: Tracee) -> None:
        wait = waits.get(task.tid)
        if wait is not None:
            written.catch_up(task, wait, evidence.since_frozen_ns())
            if reentry is not None:
                reentry.refresh(task.tid, max(0, (wait.remaining_ns or 0) - evidence.since_frozen_ns()))

    thaw(frozen, set_time_left)
    written.put_back(frozen.pid, waits, evidence.since_frozen_ns)


def save(
    frozen: Process,
    registers: dict[int, Registers],
    waits: dict[int, Wait],
    evidence: Evidence,
    new: NewImage,
) -> Content:
    """Everything of a frozen process into a new image."""
    mappings = procfs.mappings(frozen.pid)
    record = process.save(frozen, mappings, new, as_kernel_resumes)
    _store_core(frozen, registers, record, mappings, new)
    return Content(
        name=procfs.read(frozen.pid, "comm").decode("utf-8", "replace").strip(),
        frozen_at=_instant(evidence),
        process=record,
        time_model=_wished_time_model(frozen.pid),
        waits=[Waiting(tid=tid, wait=wait) for tid, wait in waits.items()],
    )


def _wished_time_model(pid: int) -> str:
    """LIVECR_TIME_MODEL in the environment that the program was started with."""
    for entry in procfs.read(pid, "environ").split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == b"LIVECR_TIME_MODEL" and value.decode("ascii", "replace") in MODELS:
            return value.decode()
    return RELATIVE


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
