"""The command line and the Python API: exit codes, refusals that name the object and harm nothing, restore.

The program under test is tests/programs/counter.c (see counting.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import livecr as api
import pytest
from livecr.cli import COMMANDS
from tests.integration.conftest import LIVECR, Target, until
from tests.integration.counting import count, runs_on_unharmed

UNUSED_PID = 1 << 22  # PID_MAX_LIMIT on 64 bits: no process has it


# -- usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["checkpoint"],
        ["checkpoint", "1", "2"],
        ["checkpoint", "1", "--no-such-option"],
        ["checkpoint", "1", "-o"],
        ["checkpoint", "self"],
        ["check", "-5"],
        ["check", "9" * 5000],
        ["waits", "0"],
        ["waits", "4294967297"],
        ["restore"],
        ["restore", "image", "--detach=yes"],
        ["show"],
        ["doctor", "1"],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_bad_usage_is_2(words: list[str], livecr: Any) -> None:
    """One clear complaint and nothing else."""
    done = livecr(*words, exit_code=2)
    assert done.stderr.startswith("livecr: ")
    assert done.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, livecr: Any) -> None:
    """--help begins with how the command is called, wherever it stands."""
    for words in ([command, "--help"], [command, "-h", "more"]):
        done = livecr(*words)
        assert done.stdout.startswith(f"usage: livecr {command}")
        assert done.stderr == ""
    assert command in livecr("--help").stdout


def test_debug_shows_where_it_was_raised() -> None:
    """Without --debug never a traceback (the fixture `livecr` sees to that), with it always."""
    done = subprocess.run([LIVECR, "check", str(UNUSED_PID), "--debug"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "livecr.errors.NoSuchProcess" in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    """`livecr doctor | head -0`: no complaint by Python when the pipe breaks."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([LIVECR, "doctor"], stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["checkpoint", "check", "waits"])
def test_no_such_process_is_3(
    command: str, livecr: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is named, and nothing is made."""
    monkeypatch.chdir(place)
    done = livecr(command, UNUSED_PID, exit_code=3)
    assert f"process {UNUSED_PID}: there is no such process" in done.stderr
    assert not list(place.iterdir())


def refused(livecr: Any, one: Target, place: Path, *named: str) -> None:
    """`check` foretells it, `checkpoint` refuses it in the same words, both ways, and nothing is left."""
    foretold = livecr("check", one.pid, exit_code=3).stderr.splitlines()[0]
    for words in ([], ["--leave-running"]):
        said = livecr("checkpoint", one.pid, "-o", place / "image", *words, exit_code=3).stderr
        assert foretold in said
        for name in named:
            assert name in said
    assert not list(place.iterdir())


# What the counter holds, and how the refusal names it.
REFUSED_KINDS = {
    "socket": "a packet socket (socket:[",
    "stale epoll": "the epoll instance watches a file that was descriptor 4 and is not any more",
}


@pytest.mark.parametrize("kind", REFUSED_KINDS)
def test_a_kind_that_cannot_be_saved_is_refused_by_name(
    kind: str, counter: Callable[..., Target], livecr: Any, place: Path
) -> None:
    """The program would lose the descriptor; it is named, and the program counts on."""
    one = counter(kind)
    refused(livecr, one, place, f"process {one.pid}, descriptor ", REFUSED_KINDS[kind])
    runs_on_unharmed(one)


def test_a_pipe_shared_with_an_outsider_names_that_process(
    counter: Callable[..., Target], livecr: Any, place: Path
) -> None:
    """The other process would write into a pipe that nobody reads any more."""
    one = counter("pipe")
    livecr("check", one.pid)
    ours = os.open(f"/proc/{one.pid}/fd/3", os.O_RDONLY | os.O_NONBLOCK)
    try:
        comm = Path("/proc/self/comm").read_text().strip()
        refused(livecr, one, place, f"is shared with process {os.getpid()} ({comm}, descriptor {ours})")
    finally:
        os.close(ours)
    livecr("check", one.pid)
    runs_on_unharmed(one)


@pytest.mark.parametrize("fate", ["left running", "restored"])
def test_a_stopped_process_stays_stopped(
    fate: str, counter: Callable[..., Target], livecr: Any, place: Path
) -> None:
    """Whoever stopped it decides when it goes on."""
    one = counter("nothing")
    one.signal(signal.SIGSTOP)

    def state() -> str:
        return Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0]

    until(lambda: state() == "T", "it is stopped")
    if fate == "left running":
        livecr("checkpoint", one.pid, "-o", place / "image", "--leave-running")
    else:
        livecr("checkpoint", one.pid, "-o", place / "image")
        one.killed()
        one.restore(place / "image")
    assert state() == "T"
    one.signal(signal.SIGCONT)
    runs_on_unharmed(one)


def test_a_thread_is_no_process(livecr: Any, target: Callable[..., Target], place: Path) -> None:
    """A TID is answered with the PID that is meant."""
    code = "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start(); time.sleep(99)"
    one = target(["/usr/bin/python3", "-c", code])
    until(lambda: len(os.listdir(f"/proc/{one.pid}/task")) == 2, "it has its thread")
    (tid,) = {int(name) for name in os.listdir(f"/proc/{one.pid}/task")} - {one.pid}
    done = livecr("checkpoint", tid, "-o", place / "image", exit_code=3)
    assert f"it is a thread of process {one.pid}" in done.stderr
    assert not list(place.iterdir())


@pytest.mark.parametrize("what", ["directory", "file", "dangling link"])
def test_what_is_there_is_never_overwritten(
    what: str, counter: Callable[..., Target], livecr: Any, place: Path
) -> None:
    """Neither an older image, nor anything else under that name."""
    there = place / "image"
    if what == "directory":
        there.mkdir()
        (there / "precious").write_text("keep me")
    elif what == "file":
        there.write_text("keep me")
    else:
        there.symlink_to(place / "nowhere")
    one = counter("nothing")
    done = livecr("checkpoint", one.pid, "-o", there, exit_code=3)
    assert str(there) in done.stderr
    assert list(place.iterdir()) == [there]
    if what == "dangling link":
        assert there.is_symlink()
    else:
        assert (there / "precious" if what == "directory" else there).read_text() == "keep me"
    runs_on_unharmed(one)


def test_a_pid_that_is_taken_at_restore_is_named(
    counter: Callable[..., Target], livecr: Any, place: Path
) -> None:
    """The program that has the number is told by name, and is not touched."""
    one = counter("nothing")
    livecr("checkpoint", one.pid, "-o", place / "image", "--leave-running")
    done = livecr("restore", place / "image", exit_code=3)
    assert f"its number {one.pid} is taken by process {one.pid}, counter" in done.stderr
    runs_on_unharmed(one)


# -- failures ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, less than the counter's memory."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.parametrize("words", [[], ["--leave-running"]], ids=["ended", "left-running"])
def test_a_full_disk_is_4_and_harms_nothing(
    words: list[str], counter: Callable[..., Target], livecr: Any, small_disk: Path
) -> None:
    """The program runs on, and what was written of the image is gone."""
    one = counter("nothing")
    done = livecr("checkpoint", one.pid, "-o", small_disk / "image", *words, exit_code=4)
    assert "the disk is full" in done.stderr
    assert str(small_disk / "image") in done.stderr
    assert not list(small_disk.iterdir())
    runs_on_unharmed(one)


# -- restore as a parent -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (signal.SIGTERM, 0, "ready\nok\n"),  # handled: the program ends by itself
        (signal.SIGINT, 7, "ready\n"),
        (signal.SIGUSR1, 128 + signal.SIGUSR1, "ready\n"),  # not handled: it is killed
    ],
)
def test_restore_passes_signals_on_and_ends_as_the_program_ends(
    number: signal.Signals, status: int, says: str, counter: Callable[..., Target], livecr: Any, image: Path
) -> None:
    """A supervisor that runs `livecr restore` in the program's place sees no difference."""
    one = counter("nothing")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    one.signal_livecr(number)
    assert (one.wait(), one.output()) == (status, says)
    assert one.has_ended()


def test_restore_detached_prints_the_pid(counter: Callable[..., Target], livecr: Any, image: Path) -> None:
    """The program goes on counting where it was, with livecr gone."""
    one = counter("nothing")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    at = count(one)
    try:
        assert livecr("restore", "--detach", image).stdout == f"{one.pid}\n"
        until(lambda: count(one) > at + 3 or one.has_ended(), "it goes on counting")
        one.signal(signal.SIGTERM)
        until(one.has_ended, "it has ended")
        assert one.output() == "ready\nok\n"
    finally:
        if not one.has_ended():
            os.kill(one.pid, signal.SIGKILL)


# -- from Python -------------------------------------------------------------------------------------------


def test_the_python_api(counter: Callable[..., Target], place: Path) -> None:
    """Everything that the command line does, twice over, with typed results; the program counts on."""
    one = counter("nothing")
    for name in ("first", "second"):
        done = api.checkpoint(one.pid, str(place / name), leave_running=True)
        assert (done.pid, done.image) == (one.pid, str(place / name))
        assert done.frozen_ns > 0
        (wait,) = api.waits(one.pid)
        assert (wait.tid, wait.comm) == (one.pid, "counter")
        content = api.inspect(str(place / name))
        assert (content.name, content.processes[0].place.pid) == ("counter", one.pid)
    api.checkpoint(one.pid, str(place / "last"))
    one.killed()
    at = count(one)
    restored = api.restore(str(place / "last"))
    try:
        assert restored.pid == one.pid
        until(lambda: count(one) > at + 3 or one.has_ended(), "it goes on counting")
    finally:
        os.kill(restored.pid, signal.SIGTERM)
        _, status = os.waitpid(restored.pid, 0)
    assert (os.waitstatus_to_exitcode(status), one.output()) == (0, "ready\nok\n")


def test_the_python_api_raises_typed_errors(counter: Callable[..., Target], place: Path) -> None:
    """Each failure is a class with what, where and the way out."""
    one = counter("stale epoll")
    with pytest.raises(api.Refused) as refusal:
        api.checkpoint(one.pid, str(place / "image"))
    assert "epoll" in refusal.value.what
    assert f"process {one.pid}, descriptor 3" in refusal.value.where
    assert refusal.value.way_out
    with pytest.raises(api.Refused, match="no such process"):
        api.waits(UNUSED_PID)
    assert not list(place.iterdir())
    runs_on_unharmed(one)
