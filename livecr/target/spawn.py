"""An empty process with a chosen PID, on its way to become the program of an image.

It starts as the seed (native/seed) and is emptied at once: what is left is one page with the engine and some
scratch memory, at an address that is free in the image too. Every task of it is traced with
PTRACE_O_EXITKILL: a half-built process dies with livecr.
"""

from __future__ import annotations

import os
import time
from copy import copy

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.kernel import procfs
from livecr.kernel.leader import look
from livecr.target import blobs, compat, engine, tracee
from livecr.target.engine import PAGE, free_range, inject, native_registers
from livecr.target.process import Process
from livecr.target.program import Program
from livecr.target.tracee import Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from livecr.target.kin import Kin

__all__ = ["Seed", "spawn"]

SCRATCH_BYTES = 64 * PAGE
TABLE_BYTES = 64 * PAGE
_TABLE_CALLS = TABLE_BYTES // ffi.sizeof("struct lcr_call")
_RUNNER_OFFSET = 2048  # the batch runner's place in the engine's page
_ALL_SIGNALS = 0xFFFFFFFFFFFFFFFF
_SIGTRAP = 1 << 4
_SIGCHLD = 17
_NR_EXIT, _EXIT_TIMEOUT_S, _PAUSE_S = 60, 10.0, 0.0002
_TASK_SIZE = 0x7FFFFFFFF000
_OPTIONS = (
    tracee.O_TRACESYSGOOD
    | tracee.O_TRACEFORK
    | tracee.O_TRACEVFORK
    | tracee.O_TRACECLONE
    | tracee.O_TRACEEXEC
    | tracee.O_EXITKILL
)
_CALL_OFFSET = 8

_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE_ANONYMOUS_FIXED = 0x100022  # MAP_FIXED_NOREPLACE
_ALL_DESCRIPTORS = 0xFFFFFFFF
NR_EXECVEAT, AT_EMPTY_PATH = 322, 0x1000

# struct clone_args of <linux/sched.h>: the words that livecr uses, by their place.
_CLONE_ARGS_WORDS = 11
_CLONE_FLAGS, _CLONE_EXIT_SIGNAL, _CLONE_SET_TID, _CLONE_SET_TID_SIZE = 0, 4, 8, 9
# CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM: a thread.
_THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000

# What failed, by the step that native/ext/spawn.c reports.
_STEPS = (
    "preparing",
    "making a time namespace",
    "clone3 with the chosen PID",
    "seizing it",
    "exec of the seed",
)


def spawn(
    pid: int, taken: list[tuple[int, int]], time_offsets: str | None, kin: Kin, *, is_compat: bool = False
) -> Seed:
    """A new child of livecr with PID ``pid``, emptied. ``taken``: address ranges that the image will need.

    It and all that it makes are added to ``kin``.

    ``time_offsets``: the text for timens_offsets of its own time namespace, or None to stay in ours.
    ``is_compat``: with a 32-bit address space. Raises Failed; then nothing is left of it.
    """
    step = ffi.new("int *")
    seed_fd = _executable_copy(is_compat)
    try:
        offsets = ffi.NULL if time_offsets is None else ffi.new("char[]", time_offsets.encode())
        result = lib.lcr_spawn(pid, seed_fd, offsets, _OPTIONS, step)
    finally:
        os.close(seed_fd)
    if result < 0:
        raise Failed(f"{_STEPS[step[0]]}: {os.strerror(-result)}", where=f"process {pid}")
    leader = Tracee(pid, pid, 0)
    leader.stopped = True
    seed = Seed(Process(pid, [leader], compat=is_compat), kin, taken)
    seed.empty()
    return seed


def _executable_copy(is_compat: bool) -> int:
    """The seed in a memfd, so that nothing on disk stays busy and no mount can forbid to execute it."""
    path = os.path.join(os.path.dirname(__file__), "..", "native", "seed32" if is_compat else "seed")
    fd = os.memfd_create("livecr-seed", os.MFD_CLOEXEC)
    with open(path, "rb") as file:
        os.write(fd, file.read())
    return fd


class Seed:
    """A process being built. ``run`` makes calls in it, ``put`` hands bytes to the next ``run``."""

    def __init__(self, process: Process, kin: Kin, taken: list[tuple[int, int]]) -> None:
        """``taken``: address ranges that the processes of the image will need."""
        self.process = process
        self._taken = taken
        self._kin = kin
        kin.add(process)
        self.pid = process.pid
        self.leader = process.leader
        self.compat = process.compat
        self.task_size = compat.TASK_SIZE if self.compat else _TASK_SIZE  # where its address space ends
        self._entry = 0
        self._scratch = 0
        self._used = 0
        self._base: Any = None
        self._our_pidfd = -1
        self._batches = False
        self._fetched: dict[int, int] = {}
        self.memory_of = 0  # the process of the image whose memory it has, its own or what it was born with
        self.borrowed: list[tuple[int, int]] = []  # ranges in use for a while, by whoever builds it

    # -- making and unmaking -----------------------------------------------------------------------------

    def empty(self) -> None:
        """Throw out all of the seed: descriptors and mappings; leave the engine at a place of its own."""
        self.leader.cont_to_syscall()
        self.leader.wait_for(signal=tracee.SYSCALL_STOP)  # the exit stop of execve
        registers = self.leader.registers()
        if self.compat:
            registers = registers.copy(cs=compat.USER_CS)
        self._base = native_registers(registers)
        self._entry = registers.rip  # the seed's first instruction is `syscall`
        # What is sent to it from now on is for the program, and waits. Only the batch runner's trap does not.
        self.leader.set_signal_mask(_ALL_SIGNALS & ~_SIGTRAP)
        size = PAGE + SCRATCH_BYTES + TABLE_BYTES
        own = (registers.rip & ~0xFFF, (registers.rip & ~0xFFF) + PAGE)
        here = free_range([*self._taken, own], size, self.task_size)
        program = Program()
        program.add("close_range", 0, _ALL_DESCRIPTORS, 0)
        program.add("munmap", here, size)  # the seed's stack or vDSO might be there
        flags = _MAP_PRIVATE_ANONYMOUS_FIXED
        program.add("mmap", here, PAGE, _PROT_READ | _PROT_EXEC, flags, -1, 0)
        program.add("mmap", here + PAGE, SCRATCH_BYTES + TABLE_BYTES, _PROT_READ | _PROT_WRITE, flags, -1, 0)
        self.run(program)
        self.leader.write(here, blobs.read("engine32.bin" if self.compat else "engine.bin"))
        self._runner = here + _RUNNER_OFFSET
        self.leader.write(self._runner, blobs.read("batch.bin"))
        self._entry = here + _CALL_OFFSET
        self._table = here + PAGE + SCRATCH_BYTES
        self._batches = True
        self._scratch = here + PAGE
        self._engine_range = (here, here + size)
        program = Program()
        program.add("munmap", 0, here)
        program.add("munmap", here + size, self.task_size - here - size)
        self.run(program)

    def become(self, *, is_compat: bool) -> None:
        """Execute the other seed, with a 32-bit or a 64-bit address space, and empty that."""
        ours = _executable_copy(is_compat)
        try:
            theirs = self.fetch([ours])[ours]
        finally:
            os.close(ours)
        self.reset_scratch()
        name = self.put(b"livecr-seed\0")
        words = self.put(name.to_bytes(8, "little") + bytes(8))
        # The path is empty (the end of the name), argv has the name, envp nothing.
        arguments = {"rdi": theirs, "rsi": name + 11, "rdx": words, "r10": words + 8, "r8": AT_EMPTY_PATH}
        start = self.leader.registers().copy(rip=self._entry, rax=NR_EXECVEAT, orig_rax=-1, **arguments)
        self.leader.set_registers(start)
        self.leader.cont_to_syscall()
        self.leader.wait_for(signal=tracee.SYSCALL_STOP, resume=tracee.SYSCALL)
        self.leader.cont_to_syscall()
        self.leader.wait()
        if self.leader.event != tracee.EVENT_EXEC:
            result = self.leader.registers().result()
            raise Failed(f"exec of the seed: {os.strerror(-result)}", where=f"process {self.pid}")
        self.compat = self.process.compat = is_compat
        self.task_size = compat.TASK_SIZE if is_compat else _TASK_SIZE
        self._batches = False
        self.memory_of = 0
        self.forget_fetched()
        self.empty()

    # -- calls in it -------------------------------------------------------------------------------------

    def run(self, program: Program, task: Tracee | None = None) -> list[int]:
        """Make the calls in ``task`` (the leader if None). What was put before is used up afterwards."""
        self._used = 0
        if not len(program):
            return []
        who = task or self.leader
        if not self._batches or len(program) > _TABLE_CALLS or program.ia32:
            return inject(who, self.entry_for(program.ia32), self._base, program)

        def batch(calls: Any, deferred: Any) -> int:
            where = (self._runner, self._table, self._base)
            return int(lib.lcr_batch(who.tid, *where, calls, len(program), deferred))

        return engine.run(who, program, batch)

    def step_from_now(self) -> None:
        """No more batches: the trap that ends one would reset the program's own SIGTRAP action."""
        self._batches = False
        for task in self.process.tasks:
            task.set_signal_mask(_ALL_SIGNALS)

    def put(self, content: bytes) -> int:
        """Place bytes in scratch memory for the next ``run``; their address there."""
        at = self._scratch + self._used
        if self._used + len(content) > SCRATCH_BYTES:
            raise Failed(
                f"{len(content)} bytes are too many to hand over at once", where=f"process {self.pid}"
            )
        if content:
            self.leader.write(at, content)
        self._used += len(content) + 15 & ~15
        return at

    def reset_scratch(self) -> None:
        """Forget what was put, where ``run_each`` is used."""
        self._used = 0

    def room(self, size: int) -> int:
        """The address of ``size`` zeroed bytes of scratch memory for the next ``run``."""
        return self.put(bytes(size))

    def free_range(self, taken: list[tuple[int, int]], size: int) -> int:
        """The start of a hole of ``size`` bytes that neither ``taken`` nor the engine needs."""
        return free_range([*taken, self._engine_range], size, self.task_size)

    def fetch(self, fds: list[int]) -> dict[int, int]:
        """Give it descriptors of ours; ours to the number that it has there. Kept until ``drop_fetched``."""
        new = [fd for fd in fds if fd not in self._fetched]
        program = Program()
        if new and self._our_pidfd < 0:
            program.add("pidfd_open", os.getpid(), 0)
            (self._our_pidfd,) = self.run(program)
            program = Program()
        for fd in new:
            program.add("pidfd_getfd", self._our_pidfd, fd, 0)
        self._fetched.update(zip(new, self.run(program), strict=True))
        return {fd: self._fetched[fd] for fd in fds}

    def drop_fetched(self) -> None:
        """Close every descriptor that it was given so far."""
        program = Program()
        program.add("close_range", 0, _ALL_DESCRIPTORS, 0)
        self.run(program)
        self.forget_fetched()

    def forget_fetched(self) -> None:
        """Of a process that has none of them."""
        self._fetched = {}
        self._our_pidfd = -1

    def run_each(self, tasks: list[Tracee], entry: int, argument: int, stacks: tuple[int, int]) -> None:
        """Run code of ours at ``entry`` in several tasks at once, until each comes to an int3.

        ``stacks``: where the stacks begin, and the bytes of each.
        """
        tids = ffi.new("int[]", [task.tid for task in tasks])
        result = lib.lcr_run_each(tids, len(tids), entry, self._base, argument, *stacks)
        if result < 0:
            raise Failed(f"ptrace: {os.strerror(-result)}", where=f"process {self.pid}")

    # -- threads and children ----------------------------------------------------------------------------

    def add_thread(self, tid: int = 0) -> Tracee:
        """A new thread, with a chosen TID unless 0, stopped before its first instruction."""
        task = Tracee(self.pid, self._clone(tid, _THREAD, 0))
        task.wait()
        self.process.tasks.append(task)
        return task

    def fork(self, pid: int = 0, *, flags: int = 0, exit_signal: int = _SIGCHLD) -> Seed:
        """A child with all of its memory, and with a chosen PID unless 0. Descriptors must not be open.

        ``flags``: CLONE_* of clone(2); with CLONE_PARENT ``exit_signal`` has to be 0.
        """
        new = self._clone(pid, flags, exit_signal)
        task = Tracee(new, new)
        child = copy(self)
        child.process = Process(new, [task], compat=self.compat)
        self._kin.add(child.process)
        task.wait()
        child.pid, child.leader = new, task
        child.forget_fetched()
        return child

    def _clone(self, tid: int, flags: int, exit_signal: int) -> int:
        words = [0] * _CLONE_ARGS_WORDS
        words[_CLONE_FLAGS] = flags
        words[_CLONE_EXIT_SIGNAL] = exit_signal
        if tid:
            words[_CLONE_SET_TID] = self.put(tid.to_bytes(4, "little"))
            words[_CLONE_SET_TID_SIZE] = 1
        at = self.put(b"".join(word.to_bytes(8, "little") for word in words))
        program = Program()
        program.add("clone3", at, 8 * _CLONE_ARGS_WORDS)
        return self.run(program)[0]

    def end(self, program: Program) -> int:
        """Let the process end by the last call of its own; its status as wait(2) gives it.

        Its parent, unless that is livecr, can still wait for it.
        """
        status: int = lib.lcr_inject_exit(self.pid, self._entry, self._base, program.native())
        if status < 0:
            raise Failed(f"ptrace: {os.strerror(-status)}", where=f"process {self.pid}")
        self._kin.has_ended(self.process)
        return status

    def end_thread(self, task: Tracee) -> None:
        """Let a thread that was only a worker exit."""
        program = Program()
        program.add("exit", 0)
        native = program.native()
        lib.lcr_inject_exit(task.tid, self._entry, self._base, native)
        self.process.tasks.remove(task)

    def end_leader(self, code: int) -> None:
        """Let the leader exit with ``code`` while the other threads, which are there, live on.

        It is let go first: while it is traced nobody but livecr would be told of the end of the process.
        """
        leader = self.leader
        start = leader.registers().copy(rip=self._entry, rax=_NR_EXIT, rdi=code, orig_rax=-1)
        leader.set_registers(start)
        leader.set_signal_mask(_ALL_SIGNALS)
        self.process.tasks.remove(leader)
        self.leader = self.process.leader
        leader.detach()
        give_up = time.monotonic() + _EXIT_TIMEOUT_S
        while procfs.state(self.pid) not in "ZX":
            if time.monotonic() > give_up:
                raise Failed("its leader does not exit", where=f"process {self.pid}")
            time.sleep(_PAUSE_S)
        look(self.pid)

    # -- the end -----------------------------------------------------------------------------------------

    @property
    def engine_range(self) -> tuple[int, int]:
        """Where the engine and its scratch memory are."""
        return self._engine_range

    @property
    def options(self) -> int:
        """PTRACE_O_* of its tasks."""
        return _OPTIONS

    @property
    def entry(self) -> int:
        """The address of its ``syscall`` instruction."""
        return self._entry

    def entry_for(self, ia32: bool) -> int:
        """The address of its `syscall`, or of its `int $0x80` instruction."""
        return self._entry + (compat.IA32_ENTRY if ia32 else 0)

    @property
    def base(self) -> Any:
        """The registers that calls start from, ``struct lcr_regs *``."""
        return self._base

    def remove_engine(self, syscall_at: int) -> None:
        """Unmap the engine and its scratch memory, by a call through an instruction of the program's."""
        start, end = self._engine_range
        program = compat.CompatProgram() if self.compat else Program()
        program.add("munmap", start, end - start)
        inject(self.leader, syscall_at, self._base, program)
