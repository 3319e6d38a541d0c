"""What the integration tests share: compiled programs, processes that are always ended, livecr itself.

``target`` starts a program as a service would (own session, input from /dev/null, output to a file), and ends
every process that it or a restore started, by its PID, whatever happens to the test.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from livecr.target.tree import members

PROGRAMS = Path(__file__).parent.parent / "programs"
LIVECR = Path(sys.executable).parent / "livecr"


class Disturbed(AssertionError):
    """What a busy machine can do to a test, and livecr as well: `again` of waiting.py tries anew to tell."""


def until(condition: Callable[[], object], what: str, seconds: float = 40.0) -> None:
    """Look at ``condition`` until it holds; fail saying ``what`` when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.005)


def frame(pid: int) -> list[str]:
    """Addresses, permissions and flags of all mappings; shared objects without their new numbers."""
    lines = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in line[:17]:
            number = "" if "/dev/zero" in line else words[4]
            lines.append(" ".join([*words[:4], number, *words[5:]]))
        elif line.startswith("VmFlags"):
            lines.append(" ".join(words))
    return lines


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile tests/programs/NAME.c; its first lines may hold ``build: FLAGS`` for gcc, more may be given."""
    made: dict[tuple[str, ...], Path] = {}
    directory = tmp_path_factory.mktemp("programs")

    def compile(name: str, *more: str) -> Path:
        if (name, *more) not in made:
            source = PROGRAMS / f"{name}.c"
            flags = re.search(r"build: (.*)", source.read_text()[:1000])
            output = directory / "".join((name, *more))
            subprocess.run(
                [
                    *("gcc", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", output, source),
                    *(flags.group(1).split() if flags else []),
                    *more,
                ],
                check=True,
            )
            made[name, *more] = output
        return made[name, *more]

    return compile


def _shown_by(pid: int) -> int:
    """By which number /proc tells of a process: its own, or if its first thread has exited another's. 0: by
    none, it has ended."""
    if _lives(pid):
        return pid
    # Only now: the first thread has made none since.
    others = sorted(int(tid) for tid in os.listdir(f"/proc/{pid}/task"))
    return next((tid for tid in others if _lives(tid)), 0)


def _lives(tid: int) -> bool:
    try:
        return Path(f"/proc/{tid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Target:
    """A program under test, before and after its restore: the PID stays the same."""

    def __init__(self, command: list[str | Path], directory: Path, environment: dict[str, str]) -> None:
        self.output_file = directory / "output"
        self._child: subprocess.Popen[bytes] | None = None
        with self.output_file.open("wb") as output:
            self._child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=os.environ | environment,
                start_new_session=True,
                close_fds=True,
            )
        self.pid = self._child.pid
        self._restorer: subprocess.Popen[str] | None = None

    def output(self) -> str:
        """What it has printed so far, before and after a restore."""
        return self.output_file.read_text(errors="replace")

    def until_printed(self, text: str, seconds: float = 40.0) -> None:
        """Wait until it has printed ``text``."""
        until(lambda: text in self.output() or self.has_ended(), f"it prints {text!r}", seconds)
        assert text in self.output(), f"it ended having printed: {self.output()!r}"

    def until_blocked(self, call: int | None = None, tid: int | None = None) -> None:
        """Wait until a task (the first, if none is named) is blocked in a system call (in this one)."""
        path = f"/proc/{self.pid}/task/{tid or self.pid}/syscall"

        def blocked() -> bool:
            try:
                words = Path(path).read_text().split()
            except (FileNotFoundError, ProcessLookupError):
                words = ["-1"]
            self.must_run()
            return words[0] not in ("running", "-1") and call in (None, int(words[0]))

        until(blocked, f"task {tid or self.pid} is blocked in call {call}")

    def has_ended(self) -> bool:
        """Whether the process is gone, or a zombie, or another has its number now."""
        try:
            if not _shown_by(self.pid):
                return True
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return int(fields[3]) != self.pid  # it leads a session, before and after a restore

    def must_run(self) -> None:
        """Disturbed if it is over already: ended well, and not early by what it says."""
        if self.has_ended():
            assert self.wait() == 0, self.output()
            assert '"late_ns": -' not in self.output(), self.output()
            raise Disturbed(f"process {self.pid} was done before the test was: {self.output()[-500:]!r}")

    def killed(self) -> None:
        """The checkpoint has ended it: its parent, this test or `livecr restore`, sees a SIGKILL."""
        if self._child is not None:
            assert self._child.wait(40) == -signal.SIGKILL
            self._child = None
        else:
            assert self._restorer is not None
            assert self._restorer.wait(40) == 128 + signal.SIGKILL
            if self._restorer.stdout:
                self._restorer.stdout.close()
            self._restorer = None

    def restore(self, image: Path, *options: str) -> None:
        """`livecr restore` in the foreground; the program lives when this returns.

        Its number, or a thread's, may be another process' for a moment: with 32768 of them, and all
        the programs that tests start, it comes to that.
        """
        assert self._child is None, "the program has not been ended"
        end = time.monotonic() + 40
        while (said := self._restored(image, *options)) and " is taken by process " in said:
            assert time.monotonic() < end, said
            time.sleep(0.1)
        if said:
            pytest.fail(f"livecr restore has failed: {said}")

    def _restored(self, image: Path, *options: str) -> str:
        """One attempt at it; what livecr says if it fails."""
        self._restorer = subprocess.Popen(
            [LIVECR, "restore", image, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

        def alive() -> bool:
            assert self._restorer is not None
            if self._restorer.poll() is not None:
                return True
            try:
                shown_by = _shown_by(self.pid)
                status = Path(f"/proc/{shown_by}/status").read_text()
                exe = os.readlink(f"/proc/{shown_by}/exe")
            except (FileNotFoundError, ProcessLookupError):
                return False
            built = "TracerPid:\t0" in status and "livecr-seed" not in exe and "Name:\tlivecr" not in status
            return built and not self.has_ended()

        until(alive, "the restored program runs")
        failed = self._restorer.poll() not in (None, 0)
        return self._restorer.stdout.read() if failed and self._restorer.stdout else ""

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit status: of the child, or as `livecr restore` passes it on."""
        waiting = self._child or self._restorer
        assert waiting is not None
        return waiting.wait(seconds)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def signal_livecr(self, number: int) -> None:
        """Send a signal to the `livecr restore` that is its parent."""
        assert self._restorer is not None
        self._restorer.send_signal(number)

    def end(self) -> None:
        """End it, and livecr if that is its parent now."""
        descendants = [pid for pid in members(self.pid) if pid != self.pid] if not self.has_ended() else []
        for process in (self._child, self._restorer):
            if process is None:
                continue
            if process.poll() is None and not self.has_ended():
                os.kill(self.pid, signal.SIGKILL)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            if process.stdout:
                process.stdout.close()
        for pid in {*descendants, *_in_session(self.pid)}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _in_session(sid: int) -> list[int]:
    """What is left of a target's session, also when its first process has ended."""
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            if os.getsid(int(name)) == sid:
                found.append(int(name))
    return found


def is_as_it_was(one: Target, fate: str, place: Path, livecr: Callable[..., object]) -> None:
    """Let a program that checks itself on SIGUSR1 meet its fate, and find everything as it was.

    ``fate``: left-running, restored or restored-twice; images are written to ``place``.
    """
    one.until_printed("ready")
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", place / "image", "--leave-running")
    for number in range({"restored": 1, "restored-twice": 2}.get(fate, 0)):
        livecr("checkpoint", one.pid, "-o", place / f"image{number}")
        one.killed()
        one.restore(place / f"image{number}")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Callable[..., Target]]:
    """Start programs: ``target(["sleep", "60"])``."""
    started: list[Target] = []

    def start(command: list[str | Path], **environment: str) -> Target:
        directory = tmp_path / f"target{len(started)}"
        directory.mkdir()
        started.append(Target(command, directory, environment))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def counter(program: Callable[[str], Path], target: Callable[..., Target]) -> Callable[..., Target]:
    """Start the counter: ``counter(KIND, PATH)``."""

    def start(*words: str | Path) -> Target:
        one = target([program("counter"), *words])
        one.until_printed("ready")
        return one

    return start


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory for images."""
    directory = tmp_path / "images"
    directory.mkdir()
    return directory


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Where an image can be made; removed with the test's directory."""
    return tmp_path / "image.livecr"


@pytest.fixture
def livecr() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a livecr command and expect ``exit_code`` of it."""

    def run(*words: object, exit_code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [LIVECR, *(str(word) for word in words)],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == exit_code, f"livecr {words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run
