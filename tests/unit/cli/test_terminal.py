"""What reaches a terminal: nothing that it obeys, columns that line up, times and sizes in words."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livecr.cli.terminal import Table, clean, duration, print_json, print_tables, size


@given(st.text(st.characters()))
def test_clean_text_is_printable(text: str) -> None:
    """Whatever the name was: control characters, surrogates, marks that turn the direction of writing."""
    assert all(letter.isprintable() or letter == "\n" for letter in clean(text))
    clean(text).encode()


@given(st.text(st.characters()).filter(str.isprintable))
def test_printable_text_stays(text: str) -> None:
    """Names in any script are shown as they are."""
    assert clean(text) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b", "\\x9b"),
        ("\u202e", "\\u202e"),
        ("\udcff", "\\udcff"),
        ("\t", "\\t"),
    ],
)
def test_what_a_terminal_obeys_is_spelt_out(raw: str, shown: str) -> None:
    """ESC, the one-byte CSI, right-to-left override, a byte that is no UTF-8."""
    assert clean(raw) == shown


def test_columns_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers flush right; a line end in a cell does not make another row; a blank line between tables."""
    numbers = Table("numbers", (">fd", "what"), [(0, "a"), (251, "b\nc"), (7, None)])
    print_tables([numbers, Table("", (), [("name", "x"), ("longer name", "y")])])
    assert capsys.readouterr().out.splitlines() == [
        *("numbers", "   fd  what", "    0  a", "  251  b\\nc", "    7"),
        "",
        *("  name         x", "  longer name  y"),
    ]


def test_rich_is_not_loaded_for_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer to import than all the rest of a command."""
    monkeypatch.setitem(sys.modules, "rich.table", None)
    print_tables([Table("", (), [("a", "b")])])
    assert capsys.readouterr().out == "  a  b\n"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """A program's name reaches no terminal this way either."""
    print_json({"name": "\x1b[31m\udcff"})
    assert capsys.readouterr().out == '{\n  "name": "\\u001b[31m\\udcff"\n}\n'


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (None, ""),
        (0, "0.000000000 s"),
        (1, "0.000000001 s"),
        (61_500_000_000, "61.500000000 s"),
        (-1, "-0.000000001 s"),
    ],
)
def test_durations(ns: int | None, shown: str) -> None:
    """No nanosecond is rounded away."""
    assert duration(ns) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 KiB"), (4096, "4 KiB"), (8 << 20, "8.0 MiB"), (3 << 29, "1.5 GiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes(number: int, shown: str) -> None:
    """In the largest unit that leaves something before the point."""
    assert size(number) == shown
