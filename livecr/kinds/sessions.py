"""What a process has as a whole: limits, personality, prctls.

Relies on /proc/PID/stat, status and limits, and on prctl(2), prlimit(2) and personality(2) from inside.
"""

from __future__ import annotations

import os

from livecr.errors import Obstacle
from livecr.image.record import Record
from livecr.kernel import leader, procfs
from livecr.kinds import settings
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.engine import Borrowed
    from livecr.target.spawn import Seed

__all__ = ["Session", "load", "load_last", "load_limits", "obstacles", "save"]

_NOBODY = (1 << 32) - 1  # AUDIT_UID_UNSET
_UNLIMITED = (1 << 64) - 1  # RLIM64_INFINITY

# Kinds of namespace that have to be livecr's own; the time namespace is dealt with by waits/clocks.
_NAMESPACES = ("pid", "mnt", "net", "uts", "ipc", "user", "cgroup")

# What /proc/PID holds as a number that can be written back.
_FILES = ("oom_score_adj", "coredump_filter")


class Session(Record):
    """``limits``: soft and hard of each RLIMIT_* in order, -1 for none."""

    personality: int
    limits: list[list[int]]
    settings: dict[str, int]
    files: dict[str, str]
    loginuid: int
    autogroup_nice: int


def obstacles(pid: int) -> list[Obstacle]:
    """What of its place in the system livecr cannot make again."""
    task = f"process {pid}"
    found = []
    for kind in _NAMESPACES:
        if procfs.namespace(pid, kind) != os.readlink(f"/proc/self/ns/{kind}"):
            found.append(
                Obstacle(
                    task,
                    f"it lives in another {kind} namespace",
                    f"run livecr inside its namespaces: nsenter -t {pid} -a livecr …",
                )
            )
    told = procfs.status(pid)
    tracer = int(told["TracerPid"])
    if tracer not in (0, os.getpid()):
        found.append(Obstacle(task, f"process {tracer} traces it", "end the debugger or strace there"))
    if told["State"].startswith("Z") and not leader.has_exited(pid):
        found.append(Obstacle(task, "it has ended already (zombie)", "there is nothing left to save"))
    return found


def save(pid: int, borrowed: Borrowed) -> Session:
    """Of a frozen process."""
    return Session(
        personality=int(procfs.read(pid, "personality"), 16),
        limits=procfs.limits(pid),
        settings=settings.save(settings.PROCESS, borrowed),
        files={name: procfs.read(pid, name).decode().strip() for name in _FILES},
        loginuid=_loginuid(pid),
        autogroup_nice=_autogroup_nice(pid),
    )


def load(session: Session, seed: Seed) -> None:
    """Personality and settings."""
    program = Program()
    program.add("personality", session.personality)
    seed.run(program)
    settings.load(settings.PROCESS, session.settings, seed, seed.leader, late=False)
    for name in _FILES:
        if name in session.files:
            _write(seed.pid, name, session.files[name])


def _write(pid: int, name: str, value: str) -> None:
    number = int(value, 16 if name == "coredump_filter" else 10)
    with open(procfs.path(pid, name), "w", encoding="ascii") as file:
        file.write(f"{number:#x}" if name == "coredump_filter" else str(number))


def load_limits(session: Session, seed: Seed) -> None:
    """Set by the process itself while it has livecr's rights: later not even root might (prlimit(2))."""
    program = Program()
    now = procfs.limits(seed.pid)
    for which, limit in enumerate(session.limits[: len(now)]):
        if limit != now[which]:
            words = (value & _UNLIMITED for value in limit)
            at = seed.put(b"".join(word.to_bytes(8, "little") for word in words))
            program.add("prlimit64", 0, which, at, 0)
    seed.run(program)


def load_last(session: Session, seed: Seed, *, leads: bool) -> list[str]:
    """The settings that a change of credentials resets, or that forbid what was done before.

    ``leads``: it is the leader of its session. Returns what could not be as it was.
    """
    if leads and session.autogroup_nice != _autogroup_nice(seed.pid):
        _write(seed.pid, "autogroup", str(session.autogroup_nice))
    settings.load(settings.PROCESS, session.settings, seed, seed.leader, late=True)
    now = _loginuid(seed.pid)
    if now == session.loginuid:
        return []
    was, now_is = (uid if uid != _NOBODY else "unset" for uid in (session.loginuid, now))
    return [f"process {seed.pid}: its login uid was {was} and is {now_is} now: only it may set it, once"]


def _loginuid(pid: int) -> int:
    """The user as whom somebody logged in, for the audit (proc_pid_loginuid(5)); _NOBODY without audit."""
    try:
        return int(procfs.read(pid, "loginuid"))
    except FileNotFoundError:
        return _NOBODY


def _autogroup_nice(pid: int) -> int:
    """The nice value of its session's autogroup (sched(7)); 0 where there is none."""
    try:
        return int(procfs.read(pid, "autogroup").split()[-1])
    except (FileNotFoundError, IndexError):
        return 0
