"""The story of a checkpoint, read top to bottom.

Find out what stands in the way; look at the sleepers; freeze; describe and copy; make the image durable; only
then kill, or let go. Whatever fails on the way, the program is let go as it was. A program is a tree: a
process and all its descendants.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from livecr import check
from livecr.content import Content, Waiting
from livecr.errors import Failed, NoSuchProcess, Refused, UsageError
from livecr.image import elfcore, integrity
from livecr.interruption import Postponed
from livecr.kernel import bpf, clock, procfs
from livecr.kernel.pidfd import duplicate
from livecr.kernel.prompt import copying, ordinary, undelayed
from livecr.kinds import (
    births,
    common,
    descriptors,
    dispatch,
    files,
    inherited,
    pages,
    process,
    requests,
    signals,
    sysv,
    threads,
    ticking,
    unlinked,
    zombies,
)
from livecr.kinds.sockets_unix import UNIX_PEERS
from livecr.target import seccomp, tree
from livecr.target.tracee import Gone
from livecr.waits.calls import Calls, look_ahead
from livecr.waits.classify import Wait
from livecr.waits.clocks import Instant
from livecr.waits.deadlines import Evidence, moment
from livecr.waits.restart import as_kernel_resumes
from livecr.waits.wishes import wished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.image.integrity import NewImage
    from livecr.kinds.ticking import Ticking
    from livecr.target.process import Process, Tree
    from livecr.target.tracee import Registers, Tracee

__all__ = ["Checkpoint", "checkpoint"]


class Checkpoint:
    """What was done: where the image is, how long the program stood still (its first task, until its last
    was let go), and what each task waits in."""

    def __init__(self, pid: int, image: str, waits: dict[int, Wait], frozen_ns: int, size_bytes: int) -> None:
        self.pid = pid
        self.image = image
        self.waits = waits
        self.frozen_ns = frozen_ns
        self.size_bytes = size_bytes

    def __repr__(self) -> str:
        return f"Checkpoint(pid={self.pid}, image={self.image!r}, frozen_ns={self.frozen_ns})"


def checkpoint(
    pid: int,
    image: str | None = None,
    *,
    leave_running: bool = False,
    unix_peer: str = UNIX_PEERS[0],
    filter_policy: str = seccomp.RESPECT,
) -> Checkpoint:
    """Write the running process ``pid`` and all its descendants to a new directory ``image``.

    By default that is ./COMM-PID.livecr. ``unix_peer``: what becomes of unix sockets that are connected to
    other programs, one of UNIX_PEERS. ``filter_policy``: one of target.seccomp.POLICIES.

    Raises Refused (nothing was touched) or Failed (the process runs on unharmed). SIGINT, SIGTERM and their
    like are held back in the calling thread until the process is let go; they then end the checkpoint.
    """
    if unix_peer not in UNIX_PEERS:
        raise UsageError(f"unix_peer={unix_peer!r}", way_out=f"it is {' or '.join(UNIX_PEERS)}")
    if filter_policy not in seccomp.POLICIES:
        raise UsageError(f"seccomp={filter_policy!r}", way_out=f"it is {' or '.join(seccomp.POLICIES)}")
    with Postponed() as interruption:
        return _checkpoint(pid, image, leave_running, unix_peer, filter_policy, interruption)


def _checkpoint(
    pid: int,
    image: str | None,
    leave_running: bool,
    unix_peer: str,
    filter_policy: str,
    interruption: Postponed,
) -> Checkpoint:
    in_the_way = check.obstacles(pid, unix_peer, filter_policy)
    if in_the_way:
        raise Refused.because(in_the_way)
    with integrity.new_image(image or default_name(pid)) as new:
        iterator = _task_iterator()
        evidence = _look_ahead(tree.members(pid), iterator)
        with undelayed():
            began_ns = time.monotonic_ns()
            frozen = _freeze(pid)
            calls: dict[int, Calls] = {}
            try:
                ticks = _enter_calls_again(frozen, calls, evidence, iterator, filter_policy)
                content = save(frozen, calls, ticks, _instant(evidence[pid]), unix_peer, new)
                interruption.check()
                tree.confirm(frozen)
                if not leave_running:
                    with ordinary():
                        _finish(new, content, frozen)
            except BaseException as error:
                _give_up(frozen, calls, error)
                raise
            if leave_running:
                let_go(frozen, calls)
            else:
                tree.end(frozen)
            frozen_ns = time.monotonic_ns() - began_ns
        if leave_running:
            interruption.check()
            new.commit(content)
        size = sum(record.size_bytes for record in new.files)
        return Checkpoint(pid, new.path, {w.tid: w.wait for w in content.waits}, frozen_ns, size)


def _freeze(pid: int) -> Tree:
    try:
        return tree.freeze(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise Refused("the process ended before it could be frozen", where=f"process {pid}") from None


def _enter_calls_again(
    frozen: Tree,
    calls: dict[int, Calls],
    evidence: dict[int, Evidence],
    iterator: bpf.TaskIterator | None,
    filter_policy: str,
) -> dict[int, Ticking]:
    """Find out what each task waits in, first of all; from then on a livecr that is killed does no harm.

    Fills ``calls``. Returns what goes on by the clock meanwhile.
    """
    queues = {one.pid: signals.save_queues(one) for one in frozen.processes}
    now_ns = moment()
    for process_ in frozen.processes:
        if process_.pid not in evidence:  # born meanwhile
            evidence[process_.pid] = Evidence(process_.pid, iterator)
        seen = evidence[process_.pid]
        seen.together = {*frozen.pids, *frozen.ended}
        seen.after_freeze(process_.pid, now_ns)
        dispatch.confirm(process_, seen.after)
        seccomp.suspend(process_, seen.after, filter_policy)
    for process_ in frozen.processes:
        threads.leave_critical_sections(process_)
        calls[process_.pid] = Calls(process_, evidence[process_.pid])
        calls[process_.pid].enter_again()
    return {
        one.pid: ticking.save(one, queues[one.pid], calls[one.pid].since_frozen_ns, as_kernel_resumes)
        for one in frozen.processes
    }


def _finish(new: NewImage, content: Content, frozen: Tree) -> None:
    """The image of a program that is to be ended: read back, on disk, and with the last signals."""
    new.verify()
    _add_signals(frozen, content)
    new.commit(content)
    if _add_signals(frozen, content):  # while the manifest was forced to disk
        new.describe(content)


def _look_ahead(pids: list[int], iterator: bpf.TaskIterator | None) -> dict[int, Evidence]:
    """What each process shows only while it runs. Some may have ended since they were seen."""
    found = {}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError, NoSuchProcess):
            found[pid] = look_ahead(pid, iterator)
    if pids[0] not in found:
        raise Refused("the process ended before it could be frozen", where=f"process {pids[0]}")
    return found


def _give_up(frozen: Tree, calls: dict[int, Calls], error: BaseException) -> None:
    """Let all go. Raises Failed if what went wrong is that one was killed."""
    try:
        tree.confirm(frozen)
    except Gone as gone:
        let_go(frozen, calls)
        if isinstance(error, Exception):
            raise Failed("it was ended during its checkpoint", where=gone.where) from error
    else:
        let_go(frozen, calls)


def _add_signals(frozen: Tree, content: Content) -> bool:
    """Those that have come since they were saved, which would die with the program; whether there are any."""
    records = {record.place.pid: record for record in content.processes}
    added = [ticking.add(process_, records[process_.pid]) for process_ in frozen.processes]
    return any(added)


def default_name(pid: int) -> str:
    """COMM-PID.livecr in the current directory; what a path or a terminal had better not see is replaced."""
    try:
        comm = procfs.read(pid, "comm").decode("utf-8", "replace").strip()
    except OSError:
        raise NoSuchProcess(f"process {pid}") from None
    name = "".join(letter if letter.isprintable() and letter != "/" else "_" for letter in comm)
    return f"{name}-{pid}.livecr"


def _task_iterator() -> bpf.TaskIterator | None:
    """The BPF reader of sleepers and restart blocks; without it the lesser sources have to do."""
    try:
        return bpf.shared()
    except bpf.Unavailable:
        return None


def let_go(frozen: Tree, calls: dict[int, Calls]) -> None:
    """Every task goes on in its call, with the time that passed in the freeze taken off what it has left."""
    of_task = {task.tid: calls.get(process_.pid) for process_ in frozen.processes for task in process_.tasks}

    def set_time_left(task: Tracee) -> None:
        own = of_task[task.tid]
        if own is not None:
            own.set_time_left(task)

    tree.thaw(frozen, set_time_left)
    for own in calls.values():
        own.put_back()


def save(
    frozen: Tree,
    calls: dict[int, Calls],
    ticks: dict[int, Ticking],
    frozen_at: Instant,
    unix_peer: str,
    new: NewImage,
) -> Content:
    """Everything of a frozen tree into a new image."""
    pids = frozen.pids
    places = births.save(frozen)
    pidfds = {one.pid: one.pidfd for one in frozen.processes}
    holders = [pid for pid in pids if common.FILES not in places[pid].shares]
    owners = {one.pid: one.sharing[0].pid for one in frozen.processes}  # of the memory of each
    owned = {pid: procfs.mappings(pid) for pid in dict.fromkeys(owners.values())}
    mappings = {pid: owned[owners[pid]] for pid in pids}
    for process_ in frozen.processes:  # before anything is saved: requests change memory, files and pipes
        requests.settle(process_, mappings[process_.pid], as_kernel_resumes)
    in_the_way = unlinked.outsiders(owned, pids)
    if in_the_way:
        raise Refused.because(in_the_way)
    keeper = files.Keeper(new)
    nameless = unlinked.Saver(keeper)
    own, table = descriptors.save(holders, keeper, lambda d: duplicate(pidfds[d.pid], d.fd), unix_peer)
    shared_stored: dict[int, list[tuple[int, int]]] = {}
    records: dict[int, process.Process] = {}
    for process_ in frozen.processes:
        pid, place = process_.pid, places[process_.pid]
        is_owner = owners[pid] == pid
        stored = pages.stored(pid, mappings[pid], shared_stored) if is_owner else pages.Runs()
        kept: list[inherited.Inherited] = []
        if is_owner and births.is_born_of(place, places):
            kept, born_with = inherited.save(pid, mappings[pid], place.ppid, mappings[place.ppid])
            stored = stored.without(born_with)
        known = None if is_owner else records[owners[pid]].memory
        parts = (
            *(place, mappings[pid], known, kept, own.get(pid, [])),
            *(nameless, keeper.directories, ticks[pid]),
        )
        record = process.save(process_, frozen.children(pid), *parts, calls[pid].seen, as_kernel_resumes)
        _store_core(process_, calls[pid].registers, record, mappings[pid], stored, new)
        records[pid] = record
    waits = [Waiting(tid=tid, wait=wait) for one in calls.values() for tid, wait in one.waits.items()]
    undoes = {pid: calls[pid].undoes for pid in pids}
    time_model, time_model_from = wished(mappings)
    zombies_ = [zombies.save(pid) for pid in frozen.ended]
    return Content(
        name=procfs.read(pids[0], "comm").decode("utf-8", "replace").strip(),
        frozen_at=frozen_at,
        processes=list(records.values()),
        zombies=zombies_,
        left_behind=births.left_behind([*places.values(), *(zombie.place for zombie in zombies_)]),
        table=table,
        time_model=time_model,
        time_model_from=time_model_from,
        unlinked=nameless.records,
        removed=keeper.directories.records,
        waits=waits,
        sysv=sysv.save(frozen, owned, [waiting.wait for waiting in waits], undoes, new),
    )


def _instant(evidence: Evidence) -> Instant:
    now, offsets = evidence.now_ns, evidence.offsets
    return Instant(
        monotonic_ns=now[clock.MONOTONIC] + offsets[clock.MONOTONIC],
        boottime_ns=now[clock.BOOTTIME] + offsets[clock.BOOTTIME],
        realtime_ns=now[clock.REALTIME],
    )


def _store_core(
    frozen: Process,
    registers: dict[int, Registers],
    record: process.Process,
    mappings: list[procfs.Mapping],
    runs: pages.Runs,
    new: NewImage,
) -> None:
    pid, own = frozen.pid, record.credentials[record.threads[0].credentials]
    notes = [
        elfcore.Thread(task.tid, registers[task.tid].pack(), task.xstate(), signal_mask=thread.signal_mask)
        for task, thread in zip(frozen.tasks, record.threads, strict=True)
    ]
    about = elfcore.Process(
        pid,
        auxv=procfs.read(pid, "auxv"),
        ppid=record.place.ppid,
        pgid=record.place.pgid,
        sid=record.place.sid,
        uid=own.uids[0],
        gid=own.gids[0],
        comm=procfs.read(pid, "comm").strip(),
        arguments=procfs.read(pid, "cmdline"),
    )
    layout = elfcore.layout(about, notes, process.core_mappings(mappings), runs.native, runs.count)
    gently = any(m.shares_pages and not m.shared for m in mappings)
    workers = len(os.sched_getaffinity(0))
    with copying(layout.size):
        new.store_core(pid, layout, workers, gently=gently, task=frozen.leader.tid)
