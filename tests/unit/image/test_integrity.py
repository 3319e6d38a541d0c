"""An image appears whole or not at all; a damaged one is never used, and none leads outside its directory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from livecr.errors import BadImage, Failed, Refused
from livecr.image import elfcore, integrity, manifest
from livecr.image.elfcore import Core, Layout, Mapping, Process, Thread
from livecr.image.integrity import CHUNK_BYTES
from livecr.image.manifest import FileRecord
from livecr.image.record import Record


class Content(Record):
    pid: int
    words: list[str]


CONTENT = Content(pid=os.getpid(), words=["one", "two"])


def own_layout() -> Layout:
    """A core of this very process: of its memory only the page that libc's environ begins in."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        line = next(line for line in maps if line.rstrip().endswith("[stack]"))
    start, end = (int(address, 16) for address in line.split()[0].split("-"))
    threads = [Thread(os.getpid(), bytes(216), bytes(832))]
    return elfcore.layout(
        Process(os.getpid(), auxv=bytes(16)), threads, [Mapping(start, end, 3)], [(end - 4096, end)]
    )


def make(path: Path, deleted_file: bytes = b"what was in a deleted file") -> None:
    with integrity.new_image(str(path)) as image, tempfile.TemporaryFile() as source:
        source.write(deleted_file)
        source.flush()
        image.store_core(os.getpid(), own_layout(), workers=1)
        image.store_file(source.fileno())
        image.commit(CONTENT)


def read(path: Path) -> tuple[object, ...]:
    """All that restore takes from an image."""
    told = manifest.read(str(path), Content)
    integrity.verify(str(path), told.files)
    found: list[object] = [told.content]
    for record in told.files:
        fd = integrity.open_file(str(path), record.name)
        if record.name.endswith(".core"):
            with Core(fd, record.name) as core:
                found.append([(t.tid, t.registers, t.xstate) for t in core.threads])
                found += [os.pread(core.fd, run.end - run.start, run.offset) for run in core.runs]
        else:
            with open(fd, "rb") as file:
                found.append(file.read())
    return tuple(found)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "sound.livecr"
    make(path)
    return path


def test_an_image_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "image"
    make(path)
    content, threads, _, deleted_file = read(path)
    assert content == CONTENT
    assert threads == [(os.getpid(), bytes(216), bytes(832))]
    assert deleted_file == b"what was in a deleted file"
    assert os.listdir(tmp_path) == ["image"]


def test_nobody_else_may_look_into_an_image(sound: Path) -> None:
    for path in (sound, *sound.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("when", ["before anything", "before commit"])
def test_a_failure_leaves_nothing_behind(when: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), integrity.new_image(str(tmp_path / "image")) as image:
        if when == "before commit":
            image.store_core(os.getpid(), own_layout(), workers=2)
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_an_image_never_replaces_anything(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"precious")
    with pytest.raises(Refused, match="already"):
        integrity.new_image(str(path))
    assert path.read_bytes() == b"precious"
    with pytest.raises(Refused, match="cannot be made"):
        integrity.new_image(str(path / "below" / "a-file"))


def test_an_image_never_replaces_what_came_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with pytest.raises(Refused, match="already"), integrity.new_image(str(path)) as image:
        path.mkdir()
        image.commit(CONTENT)
    assert os.listdir(tmp_path) == ["image"]
    assert os.listdir(path) == []


def test_what_a_killed_livecr_left_is_not_touched(tmp_path: Path) -> None:
    left = tmp_path / f".image.partial-{os.getpid()}-0"
    left.mkdir()
    (left / "1.core").touch()
    make(tmp_path / "image")
    assert read(tmp_path / "image")[0] == CONTENT
    assert os.listdir(left) == ["1.core"]


TOO_LARGE = """
import os, resource, sys
from livecr.errors import Failed
from livecr.image import integrity
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
source = os.open(sys.argv[2], os.O_RDONLY)
try:
    with integrity.new_image(sys.argv[1]) as image:
        image.store_file(source)
except Failed as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_told_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(200_000))
    path = tmp_path / "image"
    command: list[str | Path] = [sys.executable, "-c", TOO_LARGE, path, tmp_path / "source"]
    env = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}/files/0: writing the image: the file would be larger")
    assert "-o" in done.stdout
    assert os.listdir(tmp_path) == ["source"]


def test_holes_of_a_stored_file_stay_holes(tmp_path: Path) -> None:
    content = random.randbytes(5000)
    path = tmp_path / "image"
    with tempfile.TemporaryFile(dir=tmp_path) as source, integrity.new_image(str(path)) as image:
        source.truncate(CHUNK_BYTES + 10_000_000)
        os.pwrite(source.fileno(), content, CHUNK_BYTES - 1000)
        record = image.store_file(source.fileno())
        image.commit(CONTENT)
    stored = path / record.name
    assert stored.stat().st_size == CHUNK_BYTES + 10_000_000
    assert stored.stat().st_blocks * 512 < 1_000_000
    with stored.open("rb") as file:
        file.seek(CHUNK_BYTES - 1000)
        assert file.read(5001) == content + b"\0"
    integrity.verify(str(path), [record])


def test_damage_is_named_with_file_and_place(tmp_path: Path) -> None:
    path = tmp_path / "image"
    make(path, bytes(2 * CHUNK_BYTES + 77))
    files = manifest.read(str(path), Content).files
    stored = path / "files" / "0"
    with stored.open("r+b") as file:
        file.seek(CHUNK_BYTES + 5)
        file.write(b"x")
    with pytest.raises(BadImage, match=rf"files/0: .* bytes {CHUNK_BYTES} to {2 * CHUNK_BYTES}$"):
        integrity.verify(str(path), files)
    stored.write_bytes(bytes(2 * CHUNK_BYTES + 76))
    with pytest.raises(BadImage, match=f"{2 * CHUNK_BYTES + 76} bytes instead of {2 * CHUNK_BYTES + 77}"):
        integrity.verify(str(path), files)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damage_to_any_file_goes_unseen(sound: Path, data: st.DataObject) -> None:
    expected = read(sound)
    names = [str(path.relative_to(sound)) for path in sorted(sound.rglob("*")) if path.is_file()]
    assert len(names) == 3
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image"
        shutil.copytree(sound, path)
        name = data.draw(st.sampled_from(names))
        content = (path / name).read_bytes()
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "zeros"]))
        if kind == "flip":
            changed = (
                content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))]) + content[at + 1 :]
            )
        elif kind == "cut":
            changed = content[:at]
        elif kind == "insert":
            changed = content[:at] + data.draw(st.binary(min_size=1, max_size=100)) + content[at:]
        else:
            changed = content[:at] + bytes(len(content) - at)
        (path / name).write_bytes(changed)
        if changed == content:
            assert read(path) == expected
        else:
            with pytest.raises(BadImage):
                read(path)


def record_of(content: bytes, name: str) -> FileRecord:
    import xxhash

    return FileRecord(
        name=name, size_bytes=len(content), chunk_bytes=CHUNK_BYTES, xxh3=[xxhash.xxh3_64_hexdigest(content)]
    )


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "/etc/passwd", "files/../../secret", "files/./0", "files//0", "files/", "", "."),
        *("1.core/../../secret", "x.core", ".core", "-1.core", "²1.core", "1.core\0", "files/0\n", "FILES/0"),
    ],
)
def test_no_name_leads_outside_the_image(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "image" / "files").mkdir(parents=True)
    (tmp_path / "image" / "files" / "0").write_bytes(b"secret")
    with pytest.raises(BadImage, match="no name in an image"):
        integrity.verify(str(tmp_path / "image"), [record_of(b"secret", name)])


def test_no_link_or_device_is_taken_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0").write_bytes(b"secret")
    path = tmp_path / "image"
    path.mkdir()
    (path / "1.core").symlink_to("../secret")
    (path / "files").symlink_to("../elsewhere")
    (path / "3.core").mkdir()
    os.mkfifo(path / "2.core")
    for name in ("1.core", "2.core", "3.core", "4.core", "files/0"):
        with pytest.raises(BadImage):
            integrity.verify(str(path), [record_of(b"secret", name)])


def test_a_file_named_twice_or_with_other_chunks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.core").write_bytes(b"secret")
    good = record_of(b"secret", "1.core")
    integrity.verify(str(tmp_path), [good])
    for bad in (
        FileRecord(name="1.core", size_bytes=6, chunk_bytes=0, xxh3=good.xxh3),
        FileRecord(name="1.core", size_bytes=6, chunk_bytes=CHUNK_BYTES, xxh3=[]),
        FileRecord(name="1.core", size_bytes=6, chunk_bytes=CHUNK_BYTES, xxh3=[good.xxh3[0].upper()]),
    ):
        with pytest.raises(BadImage):
            integrity.verify(str(tmp_path), [bad])
    with pytest.raises(BadImage, match="twice"):
        integrity.verify(str(tmp_path), [good, good])


def test_a_core_of_memory_that_is_not_there_fails_with_the_address(tmp_path: Path) -> None:
    gone = Mapping(0x10000, 0x11000, 3)
    layout = elfcore.layout(
        Process(os.getpid(), auxv=bytes(16)),
        [Thread(os.getpid(), bytes(216), bytes(832))],
        [gone],
        [(0x10000, 0x11000)],
    )
    with pytest.raises(Failed, match="0x10000"), integrity.new_image(str(tmp_path / "image")) as image:
        image.store_core(os.getpid(), layout, workers=1)
    assert os.listdir(tmp_path) == []
