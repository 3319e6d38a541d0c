"""The story of a restore, read top to bottom.

Believe nothing before it is checked; make every open file description in livecr; let empty processes with
the right PIDs be born of each other and build the program in them; put each task back inside its call; resume
all. Until then the kernel kills what is half-built if livecr ends.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext

from livecr import plausible
from livecr.content import Content
from livecr.errors import BadImage, Failed
from livecr.image import integrity, manifest
from livecr.image.elfcore import Core
from livecr.kernel import machine
from livecr.kernel.bpf import switched_off
from livecr.kernel.prompt import undelayed
from livecr.kinds import (
    births,
    common,
    descriptors_made,
    dispatch,
    files,
    kernel_code,
    memory,
    process,
    seccomp,
    stops,
    sysv,
    timers,
    zombies,
)
from livecr.target.kin import Kin
from livecr.target.shim import Shims
from livecr.target.spawn import Seed, spawn
from livecr.target.tracee import Registers, Tracee
from livecr.waits import masks, written
from livecr.waits.clocks import ProgramTime
from livecr.waits.rearm import deadline_ns, rearm, remaining_ns
from livecr.waits.reenter import Reentry, needs_shim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kinds.threads import Thread
    from livecr.kinds.tty_seat import Seat
    from livecr.waits.classify import Wait

__all__ = ["Restored", "read", "restore"]


class Restored:
    """The restored program: ``pid`` is its root's.

    ``child``: the child of livecr to wait for: the root, or the init of its PID namespace, which ends with
    the root's status (128 + N for signal N). ``warnings``: what could not be as it was, a sentence each.
    ``seat``: where it sits, if it was at a terminal of others.
    """

    def __init__(self, pid: int, warnings: list[str], seat: Seat | None = None, *, child: int = 0) -> None:
        self.pid = pid
        self.child = child or pid
        self.warnings = warnings
        self.seat = seat

    def __repr__(self) -> str:
        return f"Restored(pid={self.pid})"


def restore(
    image: str,
    *,
    time_model: str | None = None,
    at_terminal: bool = False,
    file_policy: str = files.GROWN,
    leaves: bool = False,
) -> Restored:
    """Bring the program of ``image`` back to life, as a child of the caller.

    ``at_terminal``: the caller cares for a program that was at a terminal, by its ``seat`` (cli/job).
    ``file_policy``: how open files may differ from what they were, one of files.POLICIES.
    ``leaves``: the caller, its parent, is about to end.
    ``time_model``: "relative" or "absolute"; by default what the program itself has wished for, or relative.
    Raises BadImage, Refused (nothing was made) or Failed (nothing is left of what was made).
    """
    try:
        return _restore(image, time_model, at_terminal, file_policy, leaves)
    except (ArithmeticError, LookupError, ValueError) as error:
        # Every record is of its type; a value that is out of its range comes to light where it is used.
        what = f"its records do not fit together ({type(error).__name__}: {error})"
        raise BadImage(what, where=image) from error
    except OSError as error:
        named = f" ({error.filename})" if error.filename is not None else ""
        raise Failed(f"{error.strerror}{named}", where="a step of the restore") from error


def _restore(
    image: str, time_model: str | None, at_terminal: bool, file_policy: str, leaves: bool
) -> Restored:
    told = manifest.read(image, Content)
    content = told.content
    verification = integrity.Verification(image, told.files)
    try:
        with ExitStack() as stack:
            cores = {}
            for record in content.processes:
                core = Core.open(os.path.join(image, f"{record.place.pid}.core"))
                cores[record.place.pid] = stack.enter_context(core)
            if any(core.head_bytes > integrity.CHUNK_BYTES for core in cores.values()):
                verification.finish()  # normally registers and tables are in the first chunk
            plausible.check(content, cores, image, leaves=leaves)
            opened = descriptors_made.Opened(
                *(content.table, content.unlinked, content.removed, image),
                at_terminal=at_terminal,
                file_policy=file_policy,
            )
            stack.enter_context(opened)
            objects = stack.enter_context(sysv.Objects(content.sysv, list(cores), image))
            building = _Building(content, cores, opened, objects, verification)
            return building.build(time_model or content.time_model)
    finally:
        verification.finish()  # damage that explains any other trouble comes first


def read(image: str) -> Content:
    """The content of an image whose every file has been checked. Raises BadImage."""
    told = manifest.read(image, Content)
    integrity.verify(image, told.files)
    return told.content


class _Building:
    """The tree on its way. What is kept by process is kept by its PID in the image."""

    def __init__(
        self,
        content: Content,
        cores: dict[int, Core],
        opened: descriptors_made.Opened,
        objects: sysv.Objects,
        verification: integrity.Verification,
    ) -> None:
        self._content = content
        self._records = {record.place.pid: record for record in content.processes}
        self._cores = cores
        self._opened = opened
        self._objects = objects
        self._verification = verification
        self._waits = {waiting.tid: waiting.wait for waiting in content.waits}
        self._warnings: list[str] = opened.terminals.warnings if opened.terminals else []
        self._kin = Kin()
        self._seeds: dict[int, Seed] = {}
        self._tasks: dict[int, Tracee] = {}  # by TID in the image
        self._registers: dict[int, Registers] = {}
        self._reentries: dict[int, Reentry] = {}
        self._incomplete = set(self._records)

    def build(self, time_model: str) -> Restored:
        """All of it, or nothing. Raises Failed, Refused, BadImage."""
        try:
            self._bear(time_model)
            self._furnish()
            self._verification.finish()
            self._kin.watch()
            for record in reversed(self._records.values()):
                self._load_signals(record)
                if record.stopped_by:
                    self._complete(record)
                    stops.load(record.stopped_by, self._seeds[record.place.pid])
            for record in self._records.values():
                if not record.stopped_by:
                    self._complete(record)
            if self._opened.terminals:
                self._opened.terminals.enter()
            self._opened.leave_to_program()
            self._resume()
        except BaseException:
            self._kin.discard()
            raise
        self._kin.are_free()
        self._put_back()
        seat = self._opened.terminals.take_seat() if self._opened.terminals else None
        return Restored(self._seeds[self._content.processes[0].place.pid].pid, self._warnings, seat)

    def _bear(self, time_model: str) -> None:
        """Every process, with its memory, in its session and its group."""
        places = [record.place for record in self._records.values()]
        places += [zombie.place for zombie in self._content.zombies]
        shared = memory.shared_objects([record.memory for record in self._records.values()])
        try:
            family = births.Family(
                places,
                self._content.left_behind,
                lambda pid, seed: self._load_memory(pid, seed, shared),
                self._opened.begin_session,
            )
            family.grow(self._spawn(family.first, time_model))
        finally:
            for fd in shared.values():
                os.close(fd)
        self._seeds = family.seeds
        for zombie in self._content.zombies:
            zombies.load(zombie, self._seeds.pop(zombie.place.pid))

    def _spawn(self, pid: int, time_model: str) -> Seed:
        """The first process, in a time namespace if one can be made."""
        taken = [(v.start, v.end) for record in self._records.values() for v in record.memory.vmas]
        is_compat = pid in self._records and self._records[pid].memory.abi == machine.I386
        why = "LIVECR_WITHOUT"
        if not switched_off("time-namespace"):
            self._now = ProgramTime(self._content.frozen_at, model=time_model)
            try:
                return spawn(pid, taken, self._now.namespace_text(), self._kin, is_compat=is_compat)
            except Failed as error:
                if "time namespace" not in error.what:
                    raise
                why = error.what
        self._now = ProgramTime(self._content.frozen_at, model=time_model, namespace=False)
        self._warnings.append(
            f"no time namespace ({why}): its waits and timers are shifted, but its CLOCK_MONOTONIC jumps by"
            f" {self._now.jump_ns() / 1e9:+.3f} s, and deadlines in its own memory stay as they are"
        )
        return spawn(pid, taken, None, self._kin, is_compat=is_compat)

    def _load_memory(self, pid: int, seed: Seed, shared: dict[int, int]) -> None:
        record = self._records.get(pid)
        if record is None:
            return  # one that has ended, and will have no memory
        if common.MEMORY in record.place.shares:
            return  # its parent's
        if seed.compat != (record.memory.abi == machine.I386):
            seed.become(is_compat=not seed.compat)
        born_with = self._records[seed.memory_of].memory if seed.memory_of else None
        digests = process.load_memory(
            record, self._cores[pid], self._objects, seed, shared, self._opened.unlinked, born_with
        )
        self._verification.accept(os.path.basename(self._cores[pid].where), digests)

    def _furnish(self) -> None:
        """Descriptors, threads, and what each process says to the kernel."""
        self._opened.all_mapped()
        for pid, record in self._records.items():
            process.finish_memory(record, self._cores[pid], self._opened.unlinked, self._seeds[pid])
        own = {pid: r.descriptors for pid, r in self._records.items() if common.FILES not in r.place.shares}
        ended = {zombie.place.pid for zombie in self._content.zombies}
        descriptors_made.load(self._content.table, own, self._opened, self._seeds, ended)
        for pid, record in self._records.items():
            self._tasks |= process.load_tasks(record, self._seeds[pid], self._opened.directories)
            if pid not in own:
                own[pid] = own[record.place.ppid]
        self._objects.redo(self._seeds)
        owners = {seed.memory_of for seed in self._seeds.values()}
        vmas = {pid: self._records[pid].memory.vmas for pid in owners}
        descriptors_made.finish_rings(self._content.table, own, self._opened, vmas, self._seeds, self._tasks)
        descriptors_made.arm_timers(self._content.table, self._opened, self._now)
        groups = {record.place.pgid for record in self._records.values()}
        numbers = {*self._tasks, *self._records, *ended, *groups}
        descriptors_made.set_owners(self._content.table, own, self._opened, self._seeds, numbers)

    def _load_signals(self, record: process.Process) -> None:
        """And all else that comes late. Children first: what a parent is told of them meanwhile is dropped
        when its own signals are queued."""
        seed = self._seeds[record.place.pid]
        for child in record.told_of:
            stops.report(child, seed)
        if seccomp.shared_by_some([thread.filters for thread in record.threads]):
            self._warnings.append(
                f"process {record.place.pid}: some of its threads shared seccomp filters that others do not "
                "have; they have them still, but SECCOMP_FILTER_FLAG_TSYNC will not find them to be the same"
            )
        self._warnings += process.load_rest(record, seed, self._tasks, self._now)

    def _enter_waits(self, record: process.Process) -> None:
        """Each task inside its call again; and the registers to resume it with."""
        pid = record.place.pid
        seed = self._seeds[pid]
        reentry = self._reentries[pid] = Reentry(Shims(seed.leader, compat=seed.compat))
        own = {thread.tid: Registers.unpack(thread.registers) for thread in self._cores[pid].threads}
        waits = {tid: wait for tid, wait in self._waits.items() if tid in own}
        shimmed = [tid for tid, wait in waits.items() if needs_shim(wait) or self._is_moved(wait)]
        reentry.make_room(list(own), [(tid, own[tid]) for tid in shimmed], lambda: nullcontext(seed.run))
        # Those that wait for CPU time last: what the half-built process still uses of it counts.
        for thread in sorted(
            self._cores[pid].threads, key=lambda t: _is_for_cpu_time(self._waits.get(t.tid))
        ):
            task = self._tasks[thread.tid]
            task.set_xstate(thread.xstate)
            registers = own[thread.tid]
            wait = self._waits.get(thread.tid)
            if wait is not None and wait.how == "eintr":
                registers = reentry.registers(thread.tid, wait, registers, self._left_ns(thread.tid))
            elif wait is not None:
                registers = rearm(wait, registers, seed, task, self._now)
                if self._is_moved(wait):
                    until, left_ns = deadline_ns(wait, self._now), self._left_ns(thread.tid)
                    registers = reentry.until(thread.tid, wait, registers, until, left_ns)
            self._registers[thread.tid] = registers

    def _is_moved(self, wait: Wait) -> bool:
        """Whether the kernel would make its call again until a point in time that is not when it is due."""
        return wait.how == "redo" and wait.absolute and (wait.moved or self._now.is_moved(wait.clock))

    def _left_ns(self, tid: int) -> int:
        wait = self._waits[tid]
        return 0 if wait.remaining_ns is None else remaining_ns(wait, self._now)

    def _complete(self, record: process.Process) -> None:
        """Enter the waits, take the engine out, and give every task its registers."""
        seed = self._seeds[record.place.pid]
        timers.start_cpu_time(record.interval_timers, record.posix_timers, seed)
        self._enter_waits(record)
        self._incomplete.remove(record.place.pid)
        if all(self._seeds[pid].memory_of != seed.memory_of for pid in self._incomplete):
            seed.remove_engine(kernel_code.syscall_instruction(record.memory, seed.leader))
        for thread in record.threads:
            task = self._tasks[thread.tid]
            task.stop_again()
            task.set_registers(self._registers[thread.tid])
            dispatch.load(thread.dispatch, task)

    def _resume(self) -> None:
        """Let go of all, at once, the root last. The first that runs may end others: that is up to the
        program."""
        self._kin.release()
        running = False
        with undelayed():
            for pid, record in reversed(self._records.items()):
                for thread in reversed(record.threads):  # a leader's end is reported last
                    try:
                        self._let_go(pid, thread)
                    except Failed:
                        if not running or not self._kin.was_killed(self._tasks[thread.tid]):
                            raise
                    running = True

    def _let_go(self, pid: int, thread: Thread) -> None:
        """With its signal mask, and the time that it has left now."""
        task, wait = self._tasks[thread.tid], self._waits.get(thread.tid)
        task.set_signal_mask(thread.signal_mask)
        if wait is not None:
            masks.settle(task, wait)
            written.catch_up(task, wait, self._now.elapsed_ns)
            self._reentries[pid].refresh_minimum(thread.tid, wait.minimum_ns - self._now.elapsed_ns())
            self._reentries[pid].refresh(thread.tid, self._left_ns(thread.tid))
        task.detach()

    def _put_back(self) -> None:
        """In the running program, its sockets' timeouts, and what the freeze has made the kernel write."""
        for pid, seed in self._seeds.items():
            own = {thread.tid for thread in self._records[pid].threads}
            waits = {tid: wait for tid, wait in self._waits.items() if tid in own}
            self._reentries[pid].take_back(pid)
            written.put_back(seed.pid, waits, self._now.elapsed_ns)


def _is_for_cpu_time(wait: Wait | None) -> bool:
    return wait is not None and wait.kind == "cpu"
