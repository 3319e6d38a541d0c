"""Make system calls inside a target, and give it back as it was.

The engine (native/engine/engine.S) is written into a code cave of the frozen process: unused bytes at the end
of the vDSO's last page, or of a text mapping's. ``Engine.borrow(task)`` lends one task's registers out; from
that moment every path leads back: by ``__exit__`` if livecr lives, through the engine's own way back if not.

Relies on /proc/PID/mem writing through page protection (FOLL_FORCE: private mappings get a copy of the page).
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.kernel import procfs
from livecr.target import blobs, compat, seccomp
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from livecr.target.process import Process
    from livecr.target.tracee import Registers, Tracee

__all__ = ["PAGE", "USER_END", "Borrowed", "Engine", "free_range", "inject", "native_registers", "run"]

PAGE = 4096
SCRATCH_BYTES = 4 * PAGE
_ALL_SIGNALS = 0xFFFFFFFFFFFFFFFF
_SYSCALL_BYTES = 2
_CALL_OFFSET = 8  # call_here: behind the 8 bytes of the magic

# The save area at the end of the engine, 8 bytes each, in the order of native/engine/engine.S.
SAVE_AREA = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("rip", "eflags"),
)
_SAVE_BYTES = 8 * (len(SAVE_AREA) + 4)  # flags_count, mask, scratch, scratch_bytes

USER_END = 0x7FFFFFFFF000
_PROT_READ_WRITE = 3
_MAP_PRIVATE_ANONYMOUS = 0x22
_MAP_FIXED_NOREPLACE = 0x100000


def free_range(taken: list[tuple[int, int]], size: int, limit: int = USER_END) -> int:
    """The start of a hole of ``size`` bytes: in the middle of the largest gap between ``taken`` ranges
    below ``limit``."""
    best, at = 0, 0
    previous = 1 << 20
    for start, end in [*sorted(taken), (limit, limit)]:
        if min(start, limit) - previous > best:
            best, at = min(start, limit) - previous, previous
        previous = max(previous, end)
    if best < size + 2 * PAGE:
        raise Failed(f"no hole of {size} bytes is left in the address space")
    return (at + best // 2) & ~(PAGE - 1)


class Engine:
    """The engine in a frozen process. Use as a context manager: on leaving, the cave is as it was."""

    def __init__(
        self,
        process: Process,
        resume: Callable[[Registers], Registers],
        mappings: list[procfs.Mapping] | None = None,
    ) -> None:
        """``resume``: the registers with which the kernel would go on from those of a stop.

        ``mappings``: of the process, if they are known.
        """
        self._process = process
        self._resume = resume
        self._compat = process.compat
        self._blob = blobs.read("engine32.bin" if process.compat else "engine.bin")
        self._mappings = mappings or procfs.mappings(process.pid, with_flags=False)
        self._cave, self._original, is_leftover = _find_cave(process, self._mappings, self._blob)
        if is_leftover:
            self._refuse_occupied()
        taken = [(m.start, m.end) for m in self._mappings if m.end <= USER_END]
        self.scratch = free_range(taken, SCRATCH_BYTES, compat.TASK_SIZE if process.compat else USER_END)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.leader.write(self._cave, self._original)

    def _refuse_occupied(self) -> None:
        """A task may be on its way back in what a killed livecr left, and need every byte of it.

        Nor could such a task be in an image, which has the vDSO as the kernel makes it.
        """
        for task in (task for one in self._process.sharing for task in one.tasks):
            if self._cave <= task.registers().rip < self._cave + len(self._blob):
                raise Failed(
                    "it has not yet found back from a livecr that was killed",
                    where=f"task {task.tid} of process {task.pid}",
                    way_out="try again",
                )

    def borrow(self, task: Tracee) -> Borrowed:
        """Lend out one task: a context manager whose ``run`` makes calls in it."""
        return Borrowed(self, task)

    @property
    def entry(self) -> int:
        """The address of the ``syscall`` instruction."""
        return self._cave + _CALL_OFFSET

    @property
    def way_back(self) -> int:
        """The address behind that."""
        return self.entry + _SYSCALL_BYTES

    def arm(self, task: Tracee, registers: Registers, mask: int) -> None:
        """Write the engine with a way back of ``task`` to ``registers`` (of a stop) and ``mask``.

        Raises Refused if it is confined and may not go that way.
        """
        mask_at = self._cave + len(self._blob) - _SAVE_BYTES + 8 * (len(SAVE_AREA) + 1)
        seccomp.confirm_way_back(task, self.entry, (self.scratch, SCRATCH_BYTES), mask_at)
        home = self._resume(registers)
        words = [getattr(home, name) for name in SAVE_AREA]
        if self._compat:
            words[SAVE_AREA.index("rip")] = compat.far_pointer(home)
        words += [int(registers.call() < 0), mask, self.scratch, SCRATCH_BYTES]
        area = b"".join(word.to_bytes(8, "little") for word in words)
        self._process.leader.write(self._cave, self._blob[:-_SAVE_BYTES] + area)


class Borrowed:
    """One task whose registers are lent out; given back on exit, in PTRACE_EVENT_STOP as it was found."""

    def __init__(self, engine: Engine, task: Tracee) -> None:
        self._engine = engine
        self.task = task
        self.scratch = engine.scratch

    def __enter__(self) -> Borrowed:
        task, engine = self.task, self._engine
        self.registers = task.registers()
        self.mask = task.signal_mask()
        engine.arm(task, self.registers, self.mask)
        # The order matters: from here on the task would find home by itself, so only now may it be changed.
        start = self.registers.copy(rip=engine.way_back, cs=compat.USER_CS, orig_rax=-1)
        task.set_registers(start)
        task.set_signal_mask(_ALL_SIGNALS)
        self._base = native_registers(start)
        try:
            mapping = Program()
            mapping.add(
                "mmap",
                self.scratch,
                SCRATCH_BYTES,
                _PROT_READ_WRITE,
                _MAP_PRIVATE_ANONYMOUS | _MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
            self.run(mapping)
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            unmapping = Program()
            unmapping.add("munmap", self.scratch, SCRATCH_BYTES)
            self.run(unmapping)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        # Back to the signal-delivery path, where the kernel looks at orig_rax and rax when it resumes.
        self.task.stop_again()
        self.task.set_signal_mask(self.mask)
        self.task.set_registers(self.registers)

    def run(self, program: Program) -> list[int]:
        """Make the calls; their results. Raises Failed naming the call that must not fail and did."""
        entry = self._engine.entry + (compat.IA32_ENTRY if program.ia32 else 0)
        seccomp.confirm_calls(self.task, program, entry)
        return inject(self.task, entry, self._base, program)


def native_registers(registers: Registers) -> Any:
    """As ``struct lcr_regs *``."""
    native = ffi.new("struct lcr_regs *")
    ffi.memmove(native, registers.pack(), ffi.sizeof("struct lcr_regs"))
    return native


def inject(task: Tracee, entry: int, base: Any, program: Program) -> list[int]:
    """Run ``program`` in ``task`` through the ``syscall`` (`int $0x80` for ia32) instruction at ``entry``."""

    def step(calls: Any, deferred: Any) -> int:
        return int(lib.lcr_inject(task.tid, entry, base, calls, len(program), deferred))

    return run(task, program, step)


def run(task: Tracee, program: Program, way: Callable[[Any, Any], int]) -> list[int]:
    """Run ``program`` by ``way(calls, deferred)``, which tells how many calls were made, or -errno."""
    calls = program.native()
    deferred = ffi.new("uint64_t *")
    done = way(calls, deferred)
    for signal in range(1, 65):
        if deferred[0] >> (signal - 1) & 1:
            task.deferred.append(signal)
    if done < 0:
        task.fail(-done, "making system calls in it")
    results = [calls[i].result for i in range(done)]
    if done < len(program) or (results and calls[done - 1].must and -4096 < results[-1] < 0):
        name, error = program.name(done - 1), os.strerror(-results[-1])
        arguments = ", ".join(f"{calls[done - 1].args[i]:#x}" for i in range(6))
        raise Failed(f"{name}({arguments}): {error}", where=f"task {task.tid} of process {task.pid}")
    return results


def _find_cave(process: Process, mappings: list[procfs.Mapping], engine: bytes) -> tuple[int, bytes, bool]:
    """Where the engine can be written: its address, the bytes there now, and whether it is a leftover."""
    task = process.leader
    executable = [m for m in mappings if m.perms == "r-xp" and m.end <= USER_END]
    executable.sort(key=lambda m: (m.path != "[vdso]", m.start))
    magic = engine[:_CALL_OFFSET]
    for mapping in executable:
        page = task.read(mapping.end - PAGE, PAGE)
        leftover = page.find(magic)
        if leftover >= 0 and leftover % 16 == 0:
            # Of a livecr that was killed. Put back afterwards: a signal handler may yet return into it.
            return mapping.end - PAGE + leftover, page[leftover : leftover + len(engine)], True
        used = (len(page.rstrip(b"\0")) + 31) & ~15
        if len(page) - used >= len(engine):
            return mapping.end - PAGE + used, bytes(len(engine)), False
    raise Failed(
        "no room for the engine: no executable mapping ends in unused bytes",
        where=f"process {task.pid}",
    )
