"""What people read: text that is safe to print, tables, sizes and times in words.

Names come from other programs and from images, and a terminal obeys the control characters in them: all text
passes through ``clean``. Used by the commands that print tables; rich is imported only for a terminal.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Table", "clean", "duration", "print_json", "print_tables", "size"]

_NS = 1_000_000_000


def clean(text: object) -> str:
    """``text`` with everything that is not printable written as an escape sequence of Python's.

    Line ends stay: whoever prints a name on a line of its own cleans it by itself, see ``Table``.
    """
    return "".join(
        letter if letter == "\n" or letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


class Table:
    """A title, and rows of cells below their headings. A heading that begins with ">" is of a column of
    numbers, flush right; without headings the rows are names and values."""

    __slots__ = ("headings", "rows", "title")

    def __init__(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.title = clean(title).replace("\n", "\\n")
        self.headings = headings
        self.rows = [
            ["" if cell is None else clean(cell).replace("\n", "\\n") for cell in row] for row in rows
        ]


def print_tables(tables: Sequence[Table]) -> None:
    """To a terminal as it is wide, else aligned by spaces and never cut, for grep and awk."""
    if sys.stdout.isatty():
        _print_rich(tables)
        return
    print("\n\n".join(_plain(table) for table in tables))


def _plain(table: Table) -> str:
    rows = (
        [[heading.lstrip(">") for heading in table.headings], *table.rows] if table.headings else table.rows
    )
    flush_right = [heading.startswith(">") for heading in table.headings] or [False] * 2
    widths = [max(len(row[i]) for row in rows) for i in range(len(flush_right))] if rows else []
    lines = [table.title] if table.title else []
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, flush_right, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _print_rich(tables: Sequence[Table]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    for table in tables:
        shown = RichTable(
            title=Text(table.title, style="bold"),
            title_justify="left",
            box=SIMPLE_HEAD,
            show_header=bool(table.headings),
        )
        for heading in table.headings or ("", ""):
            right = heading.startswith(">")
            shown.add_column(
                Text(heading.lstrip(">")),
                justify="right" if right else "left",
                overflow="fold",
                no_wrap=right,
            )
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))  # Text: a name in brackets is no markup
        console.print(shown)


def print_json(value: object) -> None:
    """For programs: one JSON value, ASCII only."""
    import json

    print(json.dumps(value, indent=2))


def size(number_bytes: int) -> str:
    """In KiB, MiB, GiB or TiB with one decimal."""
    number = number_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.{0 if unit == 'KiB' else 1}f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def duration(ns: int | None) -> str:
    """In seconds, to the nanosecond; empty for None."""
    if ns is None:
        return ""
    return f"{'-' if ns < 0 else ''}{abs(ns) // _NS}.{abs(ns) % _NS:09d} s"
