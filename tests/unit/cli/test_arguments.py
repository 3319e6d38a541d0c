"""Arguments of a command: what is taken, and what is answered with a complaint that shows the usage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livecr.cli import arguments
from livecr.errors import UsageError

USAGE = "usage: livecr try PID [-o FILE] [--fast]\n\nmore"
OPTIONS = {"operand": "PID", "short": "o", "options": ("output=", "fast")}


def parse(*words: str) -> tuple[str, dict[str, str]]:
    """Operand and options."""
    found = arguments.parse(list(words), USAGE, **OPTIONS)  # type: ignore[arg-type]
    assert found is not None
    return found.operand, found.options


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["7"], {}),
        (["7", "--fast"], {"fast": ""}),
        (["--fast", "7"], {"fast": ""}),
        (["-o", "x", "7"], {"output": "x"}),
        (["-ox", "7"], {"output": "x"}),
        (["7", "--output", "x", "--fast"], {"output": "x", "fast": ""}),
        (["7", "--output=a=b"], {"output": "a=b"}),
        (["7", "-o", "--fast"], {"output": "--fast"}),
        (["--fast", "--", "7"], {"fast": ""}),
    ],
)
def test_options_stand_anywhere(words: list[str], options: dict[str, str]) -> None:
    """Before and after the operand, with the value beside or behind them."""
    assert parse(*words) == ("7", options)


def test_two_dashes_end_the_options() -> None:
    """So that a name may begin with a dash."""
    assert parse("--", "--fast") == ("--fast", {})


@pytest.mark.parametrize(
    "words",
    [[], ["7", "8"], ["7", "--slow"], ["7", "-x"], ["7", "-o"], ["7", "--fast=1"], ["7", "--out", "x"]],
)
def test_what_makes_no_sense_shows_the_usage(words: list[str]) -> None:
    """The way out is the first line of the usage text."""
    with pytest.raises(UsageError) as error:
        parse(*words)
    assert error.value.way_out == USAGE.splitlines()[0]


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["7", "--help"], ["--slow-less", "--help"][1:]])
def test_help_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else is done."""
    assert arguments.parse(words, USAGE, **OPTIONS) is None  # type: ignore[arg-type]
    assert capsys.readouterr().out == USAGE + "\n"


@given(st.integers(1, (1 << 31) - 1))
def test_every_pid_is_one(number: int) -> None:
    """Up to what pid_t holds."""
    assert arguments.pid(str(number)) == number


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", "1.0", "0x1", "self", " 1", "٣", "²", "2147483648", "9" * 9999]
)
def test_what_is_no_pid(text: str) -> None:
    """Digits of other scripts too, which int() would take."""
    with pytest.raises(UsageError):
        arguments.pid(text)
