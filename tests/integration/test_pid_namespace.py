"""`livecr restore --new-pid-namespace`: although its numbers are taken, a program comes back with them.

It would have noticed another number of its own or of a child, a parent that is not there, a signal that does
not arrive, an orphan that nobody waits for.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import livecr as package
import pytest
from livecr._native import ffi, lib
from livecr.kernel import procfs
from tests.integration.conftest import LIVECR, until

NR_RT_SIGQUEUEINFO, SI_QUEUE = 129, -1


class Restored:
    """A `livecr restore --new-pid-namespace` in the foreground; ``init``, ``root``: their numbers outside."""

    def __init__(self, image: Path, *options: str) -> None:
        self.livecr = subprocess.Popen(
            [LIVECR, "restore", image, "--new-pid-namespace", *options], stderr=subprocess.PIPE, text=True
        )
        until(lambda: self.livecr.poll() is not None or self._runs(), "the restored program runs")
        assert self.livecr.poll() is None, self.livecr.communicate()[1]

    def _runs(self) -> bool:
        """Process 1 has become init when all has been let go."""
        for child in children(self.livecr.pid):
            if name(child) == "livecr-init":
                self.init, (self.root,) = child, children(child)
                return True
        return False

    def end(self) -> None:
        """With all that is in the namespace."""
        if self.livecr.poll() is None:
            os.kill(self.init, signal.SIGKILL)
            self.livecr.wait(20)
        if self.livecr.stderr:
            self.livecr.stderr.close()


def children(pid: int) -> list[int]:
    try:
        return procfs.children(pid)
    except (FileNotFoundError, ProcessLookupError):
        return []


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def has_ended(pid: int) -> bool:
    try:
        return procfs.state(pid) in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def number_inside(pid: int) -> int:
    return int(procfs.status(pid)["NSpid"].split()[-1])


@pytest.fixture
def restored() -> Iterator[Callable[..., Restored]]:
    """Restore an image in a namespace of its own; all of that is ended."""
    made: list[Restored] = []

    def restore(image: Path, *options: str) -> Restored:
        made.append(Restored(image, *options))
        return made[-1]

    yield restore
    for one in made:
        one.end()


@pytest.fixture
def frozen(target: Callable[..., Any], place: Path, livecr: Any) -> Callable[..., tuple[Any, Path]]:
    """Start a program, and checkpoint it when it is ready."""

    def freeze(*command: str | Path) -> tuple[Any, Path]:
        one = target(list(command))
        one.until_printed("ready")
        livecr("checkpoint", one.pid, "-o", place / "image")
        one.killed()
        return one, place / "image"

    return freeze


@pytest.mark.parametrize("kind", ["family", "sessions", "zombies", "stopped", "sharing", "deep"])
def test_a_tree_beside_itself(
    kind: str,
    program: Callable[[str], Path],
    frozen: Callable[..., tuple[Any, Path]],
    restored: Callable[..., Restored],
) -> None:
    """It runs three times from one image, with the same numbers, and all find everything as it was."""
    one, image = frozen(program("tree"), kind)
    one.restore(image)
    others = [restored(image), restored(image)]
    assert [number_inside(other.root) for other in others] == [one.pid, one.pid]
    assert len({one.pid, *(other.root for other in others)}) == 3
    copies = [(other.root, other.livecr.wait) for other in others]
    for pid, wait in [*copies, (one.pid, one.wait)]:
        os.kill(pid, signal.SIGUSR1)
        assert wait(60) == 0, one.output()
        assert one.output() == "ready\nok\n"


def test_everything_is_as_it_was(
    program: Callable[[str], Path],
    frozen: Callable[..., tuple[Any, Path]],
    restored: Callable[..., Restored],
    tmp_path: Path,
) -> None:
    """Memory, registers, files, signals, timers, settings: also those that a number is part of."""
    directory = tmp_path / "things"
    directory.mkdir()
    one, image = frozen(program("everything"), "4", directory)
    other = restored(image)
    os.kill(other.root, signal.SIGUSR1)
    assert (other.livecr.wait(60), one.output()) == (0, "ready\nok\n")


SCRIPT = """
trap 'echo got TERM; exit 7' TERM
trap 'sh -c "sleep 0.05 & echo orphan"' USR1
trap 'kill -9 $$' USR2
echo ready
while :; do sleep 0.02; done
"""


def test_signals_and_the_status_pass_through_init(
    frozen: Callable[..., tuple[Any, Path]], restored: Callable[..., Restored]
) -> None:
    """Those that livecr gets are the program's, and livecr ends as it ends, with all that it has left."""
    one, image = frozen("sh", "-c", SCRIPT)
    other = restored(image)
    other.livecr.send_signal(signal.SIGTERM)
    assert (other.livecr.wait(20), one.output()) == (7, "ready\ngot TERM\n")
    assert not os.path.exists(f"/proc/{other.init}")
    other = restored(image)
    other.livecr.send_signal(signal.SIGUSR2)
    assert other.livecr.wait(20) == 128 + signal.SIGKILL


def test_init_waits_for_orphans(
    frozen: Callable[..., tuple[Any, Path]], restored: Callable[..., Restored]
) -> None:
    """Who has lost its parent does not stay a zombie."""
    one, image = frozen("sh", "-c", SCRIPT)
    other = restored(image)
    for _ in range(3):
        os.kill(other.root, signal.SIGUSR1)
        until(lambda: len(children(other.init)) > 1 or one.output().count("orphan") > 0, "there is an orphan")
    until(lambda: children(other.init) == [other.root], "all orphans have been waited for")


def test_detached_it_tells_the_number_outside(
    program: Callable[[str], Path], frozen: Callable[..., tuple[Any, Path]], livecr: Any
) -> None:
    """Nothing of livecr is left but init, which has nothing of the caller's open, and ends as it does."""
    one, image = frozen(program("tree"), "family")
    root = int(livecr("restore", image, "--new-pid-namespace", "--detach").stdout)
    init = procfs.stat(root)["ppid"]
    try:
        assert name(init) == "livecr-init"
        assert (number_inside(root), number_inside(init)) == (one.pid, 1)
        assert os.listdir(f"/proc/{init}/fd") == []
        assert os.readlink(f"/proc/{root}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        os.kill(root, signal.SIGUSR1)
        until(lambda: one.output() == "ready\nok\n", "it has found all as it was")
        until(lambda: has_ended(init), "init has ended")
    finally:
        with suppress(ProcessLookupError):
            os.kill(init, signal.SIGKILL)


def test_a_queued_signal_keeps_its_value(
    program: Callable[[str], Path], frozen: Callable[..., tuple[Any, Path]], restored: Callable[..., Restored]
) -> None:
    """What sigqueue(3) sends to init from outside comes to the program as it was sent."""
    one, image = frozen(program("queued"))
    other = restored(image)
    info = struct.pack("iiii iiq 96x", signal.SIGUSR1, 0, SI_QUEUE, 0, os.getpid(), 0, 4711)
    buffer = ffi.from_buffer(info)
    result = lib.lcr_syscall(
        NR_RT_SIGQUEUEINFO, other.init, signal.SIGUSR1, int(ffi.cast("uintptr_t", buffer)), 0, 0, 0
    )
    assert result == 0
    assert (other.livecr.wait(20), one.output()) == (0, "ready\nok\n")


def test_who_starts_livecr_ignores_sigchld(
    program: Callable[[str], Path], frozen: Callable[..., tuple[Any, Path]]
) -> None:
    """Init is told of ended children all the same, and ends with the program."""
    one, image = frozen(program("tree"), "family")
    deaf: list[str | Path] = ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh"]
    command = [*deaf, LIVECR, "restore", image, "--new-pid-namespace", "--detach"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    root = int(done.stdout)
    init = procfs.stat(root)["ppid"]
    try:
        os.kill(root, signal.SIGUSR1)
        until(lambda: has_ended(init), "init has ended")
        assert one.output() == "ready\nok\n"
    finally:
        with suppress(ProcessLookupError):
            os.kill(init, signal.SIGKILL)


def test_by_the_library(program: Callable[[str], Path], frozen: Callable[..., tuple[Any, Path]]) -> None:
    """The caller has a child to wait for, and is in the namespaces that it was in."""
    _, image = frozen(program("tree"), "family")
    before = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "pid_for_children", "mnt")}
    done = package.restore(str(image), new_pid_namespace=True)
    assert before == {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in before}
    os.kill(done.pid, signal.SIGUSR1)
    assert os.waitstatus_to_exitcode(os.waitpid(done.child, 0)[1]) == 0


def test_a_refusal_comes_out_of_the_namespace(
    program: Callable[[str], Path], frozen: Callable[..., tuple[Any, Path]], livecr: Any, place: Path
) -> None:
    """As it is without one; and where it would help, it is named."""
    one, image = frozen(program("tree"), "family")
    one.output_file.rename(place / "aside")
    said = {
        livecr("restore", image, "--detach", *option, exit_code=3).stderr
        for option in ([], ["--new-pid-namespace"])
    }
    assert len(said) == 1
    (place / "aside").rename(one.output_file)
    one.restore(image)
    assert "--new-pid-namespace" in livecr("restore", image, "--detach", exit_code=3).stderr


def test_it_is_checkpointed_from_inside(
    program: Callable[[str], Path],
    frozen: Callable[..., tuple[Any, Path]],
    restored: Callable[..., Restored],
    place: Path,
) -> None:
    """By whoever enters it. It can come back outside, if its numbers are free."""
    one, image = frozen(program("tree"), "family")
    other = restored(image)
    again = place / "again"
    enter: list[str | Path] = ["nsenter", "-t", str(other.root), "-a"]
    inside = [*enter, LIVECR, "checkpoint", str(one.pid), "-o", again]
    done = subprocess.run(inside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert other.livecr.wait(20) == 128 + signal.SIGKILL
    one.restore(again)
    one.signal(signal.SIGUSR1)
    assert (one.wait(60), one.output()) == (0, "ready\nok\n")


def test_it_is_checkpointed_from_outside(
    program: Callable[[str], Path],
    frozen: Callable[..., tuple[Any, Path]],
    restored: Callable[..., Restored],
    place: Path,
    livecr: Any,
) -> None:
    """By its number there: livecr enters, and writes the numbers that the program sees; again and again."""
    one, image = frozen(program("tree"), "family")
    other = restored(image)
    assert f"process {one.pid} can be checkpointed" in livecr("check", other.root).stdout
    livecr("checkpoint", other.root, "-o", place / "running", "--leave-running")
    again = subprocess.run([LIVECR, "checkpoint", str(other.root)], cwd=place, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert other.livecr.wait(20) == 128 + signal.SIGKILL
    other = restored(place / f"tree-{one.pid}.livecr")
    assert number_inside(other.root) == one.pid
    livecr("checkpoint", other.root, "-o", place / "running", exit_code=3)  # there is one already
    os.kill(other.root, signal.SIGUSR1)
    assert (other.livecr.wait(60), one.output()) == (0, "ready\nok\n")
    one.restore(place / "running")
    one.signal(signal.SIGUSR1)
    assert (one.wait(60), one.output()) == (0, "ready\nok\n")


def test_livecr_is_killed_meanwhile(
    program: Callable[[str], Path], frozen: Callable[..., tuple[Any, Path]]
) -> None:
    """Process 1 of the namespace ends with it, and all that is in there."""
    _, image = frozen(program("tree"), "family")
    for tenth in range(10):
        restorer = subprocess.Popen([LIVECR, "restore", image, "--new-pid-namespace"])
        until(partial(children, restorer.pid), "there is a process 1")
        (first,) = children(restorer.pid)
        time.sleep(tenth * 0.01)  # not waiting for anything: another instant each time
        restorer.kill()
        restorer.wait()
        if name(first) == "livecr-init":  # all had been let go, and lives on by itself
            os.kill(first, signal.SIGKILL)
        until(partial(has_ended, first), "process 1 has ended")
