"""The story of a restore, read top to bottom.

Believe nothing before it is checked; make every open file description in livecr; make an empty process with
the right PID and build the program in it; put each task back inside its call; resume all. Until then the
kernel kills the half-built process if livecr ends.
"""

from __future__ import annotations

import os

from livecr.content import Content
from livecr.errors import BadImage, Failed, LivecrError, Refused
from livecr.image import integrity, manifest
from livecr.image.elfcore import Core
from livecr.kinds import descriptors, memory, process
from livecr.target.spawn import Seed, spawn
from livecr.target.tracee import Registers, Tracee
from livecr.waits import written
from livecr.waits.clocks import ProgramTime
from livecr.waits.rearm import rearm

__all__ = ["Restored", "read", "restore"]


class Restored:
    """The restored process, a child of livecr. ``warnings``: what could not be as it was, a sentence each."""

    def __init__(self, pid: int, warnings: list[str]) -> None:
        self.pid = pid
        self.warnings = warnings

    def __repr__(self) -> str:
        return f"Restored(pid={self.pid})"


def restore(image: str) -> Restored:
    """Bring the process of ``image`` back to life, as a child of the caller.

    Raises BadImage, Refused (nothing was made) or Failed (nothing is left of what was made).
    """
    told = read(image)
    try:
        with Core.open(os.path.join(image, f"{told.process.session.pid}.core")) as core:
            _check(told, core)
            with descriptors.Opened(told.process.descriptors, image) as opened:
                return _build(told, core, opened)
    except (ArithmeticError, LookupError, ValueError) as error:
        # Every record is of its type; a value that is out of its range comes to light where it is used.
        what = f"its records do not fit together ({type(error).__name__}: {error})"
        raise BadImage(what, where=image) from error


def read(image: str) -> Content:
    """The content of an image whose every file has been checked. Raises BadImage."""
    told = manifest.read(image, Content)
    integrity.verify(image, told.files)
    return told.content


def _check(told: Content, core: Core) -> None:
    """Is everything there that the program needs, and is its place free?"""
    record = told.process
    tids = [thread.tid for thread in record.threads]
    if [thread.tid for thread in core.threads] != tids or record.session.pid != tids[0]:
        raise BadImage("its core file and its manifest are not of the same process", where=core.where)
    _check_ranges(record, core)
    _check_references(record, core)
    for tid in tids:
        _check_free(tid)
    memory.check(record.memory)


def _check_ranges(record: process.Process, core: Core) -> None:
    """Mappings ascend and lie in user space, and every page has a mapping to go to."""
    end = 0
    vmas = iter(record.memory.vmas)
    for vma in record.memory.vmas:
        if (
            vma.start < end
            or vma.end <= vma.start
            or vma.end > memory.USER_END
            or (vma.start | vma.end) & 4095
        ):
            raise BadImage(f"a mapping at {vma.start:#x} is out of order", where=core.where)
        if vma.kind == "file" and not 0 <= vma.file < len(record.memory.files):
            raise BadImage(f"the mapping at {vma.start:#x} names no file", where=core.where)
        end = vma.end
    current = next(vmas, None)
    for i in range(core.run_count):
        run = core.runs[i]
        while current is not None and current.end <= run.start:
            current = next(vmas, None)
        if current is None or run.start < current.start or run.end > current.end:
            raise BadImage(f"pages at {run.start:#x} belong to no mapping", where=core.where)


def _check_references(record: process.Process, core: Core) -> None:
    """Records name each other by their place in a list; a negative one would be taken from its end."""
    table = record.descriptors
    references = [(thread.credentials, record.credentials) for thread in record.threads]
    references += [(d.description, table.descriptions) for d in table.descriptors]  # type: ignore[misc]
    if any(not 0 <= index < len(there) for index, there in references):
        raise BadImage("its records do not fit together", where=core.where)


def _check_free(tid: int) -> None:
    try:
        with open(f"/proc/{tid}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read().strip()
        with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as lines:
            told = dict(line.rstrip("\n").split(":", 1) for line in lines if ":" in line)
    except OSError:
        return
    state = told.get("State", "").strip()
    rest = (
        f" (it has ended; its parent {told.get('PPid', '?').strip()} has not waited for it)"
        if "Z" in state[:1]
        else ""
    )
    raise Refused(
        f"its number {tid} is taken by process {told.get('Tgid', '?').strip()}, {name}{rest}",
        where=f"task {tid}",
        way_out="end that process, or wait until it has ended",
    )


def _build(told: Content, core: Core, opened: descriptors.Opened) -> Restored:
    now = ProgramTime(told.frozen_at)
    taken = [(vma.start, vma.end) for vma in told.process.memory.vmas]
    warnings: list[str] = []
    try:
        seed = spawn(told.process.session.pid, taken, now.namespace_text())
    except Failed as error:
        if "time namespace" not in error.what:
            raise
        now = ProgramTime(told.frozen_at, namespace=False)
        warnings.append(
            f"no time namespace could be made ({error.what}): waits go on, but CLOCK_MONOTONIC jumps"
        )
        seed = spawn(told.process.session.pid, taken, None)
    try:
        process.load_memory(told.process, core, seed)
        tasks = process.load_tasks(told.process, opened, seed)
        process.load_rest(told.process, seed, tasks, now.elapsed_ns())
        resumable = _enter_waits(told, core, seed, tasks, now)
        _resume(told, seed, tasks, resumable, now)
    except LivecrError:
        seed.discard()
        raise
    except OSError as error:
        seed.discard()
        raise Failed(f"{error.strerror} ({error.filename})", where=f"process {seed.pid}") from error
    except BaseException:
        seed.discard()
        raise
    return Restored(seed.pid, warnings)


def _enter_waits(
    told: Content, core: Core, seed: Seed, tasks: dict[int, Tracee], now: ProgramTime
) -> dict[int, Registers]:
    """Each task inside its call again; the registers to resume it with, by TID."""
    waits = {waiting.tid: waiting.wait for waiting in told.waits}
    resumable = {}
    for thread in core.threads:
        task = tasks[thread.tid]
        task.set_xstate(thread.xstate)
        registers = Registers.unpack(thread.registers)
        if thread.tid in waits:
            resumable[thread.tid] = rearm(waits[thread.tid], registers, seed, task, now)
        else:
            resumable[thread.tid] = registers
    return resumable


def _resume(
    told: Content, seed: Seed, tasks: dict[int, Tracee], registers: dict[int, Registers], now: ProgramTime
) -> None:
    """Take the engine out, give every task its registers and its signal mask, and let go of all."""
    seed.remove_engine(memory.syscall_instruction(told.process.memory, seed.leader))
    for thread in told.process.threads:
        task = tasks[thread.tid]
        task.stop_again()
        task.set_registers(registers[thread.tid])
        task.set_signal_mask(thread.signal_mask)
    waits = {waiting.tid: waiting.wait for waiting in told.waits}
    written.catch_up(tasks.values(), waits, now.elapsed_ns)
    for task in tasks.values():
        task.detach()
    written.put_back(seed.pid, waits)
    os.close(seed.process.pidfd)
