"""Every kind of wait of tests/programs/wait_all.c: the call, and the restart code that it leaves in it.

One table, from which the tests of waits are made. A kind runs in a thread of its own, so that all of them can
be blocked in one process at the same time. What a signal does to each follows from its restart code.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from livecr._native import lib
from livecr.waits import restart
from livecr.waits.catalog import CATALOG
from tests.integration.conftest import Disturbed, until
from tests.integration.waiting import starting_ms

__all__ = [
    *("ELSEWHERE", "KINDS", "POSIX_LOCK", "ROWS", "Kind"),
    *("all_wait", "before_any_ends", "is_ended", "long_enough_ms", "objects", "threads", "until_all_block"),
]

_SYS, _NOINTR, _NOHAND = restart.ERESTARTSYS, restart.ERESTARTNOINTR, restart.ERESTARTNOHAND
_BLOCK, _EINTR = restart.ERESTART_RESTARTBLOCK, restart.EINTR
_NUMBERS = {row.name: row.number for row in CATALOG.values()}
_ENOSYS = 38
_IDLE_START_MS = 100


class Kind:
    """``name``: as wait_all knows it; ``call``; ``code``: what an interruption leaves; ``held``: SIGUSR1 is
    blocked inside the call, and so does not interrupt it."""

    def __init__(self, name: str, call: str, code: int, *, held: bool = False) -> None:
        self.name = name
        self.call = call
        self.number = _NUMBERS[call]
        self.code = code
        self.held = held


ROWS = (
    # name              call               code
    Kind("wait4",           "wait4",           _SYS),
    Kind("waitid",          "waitid",          _SYS),
    Kind("nanosleep",       "nanosleep",       _BLOCK),
    Kind("nanosleep-same",  "nanosleep",       _BLOCK),
    Kind("sleep-null",      "clock_nanosleep", _BLOCK),
    Kind("sleep-realtime",  "clock_nanosleep", _BLOCK),
    Kind("sleep-monotonic", "clock_nanosleep", _BLOCK),
    Kind("sleep-boottime",  "clock_nanosleep", _BLOCK),
    Kind("sleep-tai",       "clock_nanosleep", _BLOCK),
    Kind("until-realtime",  "clock_nanosleep", _NOHAND),
    Kind("until-monotonic", "clock_nanosleep", _NOHAND),
    Kind("until-boottime",  "clock_nanosleep", _NOHAND),
    Kind("until-tai",       "clock_nanosleep", _NOHAND),
    Kind("futex",           "futex",           _BLOCK),
    Kind("futex-shared",    "futex",           _BLOCK),
    Kind("futex-forever",   "futex",           _SYS),
    Kind("futex-woken",     "futex",           _BLOCK),
    Kind("bitset",          "futex",           _BLOCK),
    Kind("bitset-realtime", "futex",           _BLOCK),
    Kind("bitset-forever",  "futex",           _SYS),
    Kind("lock-pi",         "futex",           _NOINTR),
    Kind("lock-pi-until",   "futex",           _NOINTR),
    Kind("lock-pi2",        "futex",           _NOINTR),
    Kind("requeue-pi",      "futex",           _NOINTR),
    Kind("requeue-pi-till", "futex",           _NOINTR),
    Kind("waitv",           "futex_waitv",     _SYS),
    Kind("waitv-until",     "futex_waitv",     _SYS),
    Kind("waitv-realtime",  "futex_waitv",     _SYS),
    Kind("futex2",          "futex_wait",      _SYS),
    Kind("futex2-until",    "futex_wait",      _SYS),
    Kind("poll",            "poll",            _BLOCK),
    Kind("poll-none",       "poll",            _BLOCK),
    Kind("poll-forever",    "poll",            _BLOCK),
    Kind("ppoll",           "ppoll",           _NOHAND),
    Kind("ppoll-masked",    "ppoll",           _NOHAND, held=True),
    Kind("ppoll-opened",    "ppoll",           _NOHAND),
    Kind("ppoll-forever",   "ppoll",           _NOHAND),
    Kind("select",          "select",          _NOHAND),
    Kind("select-forever",  "select",          _NOHAND),
    Kind("pselect-masked",  "pselect6",        _NOHAND, held=True),
    Kind("pselect-opened",  "pselect6",        _NOHAND),
    Kind("epoll",           "epoll_wait",      _EINTR),
    Kind("epoll-forever",   "epoll_wait",      _EINTR),
    Kind("epoll-masked",    "epoll_pwait",     _EINTR, held=True),
    Kind("epoll-opened",    "epoll_pwait2",    _EINTR),
    Kind("pause",           "pause",           _NOHAND),
    Kind("sigsuspend",      "rt_sigsuspend",   _NOHAND),
    Kind("sigwait",         "rt_sigtimedwait", _EINTR),
    Kind("sigwait-forever", "rt_sigtimedwait", _EINTR),
    Kind("read",            "read",            _SYS),
    Kind("readv",           "readv",           _SYS),
    Kind("preadv2",         "preadv2",         _SYS),
    Kind("read-event",      "read",            _SYS),
    Kind("read-inotify",    "read",            _SYS),
    Kind("read-signalfd",   "read",            _SYS),
    Kind("write",           "write",           _SYS),
    Kind("writev",          "writev",          _SYS),
    Kind("pwritev2",        "pwritev2",        _SYS),
    Kind("vmsplice",        "vmsplice",        _SYS),
    Kind("sendfile",        "sendfile",        _SYS),
    Kind("splice",          "splice",          _SYS),
    Kind("tee",             "tee",             _SYS),
    Kind("open",            "open",            _SYS),
    Kind("openat",          "openat",          _SYS),
    Kind("openat2",         "openat2",         _SYS),
    Kind("creat",           "creat",           _SYS),
    Kind("flock",           "flock",           _SYS),
    Kind("ofd-lock",        "fcntl",           _SYS),
    Kind("msgrcv",          "msgrcv",          _NOHAND),
    Kind("msgsnd",          "msgsnd",          _NOHAND),
    Kind("semop",           "semop",           _EINTR),
    Kind("semtimedop",      "semtimedop",      _EINTR),
    Kind("mq-receive",      "mq_timedreceive", _SYS),
    Kind("mq-receive-till", "mq_timedreceive", _SYS),
    Kind("mq-send",         "mq_timedsend",    _SYS),
    Kind("getevents",       "io_getevents",    _EINTR),
    Kind("pgetevents",      "io_pgetevents",   _NOHAND),
    Kind("uring",           "io_uring_enter",  _EINTR),
    Kind("accept",          "accept",          _SYS),
    Kind("accept4",         "accept4",         _SYS),
    Kind("recvfrom",        "recvfrom",        _SYS),
    Kind("recvmsg",         "recvmsg",         _SYS),
    Kind("recvmmsg",        "recvmmsg",        _SYS),
    Kind("sendto",          "sendto",          _SYS),
    Kind("sendmsg",         "sendmsg",         _SYS),
    Kind("sendmmsg",        "sendmmsg",        _SYS),
    Kind("recvfrom-timed",  "recvfrom",        _EINTR),
    Kind("recvmsg-timed",   "recvmsg",         _EINTR),
    Kind("accept-timed",    "accept",          _EINTR),
    Kind("sendto-timed",    "sendto",          _EINTR),
    Kind("sendto-named",    "sendto",          _EINTR),
)  # fmt: skip

#: Those that this kernel has; a call that it does not know answers ENOSYS to nonsense too.
KINDS = {
    kind.name: kind
    for kind in ROWS
    if kind.number < 400 or lib.lcr_syscall(kind.number, 2**64 - 1, 0, 2**64 - 1, 0, 0, 0) != -_ENOSYS
}


#: Its lock is held by the test, not by another thread: a POSIX lock belongs to a process.
POSIX_LOCK = "posix-lock"

#: Calls of the catalog that are in no row: where they are tested, or why nothing can be blocked in them that
#: can also be checkpointed.
_BIRTH = "waits only for the child of a vfork; refused if that lasts"
_NEVER = "not interruptible, or never blocked, on all that can be restored"
ELSEWHERE = {
    "connect": "to another program's server: test_wait_sockets",
    **dict.fromkeys(("clone", "fork", "vfork", "clone3"), _BIRTH),
    **dict.fromkeys(("pread64", "pwrite64", "preadv", "pwritev", "copy_file_range", "getrandom"), _NEVER),
    **dict.fromkeys(("msync", "fsync", "fdatasync", "sync", "sync_file_range", "syncfs"), _NEVER),
    **dict.fromkeys(("truncate", "ftruncate", "fallocate"), _NEVER),
    "ioctl": "what it waits for (a terminal's line, mostly) is not restored",
}


def is_ended(kind: Kind, *, sa_restart: bool) -> bool:
    """Whether a signal with a handler ends the call with EINTR (signal(7), and arch/x86/kernel/signal.c)."""
    if kind.held or kind.code == _NOINTR:
        return False
    return not (kind.code == _SYS and sa_restart)


@pytest.fixture
def objects() -> Iterator[Any]:
    """Makes System V objects for one wait_all, as its environment; they outlive processes, not the test."""
    made: list[tuple[str, str]] = []

    def make(*options: str) -> str:
        said = subprocess.run(["ipcmk", *options], check=True, capture_output=True, text=True).stdout
        made.append(("-q" if options[0] == "-Q" else "-s", said.split()[-1]))
        return made[-1][1]

    yield lambda: {"MSG_EMPTY": make("-Q"), "MSG_FULL": make("-Q"), "SEM": make("-S", "2")}
    for letter, number in made:
        subprocess.run(["ipcrm", letter, number], check=True)


def long_enough_ms(idle_ms: int, attempt: int = 0) -> int:
    """How long to wait where ``idle_ms`` do on an idle machine; longer in later attempts."""
    return round(idle_ms * max(1.0, starting_ms() / _IDLE_START_MS) * (1, 2, 5)[attempt])


@contextmanager
def before_any_ends(programs: Iterable[Any]) -> Iterator[None]:
    """What goes wrong in here because a program has come to its end is Disturbed: it shows nothing."""
    try:
        yield
    except Disturbed:
        raise
    except (AssertionError, pytest.fail.Exception, OSError) as error:
        if any(one.has_ended() for one in programs):
            raise Disturbed(f"waits were over too soon: {error}") from error
        raise


def threads(pid: int) -> dict[str, int]:
    """The TID of each kind's thread, which bears its name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().rstrip("\n")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if name in {*KINDS, POSIX_LOCK}:
            found[name] = int(task.name)
    return found


def all_wait(one: Any, kinds: list[str]) -> dict[str, int]:
    """The TIDs of all kinds. Disturbed if one is over already."""
    found = threads(one.pid)
    if set(found) != set(kinds):
        raise Disturbed(f"no longer there: {set(kinds) - set(found)}")
    return found


def until_all_block(one: Any, kinds: list[str], restarted: bool = False) -> dict[str, int]:
    """Wait until every kind is blocked in its call (or in the restart of it); their TIDs."""

    def blocked() -> bool:
        found = threads(one.pid)
        assert not one.has_ended(), one.output()
        return set(found) == set(kinds) and all(is_blocked(one.pid, tid, name) for name, tid in found.items())

    def is_blocked(pid: int, tid: int, name: str) -> bool:
        words = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()
        number = _NUMBERS["fcntl"] if name == POSIX_LOCK else KINDS[name].number
        return words[0] in (str(number), "219" if restarted else "")

    until(blocked, "all of its threads are blocked in their calls")
    return threads(one.pid)
