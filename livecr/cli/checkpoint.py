"""`livecr checkpoint`: write a running program to an image."""

from __future__ import annotations

from livecr.cli import arguments, inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.waits.classify import Wait

__all__ = ["run"]

USAGE = """usage: livecr checkpoint PID [-o IMAGE] [--leave-running] [--unix-peer POLICY]
                         [--seccomp POLICY]

Freeze the program with process number PID, write it to the directory IMAGE (default: ./COMM-PID.livecr) and,
once that is durable and verified, end it.

  -o, --output IMAGE   where to; must not exist yet
  --leave-running      let the program run on instead of ending it
  --unix-peer POLICY   what becomes of unix sockets connected to other programs: `refuse` the checkpoint (the
                       default), or let the restored program find them `close`d by the other side
  --seccomp POLICY     `respect` (the default): refuse a program in strict mode, or with filters that forbid
                       what livecr does in it; `suspend`: do it all the same, with the filters suspended, so
                       that they kill the program only if livecr itself is killed in the freeze"""


_OPTIONS = ("output=", "leave-running", "unix-peer=", "seccomp=")


def run(words: list[str]) -> int:
    """The command."""
    given = arguments.parse(words, USAGE, operand="PID", short="o", options=_OPTIONS)
    if given is None:
        return 0
    pid = arguments.pid(given.operand)
    if (code := inside.run_inside("checkpoint", given, pid)) is not None:
        return code
    from livecr.image.record import write_only

    write_only()
    from livecr.checkpoint import checkpoint
    from livecr.kinds.sockets_unix import UNIX_PEERS
    from livecr.target.seccomp import POLICIES

    leave = "leave-running" in given
    peers = arguments.choice(given, "unix-peer", UNIX_PEERS)
    policy = arguments.choice(given, "seccomp", POLICIES)
    output = given.options.get("output")
    done = checkpoint(pid, output, leave_running=leave, unix_peer=peers, filter_policy=policy)
    fate = "runs on" if leave else "ended"
    size, frozen = f"{done.size_bytes >> 10} KiB", f"frozen for {done.frozen_ns / 1e6:.1f} ms"
    # A name that a terminal would obey, or that is not UTF-8, is quoted.
    image = done.image if done.image.isprintable() else ascii(done.image)
    print(f"{image}: process {pid}, {size}; {frozen}, {fate}")
    for tid, wait in done.waits.items():
        _tell(tid, wait)
    return 0


def _tell(tid: int, wait: Wait) -> None:
    """Say so where a wait is not exact."""
    if wait.uncertainty_ns:
        print(
            f"  task {tid}: what {wait.name} has left is known to {wait.uncertainty_ns / 1e6:.3f} ms "
            f"(from {wait.source}); see livecr doctor"
        )
    if wait.disagreement_ns:
        print(f"  task {tid}: the sources for {wait.name} disagree by {wait.disagreement_ns / 1e6:.3f} ms")
