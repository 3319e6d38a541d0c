"""The manifest: comes back as it was, readable by people and jq, and not a byte of it can change unseen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from livecr._native import lib
from livecr.errors import BadImage, Failed
from livecr.image import manifest
from livecr.image.manifest import FileRecord
from livecr.image.record import Record


class Pipe(Record, tag="pipe"):
    size_bytes: int
    content: bytes = b""


class Null(Record, tag="null"):
    pass


class Content(Record):
    pid: int
    name: str
    masks: list[int]
    open_files: dict[str, Pipe | Null]
    deadline_ns: int | None = None
    exact: bool = True


FILES = [FileRecord(name="7.core", size_bytes=5, chunk_bytes=16 << 20, xxh3=["00" * 8])]
SAMPLE = Content(
    pid=7,
    name='quote " backslash \\ tab \t é \x00',
    masks=[1, 2**64 - 1],
    open_files={"3": Pipe(size_bytes=65536, content=b"\x00\xff"), "4": Null()},
)

contents = st.builds(
    Content,
    pid=st.integers(0, 2**63 - 1),
    name=st.text(),
    masks=st.lists(st.integers(-(2**63), 2**64 - 1)),
    open_files=st.dictionaries(
        st.text(), st.builds(Pipe, size_bytes=st.integers(0, 100), content=st.binary()) | st.builds(Null)
    ),
    deadline_ns=st.none() | st.integers(0, 2**63 - 1),
    exact=st.booleans(),
)


def put(directory: str, text: bytes) -> str:
    Path(directory, manifest.NAME).write_bytes(text)
    return directory


def seal(text: bytes) -> bytes:
    """As somebody would who changes a manifest on purpose."""
    return text + b',\n  "xxh3": "%016x"\n}\n' % lib.lcr_xxh3(text, len(text))


@given(contents)
def test_a_manifest_comes_back_as_it_was(content: Content) -> None:
    text = manifest.encode(content, FILES)
    with tempfile.TemporaryDirectory() as directory:
        read = manifest.read(put(directory, text), Content)
    assert read.content == content
    assert read.files == FILES
    assert read.kernel == os.uname().release


def test_any_json_reader_reads_it() -> None:
    told = json.loads(manifest.encode(SAMPLE, FILES))
    assert told["format"] == "livecr"
    assert told["content"]["name"] == SAMPLE.name
    assert told["content"]["masks"] == SAMPLE.masks
    assert told["content"]["open_files"]["4"] == {"type": "null"}


def test_another_takes_its_place_as_a_whole(tmp_path: Path) -> None:
    """And one that cannot be written leaves the first as it is."""
    other = Content(pid=8, name="other", masks=[], open_files={})
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        manifest.write(directory, SAMPLE, FILES)
        os.mkdir(tmp_path / "manifest.json.new")
        with pytest.raises(IsADirectoryError):
            manifest.write(directory, other, FILES)
        assert manifest.read(str(tmp_path), Content).content == SAMPLE
        os.rmdir(tmp_path / "manifest.json.new")
        manifest.write(directory, other, FILES)
    finally:
        os.close(directory)
    assert manifest.read(str(tmp_path), Content).content == other
    assert os.listdir(tmp_path) == [manifest.NAME]


WRITING_ONLY = """
import sys
from livecr.image import record
record.write_only()
from livecr.image import manifest
class Content(record.Record):
    pid: int
    tags: list[int]
    note: str = "none"
text = manifest.encode(Content(pid=5, tags=[1, 2]), [])
assert not {"msgspec", "json", "re", "enum", "typing"} & set(sys.modules)
sys.stdout.buffer.write(text)
"""


def test_a_process_that_only_writes_makes_the_same_json_without_msgspec(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-c", WRITING_ONLY]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, check=True)

    class Plain(Record):
        pid: int
        tags: list[int]
        note: str

    read = manifest.read(put(str(tmp_path), done.stdout), Plain)
    assert read.content == Plain(pid=5, tags=[1, 2], note="none")


@settings(max_examples=300)
@given(data=st.data())
def test_every_change_of_a_byte_is_found(data: st.DataObject) -> None:
    text = manifest.encode(SAMPLE, FILES)
    at = data.draw(st.integers(0, len(text) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "delete"]))
    if kind == "flip":
        changed = text[:at] + bytes([text[at] ^ data.draw(st.integers(1, 255))]) + text[at + 1 :]
    elif kind == "cut":
        changed = text[:at]
    elif kind == "insert":
        changed = text[:at] + data.draw(st.binary(min_size=1, max_size=40)) + text[at:]
    else:
        changed = text[:at] + text[at + 1 + data.draw(st.integers(0, 40)) :]
    with tempfile.TemporaryDirectory() as directory, pytest.raises(BadImage) as caught:
        manifest.read(put(directory, changed), Content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"pid": 7', b'"pid": "7"'),
        (b'"pid": 7', b'"pid": 7, "more": 1'),
        (b'"pid": 7,', b""),
        (b'"type": "null"', b'"type": "nothing"'),
        (b'"format": "livecr"', b'"format": "criu"'),
        (b'"kernel"', b'"Kernel"'),
        (b'"name": "', b'"name": "\xff'),
        (b'"masks": [', b'"masks": ' + b"[" * 100_000),
    ],
)
def test_what_does_not_fit_its_type_is_one_clear_line(before: bytes, after: bytes, tmp_path: Path) -> None:
    sealed = manifest.encode(SAMPLE, FILES).rpartition(b',\n  "xxh3"')[0]
    assert before in sealed
    with pytest.raises(BadImage) as caught:
        manifest.read(put(str(tmp_path), seal(sealed.replace(before, after))), Content)
    assert "\n" not in str(caught.value)


def test_another_version_is_named_with_who_wrote_it(tmp_path: Path) -> None:
    sealed = manifest.encode(SAMPLE, FILES).rpartition(b',\n  "xxh3"')[0]
    sealed = sealed.replace(b'"version": 1', b'"version": 99').replace(b'"livecr": "', b'"livecr": "9')
    with pytest.raises(BadImage, match=r"version is 99 \(written by livecr 9"):
        manifest.read(put(str(tmp_path), seal(sealed)), Content)


def test_what_is_no_image_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="no image here"):
        manifest.read(str(tmp_path), Content)
    (tmp_path / manifest.NAME).mkdir()
    with pytest.raises(BadImage):
        manifest.read(str(tmp_path), Content)


def test_a_name_that_json_cannot_say_is_an_error_in_writing() -> None:
    odd = Content(pid=1, name=os.fsdecode(b"/tmp/\xff"), masks=[], open_files={})
    with pytest.raises(Failed, match="not UTF-8"):
        manifest.encode(odd, [])
