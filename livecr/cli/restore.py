"""`livecr restore`: bring the program of an image back to life, and stay its parent unless told not to."""

from __future__ import annotations

import sys

from livecr.cli import arguments
from livecr.errors import UsageError

__all__ = ["run"]

USAGE = """usage: livecr restore IMAGE [--detach] [--time-model MODEL] [--file-policy POLICY]
                      [--new-pid-namespace]

Make the program of the directory IMAGE live again, with the same PID and TIDs, inside the same system calls.
livecr stays its parent, passes signals on, and ends as the program ends. A program that was at a terminal
goes on at the one that livecr is run in.

  --detach             print the PID and leave
  --new-pid-namespace  restore it although its PIDs are taken, in a PID namespace with init and /proc of its
                       own; --detach then prints the PID that it has outside
  --time-model MODEL   relative: the time in the image does not count, clocks and waits go on from the freeze;
                       absolute: it does, and waits that are over end at once. By default what the program was
                       started with in LIVECR_TIME_MODEL, or else relative
  --file-policy POLICY how open files may differ from what they were at the checkpoint: `grown` (the default):
                       they may have been written to, but still reach to where the program is in them;
                       `same`: not at all, by size and time; `any`: they only have to be regular files"""


_OPTIONS = ("detach", "time-model=", "file-policy=", "new-pid-namespace")


def run(words: list[str]) -> int:
    """The command; the exit code is the program's."""
    given = arguments.parse(words, USAGE, operand="IMAGE", options=_OPTIONS)
    if given is None:
        return 0
    model = given.options.get("time-model")
    if model not in (None, "relative", "absolute"):
        raise UsageError(f"there is no time model {model!r}", way_out="it is relative or absolute")
    from livecr.kinds.files import POLICIES

    policy = arguments.choice(given, "file-policy", POLICIES)
    from livecr.cli import job

    stays = "detach" not in given
    if stays:
        job.prepare()
    if "new-pid-namespace" in given:
        from livecr.pid_namespace import restore_in_namespace

        restored = restore_in_namespace(given.operand, time_model=model, file_policy=policy)
    else:
        from livecr.restore import restore

        restored = restore(
            given.operand, time_model=model, at_terminal=stays, file_policy=policy, leaves=not stays
        )
    for warning in restored.warnings:
        from livecr.cli.terminal import clean

        print(f"livecr: {clean(warning)}", file=sys.stderr)
    if not stays:
        print(restored.pid)
        return 0
    return job.stay(restored.child, restored.seat)
