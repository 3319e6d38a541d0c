"""Shims in a target: a call made in the program's place with other arguments (target/shim_forms).

They stand in slots at the end of the vDSO's last page, the first at its very end. What a task in one would go
on with is told by the slot itself, so nothing has to be remembered from one checkpoint to the next. Used by
waits/reenter; target/engine leaves their room alone.
"""

from __future__ import annotations

from livecr.kernel import procfs
from livecr.target import shim_forms
from livecr.target.shim_forms import MAGIC_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Registers, Tracee

__all__ = ["SLOTS_MAX", "Shims", "Slot", "content_end"]

_PAGE = 4096
_SYSCALL_BYTES = 2
_ADDED_BYTES = 28  # from here on the shim (of x86-64) has added what was done before to rax
_STACK_SEARCH_BYTES = 64 << 10
SLOTS_MAX = 6


def content_end(page: bytes, *, compat: bool = False) -> int:
    """Where the room of the shims begins in a page: behind all that is not one of theirs."""
    code = _form(compat).code()
    slots = 0
    while slots < SLOTS_MAX and page[_PAGE - (slots + 1) * len(code) :].startswith(code[:MAGIC_BYTES]):
        slots += 1
    return _PAGE - slots * len(code)


def _form(compat: bool) -> shim_forms.Form:
    return shim_forms.COMPAT if compat else shim_forms.NATIVE


class Slot:
    """A shim that was made: the addresses to enter at, of its struct timespec, and of its getevents_arg."""

    __slots__ = ("arg_at", "entry", "timespec_at")

    def __init__(self, start: int, form: shim_forms.Form) -> None:
        self.entry = start + MAGIC_BYTES
        self.timespec_at = start + form.timespec_at
        self.arg_at = start + form.arg_at


class Shims:
    """The slots of one frozen process."""

    def __init__(self, task: Tracee, *, compat: bool = False) -> None:
        """``task``: any of its tasks, to reach its memory. Without a vDSO there are no slots."""
        self._task = task
        self._form = _form(compat)
        self._code = self._form.code()
        vdso = next((m for m in procfs.mappings(task.pid, with_flags=False) if m.path == "[vdso]"), None)
        self._end = vdso.end if vdso else 0
        self._taken: set[int] = set()

    def slot_of(self, rip: int) -> int | None:
        """The address of the shim that ``rip`` is in."""
        size = len(self._code)
        if not self._end - SLOTS_MAX * size <= rip < self._end:
            return None
        slot = self._end - -(-(self._end - rip) // size) * size
        return slot if self._task.read(slot, MAGIC_BYTES) == self._code[:MAGIC_BYTES] else None

    def own_registers(self, registers: Registers) -> Registers:
        """The program's own, for a task that stands in a shim: as if it had made its call itself."""
        slot = self.slot_of(registers.rip)
        if slot is None:
            return registers
        words = self._form.words(slot, self._task.read(slot, len(self._code)))
        own = {name: words[name] for name in self._form.arguments}
        done = words["done"]
        if registers.rip == slot + MAGIC_BYTES and not done:  # before the call
            own |= {"rip": words["back"] - _SYSCALL_BYTES, "rax": words["number"]}
        else:
            own |= {"rip": words["back"]}
            if not registers.is_compat:
                own["rcx"] = words["back"]  # as `syscall` leaves it
        if registers.call() >= 0:
            own["orig_rax"] = words["number"]
        if done and registers.rip == slot + MAGIC_BYTES:
            own["rax"] = done  # the rest of it has not been entered: as if a signal had come first
        elif done and registers.rip < slot + _ADDED_BYTES:
            own["rax"] = done + max(0, registers.result())
        return registers.copy(**own)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The registers of a call's arguments, in order."""
        return self._form.arguments

    def occupy(self, tasks: list[Tracee]) -> None:
        """Find out which slots tasks are in, or signal handlers may return to."""
        size = len(self._code)
        for task in tasks:
            registers = task.registers()
            slot = self.slot_of(registers.rip)
            if slot is not None:
                self._taken.add(slot)
            stack = task.read_some(registers.rsp & ~7, _STACK_SEARCH_BYTES)
            for i in range(SLOTS_MAX):
                there = self._end - (i + 1) * size
                # Where a handler's frame has rip: behind the shim's `syscall`.
                behind = there + MAGIC_BYTES + _SYSCALL_BYTES
                if stack.find(behind.to_bytes(self._form.word_bytes, "little")) >= 0:
                    self._taken.add(there)

    def free_slots(self) -> int:
        """How many more can be made."""
        if not self._end:
            return 0
        size = len(self._code)
        page = self._task.read(self._end - _PAGE, _PAGE)
        free = 0
        for i in range(SLOTS_MAX):
            at = _PAGE - (i + 1) * size
            slot = self._end - _PAGE + at
            is_shim = page[at : at + MAGIC_BYTES] == self._code[:MAGIC_BYTES]
            if slot not in self._taken and (is_shim or not page[at : at + size].strip(b"\0")):
                free += 1
            elif not is_shim and slot not in self._taken:
                break
        return free

    def make(
        self,
        own: Registers,
        number: int,
        timespec: bytes,
        *,
        done: int = 0,
        sigmask: tuple[int, int] = (0, 0),
    ) -> Slot:
        """A shim for a call ``number`` that the program made with its registers ``own``; see Form.fill."""
        size = len(self._code)
        slot = next(
            self._end - (i + 1) * size
            for i in range(SLOTS_MAX)
            if self._end - (i + 1) * size not in self._taken
        )
        self._taken.add(slot)
        self._task.write(slot, self._form.fill(slot, own, number, timespec, done, sigmask))
        return Slot(slot, self._form)

    def read(self, address: int, size: int) -> bytes:
        """Of the program's memory. Raises Failed where nothing is mapped."""
        return self._task.read(address, size)

    def set_left(self, timespec_at: int, timespec: bytes) -> None:
        """Change what is left, before the task has entered."""
        self._task.write(timespec_at, timespec)
