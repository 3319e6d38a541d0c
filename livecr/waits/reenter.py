"""Calls that answer EINTR to a mere freeze are made again, with the time that they have left.

With no signal of the program's own to be delivered, that EINTR is livecr's doing. A call without a timeout is
made again from its registers alone; one with a timeout through a shim (target/shim.py), since what is left of
it has to be told by another argument than the program's; and so is one that had done a part of its work.
Used by the checkpoint, as soon as the tasks are frozen, and by the restore.
"""

from __future__ import annotations

from livecr.target.shim_code import POLL, REST, offset
from livecr.waits import abi, catalog, lent
from livecr.waits.deadlines import getevents_arg
from livecr.waits.restart import ERESTARTNOHAND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from struct import Struct

    from livecr.target.shim import Engine, Shims
    from livecr.target.tracee import Registers, Tracee
    from livecr.waits.classify import Wait
    from livecr.waits.transfers import Rest

__all__ = ["Reentry", "needs_shim"]

_NR_PPOLL = 271
_FOREVER_S = 1 << 40
_NS_PER_US = 1000


def needs_shim(wait: Wait) -> bool:
    """Whether its arguments, or its result, have to differ from those of the program's own call."""
    timed = wait.remaining_ns is not None or wait.minimum_ns > 0
    return wait.how == "eintr" and (timed or wait.rest is not None or wait.done > 0)


class Reentry:
    """The tasks of one process that are made to enter their calls again."""

    def __init__(self, shims: Shims) -> None:
        self._shims = shims
        #: TID: its slot, and where in that and how what is left lies; of those that wait for a time.
        self._slots: dict[int, tuple[int, str, Struct, int]] = {}
        self._lent: list[lent.Lent] = []
        #: TID: the slot, of calls with a minimum time to wait, and the size of their signal mask.
        self._minimums: dict[int, tuple[int, int]] = {}

    def make_room(self, tids: list[int], shimmed: list[tuple[int, Registers]], engine: Engine) -> None:
        """See to it that there is a slot for each of ``shimmed``, TIDs with the program's own registers.

        ``tids``: of all tasks of the process.
        """
        if not shimmed:
            return
        self._shims.occupy(tids)
        lacking = self._shims.lacking(shimmed)
        if lacking:
            self._shims.grow(lacking, engine)

    def registers(self, tid: int, wait: Wait, own: Registers, left_ns: int) -> Registers:
        """What task ``tid``, whose own registers are ``own``, has to go on with to make the call again.

        Room must have been made for it. What is left can still be changed by ``refresh``.
        """
        if not needs_shim(wait):
            return _interrupted(own, wait.call)
        if wait.socket_timeout_us:
            made_again = self._lending(tid, wait, own)
        elif wait.poll_events:
            made_again = self._polled(tid, wait, own)
        elif wait.rest is not None:
            made_again = self._rest(tid, wait.rest, wait, own)
        else:
            made_again = self._again(tid, wait, own)
        self.refresh(tid, left_ns)
        return made_again

    def until(self, tid: int, wait: Wait, own: Registers, until_ns: int, left_ns: int) -> Registers:
        """The same for a call that the kernel makes again by itself, with another point in time than the
        program gave: ``until_ns``, on the call's clock, in ``left_ns`` from now."""
        call = abi.of(wait.abi).find(wait.call, wait.arguments)
        assert call is not None and call.timeout is not None
        shim = self._shims.code.shim_of(call.timeout)
        behind, slot_at = self._shims.make(tid, own, shim, number=wait.call, expired=wait.restart_code)
        self._shims.set_until(slot_at, until_ns, left_ns, call.timespec)
        arguments = list(wait.arguments)
        arguments[call.timeout] = slot_at
        made_again = self._with(own, behind, arguments)
        return made_again.copy(rax=wait.restart_code, orig_rax=wait.call)

    def _again(self, tid: int, wait: Wait, own: Registers) -> Registers:
        table = abi.of(wait.abi)
        call = table.find(wait.call, wait.arguments)
        assert call is not None
        number, changed = table.reentered[call.key]
        arguments = list(wait.arguments)
        words = {"number": wait.call, "moved": wait.done}
        where, timespec = "seconds", (call if number == wait.call else table.calls[number]).timespec
        if call.encoding == catalog.GETEVENTS_ARG:
            where = "address"  # the slot begins with a struct io_uring_getevents_arg
            words["seconds"], words["nanoseconds"] = self._sigmask(wait)
            arguments[3] = arguments[3] & ~catalog.ENTER_ABS_TIMER | catalog.ENTER_EXT_ARG
        elif wait.remaining_ns is None:
            words["seconds"] = _FOREVER_S
        here = next(i for i, value in changed.items() if value in (catalog.LEFT_HERE, catalog.ARG_HERE))
        behind, slot_at = self._shims.make(tid, own, self._shims.code.shim_of(here), **words)
        for i, value in changed.items():
            arguments[i] = slot_at if i == here else value
        for i, difference in table.done.get(wait.call, {}).items():
            arguments[i] += difference * wait.done
        if where == "address" and getevents_arg(wait.arguments, self._shims.read)[2]:
            self._minimums[tid] = slot_at, words["nanoseconds"]
            self.refresh_minimum(tid, wait.minimum_ns)
        if wait.remaining_ns is not None:
            self._slots[tid] = slot_at, where, timespec, 1
            if where == "address":
                self._shims.write(slot_at + offset("pollfd"), slot_at + offset(where))
        return _interrupted(self._with(own, behind, arguments), number)

    def _sigmask(self, wait: Wait) -> tuple[int, int]:
        """Address and size of the signal mask that io_uring_enter was given."""
        if wait.arguments[3] & catalog.ENTER_EXT_ARG:
            return getevents_arg(wait.arguments, self._shims.read)[:2]
        return wait.arguments[4], wait.arguments[5] if wait.arguments[4] else 0

    def _polled(self, tid: int, wait: Wait, own: Registers) -> Registers:
        words = {
            "number": wait.call,
            "expired": catalog.TIMED_OUT_ELSE.get(wait.call, catalog.TIMED_OUT),
            "pollfd": wait.poll_fd & 0xFFFFFFFF | wait.poll_events << 32,
        }
        if wait.rest is not None:
            words |= _words(wait.rest)
        behind, slot_at = self._shims.make(tid, own, POLL, **words)
        self._slots[tid] = slot_at, "seconds", catalog.TIMESPEC, 1
        arguments = [slot_at + offset("pollfd"), 1, slot_at, 0, 0, own.r9]
        return _interrupted(self._with(own, behind, arguments), _NR_PPOLL)

    def _lending(self, tid: int, wait: Wait, own: Registers) -> Registers:
        code = self._shims.code
        behind, slot_at = self._shims.make(tid, own, code.lend, **lent.words(wait))
        if lent.by_socketcall(wait):
            self._shims.write(slot_at + offset("size"), lent.words(wait, slot_at)["size"])
        self._slots[tid] = slot_at, "seconds", catalog.TIMESPEC, _NS_PER_US
        self._lent.append(lent.Lent(tid, slot_at, code.lent_from(behind)))
        option = lent.words(wait)["option"]
        arguments = [wait.poll_fd, lent.SOL_SOCKET, option, slot_at, lent.TIMEVAL_BYTES, wait.arguments[5]]
        made_again = self._with(own, behind, arguments).copy(**{code.sites[code.lend].register: slot_at})
        return _interrupted(made_again, lent.SETSOCKOPT[wait.abi])

    def _rest(self, tid: int, rest: Rest, wait: Wait, own: Registers) -> Registers:
        words = {"number": wait.call, "pollfd": rest.fd & 0xFFFFFFFF}
        behind, slot_at = self._shims.make(tid, own, REST, **words, **_words(rest))
        at, size = rest.address + rest.moved_bytes, rest.size_bytes - rest.moved_bytes
        return _interrupted(self._with(own, behind, [rest.fd, at, size, rest.flags, 0, slot_at]), rest.call)

    def _with(self, own: Registers, rip: int, arguments: list[int]) -> Registers:
        return own.copy(rip=rip, **dict(zip(self._shims.code.arguments, arguments, strict=True)))

    def refresh(self, tid: int, left_ns: int) -> None:
        """Just before a task is let go: what is left now."""
        if tid in self._slots:
            slot_at, where, timespec, unit_ns = self._slots[tid]
            self._shims.set_left(slot_at, where, left_ns, timespec, unit_ns)

    def refresh_minimum(self, tid: int, left_ns: int) -> None:
        """The same of what is left of a minimum time to wait. If that is over the kernel has to find so."""
        if tid in self._minimums:
            slot_at, mask_bytes = self._minimums[tid]
            left_us = max(1, -(-left_ns // _NS_PER_US))
            self._shims.write(slot_at + offset("nanoseconds"), mask_bytes | left_us << 32)

    def take_back(self, pid: int) -> None:
        """Once the process has been let go: the timeouts that its sockets have lent."""
        lent.take_back_asleep(self._shims, pid, self._lent)

    def enter(
        self,
        tasks: list[Tracee],
        waits: dict[int, Wait],
        own: dict[int, Registers],
        engine: Engine,
        *,
        shared: bool,
    ) -> None:
        """Set the registers of all frozen tasks that have to enter again. Should livecr die now, they do.

        ``shared``: the memory is also that of other processes, whose tasks may be in shims, or on their way.
        """
        again = [task for task in tasks if task.tid in waits and waits[task.tid].how == "eintr"]
        for task in again:
            # For those with a shim only until it is there: better a longer wait or a short count than EINTR.
            task.set_registers(_without_shim(waits[task.tid], own[task.tid]))
        shimmed = [task for task in again if needs_shim(waits[task.tid])]
        if not shimmed and not shared:
            self._shims.drop(tasks, engine)
        self.make_room([task.tid for task in tasks], [(task.tid, own[task.tid]) for task in shimmed], engine)
        for task in shimmed:
            wait = waits[task.tid]
            task.set_registers(self.registers(task.tid, wait, own[task.tid], wait.remaining_ns or 0))


def _words(rest: Rest) -> dict[str, int]:
    """Of a slot."""
    return {
        "moved": rest.moved_bytes,
        "mover": rest.call,
        "address": rest.address,
        "size": rest.size_bytes,
        "flags": rest.flags,
        "enough": rest.enough_bytes,
    }


def _without_shim(wait: Wait, own: Registers) -> Registers:
    if wait.done or (wait.rest is not None and wait.rest.moved_bytes):
        return own.copy(orig_rax=-1)
    return _interrupted(own, wait.call)


def _interrupted(registers: Registers, call: int) -> Registers:
    """As if ``call`` had just been interrupted, at rip.

    When the task is let go, the kernel makes the call, unless a signal has come meanwhile: then the handler
    runs and the call returns EINTR, as if it had never been left.
    """
    return registers.copy(rax=ERESTARTNOHAND, orig_rax=call)
