"""inotify through a checkpoint: the program is told the same things of the same files by the same numbers.

tests/programs/kind_inotify.c makes the events and checks what it is told; it would notice a watch that is
gone or has another number or mask, and any event that livecr itself has caused.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import Target, until


@pytest.fixture
def watcher(program: Callable[[str], Path], target: Callable[..., Target], tmp_path: Path) -> Any:
    """Start the program on a directory of its own, with a name that needs care."""
    directory = tmp_path / "wat ched ü"
    directory.mkdir()

    def start(*words: str) -> tuple[Target, Path]:
        one = target([program("kind_inotify"), directory, *words])
        one.until_printed("ready")
        return one, directory

    return start


@pytest.mark.parametrize("fate", ["left-running", "restored"])
@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_watches_are_as_before(fate: str, cache: str, watcher: Any, livecr: Any, image: Path) -> None:
    """It would miss an event, or be told one that nobody made. Cold: the kernel has forgotten the names."""
    one, directory = watcher()
    if cache == "cold":
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    else:
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        one.restore(image)
    shown = json.loads(livecr("show", image, "--json").stdout)["processes"][0]["descriptors"]
    (what,) = [d["what"] for d in shown if d["kind"] == "inotify"]
    assert f"{directory}/directory" in what
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_unread_events_are_refused(watcher: Any, livecr: Any, image: Path) -> None:
    """They would be lost. The program finds them when it reads."""
    one, _ = watcher("unread")
    for words in (["check", one.pid], ["checkpoint", one.pid, "-o", image]):
        said = livecr(*words, exit_code=3).stderr
        assert "an inotify instance has 16 bytes of events that are not read yet" in said
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_a_watched_file_that_is_deleted_is_refused(
    program: Callable[[str], Path], target: Callable[..., Target], livecr: Any, image: Path, tmp_path: Path
) -> None:
    """Nobody could name it again. An open descriptor keeps it alive, so the watch is still there."""
    watched = tmp_path / "watched"
    watched.touch()
    code = (
        "import ctypes, os, sys, time; libc = ctypes.CDLL(None); fd = libc.inotify_init1(0);"
        "path = sys.argv[1];"
        "held = os.open(path, os.O_RDONLY); assert libc.inotify_add_watch(fd, path.encode(), 0x100) == 1;"
        "os.unlink(path); print('ready', flush=True); time.sleep(99)"
    )
    one = target(["/usr/bin/python3", "-c", code, watched])
    one.until_printed("ready")
    said = livecr("checkpoint", one.pid, "-o", image, exit_code=3).stderr
    assert "the inotify watch 1 is on inode" in said
    assert "which has no name" in said


def test_a_watched_file_that_is_gone_at_restore_is_refused(watcher: Any, livecr: Any, image: Path) -> None:
    """The program would wait for events that cannot come. Put back, it is restored."""
    one, directory = watcher()
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    (directory / "once").rename(directory / "elsewhere")
    said = livecr("restore", image, exit_code=3).stderr
    assert f"{directory / 'once'}: it cannot be watched again" in said
    assert one.has_ended()
    (directory / "elsewhere").rename(directory / "once")
    one.restore(image)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_tail_follows_on(target: Callable[..., Target], livecr: Any, image: Path, tmp_path: Path) -> None:
    """tail -F prints what is appended after its restore, also when the file has been replaced since."""
    log = tmp_path / "logs" / "log"
    log.parent.mkdir()
    log.write_text("first\n")
    one = target(["/usr/bin/tail", "-F", log])
    one.until_printed("first")
    until(lambda: has_watches(one.pid), "it watches the file")
    one.until_blocked()
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    with log.open("a") as file:
        file.write("second\n")
    one.until_printed("second")
    log.rename(log.parent / "log.1")
    log.write_text("third\n")
    one.until_printed("third")
    one.signal(signal.SIGTERM)
    assert one.wait() == 128 + signal.SIGTERM


def has_watches(pid: int) -> bool:
    """One on the file, one on its directory."""
    told = [path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir()]
    return sum(text.count("inotify wd:") for text in told) == 2
