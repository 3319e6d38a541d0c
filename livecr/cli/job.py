"""`livecr restore` in the foreground: what the parent of a program does until that ends.

It passes signals on, and stops when the program does, so that both are one job of a shell. For a program
that was at a terminal (its Seat) it does what a shell does for a job: gives it the terminal, and takes it
back when the program stops or ends. To a program that leads a session of its own it is the terminal instead:
it copies between its own and the pair that the program sits at. Called by cli/restore.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

from livecr._native import ffi, lib
from livecr.kernel import pty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kinds.tty_seat import Seat

__all__ = ["exit_code", "prepare", "stay"]

# What a terminal or a supervisor sends to stop or steer a program.
_PASSED_ON = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGTSTP,
}
_WAITED_FOR = _PASSED_ON | {signal.SIGCHLD}
_SI_KERNEL = 0x80
_NR_SIGNALFD4, _NEW = 289, (1 << 64) - 1
_PIECE_BYTES = 1 << 16


def prepare() -> None:
    """Before there is a program: a signal in the moment that it starts to run must not end livecr alone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    # If whoever started us ignores it, waitpid would tell nothing.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def stay(pid: int, seat: Seat | None) -> int:
    """Be the parent until the program ends; its exit status as a shell gives it."""
    if seat is None:
        return _stay(pid, None)
    try:
        if seat.relay < 0:
            _tell_of_window(seat)
            return _stay(pid, seat)
        return _Relay(pid, seat).run()
    finally:
        seat.leave()


def _stay(pid: int, seat: Seat | None) -> int:
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if ended and not os.WIFSTOPPED(status):
            return exit_code(status)
        if ended and seat:
            _stop_too(seat)
        elif ended and os.WSTOPSIG(status) != signal.SIGSTOP:  # that is from who will continue it alone
            _stop()
            _continue_too(pid)
        info = signal.sigwaitinfo(_WAITED_FOR)
        if seat and info.si_signo == signal.SIGCONT and info.si_code == _SI_KERNEL:
            continue
        _pass_on(info, pid)


def exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _pass_on(info: signal.struct_siginfo, pid: int) -> None:
    """What the terminal sends is for a whole group, and has reached the program already if it is in livecr's.
    To a program in another session the terminal is nothing."""
    number, group = info.si_signo, os.getpgid(pid)
    by_terminal = info.si_code == _SI_KERNEL
    if number == signal.SIGCHLD:
        return
    if os.getsid(pid) != os.getsid(0):
        if number == signal.SIGTSTP:
            _stop()
        else:
            os.kill(pid, number)
    elif not by_terminal:
        os.kill(pid, number)
    elif group != os.getpgrp():
        os.killpg(group, number)


def _stop() -> None:
    """As by ^Z, until a shell continues livecr; where none could, the kernel does not stop it."""
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


def _continue_too(pid: int) -> None:
    """If livecr has been stopped and continued, the program's group is too, where that is not the same."""
    if signal.sigtimedwait({signal.SIGCONT}, 0) is None:
        return
    if os.getpgid(pid) != os.getpgrp():
        os.killpg(os.getpgid(pid), signal.SIGCONT)


def _stop_too(seat: Seat) -> None:
    """The program has stopped: so does its job, until the shell continues it.

    Where there is no shell that could, the kernel ignores this signal, and the program goes on at once.
    """
    seat.leave()
    _stop()
    seat.enter()
    if seat.foreground:
        os.killpg(seat.foreground, signal.SIGCONT)


def _tell_of_window(seat: Seat) -> None:
    """The terminal is another one, and shows nothing of the program yet: it may draw all anew."""
    if seat.foreground:
        with suppress(ProcessLookupError):
            os.killpg(seat.foreground, signal.SIGWINCH)


class _Relay:
    """Copies between livecr's terminal and the master of the pair that the program sits at."""

    def __init__(self, pid: int, seat: Seat) -> None:
        self._pid = pid
        self._seat = seat
        self._to_program, self._to_terminal = b"", b""
        os.set_blocking(seat.own, False)
        os.set_blocking(seat.relay, False)
        mask = ffi.new("uint64_t *", sum(1 << number - 1 for number in _WAITED_FOR))
        self._signals: int = lib.lcr_syscall(
            _NR_SIGNALFD4, _NEW, int(ffi.cast("uintptr_t", mask)), 8, os.O_CLOEXEC, 0, 0
        )
        if self._signals < 0:
            raise OSError(-self._signals, os.strerror(-self._signals))

    def run(self) -> int:
        """Until the program ends."""
        self._copy_window()
        _tell_of_window(self._seat)
        try:
            while True:
                ended, status = os.waitpid(self._pid, os.WNOHANG)
                if ended:
                    self._finish()
                    return exit_code(status)
                self._wait()
        finally:
            os.close(self._signals)

    def _wait(self) -> None:
        own, relay = self._seat.own, self._seat.relay
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if relay >= 0:
            for fd, outgoing, incoming in (
                (own, self._to_terminal, self._to_program),
                (relay, self._to_program, self._to_terminal),
            ):
                wanted = (select.POLLOUT if outgoing else 0) | (0 if incoming else select.POLLIN)
                if wanted:
                    poll.register(fd, wanted)
        ready = dict(poll.poll())
        if self._signals in ready:
            self._take_signal()
        if own in ready:
            self._serve_terminal(ready[own])
        if relay in ready:
            self._serve_program(ready[relay])

    def _take_signal(self) -> None:
        info = signal.sigtimedwait(_WAITED_FOR, 0)
        if info is None or info.si_signo == signal.SIGCHLD:
            return
        if info.si_signo == signal.SIGTSTP:
            _stop()
            return
        if info.si_signo == signal.SIGWINCH:
            self._copy_window()
        else:
            os.kill(self._pid, info.si_signo)

    def _copy_window(self) -> None:
        """The kernel tells the program of a change."""
        if self._seat.relay >= 0:
            window = pty.ask(self._seat.own, pty.TIOCGWINSZ, pty.WINSIZE_BYTES)
            pty.tell(self._seat.relay, pty.TIOCSWINSZ, window)

    def _serve_terminal(self, events: int) -> None:
        try:
            if self._to_terminal:
                self._to_terminal = self._to_terminal[os.write(self._seat.own, self._to_terminal) :]
            if events & ~select.POLLOUT and not self._to_program:
                self._to_program = os.read(self._seat.own, _PIECE_BYTES)
                if not self._to_program:
                    self._hang_up()
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()

    def _serve_program(self, events: int) -> None:
        if self._seat.relay < 0:
            return
        try:
            if self._to_program:
                self._to_program = self._to_program[os.write(self._seat.relay, self._to_program) :]
            if events & ~select.POLLOUT and not self._to_terminal:
                self._to_terminal = os.read(self._seat.relay, _PIECE_BYTES)
        except BlockingIOError:
            pass
        except OSError:  # EIO: nobody has the terminal open any more
            self._hang_up()

    def _hang_up(self) -> None:
        """livecr's terminal is gone, and so is the program's; the kernel tells it by SIGHUP."""
        if self._seat.relay >= 0:
            os.close(self._seat.relay)
            self._seat.relay = -1

    def _finish(self) -> None:
        """What the program has printed last."""
        os.set_blocking(self._seat.own, True)
        with suppress(OSError):  # EIO or EAGAIN: that was all
            while self._seat.relay >= 0:
                if not self._to_terminal:
                    self._to_terminal = os.read(self._seat.relay, _PIECE_BYTES)
                self._to_terminal = self._to_terminal[os.write(self._seat.own, self._to_terminal) :]
