"""Blocked calls of tasks that are confined by seccomp: may they go on after a freeze?

The kernel goes on with some calls as restart_syscall(2), and livecr makes others again by another call
(waits/reenter). The filters are asked about that too, and some have never heard of it. Called by
kinds/seccomp before a freeze, and by calls after it.
"""

from __future__ import annotations

from livecr.errors import Refused
from livecr.kernel import machine
from livecr.kernel.seccomp import ARCH_I386, ARCH_X86_64, NAMES, Filters
from livecr.waits import abi, catalog, live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from livecr.waits.abi import Abi
    from livecr.waits.classify import Wait

__all__ = ["of_frozen", "of_running"]


def of_running(pid: int, tid: int, filters: Filters) -> list[Refused]:
    """What its filters forbid of that with which the call that it is blocked in now would go on."""
    blocked = live.blocked(pid).get(tid)
    if blocked is None or blocked.number < 0:
        return []
    table = live.abi_of_process(pid)
    call = table.find(blocked.number, blocked.arguments)
    how = "rearm" if blocked.number == table.restart_syscall else call.how if call is not None else "redo"
    timeout = blocked.arguments[call.timeout] if call is not None and call.timeout is not None else 0
    if call is not None and how == "rearm":
        never = call.encoding != catalog.MILLISECONDS and not timeout
        how = "redo" if never or call.is_absolute(blocked.arguments) else how
    name = call.name if call is not None else table.call_name(blocked.number)
    where = f"task {tid} of process {pid}"
    return _refusals(filters, table, blocked.number, blocked.arguments, how, bool(timeout), name, where)


def of_frozen(wait: Wait, filters: Filters | None, where: str) -> None:
    """Raises Refused if its filters forbid the call to go on."""
    if filters is None:
        return
    timed = wait.remaining_ns is not None
    table = abi.of(wait.abi)
    for refused in _refusals(filters, table, wait.call, wait.arguments, wait.how, timed, wait.name, where):
        raise refused


def _refusals(
    filters: Filters,
    table: Abi,
    number: int,
    arguments: Sequence[int],
    how: str,
    timed: bool,
    name: str,
    where: str,
) -> list[Refused]:
    """``how``: see restart.how; ``timed``: it has a timeout; ``name``: of the call."""
    arch = ARCH_I386 if table.name == machine.I386 else ARCH_X86_64
    goes_on_as, arguments = number, tuple(arguments)
    if how == "rearm":
        goes_on_as = table.restart_syscall
    elif how == "eintr" and timed:
        call = table.find(number, arguments)
        goes_on_as = table.reentered.get(call.key, (number, {}))[0] if call is not None else number
    if filters.allows(goes_on_as, arguments, arch=arch):
        return []
    answer = NAMES.get(filters.action(goes_on_as, arguments, arch=arch), "an error")
    called = "restart_syscall" if how == "rearm" else table.call_name(goes_on_as)
    return [
        Refused(
            f"it waits in {name}, which a freeze lets go on as {called}; its seccomp filters answer {answer}",
            where=where,
            way_out=f"allow {called} in its filters, or try again while no task is in such a call",
        )
    ]
