"""A leader, the first thread of a process, that has exited while others run on (pthread_exit in main).

It stays as a zombie: its number is that of the process, its name and its user are seen, and its status is
what the parent gets if nothing ends the process as a whole (kernel/exit.c, wait_task_zombie). At restore it
exits when all that a process has is there. Called by process.
"""

from __future__ import annotations

from livecr.errors import BadImage
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kinds import credentials
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.bpf import TaskState
    from livecr.target.spawn import Seed

__all__ = ["ExitedLeader", "check", "load", "save"]

PR_SET_NAME = 15


class ExitedLeader(Record):
    """``status`` as wait(2) gives it; ``name``: its bytes, one a character."""

    status: int
    name: str
    credentials: credentials.Credentials


def save(pid: int, seen: TaskState | None) -> ExitedLeader:
    """``seen``: what BPF has read of it; without that its securebits, which do nothing any more, are lost."""
    return ExitedLeader(
        status=procfs.exit_status(pid),
        name=procfs.read(pid, "comm").removesuffix(b"\n").decode("latin-1"),
        credentials=credentials.of_status(procfs.status(pid), seen.securebits if seen else 0),
    )


def check(record: ExitedLeader, where: str) -> None:
    """Raises BadImage unless exit(2) can end it so."""
    if record.status & ~0xFF00:
        raise BadImage("its leader cannot have exited like that", where=where)


def load(record: ExitedLeader, seed: Seed) -> None:
    """Let it exit. The other threads are there; of the process the first of them does the rest."""
    naming = Program()
    naming.add("prctl", PR_SET_NAME, seed.put(record.name.encode("latin-1")[:15] + b"\0"), 0, 0, 0)
    seed.run(naming)
    credentials.load(record.credentials, seed, seed.leader)
    seed.end_leader(record.status >> 8)
