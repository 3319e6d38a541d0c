"""The code of the shims, as native/engine/shim.S and shim32.S have it: its parts, and the words of a slot.

A task may be stopped anywhere in it. What it is about to do follows from there, its registers and its slot,
so ``leaving`` can tell what the program's own registers are. Used by target/shim.
"""

from __future__ import annotations

from livecr.target import blobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Registers

    Slot = dict[str, int]

__all__ = [
    *("ARGUMENTS", "LEND_32", "LEND", "POLL", "REST", "SLOT_BYTES", "SLOT_WORDS"),
    *("Code", "Site", "offset", "unpack"),
]

_TABLE_AT = 8
_SYSCALL_BYTES = 2
_EINTR, _EAGAIN = -4, -11
_RESTART_CODES = range(-516, -511)  # <linux/errno.h>

#: The registers of a call's arguments, in order; those in which a shim has its slot, one for each shim.
ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
_SHIMS = ("rdx", "r10", "r8", "rdx", "r9", "rbx")
#: The last three: one polls first, one moves the rest of a transfer, one lends a call a socket's timeout.
POLL, REST, LEND = 3, 4, 5
#: The same of 32-bit tasks, which have only the last. Their slots have the arguments in the same places.
_ARGUMENTS_32 = ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp")
_SHIMS_32 = ("rdx", "rsi", "rdi", "rbp", "rbp")
LEND_32 = 4

#: The words of a slot. ``owner``: PID << 32 | TID. ``shim``: its index. ``rsp``: the program's own;
#: tells two calls of one task apart: it is only in both if a signal handler interrupted the first.
#: ``deadline``: until when, in ns of the host's CLOCK_MONOTONIC, 0 for ever; the timespec in front is what
#: was left. ``expired``: what it returns when it has polled in vain; of a shim that does not poll, what a
#: freeze makes of the program's own call, 0 for EINTR. ``moved``: what the call had done before. From there
#: to ``enough``: see waits/transfers, Rest. ``rbx``: the program's own, which only LEND borrows. From there
#: on, and ``mover``, ``address`` and ``size``: see waits/lent.
SLOT_WORDS = (
    *("seconds", "nanoseconds", "pollfd", "owner"),
    *ARGUMENTS,
    *("back", "number", "expired", "shim", "rsp", "deadline"),
    *("moved", "mover", "address", "size", "flags", "enough"),
    *("rbx", "lent", "option", "original_seconds", "original_microseconds", "result"),
    *("words0", "words1", "words2"),
)
SLOT_BYTES = 256

# The table in the code: for each shim its site, then what is in between.
_SITE = ("entry", "back", "leave", "left")
_LENDING = ("lend_ready", "lend_back", "lend_kept", "lend_over")
_BETWEEN = (
    *_LENDING,
    "added_rdx",
    "added_r10",
    "added_r8",
    "own",
    "expired",
    "failed",
    "to_rest",
    "counted",
    "failed_rest",
)


def offset(word: str) -> int:
    """Where a word is in a slot, in bytes."""
    return 8 * SLOT_WORDS.index(word)


def unpack(raw: bytes) -> Slot:
    """The words of a slot, by name."""
    return {name: int.from_bytes(raw[8 * i : 8 * i + 8], "little") for i, name in enumerate(SLOT_WORDS)}


class Site:
    """Where one shim is entered, is back from its call, leaves with a result, and has left but for a jump."""

    __slots__ = ("back", "entry", "leave", "left", "register", "shim")

    def __init__(self, shim: int, register: str, offsets: list[int]) -> None:
        self.shim = shim
        self.register = register
        self.entry, self.back, self.leave, self.left = offsets


class Code:
    """``content``: its bytes; all places in it are offsets."""

    def __init__(self, compat: bool) -> None:
        """``compat``: of 32-bit tasks."""
        self.compat = compat
        self.content = blobs.read("shim32.bin" if compat else "shim.bin")
        self.arguments = _ARGUMENTS_32 if compat else ARGUMENTS
        self.registers = _SHIMS_32 if compat else _SHIMS
        count = len(self.registers)
        between = _LENDING if compat else _BETWEEN
        self.lend = LEND_32 if compat else LEND
        table = [self._offset(i) for i in range(len(_SITE) * count + len(between))]
        self.sites = [Site(i, name, table[4 * i : 4 * i + 4]) for i, name in enumerate(self.registers)]
        self._at = dict(zip(between, table[4 * count :], strict=True))

    def shim_of(self, argument: int) -> int:
        """The shim whose slot the argument with this index points at."""
        return self.registers.index(self.arguments[argument])

    def place(self, label: str) -> int:
        """Where a label of the code is."""
        return self._at[label]

    def lent_from(self, behind: int) -> int:
        """Where a task is in the call that a time is lent for; ``behind``: where it was in setsockopt."""
        return behind + self._at["lend_back"] - self.sites[self.lend].back

    def own_word(self, register: str) -> str:
        """The word of a slot in which the program's own ``register`` is."""
        return ARGUMENTS[self.arguments.index(register)] if register in self.arguments else register

    def _offset(self, index: int) -> int:
        at = _TABLE_AT + 2 * index
        return int.from_bytes(self.content[at : at + 2], "little")

    def site_at(self, at: int) -> Site | None:
        """The shim that ``at`` is in. What leads from polling to the rest belongs to the rest."""
        for site in self.sites:
            if site.entry <= at <= site.left:
                return site
        if not self.compat and self._at["to_rest"] <= at < self.sites[REST].entry:
            return self.sites[REST]
        return None

    def slot_register(self, at: int, site: Site) -> str:
        """In which register the slot is."""
        return self.sites[POLL].register if at == self._at.get("to_rest") else site.register

    def leaving(self, at: int, site: Site, registers: Registers, slot: Slot) -> dict[str, int]:
        """What the program's registers are, but for those of its arguments."""
        result = registers.result()
        if at >= site.leave and self.compat:
            return {"rip": slot["back"], "rsp": registers.rsp + 4}
        if at >= site.leave:
            return {"rip": registers.rcx}
        if site.shim == self.lend:
            return self._lending(at, site, registers, slot)
        is_back = at == site.back and registers.call() >= 0
        if at <= site.entry or (is_back and _is_interruption(result)):
            if slot["expired"] and (self.compat or site.shim != POLL):
                return _returned(slot, slot["expired"]) | {"orig_rax": slot["number"]}
            return _blocked(slot, slot["moved"])
        if not self.compat and site.shim == POLL:
            return self._polling(at, result, slot)
        if not self.compat and site.shim == REST:
            return self._moving(at, result, slot)
        if slot["moved"] and at < self._at.get(f"added_{site.register}", 0):
            result = slot["moved"] + max(0, result)
        return _returned(slot, result) | ({"orig_rax": slot["number"]} if is_back else {})

    def _polling(self, at: int, result: int, slot: Slot) -> dict[str, int]:
        undecided = at < self._at["own"]
        if at >= self._at["failed"] or (undecided and result < 0):
            return _returned(slot, slot["moved"] or result)
        if at >= self._at["expired"] or (undecided and result == 0):
            return _returned(slot, slot["moved"] or slot["expired"])
        if undecided and slot["mover"]:
            return _blocked(slot, slot["moved"])
        return {"rip": slot["back"] - _SYSCALL_BYTES, "rax": slot["number"], "orig_rax": -1}

    def _lending(self, at: int, site: Site, registers: Registers, slot: Slot) -> dict[str, int]:
        result, interrupted = registers.result(), registers.call() >= 0
        if at <= self._at["lend_ready"] and result < 0 and not (interrupted and _is_interruption(result)):
            return _returned(slot, slot["moved"] or result)
        if at < self._at["lend_back"]:
            return _blocked(slot, slot["moved"])
        if self._at["lend_kept"] <= at < self._at["lend_over"]:
            result = slot["result"]
        is_back = at == self._at["lend_back"] and interrupted
        if is_back and _is_interruption(result):
            return _blocked(slot, slot["moved"])
        return _returned(slot, result) | ({"orig_rax": slot["number"]} if is_back else {})

    def _moving(self, at: int, result: int, slot: Slot) -> dict[str, int]:
        if at < self._at["counted"] and result > 0:
            return _blocked(slot, slot["moved"] + result)
        if self._at["counted"] <= at < self._at["failed_rest"] or (result == _EAGAIN and slot["enough"]):
            return _blocked(slot, slot["moved"])
        return _returned(slot, slot["moved"] or result)


def _is_interruption(result: int) -> bool:
    return result == _EINTR or result in _RESTART_CODES


def _returned(slot: Slot, result: int) -> dict[str, int]:
    return {"rip": slot["back"], "rax": result, "orig_rax": -1}


def _blocked(slot: Slot, moved: int) -> dict[str, int]:
    """As a freeze leaves the program's own call."""
    return _returned(slot, moved or _EINTR) | {"orig_rax": slot["number"]}
