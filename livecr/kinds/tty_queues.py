"""What waits in a pseudoterminal, put back: what was typed and not read, and what was printed and not read.

TIOCSTI gives a character to a line discipline at once and in order (drivers/tty/tty_io.c, tiocsti; needs
CAP_SYS_ADMIN); with settings that change nothing on the way (drivers/tty/n_tty.c) all is as it was read
from there. Called by ttys_made.
"""

from __future__ import annotations

import fcntl
import os

from livecr.errors import Failed
from livecr.kernel import pty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kinds.ttys import Pair, Terminal

__all__ = ["load", "plain"]

TCOOFF, TCXONC = 0, 0x540A
#: Offsets in struct termios2, and bits of it (asm-generic/termbits.h).
_C_CFLAG, _C_LFLAG, _C_LINE, _C_CC = 8, 12, 16, 17
_NCCS = 19
_VEOF, _VMIN, _VSTOP, _VEOL, _VLNEXT = 4, 6, 9, 11, 15
_ICANON, _IEXTEN, _EXTPROC = 0o2, 0o100000, 0o200000
_DISABLED = 0  # _POSIX_VDISABLE, and how a read end-of-file character is kept (n_tty.c, __DISABLED_CHAR)
_CONTROL_D = 4
_HELD_BY_LDISC = pty.BUFFER_BYTES - 1


def load(master: int, slave: int, terminal: Terminal, pair: Pair) -> None:
    """Put back what was typed and what was printed. ``slave``: -1 if it was never open."""
    verbatim = plain(terminal.termios)
    if slave < 0:
        pty.tell(master, pty.TCSETS2, terminal.termios)
        return
    pty.tell(slave, pty.TCSETS2, verbatim)
    _type(master, pair.output[:_HELD_BY_LDISC])
    _write(slave, pair.output[_HELD_BY_LDISC:])
    for piece in pair.input:
        _type_piece(slave, verbatim, piece.data, piece.ends)
    if pair.literal_next:
        pty.tell(slave, pty.TCSETS2, _with(verbatim, _VLNEXT, 1, extended=True))
        _type(slave, b"\1")
    pty.tell(slave, pty.TCSETS2, terminal.termios)
    pty.tell(slave, pty.TIOCSLCKTRMIOS, terminal.locked)
    _write(master, pair.unseen)
    if pair.stopped == "flow":
        fcntl.ioctl(slave, TCXONC, TCOOFF)
    elif pair.stopped == "character":
        _type(slave, terminal.termios[_C_CC + _VSTOP : _C_CC + _VSTOP + 1])


def _type_piece(slave: int, verbatim: bytes, data: bytes, ends: bool) -> None:
    """One line, or what there is of it. In lines, any character can end one that is made to."""
    is_canonical = int.from_bytes(verbatim[_C_LFLAG : _C_LFLAG + 4], "little") & _ICANON
    if not ends or not is_canonical:
        _type(slave, data)
        return
    _type(slave, data[:-1])
    last = data[-1]
    if last == _DISABLED:
        pty.tell(slave, pty.TCSETS2, _with(verbatim, _VEOF, _CONTROL_D))
        last = _CONTROL_D
    elif last != ord("\n"):
        pty.tell(slave, pty.TCSETS2, _with(verbatim, _VEOL, last))
    _type(slave, bytes([last]))
    pty.tell(slave, pty.TCSETS2, verbatim)


def plain(termios: bytes, *, canonical: bool = True) -> bytes:
    """The same, in lines or not, but nothing is processed or echoed, and no character is special."""
    mode = int.from_bytes(termios[_C_LFLAG : _C_LFLAG + 4], "little") & (_ICANON | _EXTPROC)
    flags = bytes(_C_CFLAG) + termios[_C_CFLAG:_C_LFLAG] + (mode if canonical else 0).to_bytes(4, "little")
    characters = bytearray([_DISABLED] * _NCCS)
    characters[_VMIN] = 1
    return flags + termios[_C_LINE : _C_LINE + 1] + characters + termios[_C_CC + _NCCS :]


def _with(termios: bytes, which: int, character: int, *, extended: bool = False) -> bytes:
    mode = int.from_bytes(termios[_C_LFLAG : _C_LFLAG + 4], "little") | (_IEXTEN if extended else 0)
    special = bytearray(termios)
    special[_C_LFLAG : _C_LFLAG + 4] = mode.to_bytes(4, "little")
    special[_C_CC + which] = character
    return bytes(special)


def _type(fd: int, data: bytes) -> None:
    for byte in data:
        fcntl.ioctl(fd, pty.TIOCSTI, bytes([byte]))


def _write(fd: int, data: bytes) -> None:
    """All of it, without waiting for a reader."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BlockingIOError:
        raise Failed(f"{len(data)} bytes are too many for it", where="terminal") from None
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
