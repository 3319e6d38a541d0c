"""Shims in a target: a call made in the program's place with other arguments (native/engine/shim.S).

A region of them is mapped into the target when it is first needed: a page with the code, which is only read
and executed, and behind it pages with slots, the data of one task's shim each. It belongs to the program from
then on, and is in an image like all of its memory, so a signal handler can return into a shim after a restore
too. A slot tells all that there is to know of it: nothing has to be remembered from one checkpoint to the
next. Used by waits/reenter.
"""

from __future__ import annotations

from itertools import pairwise

from livecr.errors import Refused
from livecr.kernel import clock, procfs
from livecr.target.compat import TASK_SIZE as COMPAT_END
from livecr.target.engine import PAGE, USER_END, free_range
from livecr.target.program import Program
from livecr.target.shim_code import ARGUMENTS, SLOT_BYTES, SLOT_WORDS, Code, offset, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from struct import Struct

    from livecr.target.shim_code import Slot
    from livecr.target.tracee import Registers, Tracee

    #: Lends out the means to make system calls in the process.
    Engine = Callable[[], AbstractContextManager[Callable[[Program], list[int]]]]

__all__ = ["Engine", "Shims", "slots_in_use"]

_MAGIC = b"livecr>"
_SLOT_PAGES_AT = PAGE - 8  # in the code's page: how many pages of slots there are behind it
_STACK_BYTES = 64 << 10
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE_ANONYMOUS_FIXED = 0x100022  # MAP_FIXED_NOREPLACE


class _Region:
    """A page of code at ``start``, and slots behind it. ``ours``: the code is that of this livecr."""

    __slots__ = ("end", "ours", "start")

    def __init__(self, start: int, slot_pages: int, ours: bool) -> None:
        self.start = start
        self.end = start + PAGE + slot_pages * PAGE
        self.ours = ours

    def slots(self) -> range:
        return range(self.start + PAGE, self.end, SLOT_BYTES)


def slots_in_use(code: Code, content: bytes, begin: int) -> dict[int, Slot]:
    """The slots that are not free, by address, of pages that begin at ``begin``."""
    found = {}
    for at in range(0, len(content), SLOT_BYTES):
        raw = content[at : at + SLOT_BYTES]
        if raw.count(0) == SLOT_BYTES:
            continue
        slot = unpack(raw)
        # A shim that has come to its end leaves its slot's address in the place of the register.
        register = code.registers[slot["shim"] % len(code.registers)]
        if slot[code.own_word(register)] != begin + at:
            found[begin + at] = slot
    return found


def _is_on_stack(task: Tracee, words: list[bytes]) -> bool:
    stack = task.read_some(task.registers().rsp, _STACK_BYTES)
    return any(stack.find(word) >= 0 for word in words)


class Shims:
    """The shims of one frozen process."""

    def __init__(self, task: Tracee, *, compat: bool = False) -> None:
        """``task``: any of its tasks, to reach its memory. ``compat``: of 32 bits."""
        self._task = task
        self._code = Code(compat)
        self._regions = []
        #: TID: until when, in ns of the host's CLOCK_MONOTONIC; of those whose call was made again.
        self.deadlines: dict[int, int] = {}
        #: TID: the address of its slot, and that; of those for which a socket has lent its timeout.
        self.lent: dict[int, tuple[int, Slot]] = {}
        self._inside: set[int] = set()
        mappings = procfs.mappings(task.pid, with_flags=False)
        for code, slots in pairwise(mappings):
            if (code.perms, code.inode, code.path) == ("r-xp", 0, "") and slots.start == code.end:
                region = self._region_at(code.start)
                if region is not None and slots.perms == "rw-p" and region.end <= slots.end:
                    self._regions.append(region)
        self._free: list[int] | None = None
        self._known: dict[tuple[int, int, int], int] = {}  # owner, rsp, back: the slot

    def _region_at(self, start: int) -> _Region | None:
        if self._task.read(start, len(_MAGIC)) != _MAGIC:
            return None
        page = self._task.read(start, PAGE)
        slot_pages = int.from_bytes(page[_SLOT_PAGES_AT:], "little")
        return _Region(start, slot_pages, page.startswith(self._code.content))

    # -- a task in one -----------------------------------------------------------------------------------

    def own_registers(self, task: Tracee) -> Registers:
        """Where ``task`` stands; if in a shim, as if the program had made its call itself.

        Raises Refused for a shim that another version of livecr has made, which this one does not understand.
        """
        registers = task.registers()
        region = next((r for r in self._regions if r.start <= registers.rip < r.start + PAGE), None)
        if region is None:
            return registers
        self._inside.add(task.tid)
        at = registers.rip - region.start
        site = self._code.site_at(at)
        if not region.ours or site is None:
            raise Refused(
                "another version of livecr has made it enter its call again",
                where=f"task {task.tid} of process {task.pid}",
                way_out="wait until the call has returned, or use that version",
            )
        if at == site.left and self._code.compat:
            back = int.from_bytes(task.read(registers.rsp, 4), "little")
            return registers.copy(rip=back, rsp=registers.rsp + 4)
        if at == site.left:
            return registers.copy(rip=registers.rcx)
        slot_at = getattr(registers, self._code.slot_register(at, site))
        slot = unpack(task.read(slot_at, SLOT_BYTES))
        lends = site.shim == self._code.lend
        # A call may wait several times, for the socket's whole timeout each: then this is of an earlier one.
        if slot["deadline"] and not (lends and slot["deadline"] < clock.host_now_ns(clock.MONOTONIC)):
            self.deadlines[task.tid] = slot["deadline"]
        if lends and slot["lent"]:
            self.lent[task.tid] = slot_at, slot
        own = self._own_arguments(slot) | self._code.leaving(at, site, registers, slot)
        if lends:
            own[site.register] = slot[self._code.own_word(site.register)]
        if not self._code.compat:
            own["rcx"] = own["rip"]  # as `syscall` leaves it
        return registers.copy(**own)

    def _own_arguments(self, slot: Slot) -> dict[str, int]:
        return {name: slot[word] for name, word in zip(self._code.arguments, ARGUMENTS, strict=True)}

    def own_call(self, rip: int, arguments: list[int]) -> tuple[int, list[int], int] | None:
        """Of a task that may run and is blocked in a call: number, arguments, deadline, if it is in a shim.

        ``rip`` and ``arguments`` are those that it has now, the others the program's own. One that a time is
        lent for makes its own call, so nothing has to be told of it.
        """
        for region in self._regions:
            for site in self._code.sites:
                if region.ours and site.shim != self._code.lend and rip == region.start + site.back:
                    slot_at = arguments[self._code.arguments.index(site.register)]
                    slot = unpack(self._task.read(slot_at, SLOT_BYTES))
                    return slot["number"], list(self._own_arguments(slot).values()), slot["deadline"]
        return None

    # -- room --------------------------------------------------------------------------------------------

    def occupy(self, tids: list[int]) -> None:
        """Find out which slots are free. ``tids``: of all tasks that there are."""
        alive = set(tids)
        self._free = []
        for region in self._regions:
            if not region.ours:
                continue
            begin = region.slots().start
            used = slots_in_use(self._code, self._task.read(begin, region.end - begin), begin)
            for at, slot in used.items():
                pid, tid = slot["owner"] >> 32, slot["owner"] & 0xFFFFFFFF
                if pid == self._task.pid and tid not in alive:
                    continue  # of a thread that was ended, or that ended from within a signal handler
                self._known[slot["owner"], slot["rsp"], slot["back"]] = at
            taken = set(self._known.values())
            self._free += [at for at in region.slots() if at not in taken and at not in used]
            self._free += [at for at in used if at not in taken]

    def lacking(self, calls: list[tuple[int, Registers]]) -> int:
        """How many slots are missing for these calls, each a TID and the program's own registers."""
        assert self._free is not None
        new = sum(self._key(tid, own) not in self._known for tid, own in calls)
        return max(0, new - len(self._free))

    def grow(self, slots: int, engine: Engine) -> None:
        """Map another region with room for ``slots``."""
        assert self._free is not None
        slot_pages = -(-slots * SLOT_BYTES // PAGE)
        size = (1 + slot_pages) * PAGE
        with engine() as run:
            mappings = procfs.mappings(self._task.pid, with_flags=False)
            taken = [(m.start, m.end) for m in mappings if m.end <= USER_END]
            start = free_range(taken, size, COMPAT_END if self._code.compat else USER_END)
            program = Program()
            flags = _MAP_PRIVATE_ANONYMOUS_FIXED
            program.add("mmap", start, PAGE, _PROT_READ | _PROT_EXEC, flags, -1, 0)
            program.add("mmap", start + PAGE, size - PAGE, _PROT_READ | _PROT_WRITE, flags, -1, 0)
            run(program)
        self._task.write(start, self._code.content)
        self._task.write(start + _SLOT_PAGES_AT, slot_pages.to_bytes(8, "little"))
        region = _Region(start, slot_pages, ours=True)
        self._regions.append(region)
        self._free += region.slots()

    def drop(self, tasks: list[Tracee], engine: Engine) -> None:
        """Unmap all regions if nothing can come back to them. ``tasks``: all that there are."""
        ours = [region for region in self._regions if region.ours]
        if not ours or self._inside:
            return
        self.occupy([task.tid for task in tasks])
        # A signal may have come between a shim's last two instructions.
        ends = [site.left for site in self._code.sites]
        last = [(region.start + end).to_bytes(8, "little") for region in ours for end in ends]
        if self._known or any(_is_on_stack(task, last) for task in tasks):
            return
        program = Program()
        for region in ours:
            program.add("munmap", region.start, region.end - region.start)
        with engine() as run:
            run(program)

    # -- making one --------------------------------------------------------------------------------------

    def _key(self, tid: int, own: Registers) -> tuple[int, int, int]:
        return self._task.pid << 32 | tid, own.rsp, own.rip

    def make(self, tid: int, own: Registers, shim: int, **words: int) -> tuple[int, int]:
        """Shim ``shim`` for the call that task ``tid`` made with its registers ``own``.

        ``words``: of the slot, ``number`` among them. Returns the address behind the shim's `syscall`, and
        that of the slot, which begins with a struct timespec.
        """
        assert self._free is not None
        key = self._key(tid, own)
        at = self._known.get(key) or self._free.pop()
        self._known[key] = at
        names = zip(ARGUMENTS, self._code.arguments, strict=True)
        slot = {word: getattr(own, name) for word, name in names}
        slot |= {"owner": key[0], "back": own.rip, "shim": shim, "rsp": own.rsp, "rbx": own.rbx} | words
        unsigned = (slot.get(name, 0) & 0xFFFFFFFFFFFFFFFF for name in SLOT_WORDS)
        self._task.write(at, b"".join(word.to_bytes(8, "little") for word in unsigned))
        region = next(region for region in self._regions if region.start <= at < region.end)
        return region.start + self._code.sites[shim].back, at

    def set_left(self, slot_at: int, word: str, left_ns: int, timespec: Struct, unit_ns: int = 1) -> None:
        """What is left, before the task has entered: at ``word``, as the call has it in memory.

        ``unit_ns``: of its second word; 1000 for a struct timeval, of which 0 would be no timeout at all.
        """
        deadline_ns = clock.host_now_ns(clock.MONOTONIC) + left_ns
        units = left_ns if unit_ns == 1 else max(1, -(-left_ns // unit_ns))
        self._task.write(slot_at + offset(word), timespec.pack(*divmod(units, 1_000_000_000 // unit_ns)))
        self._task.write(slot_at + offset("deadline"), deadline_ns.to_bytes(8, "little"))

    def set_until(self, slot_at: int, until_ns: int, left_ns: int, timespec: Struct) -> None:
        """The same for a call that takes a point in time, on whatever clock."""
        self.set_left(slot_at, "seconds", left_ns, timespec)
        self._task.write(slot_at + offset("seconds"), timespec.pack(*divmod(until_ns, 1_000_000_000)))

    def write(self, address: int, word: int) -> None:
        """Change a word of a slot."""
        self._task.write(address, word.to_bytes(8, "little"))

    def read(self, address: int, size: int) -> bytes:
        """Of the program's memory. Raises Failed where nothing is mapped."""
        return self._task.read(address, size)

    def slot(self, address: int) -> Slot:
        """The words of the slot at ``address``."""
        return unpack(self._task.read(address, SLOT_BYTES))

    @property
    def code(self) -> Code:
        """What stands in the first page of a region."""
        return self._code
