"""Whatever happens to livecr, and whatever livecr meets, the program under checkpoint is never worse off.

The program (tests/programs/selfcheck.c) checks its own memory, registers, vector registers, sleeps, pipes,
futexes, restartable sequences, signals and files all the time, and ends with a message at the first thing
that is wrong.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import LIVECR, until

KILLS = 200
#: Attempts at something that a test cannot aim at well on a busy machine.
ATTEMPTS = 3
REALTIME = signal.SIGRTMIN + 1


class Story:
    """The self-checking program with its file."""

    def __init__(self, process: Any, file: Path) -> None:
        self.process = process
        self.file = file
        self.pid: int = process.pid
        self.sent = 0

    def is_unharmed(self) -> None:
        """Alive, found nothing wrong so far, traced and stopped by nobody, and it goes on writing."""
        assert not self.process.has_ended(), self.process.output()
        told = status(self.pid)
        assert told["TracerPid"] == "0"
        assert told["State"][0] not in "Tt", told["State"]
        size = self.file.stat().st_size
        until(lambda: self.process.has_ended() or self.file.stat().st_size > size, "it goes on writing")
        assert not self.process.has_ended(), self.process.output()

    def send(self) -> None:
        """A queued signal with the next number as its value."""
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.sigqueue(self.pid, REALTIME, ctypes.c_void_p(self.sent)) == 0, os.strerror(
            ctypes.get_errno()
        )
        self.sent += 1

    def finish(self) -> None:
        """Its own verdict, and the file: every number once and in order."""
        self.process.signal(signal.SIGUSR1)
        code = self.process.wait()
        assert (code, self.process.output()) == (0, f"ready\nsignals: {self.sent}\nok\n")
        lines = self.file.read_text().splitlines()
        assert lines == [str(number) for number in range(len(lines))]


@pytest.fixture
def story(program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path) -> Callable[..., Story]:
    """Start the program, and wait until all its threads are at work."""

    def start(*arguments: str) -> Story:
        file = tmp_path / "numbers"
        process = target([program("selfcheck"), file, *arguments])
        process.until_printed("ready")
        until(lambda: file.exists() and file.stat().st_size, "it writes numbers")
        return Story(process, file)

    return start


def status(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def begin_checkpoint(pid: int, image: Path, *options: str) -> subprocess.Popen[bytes]:
    """livecr in the background, with its output in a file beside the images."""
    with said(image).open("wb") as output:
        livecr = subprocess.Popen(
            [LIVECR, "checkpoint", str(pid), "-o", image, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    _begun.append(livecr)
    return livecr


_begun: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def no_livecr_is_left(target: Callable[..., Any]) -> Iterator[None]:
    """A test that fails may leave one behind, which might hold its program."""
    yield
    for livecr in _begun:
        if livecr.poll() is None:
            livecr.kill()
        livecr.wait()
    _begun.clear()


def said(image: Path) -> Path:
    """What livecr says while it makes this image."""
    return image.parent.with_name("said")


def until_frozen(pid: int, livecr: subprocess.Popen[Any]) -> bool:
    """Spin until livecr has seized the program; False if it has ended before that was seen."""
    while livecr.poll() is None:
        if status(pid)["TracerPid"] != "0":
            return True
    return False


def seen_frozen(pid: int, image: Path) -> tuple[subprocess.Popen[bytes], float]:
    """A checkpoint that has seized the program just now, which is left running, and when it was begun.

    It is over in so short a time that a busy machine may not let this test see it: then another is begun.
    """
    for _ in range(20):
        began = time.monotonic()
        livecr = begin_checkpoint(pid, image, "--leave-running")
        if until_frozen(pid, livecr):
            return livecr, began
        assert livecr.wait() == 0, said(image).read_text()
        shutil.rmtree(image)
    raise AssertionError("20 checkpoints, and the program was never seen to be frozen")


def durations(story: Story, directory: Path) -> tuple[float, float]:
    """Seconds that a whole checkpoint takes, and that the program is traced in it: medians of five."""
    whole, traced = [], []
    for _ in range(5):
        livecr, began = seen_frozen(story.pid, directory / "measured")
        frozen = time.monotonic()
        while status(story.pid)["TracerPid"] != "0":
            pass
        traced.append(time.monotonic() - frozen)
        assert livecr.wait() == 0, said(directory / "measured").read_text()
        whole.append(time.monotonic() - began)
        shutil.rmtree(directory / "measured")
    return statistics.median(whole), statistics.median(traced)


def remains(directory: Path) -> list[str]:
    """What is in a directory, and is taken away for the next round."""
    found = sorted(os.listdir(directory))
    for name in found:
        shutil.rmtree(directory / name)
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory for nothing but images."""
    directory = tmp_path / "images"
    directory.mkdir()
    return directory


@pytest.fixture
def chance(record_property: Callable[[str, object], None]) -> random.Random:
    """Random numbers whose seed is printed; LIVECR_SEED repeats a run."""
    seed = int(os.environ.get("LIVECR_SEED", random.SystemRandom().getrandbits(32)))
    record_property("seed", seed)
    print(f"LIVECR_SEED={seed}")
    return random.Random(seed)


@pytest.mark.time_limit(480)
def test_killed_at_any_moment(
    story: Callable[..., Story], images: Path, chance: random.Random, livecr: Any, image: Path
) -> None:
    """The program would notice registers or a mask that are not its own, a call ended early, a lost byte."""
    one = story()
    whole, traced = durations(one, images)
    while_frozen = 0
    for number in range(ATTEMPTS * KILLS):
        if number >= KILLS and while_frozen > KILLS / 8:
            break
        killed = begin_checkpoint(one.pid, images / "image", "--leave-running")
        if number % 4:  # three of four while the program is in livecr's hands
            until_frozen(one.pid, killed)
            time.sleep(chance.uniform(0, 1.1 * traced))
        else:
            time.sleep(chance.uniform(0, 1.1 * whole))
        while_frozen += status(one.pid)["TracerPid"] == str(killed.pid)
        killed.kill()
        killed.wait()
        until(lambda: status(one.pid)["TracerPid"] == "0", "the kernel has let it go")
        one.is_unharmed()
        if number % 8 == 0:
            one.send()
        remains(images)
    assert while_frozen > KILLS / 8, "the kills missed the time in which the program was frozen"
    livecr("checkpoint", one.pid, "-o", image)
    one.process.killed()
    one.process.restore(image)
    one.is_unharmed()
    one.finish()


@pytest.mark.time_limit(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_end_at_any_moment(
    number: signal.Signals, story: Callable[..., Story], images: Path, chance: random.Random
) -> None:
    """Either nothing is left of the image or it is complete; the program would notice as above."""
    one = story()
    whole, traced = durations(one, images)
    codes = {-number, 0} | ({130} if number == signal.SIGINT else set())
    broken_off = 0
    for attempt in range(ATTEMPTS * 16):
        if attempt >= 16 and broken_off:
            break
        asked = begin_checkpoint(one.pid, images / "image", "--leave-running")
        if attempt % 2:
            until_frozen(one.pid, asked)
            time.sleep(chance.uniform(0, traced))
        else:
            time.sleep(chance.uniform(0.3 * whole, whole))
        asked.send_signal(number)
        code = asked.wait(40)
        # Before Python has set up its own handling, SIGINT ends it like any other.
        assert code in codes
        one.is_unharmed()
        left = remains(images)
        assert left in ([], ["image"])  # the name that it gets when it is complete
        assert code or left, "livecr has not done what it says"
        broken_off += not left
    assert broken_off, "it came too late every time"
    one.finish()


@pytest.mark.time_limit(120)
def test_threads_that_come_and_go(story: Callable[..., Story], images: Path, livecr: Any) -> None:
    """A thread that is born or ends during the freeze would be lost, or its pthread_join would hang."""
    one = story("churn")
    for number in range(20):
        livecr("checkpoint", one.pid, "-o", images / f"image{number}", "--leave-running")
        one.is_unharmed()
        remains(images)
    livecr("checkpoint", one.pid, "-o", images / "last")
    one.process.killed()
    one.process.restore(images / "last")
    one.finish()


def test_signals_during_checkpoints(story: Callable[..., Story], images: Path, chance: random.Random) -> None:
    """Each signal is delivered exactly once, in order, with the siginfo that it was sent with."""
    one = story()
    _, traced = durations(one, images)
    for _ in range(12):
        livecr, _ = seen_frozen(one.pid, images / "image")
        for _ in range(4):
            time.sleep(chance.uniform(0, traced / 4))
            one.send()
        assert livecr.wait() == 0, said(images / "image").read_text()
        one.is_unharmed()
        remains(images)
    one.finish()


SENDS_BETWEEN_STEPS = """
import ctypes, sys
import livecr
from livecr.image.integrity import NewImage

pid, image, signal = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sent = 0

def send_after(step):
    real = getattr(NewImage, step)
    def stand_in(*args, **named):
        global sent
        result = real(*args, **named)
        assert ctypes.CDLL(None).sigqueue(pid, signal, ctypes.c_void_p(sent)) == 0
        sent += 1
        return result
    setattr(NewImage, step, stand_in)

for step in ("store_core", "verify", "commit"):
    send_after(step)
livecr.checkpoint(pid, image)
print(sent)
"""


def test_signals_before_it_is_ended(story: Callable[..., Story], images: Path, livecr: Any) -> None:
    """Sent while its memory is copied, or when its image is there already: it would miss what was sent."""
    one = story()
    image = images / "signals"
    driver = [sys.executable, "-c", SENDS_BETWEEN_STEPS, str(one.pid), str(image), str(int(REALTIME))]
    one.sent = int(subprocess.run(driver, check=True, capture_output=True, text=True).stdout)
    assert one.sent == 3
    one.process.killed()
    one.process.restore(image)
    one.is_unharmed()
    one.finish()


@pytest.mark.parametrize("fate", ["done", "killed"])
def test_stopped_during_checkpoints(
    fate: str, story: Callable[..., Story], images: Path, chance: random.Random
) -> None:
    """A SIGSTOP that arrives meanwhile stops the program afterwards, also if livecr is killed."""
    one = story()
    _, traced = durations(one, images)
    for _ in range(8):
        livecr, _ = seen_frozen(one.pid, images / "image")
        time.sleep(chance.uniform(0, traced / 2))
        one.process.signal(signal.SIGSTOP)
        if fate == "killed":
            time.sleep(chance.uniform(0, traced / 2))
            livecr.kill()
        livecr.wait()
        until(lambda: status(one.pid)["State"].startswith("T (stopped)"), "it is stopped")
        one.process.signal(signal.SIGCONT)
        until(lambda: not status(one.pid)["State"].startswith("T"), "it goes on")
        one.is_unharmed()
        remains(images)
    one.finish()


def test_stopped_and_continued_during_checkpoints(
    story: Callable[..., Story], images: Path, chance: random.Random
) -> None:
    """Both signals come while the program is frozen: the later one counts, so it runs afterwards."""
    one = story()
    _, traced = durations(one, images)
    for _ in range(8):
        livecr, _ = seen_frozen(one.pid, images / "image")
        time.sleep(chance.uniform(0, traced / 3))
        one.process.signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0, traced / 3))
        one.process.signal(signal.SIGCONT)
        assert livecr.wait() == 0, said(images / "image").read_text()
        one.is_unharmed()
        remains(images)
    one.finish()


def test_program_killed_during_checkpoints(
    story: Callable[..., Story], images: Path, chance: random.Random
) -> None:
    """Its parent learns how it ended, at once; livecr says what happened and leaves nothing."""
    told: set[str] = set()
    for attempt in range(ATTEMPTS * 15):
        if attempt >= 15 and told:
            break
        one = story()
        livecr = begin_checkpoint(one.pid, images / "image", "--leave-running")
        until_frozen(one.pid, livecr)
        time.sleep(chance.uniform(0, 0.02))
        one.process.signal(signal.SIGKILL)
        assert one.process.wait(40) == -signal.SIGKILL
        livecr.wait(40)
        output = said(images / "image").read_text()
        if livecr.returncode == 0:  # all of it had been read by then
            assert remains(images) == ["image"]
            continue
        assert livecr.returncode in (3, 4), output
        assert "internal error" not in output
        assert remains(images) == []
        told.add(output.strip().splitlines()[0].split(": ", 2)[2])
    assert told, "it was killed too late every time"
    assert told <= {
        "it was ended during its checkpoint",
        "there is no such process",
        "the process ended before it could be frozen",
    }


# -- failures on purpose -------------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 256 KiB."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.parametrize("options", [(), ("--leave-running",)])
def test_full_disk(
    options: tuple[str, ...], story: Callable[..., Story], tiny_disk: Path, livecr: Any
) -> None:
    """Both with and without --leave-running the program runs on, and the disk is as empty as before."""
    one = story()
    answer = livecr("checkpoint", one.pid, "-o", tiny_disk / "image", *options, exit_code=4).stderr
    assert "the disk is full" in answer
    assert os.listdir(tiny_disk) == []
    one.is_unharmed()
    one.finish()


def test_file_size_limit(story: Callable[..., Story], images: Path) -> None:
    """RLIMIT_FSIZE: SIGXFSZ must not end a livecr that holds a program."""
    one = story()
    done = subprocess.run(
        [LIVECR, "checkpoint", str(one.pid), "-o", images / "image"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "larger than is allowed" in done.stderr
    assert remains(images) == []
    one.is_unharmed()
    one.finish()


def test_places_that_cannot_hold_an_image(
    story: Callable[..., Story], images: Path, tmp_path: Path, livecr: Any
) -> None:
    """A missing, a read-only and an occupied place: refused before the program is touched."""
    one = story()
    (images / "occupied").mkdir()
    (images / "occupied" / "precious").write_text("kept")
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", read_only], check=True)
    try:
        for place in (images / "missing" / "image", images / "occupied", read_only / "image"):
            answer = livecr("checkpoint", one.pid, "-o", place, exit_code=3).stderr
            assert str(place) in answer
            one.is_unharmed()
    finally:
        subprocess.run(["umount", "--lazy", read_only], check=True)
    assert (images / "occupied" / "precious").read_text() == "kept"
    assert os.listdir(images) == ["occupied"]
    one.finish()
