"""By which convention a system call was made: x86-64's, or i386's of 32-bit tasks. Each has its table.

A 32-bit task's calls have other numbers, registers and structures, and another restart_syscall
(arch/x86/kernel/signal.c, get_nr_restart_syscall). The rest of waits/ asks here which it is.
"""

from __future__ import annotations

from livecr.kernel import machine
from livecr.waits import catalog
from livecr.waits.restart import NR_RESTART_SYSCALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from livecr.target.tracee import Registers
    from livecr.waits.catalog import Call

__all__ = ["X86_64", "Abi", "of", "of_registers"]


class Abi:
    """``calls``: Call.key -> its row. ``demultiplexers``: calls whose argument 0 says which they stand for.

    ``restart_functions``, ``reentered``, ``reentered_untimed``: as in waits/catalog, by key. ``rmtp_at``:
    number of a sleep -> the arguments where rmtp may be. ``done``: as in waits/catalog, by number.
    ``instruction``: what a task in a call has just behind it.
    """

    __slots__ = (
        *("calls", "demultiplexers", "done", "instruction", "name", "reentered", "reentered_untimed"),
        *("restart_functions", "restart_syscall", "rmtp_at"),
    )

    def __init__(
        self,
        name: str,
        calls: dict[int, Call],
        restart_functions: dict[str, tuple[str, tuple[int, ...]]],
        reentered: dict[int, tuple[int, dict[int, int]]],
        reentered_untimed: tuple[int, ...],
        restart_syscall: int,
        rmtp_at: dict[int, tuple[int, ...]],
        instruction: bytes,
        demultiplexers: tuple[int, ...] = (),
        done: dict[int, dict[int, int]] | None = None,
    ) -> None:
        self.name = name
        self.calls = calls
        self.restart_functions = restart_functions
        self.reentered = reentered
        self.reentered_untimed = reentered_untimed
        self.restart_syscall = restart_syscall
        self.rmtp_at = rmtp_at | {restart_syscall: (1, 3)}
        self.instruction = instruction
        self.demultiplexers = demultiplexers
        self.done = done or {}

    def find(self, number: int, arguments: Sequence[int]) -> Call | None:
        """The row of a call, None for one that is not in the table."""
        if number in self.demultiplexers:
            number = catalog.key(number, arguments[0] & 0xFFFF)
        return self.calls.get(number)

    def call_name(self, number: int) -> str:
        """The name of any system call, catalogued or not."""
        if self.name == machine.X86_64:
            return catalog.call_name(number)
        row = self.calls.get(number)
        return row.name if row is not None else f"32-bit system call {number}"


X86_64 = Abi(
    machine.X86_64,
    catalog.CATALOG,
    catalog.RESTART_FUNCTIONS,
    catalog.REENTERED,
    catalog.REENTERED_UNTIMED,
    NR_RESTART_SYSCALL,
    {35: (1,), 230: (3,)},
    b"\x0f\x05",  # syscall
    done=catalog.DONE,
)


def of(name: str) -> Abi:
    """By the name of the machine. The table of i386 is read only when it is needed."""
    if name == machine.I386:
        from livecr.waits.catalog32 import I386

        return I386
    return X86_64


def of_registers(registers: Registers) -> Abi:
    """Of a task's calls, by its cs."""
    return of(machine.I386 if registers.is_compat else machine.X86_64)
