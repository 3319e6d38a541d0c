"""Arguments of one command, taken apart by hand.

argparse and getopt both import gettext and re, which takes half as long as Python's own start; and
`checkpoint` has no time to lose. Every command describes itself by its usage text and the options it takes.
"""

from __future__ import annotations

from livecr.errors import UsageError

__all__ = ["Arguments", "choice", "parse", "pid"]


class Arguments:
    """``operand`` and the ``options`` given: a long name to its value, "" for one without."""

    def __init__(self, operand: str, options: dict[str, str]) -> None:
        self.operand = operand
        self.options = options

    def __contains__(self, option: str) -> bool:
        return option in self.options


def parse(
    words: list[str], usage: str, *, operand: str = "", short: str = "", options: tuple[str, ...] = ()
) -> Arguments | None:
    """Take ``words`` apart; None when help was asked for and has been printed.

    ``operand``: the name of the one operand, "" for none. ``options``: long names, ``name=`` where a value
    follows; ``short``: letters that stand for the long name that begins with them. Raises UsageError.
    """
    takes_value = {name.rstrip("="): name.endswith("=") for name in options}
    letters = {letter: next(name for name in takes_value if name.startswith(letter)) for letter in short}
    given: dict[str, str] = {}
    operands: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            print(usage)
            return None
        if word == "--":
            operands += rest
            break
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        name, value = _option(word, letters)
        if name not in takes_value:
            raise _wrong(f"there is no option {word}", usage)
        if takes_value[name] and value is None:
            if not rest:
                raise _wrong(f"{word} needs a value", usage)
            value = rest.pop(0)
        elif not takes_value[name] and value is not None:
            raise _wrong(f"--{name} takes no value", usage)
        given[name] = value or ""
    if len(operands) != (1 if operand else 0):
        wanted = f"one {operand}" if operand else "no operand"
        raise _wrong(f"{wanted} is expected, not {' '.join(operands) or 'none'}", usage)
    return Arguments(operands[0] if operand else "", given)


def _option(word: str, letters: dict[str, str]) -> tuple[str, str | None]:
    """The long name, and the value that is part of the word: --name=value, -nvalue."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        return name, value if equals else None
    return letters.get(word[1], word), word[2:] or None


def _wrong(what: str, usage: str) -> UsageError:
    return UsageError(what, way_out=usage.partition("\n")[0])


def choice(given: Arguments, option: str, possible: tuple[str, ...]) -> str:
    """The value of an option, the first that is possible if it was not given. Raises UsageError."""
    value = given.options.get(option, possible[0])
    if value not in possible:
        raise UsageError(f"--{option} {value}: no such choice", way_out=f"it is {' or '.join(possible)}")
    return value


def pid(text: str) -> int:
    """A PID from the command line. Raises UsageError."""
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not 0 < int(text) < 1 << 31:
        raise UsageError(
            f"{text!r} is not a PID", way_out="name a process by its number, as `ps` and `pgrep` tell it"
        )
    return int(text)
