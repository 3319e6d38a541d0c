"""`livecr check`: everything that would stand in the way of a checkpoint, before trying."""

from __future__ import annotations

import sys

from livecr.cli import arguments, inside

__all__ = ["run"]

USAGE = """usage: livecr check PID [--unix-peer POLICY] [--seccomp POLICY]

Look at the running program with process number PID, without touching it, and name everything that would make
`livecr checkpoint` (with the same options) refuse it. Exit code 0: nothing; 3: something."""


def run(words: list[str]) -> int:
    """The command."""
    given = arguments.parse(words, USAGE, operand="PID", options=("unix-peer=", "seccomp="))
    if given is None:
        return 0
    pid = arguments.pid(given.operand)
    if (code := inside.run_inside("check", given, pid)) is not None:
        return code
    from livecr.image.record import write_only

    write_only()
    from livecr import check
    from livecr.cli.terminal import clean
    from livecr.errors import Refused
    from livecr.kinds.sockets_unix import UNIX_PEERS
    from livecr.target.seccomp import POLICIES

    peers = arguments.choice(given, "unix-peer", UNIX_PEERS)
    found = check.obstacles(pid, peers, arguments.choice(given, "seccomp", POLICIES))
    if not found:
        print(f"process {pid} can be checkpointed")
        return 0
    for obstacle in found:
        print(clean(f"{obstacle.task}: {obstacle.object}\n    {obstacle.way_out}"), file=sys.stderr)
    return Refused.exit_code
