"""`livecr restore`: bring the program of an image back to life, and stay its parent unless told not to."""

from __future__ import annotations

import os
import signal
import sys

from livecr.cli import arguments
from livecr.errors import UsageError

__all__ = ["run"]

USAGE = """usage: livecr restore IMAGE [--detach] [--time-model MODEL]

Make the program of the directory IMAGE live again, with the same PID and TIDs, inside the same system calls.
livecr stays its parent, passes signals on, and ends as the program ends.

  --detach             print the PID and leave
  --time-model MODEL   relative: the time in the image does not count, clocks and waits go on from the freeze;
                       absolute: it does, and waits that are over end at once. By default what the program was
                       started with in LIVECR_TIME_MODEL, or else relative"""

# What a terminal or a supervisor sends to stop or steer a program.
_PASSED_ON = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
    signal.SIGCONT,
}
_SI_KERNEL = 0x80


def run(words: list[str]) -> int:
    """The command; the exit code is the program's."""
    given = arguments.parse(words, USAGE, operand="IMAGE", options=("detach", "time-model="))
    if given is None:
        return 0
    model = given.options.get("time-model")
    if model not in (None, "relative", "absolute"):
        raise UsageError(f"there is no time model {model!r}", way_out="it is relative or absolute")
    from livecr.restore import restore

    if "detach" not in given:
        # Before there is a program: a signal in the moment that it starts to run must not end livecr alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
        # If whoever started us ignores it, waitpid would tell nothing.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    restored = restore(given.operand, time_model=model)
    for warning in restored.warnings:
        from livecr.cli.terminal import clean

        print(f"livecr: {clean(warning)}", file=sys.stderr)
    if "detach" in given:
        print(restored.pid)
        return 0
    return _stay_parent(restored.pid)


def _stay_parent(pid: int) -> int:
    """Pass signals on until the program ends; its exit status as a shell gives it."""
    waited_for = _PASSED_ON | {signal.SIGCHLD}
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        info = signal.sigwaitinfo(waited_for)
        # What the terminal sends, it sends to its whole foreground group, the program too if it is there.
        by_terminal = info.si_code == _SI_KERNEL and os.getpgid(pid) == os.getpgid(0)
        if info.si_signo != signal.SIGCHLD and not by_terminal:
            os.kill(pid, info.si_signo)
