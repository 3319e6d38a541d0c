"""Who a task is: ids, groups, capability sets, securebits, no_new_privs (credentials(7), capabilities(7)).

Each task has its own in the kernel, so they are set task by task, last of all: what livecr does to build the
process needs more rights than the program may have had. Read from /proc/PID/task/TID/status.
"""

from __future__ import annotations

from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.bpf import TaskState
    from livecr.target.engine import Borrowed
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee

__all__ = ["Credentials", "load", "of_status", "save"]

PR_GET_SECUREBITS, PR_SET_SECUREBITS = 27, 28
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
SECBIT_NO_SETUID_FIXUP = 1 << 2  # a change of ids leaves the capabilities alone
CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64


class Credentials(Record):
    """uids and gids: real, effective, saved, file system. Capability sets as bit masks."""

    uids: list[int]
    gids: list[int]
    groups: list[int]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    securebits: int
    no_new_privs: bool


def of_status(told: dict[str, str], securebits: int) -> Credentials:
    """Of any task, also one that has exited; ``told``: the lines of its status file."""
    return Credentials(
        uids=[int(word) for word in told["Uid"].split()],
        gids=[int(word) for word in told["Gid"].split()],
        groups=[int(word) for word in told["Groups"].split()],
        inheritable=int(told["CapInh"], 16),
        permitted=int(told["CapPrm"], 16),
        effective=int(told["CapEff"], 16),
        bounding=int(told["CapBnd"], 16),
        ambient=int(told["CapAmb"], 16),
        securebits=securebits,
        no_new_privs=told["NoNewPrivs"] == "1",
    )


def save(told: dict[str, str], seen: TaskState | None, borrowed: Borrowed | None) -> Credentials:
    """Of one task; ``told``: the lines of its status file. ``seen``, or if None ``borrowed``, is asked."""
    if seen is not None:
        return of_status(told, seen.securebits)
    assert borrowed is not None
    program = Program()
    program.add("prctl", PR_GET_SECUREBITS, 0, 0, 0, 0)
    (securebits,) = borrowed.run(program)
    return of_status(told, securebits)


def load(wanted: Credentials, seed: Seed, task: Tracee) -> None:
    """Make ``task`` what it was. Only what differs is touched: without need no right is asked for."""
    asking = Program()
    asking.add("prctl", PR_GET_SECUREBITS, 0, 0, 0, 0)
    (securebits,) = seed.run(asking, task)
    now = of_status(procfs.status(seed.pid, task.tid), securebits)
    program = Program()
    for capability in range(_CAPABILITIES):
        if (now.bounding & ~wanted.bounding) >> capability & 1:
            program.add("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
    if (now.uids, now.gids, now.groups) != (wanted.uids, wanted.gids, wanted.groups):
        _set_ids(wanted, seed, program)
    if securebits != wanted.securebits or len(program):
        program.add("prctl", PR_SET_SECUREBITS, wanted.securebits, 0, 0, 0)
    _set_capabilities(now, wanted, seed, program)
    if wanted.no_new_privs:
        program.add("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seed.run(program, task)


def _set_ids(wanted: Credentials, seed: Seed, program: Program) -> None:
    groups = b"".join(group.to_bytes(4, "little") for group in wanted.groups)
    program.add("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    program.add("setgroups", len(wanted.groups), seed.put(groups))
    program.add("setresgid", *wanted.gids[:3])
    program.add("setresuid", *wanted.uids[:3])
    program.add("setfsgid", wanted.gids[3], must=False)  # they return the previous id, not an error
    program.add("setfsuid", wanted.uids[3], must=False)


def _set_capabilities(now: Credentials, wanted: Credentials, seed: Seed, program: Program) -> None:
    sets = (wanted.effective, wanted.permitted, wanted.inheritable)
    if sets == (now.effective, now.permitted, now.inheritable) and wanted.ambient == now.ambient:
        return
    header = CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    header_at = seed.put(header)
    data = b"".join(
        ((mask >> shift) & 0xFFFFFFFF).to_bytes(4, "little") for shift in (0, 32) for mask in sets
    )
    if wanted.ambient != now.ambient:
        # Ambient capabilities have to be permitted and inheritable while they are raised.
        program.add("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        program.add("capset", header_at, seed.put(data))
        for capability in range(_CAPABILITIES):
            if wanted.ambient >> capability & 1:
                program.add("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    program.add("capset", header_at, seed.put(data))
