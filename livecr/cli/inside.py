"""A program in a PID namespace as `livecr restore --new-pid-namespace` makes them, named from outside.

An image holds the numbers that the program itself sees, so livecr has to see them too: another livecr enters
its PID and mount namespaces, where this one's files are as well, and does what was asked. Called by check
and checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys

from livecr._native import lib
from livecr.errors import NoSuchProcess, Refused
from livecr.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from livecr.cli.arguments import Arguments

__all__ = ["run_inside"]

_NR_PRCTL, _PR_SET_PDEATHSIG, _NR_SETNS = 157, 1, 308
#: Those that are entered, with their CLONE_NEW*; and those that have to be livecr's own.
_ENTERED = {"pid": 0x20000000, "mnt": 0x20000}
_SAME = ("net", "uts", "ipc", "user", "cgroup")
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP)
#: Reach the whole foreground job of a terminal.
_LEFT_TO_IT = (signal.SIGINT, signal.SIGQUIT)
_MAIN = "import sys; sys.path[:] = {path!r}; from livecr.cli import main; sys.exit(main(sys.argv[1:]))"


def run_inside(command: str, given: Arguments, pid: int) -> int | None:
    """`livecr COMMAND` with the same options where ``pid`` lives, by its number there; the exit code.

    None if that is not necessary, or not possible: then whoever asked refuses it. Raises Refused.
    """
    try:
        if not _is_to_be_entered(pid):
            return None
        numbers = procfs.status(pid)["NSpid"].split()
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    words = [f"--{name}={value}" if value else f"--{name}" for name, value in given.options.items()]
    before, child = os.getcwd(), 0
    try:
        result = lib.lcr_syscall(_NR_SETNS, pidfd, _ENTERED["pid"] | _ENTERED["mnt"], 0, 0, 0, 0)
        if result < 0:
            raise Refused(f"its namespaces: {os.strerror(-result)}", where=f"process {pid}")
        os.chdir(before)
        if (child := os.fork()) == 0:
            lib.lcr_syscall(_NR_PRCTL, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0, 0)
            program = _MAIN.format(path=sys.path)
            os.execv(sys.executable, [sys.executable, "-IS", "-c", program, command, *words, numbers[-1]])
    except ProcessLookupError:
        raise NoSuchProcess(f"process {pid}") from None
    finally:
        os.close(pidfd)
    return _wait(child)


def _is_to_be_entered(pid: int) -> bool:
    """Whether only its numbers, and perhaps its mounts, are others, and what livecr needs is there too."""
    kinds = (*_ENTERED, *_SAME)
    differ = {kind for kind in kinds if procfs.namespace(pid, kind) != os.readlink(f"/proc/self/ns/{kind}")}
    if "pid" not in differ or differ - _ENTERED.keys():
        return False
    there = (__file__, sys.executable, os.getcwd())
    return all(os.path.samefile(path, f"/proc/{pid}/root{path}") for path in there)


def _wait(child: int) -> int:
    from livecr.cli.job import exit_code

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    for number in _LEFT_TO_IT:
        signal.signal(number, signal.SIG_IGN)
    return exit_code(os.waitpid(child, 0)[1])
