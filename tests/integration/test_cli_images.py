"""What is told of images, of running programs and of the machine: show, waits, doctor; damaged images.

The program under test is tests/programs/counter.c (see counting.py).
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import livecr as api
import pytest
from livecr._native import lib
from livecr.image import manifest
from tests.integration.conftest import LIVECR, Target
from tests.integration.counting import runs_on_unharmed

EVIL = "\x1b[31mred"
NR_PRCTL, PR_CAPBSET_DROP, CAP_SYS_PTRACE = 157, 24, 19


# -- images ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of a counter that has been ended; tests work on copies of it."""
    directory = tmp_path_factory.mktemp("sound")
    one = Target([program("counter"), "file", directory / f"{EVIL}\nfile"], directory, {})
    try:
        one.until_printed("ready")
        one.until_blocked()
        subprocess.run([LIVECR, "checkpoint", str(one.pid), "-o", directory / "image"], check=True)
        one.killed()
    finally:
        one.end()
    return directory / "image"


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def core_of(image: Path) -> Path:
    """The core file of an image."""
    (core,) = image.glob("*.core")
    return core


def replace(image: Path, old: bytes, new: bytes) -> None:
    """Change the manifest's text."""
    path = image / "manifest.json"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def only(image: Path, content: bytes) -> None:
    """Nothing but a manifest."""
    shutil.rmtree(image)
    image.mkdir()
    (image / "manifest.json").write_bytes(content)


def cut(path: Path) -> None:
    """Take the last byte off."""
    os.truncate(path, path.stat().st_size - 1)


def core_by_link(image: Path) -> None:
    """A link in the place of the core, to the very same bytes."""
    name = core_of(image).name
    core_of(image).rename(image / "elsewhere")
    (image / name).symlink_to("elsewhere")


def empty_directory(image: Path) -> None:
    """Nothing in it."""
    shutil.rmtree(image)
    image.mkdir()


def a_file(image: Path) -> None:
    """No directory at all."""
    shutil.rmtree(image)
    image.write_text("hello")


def unfit(image: Path) -> None:
    """Sealed as it should be, but its records name each other wrongly."""
    text = (image / "manifest.json").read_bytes()
    sealed = text[: -len(manifest._seal(b""))]
    changed = sealed.replace(b'"description": 1', b'"description": 77')
    assert changed != sealed
    (image / "manifest.json").write_bytes(changed + manifest._seal(changed))


# What is done to an image, and the part that the error names.
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "first byte of the core": (lambda image: flip(core_of(image), 0), ".core"),
    "a page of the core": (lambda image: flip(core_of(image), core_of(image).stat().st_size // 2), ".core"),
    "last byte of the core": (lambda image: flip(core_of(image), -1), ".core"),
    "core cut": (lambda image: cut(core_of(image)), ".core"),
    "core empty": (lambda image: os.truncate(core_of(image), 0), ".core"),
    "core gone": (lambda image: core_of(image).unlink(), ".core"),
    "core is a link": (core_by_link, ".core"),
    "manifest altered": (lambda image: replace(image, b'"name": ', b'"nbme": '), "manifest.json"),
    "manifest cut": (lambda image: cut(image / "manifest.json"), "manifest.json"),
    "manifest empty": (lambda image: os.truncate(image / "manifest.json", 0), "manifest.json"),
    "manifest gone": (lambda image: (image / "manifest.json").unlink(), "there is no image here"),
    "foreign manifest": (lambda image: only(image, b'{"name": "npm"}\n'), "manifest.json"),
    "not text": (lambda image: only(image, os.urandom(4096)), "manifest.json"),
    "records do not fit": (unfit, "fit together"),
    "empty directory": (empty_directory, "there is no image here"),
    "a file": (a_file, "image"),
    "nothing": (shutil.rmtree, "there is no image here"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_images_are_5(damage: str, sound: Path, tmp_path: Path, livecr: Any) -> None:
    """Nothing of it is restored, nothing of it is shown: one line says what is wrong, and where."""
    image = tmp_path / "image"
    shutil.copytree(sound, image)
    act, named = DAMAGES[damage]
    act(image)
    for words in (["show"], ["show", "--json"], ["restore"]):
        done = livecr(*words, image, exit_code=5)
        assert done.stdout == ""
        assert done.stderr.startswith("livecr: ")
        assert len(done.stderr.splitlines()) == 1
        assert named in done.stderr


def test_damage_is_a_bad_image_from_python(sound: Path, tmp_path: Path) -> None:
    """A program that uses livecr can tell it from other failures."""
    image = tmp_path / "image"
    shutil.copytree(sound, image)
    flip(core_of(image), -1)
    for read in (api.inspect, api.restore):
        with pytest.raises(api.BadImage, match="damaged"):
            read(str(image))


def test_show_tells_what_is_in_it(sound: Path, livecr: Any) -> None:
    """For programs: the exact values of a program that slept 2 ms at a time over 4 MiB of its own memory."""
    told = json.loads(livecr("show", "--json", sound).stdout)
    path = str(sound.parent / f"{EVIL}\nfile")
    (process,) = told["processes"]
    assert process["name"] == EVIL
    assert process["command"][1:] == ["file", path]
    assert told["kernel"] == os.uname().release
    (thread,) = process["threads"]
    assert thread["tid"] == process["pid"]
    if thread["wait"] is not None:  # it may have been caught between two sleeps
        assert thread["wait"]["call"] == "clock_nanosleep"
        assert 0 <= thread["wait"]["remaining_ns"] <= 2_000_000 + 50_000  # the timer's slack
    by_number = {row["fd"]: row for row in process["descriptors"]}
    assert sorted(by_number) == [0, 1, 2, 3, 4]
    assert (by_number[0]["kind"], by_number[0]["what"]) == ("device", "/dev/null")
    assert (by_number[3]["kind"], by_number[3]["what"], by_number[3]["access"]) == ("file", path, "rw")
    assert by_number[1]["description"] == by_number[2]["description"] != by_number[3]["description"]
    assert by_number[1]["offset"] == len("ready\n")
    assert process["signals"]["handled"] == ["SIGINT", "SIGTERM"]
    kinds = process["memory"]["kinds"]
    assert kinds["stack"]["stored_bytes"] > 0
    stored = kinds["anonymous"]["stored_bytes"] + kinds["private file"]["stored_bytes"]
    assert 4 << 20 <= stored <= told["size_bytes"]
    assert process["memory"]["stored_bytes"] == sum(kind["stored_bytes"] for kind in kinds.values())


def test_show_lets_no_control_character_out(sound: Path, livecr: Any) -> None:
    """A name from an image could otherwise make the reader's terminal do anything."""
    shown = livecr("show", sound).stdout
    assert [letter for letter in shown if not letter.isprintable() and letter != "\n"] == []
    assert "\\x1b[31mred" in shown
    assert "\\nfile" in shown


def test_show_on_a_terminal(sound: Path) -> None:
    """Tables by rich, with its own colours but not with the program's."""
    ours, theirs = pty.openpty()
    try:
        environment = os.environ | {"COLUMNS": "200", "TERM": "xterm"}
        done = subprocess.Popen([LIVECR, "show", sound], stdout=theirs, env=environment)
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # EIO: the other side is closed
                break
        assert done.wait() == 0
    finally:
        os.close(ours)
    assert EVIL.encode() not in shown
    for heading in (b"threads", b"memory", b"descriptors", b"signals", b"/dev/null"):
        assert heading in shown


HAS_A_MEMFD = """
import os, time
os.memfd_create("\\x1b[31mred")
print("ready", flush=True)
time.sleep(600)
"""


def test_check_lets_no_control_character_out(target: Callable[..., Target], livecr: Any) -> None:
    """The same for the names of a running program, here of something that it shares with this one."""
    one = target([sys.executable, "-c", HAS_A_MEMFD])
    one.until_printed("ready")
    links = Path(f"/proc/{one.pid}/fd").iterdir()
    ours = os.open(next(link for link in links if "red" in os.readlink(link)), os.O_RDONLY)
    try:
        done = livecr("check", one.pid, exit_code=3)
    finally:
        os.close(ours)
    assert "\x1b" not in done.stderr
    assert "\\x1b[31mred" in done.stderr
    livecr("check", one.pid)


# -- waits and doctor --------------------------------------------------------------------------------------


def test_waits_tells_the_time_left_and_stops_nothing(
    counter: Callable[..., Target], target: Callable[..., Target], livecr: Any
) -> None:
    """Two looks at one sleep agree on when it ends; a program that checks its sleeps notices neither."""
    sleeper = target(["sleep", "500"])
    sleeper.until_blocked()
    looks = [json.loads(livecr("waits", sleeper.pid, "--json").stdout)["tasks"] for _ in range(2)]
    (first,), (second,) = looks
    assert (first["tid"], first["name"], first["call"]) == (sleeper.pid, "sleep", "clock_nanosleep")
    assert first["clock"] == "CLOCK_MONOTONIC"
    doubt = first["uncertainty_ns"] + second["uncertainty_ns"]
    assert abs(first["deadline_ns"] - second["deadline_ns"]) <= doubt
    assert 0 < second["remaining_ns"] - doubt < first["remaining_ns"] <= 500_000_000_000 + doubt
    shown = livecr("waits", sleeper.pid).stdout
    assert "clock_nanosleep" in shown and first["source"] in shown

    one = counter("nothing")
    for _ in range(3):
        livecr("waits", one.pid)
    runs_on_unharmed(one)


def test_doctor_finds_what_this_machine_has(livecr: Any) -> None:
    """livecr's own tests run here, so everything essential is there; and each row says what it is about."""
    told = json.loads(livecr("doctor", "--json").stdout)
    assert told["essential_missing"] == []
    assert [row["name"] for row in told["features"] if row["essential"] and not row["available"]] == []
    shown = livecr("doctor").stdout
    for row in told["features"]:
        assert row["name"] in shown
        assert row["detail"]


def test_doctor_says_what_is_switched_off(livecr: Any) -> None:
    """LIVECR_WITHOUT is easily forgotten in an environment."""
    told = json.loads(livecr("doctor", "--json", LIVECR_WITHOUT="bpf").stdout)
    (bpf,) = [row for row in told["features"] if row["name"] == "BPF task iterator"]
    assert (bpf["available"], told["switched_off"]) == (False, ["bpf"])
    assert "LIVECR_WITHOUT: bpf" in livecr("doctor", LIVECR_WITHOUT="bpf").stdout


def test_doctor_without_the_right_to_trace_is_3() -> None:
    """It says which essential thing is missing."""

    def drop() -> None:
        assert lib.lcr_syscall(NR_PRCTL, PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0, 0) == 0

    done = subprocess.run([LIVECR, "doctor"], capture_output=True, text=True, preexec_fn=drop)
    assert done.returncode == 3
    assert "right to trace" in done.stderr
    assert "MISSING" in done.stdout
