"""The story of a restore, read top to bottom.

Believe nothing before it is checked; make every open file description in livecr; make an empty process with
the right PID and build the program in it; put each task back inside its call; resume all. Until then the
kernel kills the half-built process if livecr ends.
"""

from __future__ import annotations

import os

from livecr import plausible
from livecr.content import Content
from livecr.errors import BadImage, Failed, LivecrError
from livecr.image import integrity, manifest
from livecr.image.elfcore import Core
from livecr.kinds import descriptors, memory, process
from livecr.target.shim import Shims
from livecr.target.spawn import Seed, spawn
from livecr.target.tracee import Registers, Tracee
from livecr.waits import written
from livecr.waits.clocks import ProgramTime
from livecr.waits.rearm import rearm, remaining_ns
from livecr.waits.reenter import Reentry

__all__ = ["Restored", "read", "restore"]


class Restored:
    """The restored process, a child of livecr. ``warnings``: what could not be as it was, a sentence each."""

    def __init__(self, pid: int, warnings: list[str]) -> None:
        self.pid = pid
        self.warnings = warnings

    def __repr__(self) -> str:
        return f"Restored(pid={self.pid})"


def restore(image: str, *, time_model: str | None = None) -> Restored:
    """Bring the process of ``image`` back to life, as a child of the caller.

    ``time_model``: "relative" or "absolute"; by default what the program itself has wished for, or relative.
    Raises BadImage, Refused (nothing was made) or Failed (nothing is left of what was made).
    """
    told = manifest.read(image, Content)
    verification = integrity.Verification(image, told.files)
    try:
        with Core.open(os.path.join(image, f"{told.content.process.session.pid}.core")) as core:
            if core.head_bytes > integrity.CHUNK_BYTES:
                verification.finish()  # normally registers and tables are in the first chunk
            plausible.check(told.content, core)
            with descriptors.Opened(told.content.process.descriptors, image) as opened:
                return _build(told.content, core, opened, verification, time_model or told.content.time_model)
    except (ArithmeticError, LookupError, ValueError) as error:
        # Every record is of its type; a value that is out of its range comes to light where it is used.
        what = f"its records do not fit together ({type(error).__name__}: {error})"
        raise BadImage(what, where=image) from error
    finally:
        verification.finish()  # damage that explains any other trouble comes first


def read(image: str) -> Content:
    """The content of an image whose every file has been checked. Raises BadImage."""
    told = manifest.read(image, Content)
    integrity.verify(image, told.files)
    return told.content


def _build(
    told: Content,
    core: Core,
    opened: descriptors.Opened,
    verification: integrity.Verification,
    time_model: str,
) -> Restored:
    now = ProgramTime(told.frozen_at, model=time_model)
    taken = [(vma.start, vma.end) for vma in told.process.memory.vmas]
    warnings: list[str] = []
    try:
        seed = spawn(told.process.session.pid, taken, now.namespace_text())
    except Failed as error:
        if "time namespace" not in error.what:
            raise
        now = ProgramTime(told.frozen_at, model=time_model, namespace=False)
        warnings.append(
            f"no time namespace could be made ({error.what}): waits go on, but CLOCK_MONOTONIC jumps"
        )
        seed = spawn(told.process.session.pid, taken, None)
    try:
        digests = process.load_memory(told.process, core, seed)
        tasks = process.load_tasks(told.process, opened, seed)
        process.load_rest(told.process, opened, seed, tasks, now)
        verification.accept(os.path.basename(core.where), digests)
        verification.finish()
        reentry = Reentry(Shims(seed.leader))
        resumable = _enter_waits(told, core, seed, tasks, now, reentry)
        _resume(told, seed, tasks, resumable, now, reentry)
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
    told: Content, core: Core, seed: Seed, tasks: dict[int, Tracee], now: ProgramTime, reentry: Reentry
) -> dict[int, Registers]:
    """Each task inside its call again; the registers to resume it with, by TID."""
    waits = {waiting.tid: waiting.wait for waiting in told.waits}
    resumable = {}
    for thread in core.threads:
        task = tasks[thread.tid]
        task.set_xstate(thread.xstate)
        registers = Registers.unpack(thread.registers)
        if thread.tid in waits and waits[thread.tid].how == "eintr":
            wait = waits[thread.tid]
            left_ns = 0 if wait.remaining_ns is None else remaining_ns(wait, now)
            resumable[thread.tid] = reentry.registers(thread.tid, wait, registers, left_ns)
        elif thread.tid in waits:
            resumable[thread.tid] = rearm(waits[thread.tid], registers, seed, task, now)
        else:
            resumable[thread.tid] = registers
    return resumable


def _resume(
    told: Content,
    seed: Seed,
    tasks: dict[int, Tracee],
    registers: dict[int, Registers],
    now: ProgramTime,
    reentry: Reentry,
) -> None:
    """Take the engine out, give every task its registers and its signal mask, and let go of all."""
    seed.remove_engine(memory.syscall_instruction(told.process.memory, seed.leader))
    for thread in told.process.threads:
        task = tasks[thread.tid]
        task.stop_again()
        task.set_registers(registers[thread.tid])
        task.set_signal_mask(thread.signal_mask)
    waits = {waiting.tid: waiting.wait for waiting in told.waits}
    for task in tasks.values():
        wait = waits.get(task.tid)
        if wait is not None:
            written.catch_up(task, wait, now.elapsed_ns())
            reentry.refresh(task.tid, 0 if wait.remaining_ns is None else remaining_ns(wait, now))
        task.detach()
    written.put_back(seed.pid, waits, now.elapsed_ns)
    os.close(seed.process.pidfd)
