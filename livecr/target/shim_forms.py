"""The two forms of a shim: of x86-64 (native/engine/shim.S) and of i386 (shim32.S). Used by target/shim.

Both say whose call it makes and where that goes on; where in the bytes, differs.
"""

from __future__ import annotations

from livecr.target import blobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Registers

__all__ = ["COMPAT", "MAGIC_BYTES", "NATIVE", "Form"]

#: What a shim begins with; its `syscall` or `int $0x80` follows, of which both are two bytes.
MAGIC_BYTES = 8
_BACK_OPERAND_BYTES = 4


class Form:
    """Where the parts of a shim are.

    ``arguments``: the registers of a call's arguments, in order; ``word_bytes`` of each, at ``words_at`` in
    the shim; ``back_at``: where the program's own call would have returned to, relative to the word's end if
    ``back_is_relative``; ``number_at``: of the program's own call; ``timespec_at``: room for what is left;
    ``arg_at``: of a struct io_uring_getevents_arg, 0 for none, as 32-bit programs with io_uring are refused.
    In 64 bits the number's upper half says how much the call had done before.
    """

    __slots__ = (
        *("arg_at", "arguments", "back_at", "back_is_relative", "blob", "number_at", "timespec_at"),
        *("word_bytes", "words_at"),
    )

    def __init__(
        self,
        blob: str,
        arguments: tuple[str, ...],
        word_bytes: int,
        words_at: tuple[int, ...],
        back_at: int,
        number_at: int,
        timespec_at: int,
        *,
        back_is_relative: bool,
        arg_at: int = 0,
    ) -> None:
        self.blob = blob
        self.arguments = arguments
        self.word_bytes = word_bytes
        self.words_at = words_at
        self.back_at = back_at
        self.back_is_relative = back_is_relative
        self.number_at = number_at
        self.timespec_at = timespec_at
        self.arg_at = arg_at

    def code(self) -> bytes:
        """The shim, without anything filled in."""
        return blobs.read(self.blob)

    def fill(
        self,
        slot: int,
        own: Registers,
        number: int,
        timespec: bytes,
        done: int = 0,
        sigmask: tuple[int, int] = (0, 0),
    ) -> bytes:
        """The shim that stands at ``slot`` for a call ``number``, made with the registers ``own``.

        ``timespec``: what is left, b"" for no timeout; ``done``: what the call had done before, to be added
        to its result; ``sigmask``: address and size, for io_uring_enter.
        """
        shim = bytearray(self.code())
        for name, at in zip(self.arguments, self.words_at, strict=True):
            self._put(shim, at, getattr(own, name))
        self._put(shim, self.back_at, own.rip - self._back_origin(slot))
        self._put(shim, self.number_at, number | done << 32)
        if self.arg_at:
            for i, value in enumerate((*sigmask, slot + self.timespec_at if timespec else 0)):
                self._put(shim, self.arg_at + i * self.word_bytes, value)
        shim[self.timespec_at : self.timespec_at + len(timespec)] = timespec
        return bytes(shim)

    def words(self, slot: int, shim: bytes) -> dict[str, int]:
        """What ``fill`` was told: the registers by name, "back", "number" and "done"."""
        found = {name: self._word(shim, at) for name, at in zip(self.arguments, self.words_at, strict=True)}
        back = self._word(shim, self.back_at) + self._back_origin(slot)
        found["back"] = back & (1 << 8 * self.word_bytes) - 1
        found["done"], found["number"] = divmod(self._word(shim, self.number_at), 1 << 32)
        return found

    def _back_origin(self, slot: int) -> int:
        return slot + self.back_at + _BACK_OPERAND_BYTES if self.back_is_relative else 0

    def _put(self, shim: bytearray, at: int, value: int) -> None:
        word = value & (1 << 8 * self.word_bytes) - 1
        shim[at : at + self.word_bytes] = word.to_bytes(self.word_bytes, "little")

    def _word(self, shim: bytes, at: int) -> int:
        return int.from_bytes(shim[at : at + self.word_bytes], "little")


NATIVE = Form(
    "shim.bin",
    ("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    8,
    (72, 80, 88, 96, 104, 112),
    back_at=120,
    number_at=128,
    timespec_at=160,
    back_is_relative=False,
    arg_at=136,
)
COMPAT = Form(
    "shim32.bin",
    ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
    4,
    (11, 16, 21, 26, 31, 36),
    back_at=41,
    number_at=48,
    timespec_at=52,
    back_is_relative=True,
)
