"""Processes that have ended and that their parent has not waited for: a number, a name and a status.

Made again by a process that ends in the same way, for its parent to wait for (kernel/exit.c). What it
had used of the machine (getrusage(2)) begins again at zero.
"""

from __future__ import annotations

from livecr.errors import Failed, Obstacle
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kinds import births
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.spawn import Seed

__all__ = ["Zombie", "load", "obstacles", "save"]

PR_SET_NAME = 15
RLIMIT_CORE = 4
SIG_SETMASK, _SIGSET_BYTES = 2, 8
_CORE_DUMPED = 0x80  # in a wait status
_SIGKILL = 9


class Zombie(Record):
    """``status`` as wait(2) gives it; ``name``: its bytes, one a character."""

    place: births.Place
    status: int
    name: str


def obstacles(pid: int) -> list[Obstacle]:
    """A status that could not be made again."""
    if procfs.stat(pid)["exit_code"] & _CORE_DUMPED:
        what = "it has ended with a core dump, and its parent has not waited for it"
        return [Obstacle(f"process {pid}", what, "try again when its parent has")]
    return []


def save(pid: int) -> Zombie:
    """Of a zombie whose parent is frozen."""
    return Zombie(
        place=births.place_of(pid, []),
        status=procfs.stat(pid)["exit_code"],
        name=procfs.read(pid, "comm").removesuffix(b"\n").decode("latin-1"),
    )


def load(record: Zombie, seed: Seed) -> None:
    """Let the process, which is born and in its session and group, end as it did. Its parent is not told
    yet: signals are blocked there, and dropped before the program's own are queued."""
    naming = Program()
    naming.add("prctl", PR_SET_NAME, seed.put(record.name.encode("latin-1")[:15] + b"\0"), 0, 0, 0)
    seed.run(naming)
    signal = record.status & 0x7F
    ending = Program()
    if not signal:
        ending.add("exit_group", record.status >> 8 & 0xFF)
    else:
        preparing = Program()
        preparing.add("prlimit64", 0, RLIMIT_CORE, seed.put(bytes(16)), 0)
        preparing.add("rt_sigaction", signal, seed.put(bytes(32)), 0, _SIGSET_BYTES, must=signal != _SIGKILL)
        preparing.add("rt_sigprocmask", SIG_SETMASK, seed.put(bytes(8)), 0, _SIGSET_BYTES)
        seed.run(preparing)
        ending.add("kill", record.place.pid, signal)
    if seed.end(ending) != record.status:
        raise Failed("it did not end as it had", where=f"process {record.place.pid}, which has ended")
