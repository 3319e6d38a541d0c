"""Lets every step of a restore go wrong, one at a time. A program of its own, for test_restore_or_nothing.py:

    python faults.py HOW IMAGE …

HOW is "fails" (a system call in the half-built program, or one of livecr's, gives an error), "killed" (the
half-built process is killed before the step, as by the OOM killer) or "ends" (livecr itself is, by SIGKILL).
It stands between livecr and its native part and the module os; livecr knows nothing of it. Each attempt is a
process of its own, whose orphans come to this one. A step that is made from one place many times goes wrong
once, the last time; and not again with another image. Prints a line of JSON for each attempt.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__: list[str] = []

DRIVER = os.getpid()
ROOT = Path(__file__).resolve().parents[2]
LIVECR = str(ROOT / "livecr")
EPERM, EIO, NO_SUCH_CALL = 1, 5, 9999
WALL = 0x40000000
PR_SET_CHILD_SUBREAPER = 36
NR_PRCTL = 157
TIME_LIMIT_SECONDS = 30
ENDING_SECONDS = 4.0
INTERNAL_ERROR = 4  # exit code, as of livecr.cli
#: Functions of the native part that can fail, and which argument tells the task.
NATIVE = {
    "lcr_ptrace": 1,
    "lcr_getregset": 0,
    "lcr_setregset": 0,
    "lcr_interrupted_call": 0,
    "lcr_inject_exit": 0,
    "lcr_inject": 0,
    "lcr_batch": 0,
    "lcr_run_each": None,
    "lcr_spawn": None,
    "lcr_stand_in": None,
    "lcr_syscall": None,
    "lcr_guard": None,
}
#: Of the module os.
OF_OS = (
    *(
        "open",
        "read",
        "write",
        "pread",
        "pwrite",
        "memfd_create",
        "pidfd_open",
        "kill",
        "listdir",
        "readlink",
    ),
    *("stat", "fstat", "lseek", "getpgid", "ftruncate", "sendfile"),
)
KILL = os.kill  # not the one that fails


class Faults:
    """Counts steps by what they are and from where they are made (a thread may make some meanwhile, so there
    is no order of all); of one kind, ``wanted[0]``, that with the number ``wanted[1]`` goes wrong."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.counts: dict[tuple[str, ...], int] = {}
        self.expect((), 0)

    def expect(self, kind: tuple[str, ...], number: int) -> None:
        """From now on."""
        self.wanted = kind, number
        self.has_come = False
        self.counts = {}

    def now(self, what: str, task: int | None = None) -> bool:
        """One more step, in ``task``; whether it is to give an error."""
        if self.how == "killed" and task is None:
            return False
        kind = (what, *_where())
        number = self.counts[kind] = self.counts.get(kind, -1) + 1
        if self.wanted != (kind, number):
            return False
        self.has_come = True
        if self.how == "ends":
            KILL(os.getpid(), signal.SIGKILL)
        if self.how == "killed":
            assert task is not None
            KILL(task, signal.SIGKILL)
        return self.how == "fails"


def _where() -> list[str]:
    """The lines of livecr that have led here, the innermost first."""
    frame: types.FrameType | None = sys._getframe(2)
    lines = []
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(LIVECR):
            lines.append(f"{name[len(LIVECR) + 1 :]}:{frame.f_lineno}")
        frame = frame.f_back
    return lines


def _stand_between(faults: Faults) -> None:
    sys.path.insert(0, str(ROOT))
    import livecr._native as native

    lib = types.SimpleNamespace(**{name: getattr(native.lib, name) for name in dir(native.lib)})
    for name in NATIVE:
        setattr(lib, name, _failing(faults, name, getattr(lib, name)))
    stand_in = types.ModuleType("livecr._native")
    vars(stand_in).update(ffi=native.ffi, lib=lib)
    sys.modules["livecr._native"] = stand_in
    for name in OF_OS:
        setattr(os, name, _failing_os(faults, f"os.{name}", getattr(os, name)))
    builtins.open = _failing_os(faults, "open", builtins.open)


def _failing(faults: Faults, name: str, real: Callable[..., int]) -> Callable[..., int]:
    place = NATIVE[name]

    def call(*args: Any) -> int:
        task = args[0][0] if name == "lcr_run_each" else args[place] if place is not None else None
        if name in ("lcr_inject", "lcr_batch"):
            calls, count = args[-3:-1]
            for i in range(count if faults.how == "fails" else 1):
                if (calls[i].must or faults.how != "fails") and faults.now(f"injected {calls[i].nr}", task):
                    calls[i].nr = NO_SUCH_CALL
        elif name != "lcr_syscall" or args[0] != NR_PRCTL:
            number = f" {args[0]}" if name in ("lcr_ptrace", "lcr_syscall") else ""
            if faults.now(name + number, task):
                return -EPERM
        return real(*args)

    return call


def _failing_os(faults: Faults, what: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        if sys._getframe(1).f_code.co_filename.startswith(LIVECR) and faults.now(what):
            raise OSError(EIO, os.strerror(EIO), str(args[0]) if args else None)
        return real(*args, **named)

    return call


def _attempt(faults: Faults, image: str, numbers: set[int]) -> dict[str, Any]:
    """One restore in which the wanted step goes wrong; what came of it. Again if a number was not free."""
    give_up = time.monotonic() + TIME_LIMIT_SECONDS
    while True:
        answer = _attempt_once(faults, image, numbers)
        taken = "is taken by process" in answer["said"] or "clone3" in answer["said"]
        if not taken or answer["has_come"] or time.monotonic() > give_up:
            return answer
        time.sleep(0.05)


def _attempt_once(faults: Faults, image: str, numbers: set[int]) -> dict[str, Any]:
    """In a child of this process. ``left``: numbers that are there afterwards; ``whole``: that is all.

    ``code`` is livecr's exit code, or -N if signal N has ended it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            signal.alarm(TIME_LIMIT_SECONDS)  # it ends then, and all that it has made with it
            os.write(writing, json.dumps(_restore(faults, image, numbers)).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        answer: dict[str, Any] = json.loads(told.read() or "{}")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    unsaid: dict[str, Any] = {"code": code, "said": "", "left": [], "whole": False, "has_come": code < 0}
    answer = unsaid | answer
    if code < 0:
        answer |= _came_to_an_end(numbers)
    elif answer["code"] != 0:
        while _wait_for_any():  # orphans that have come to this process, as they would to init
            pass
        answer["left"] += _left(numbers)
    _end(numbers)
    return answer | {"step": faults.wanted}


def _restore(faults: Faults, image: str, numbers: set[int]) -> dict[str, Any]:
    from livecr.errors import LivecrError
    from livecr.restore import restore

    code, said = 0, ""
    try:
        restore(image)  # not by --detach: this process, the parent, does not leave
    except LivecrError as error:
        code, said = error.exit_code, f"livecr: {error}"
    except Exception as error:
        code, said = INTERNAL_ERROR, f"livecr: internal error: {type(error).__name__}: {error}"
    wanted, counts, has_come = faults.wanted[0], faults.counts, faults.has_come
    faults.expect((), 0)
    left: list[Any] = [number for number in _left(numbers) if not _is_orphan_that_ended(number)]
    answer = {"code": code, "said": said, "has_come": has_come, "whole": set(left) == numbers}
    if not wanted:
        answer["counts"] = list(counts.items())
    if code != 0:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG | WALL)
            left.append("a child of livecr")
    return answer | {"left": left}


def _came_to_an_end(numbers: set[int]) -> dict[str, Any]:
    """livecr has been killed: what it had made ends too; or lives as a whole, if it had let go of all."""
    give_up = time.monotonic() + ENDING_SECONDS
    while True:
        while _wait_for_any():
            pass
        left = _left(numbers)
        if not left or time.monotonic() > give_up:
            return {"left": left, "whole": set(left) == numbers}
        time.sleep(0.002)


def _numbers(image: str) -> set[int]:
    """All PIDs and TIDs of an image."""
    from livecr.content import Content
    from livecr.image import manifest

    told = manifest.read(image, Content).content
    tids = [thread.tid for record in told.processes for thread in record.threads]
    return {*tids, *(zombie.place.pid for zombie in told.zombies)}


def _left(numbers: set[int]) -> list[int]:
    """Which of them are there: as descendants of this program, since others may have got a free number."""
    return [number for number in sorted(numbers) if _descends(number)]


def _descends(pid: int) -> bool:
    while pid > 1 and pid != DRIVER:
        pid = _state_and_parent(pid)[1]
    return pid == DRIVER


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return fields[0], int(fields[1])


def _is_orphan_that_ended(pid: int) -> bool:
    """This program, which stands for init, has yet to wait for it."""
    state, parent = _state_and_parent(pid)
    return state in "ZX" and parent == DRIVER


def _end(numbers: set[int]) -> None:
    """Of a restored tree, or of what is left of one; orphans come to this process."""
    for number in _left(numbers):
        with contextlib.suppress(ProcessLookupError):
            KILL(number, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, WALL)


def _wait_for_any() -> bool:
    """Whether a child had ended."""
    try:
        return os.waitpid(-1, os.WNOHANG | WALL)[0] != 0
    except ChildProcessError:
        return False


def main(how: str, *images: str) -> None:
    faults = Faults(how)
    _stand_between(faults)
    from livecr._native import lib

    lib.lcr_syscall(NR_PRCTL, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0, 0)
    tried = set()
    for image in images:
        numbers = _numbers(image)
        faults.expect((), 0)
        undisturbed = _attempt(faults, image, numbers)
        if not undisturbed["whole"]:
            raise SystemExit(f"without a fault it ends with {undisturbed['code']}: {undisturbed['said']}")
        for words, last in undisturbed["counts"]:
            kind = tuple(words)
            if kind not in tried:
                tried.add(kind)
                faults.expect(kind, last)
                print(json.dumps(_attempt(faults, image, numbers)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
