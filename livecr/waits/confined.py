"""Blocked calls of tasks that are confined by seccomp: may they go on after a freeze?

The kernel goes on with some calls as restart_syscall(2), and livecr makes others again by another call
(waits/reenter). The filters are asked about that too, and some have never heard of it. Called by
kinds/seccomp before a freeze, and by calls after it.
"""

from __future__ import annotations

from livecr.errors import Refused
from livecr.kernel import machine
from livecr.kernel.seccomp import ARCH_I386, ARCH_X86_64, NAMES, Filters
from livecr.waits import abi, catalog, live, sockets
from livecr.waits.lent import SETSOCKOPT, words
from livecr.waits.reenter import needs_shim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.waits.abi import Abi
    from livecr.waits.catalog import Call
    from livecr.waits.classify import Wait

__all__ = ["of_frozen", "of_running"]


#: ppoll, which waits/reenter makes in the place of calls on sockets with a timeout of their own
_NR_POLL = 271


def of_running(pid: int, tid: int, filters: Filters) -> list[Refused]:
    """What its filters forbid of that with which the call that it is blocked in now would go on."""
    blocked = live.blocked(pid).get(tid)
    if blocked is None or blocked.number < 0:
        return []
    table, number, arguments = live.abi_of_process(pid), blocked.number, blocked.arguments
    call = table.find(number, arguments)
    made = [(number, tuple(arguments))]
    if number == table.restart_syscall or (call is not None and _has_restart_block(call, arguments)):
        made = [(table.restart_syscall, tuple(arguments))]
    elif call is not None and call.key in table.reentered:
        made.append((table.reentered[call.key][0], tuple(arguments)))
    elif call is not None and call.socket_option:

        def read(address: int, size: int) -> bytes:
            return live.read_memory(pid, address, size)

        polled = sockets.polled(pid, call, arguments, read)
        if polled is not None:
            made.append((SETSOCKOPT[table.name] if polled.lent else _NR_POLL, ()))
    name = call.name if call is not None else table.call_name(number)
    return _refusals(filters, table, made, name, f"task {tid} of process {pid}")


def _has_restart_block(call: Call, arguments: list[int]) -> bool:
    if call.how != "rearm" or call.is_absolute(arguments):
        return False
    return call.encoding == catalog.MILLISECONDS or bool(arguments[call.timeout or 0])


def of_frozen(wait: Wait, filters: Filters | None, where: str) -> None:
    """Raises Refused if its filters forbid the call to go on."""
    if filters is None:
        return
    table = abi.of(wait.abi)
    call = table.find(wait.call, wait.arguments)
    made = [(wait.call, tuple(wait.arguments))]
    if wait.how == "rearm":
        made = [(table.restart_syscall, tuple(wait.arguments))]
    elif needs_shim(wait):
        if wait.rest is not None:
            made.append((wait.rest.call, ()))
        if wait.socket_timeout_us:
            made.append((SETSOCKOPT[table.name], ()))
            made.append((words(wait)["mover"], ()))
        elif wait.poll_events:
            made.append((_NR_POLL, ()))
        elif call is not None and call.key in table.reentered:
            made.append((table.reentered[call.key][0], tuple(wait.arguments)))
    for refused in _refusals(filters, table, made, wait.name, where):
        raise refused


def _refusals(
    filters: Filters, table: Abi, made: list[tuple[int, tuple[int, ...]]], name: str, where: str
) -> list[Refused]:
    """``made``: the calls with which the call ``name`` goes on, and their arguments."""
    arch = ARCH_I386 if table.name == machine.I386 else ARCH_X86_64
    found = []
    for number, arguments in made:
        if filters.allows(number, arguments, arch=arch):
            continue
        answer = NAMES.get(filters.action(number, arguments, arch=arch), "an error")
        called = "restart_syscall" if number == table.restart_syscall else table.call_name(number)
        what = f"it waits in {name}, which a freeze lets go on as {called}: its filters answer {answer}"
        way_out = f"allow {called} in its filters, or try again while no task is in such a call"
        found.append(Refused(what, where=where, way_out=way_out))
    return found
