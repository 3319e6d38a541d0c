"""Every system call of i386 in which a 32-bit task can be blocked: the twin of catalog.py, of the same form.

Numbers: arch/x86/entry/syscalls/syscall_32.tbl. Timeouts come in two widths: struct old_timespec32 of the
first calls, and struct __kernel_timespec of those named …_time64 (include/uapi/linux/time_types.h).
socketcall and ipc stand for many calls, told by their first argument (net/compat.c, ipc/syscall.c). Used by
way of abi.of.
"""

from __future__ import annotations

from livecr.kernel import machine
from livecr.kernel.clock import MONOTONIC, REALTIME
from livecr.waits.abi import Abi
from livecr.waits.catalog import (
    ABS_IF_FLAG,
    ABSOLUTE,
    FUTEX_OP,
    GETEVENTS_ARG,
    LEFT,
    LEFT_BY_STRUCT,
    LEFT_HERE,
    LEFT_TIMEVAL,
    MILLISECONDS,
    NONE,
    RELATIVE,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    TIME32,
    TIME64,
    Call,
    key,
)
from livecr.waits.restart import (
    EINTR,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
)

__all__ = ["I386"]

NR_IPC, NR_SOCKETCALL = 117, 102

# As in catalog.py.
_SYS = (ERESTARTSYS,)
_NOINTR = (ERESTARTNOINTR,)
_NOHAND = (ERESTARTNOHAND,)
_BLOCK = (ERESTART_RESTARTBLOCK,)
_EINTR = (EINTR,)
_SLEEP = (ERESTART_RESTARTBLOCK, ERESTARTNOHAND)
_FUTEX = (ERESTART_RESTARTBLOCK, ERESTARTSYS, ERESTARTNOINTR)

_Codes = tuple[int, ...]


def _t32(
    number: int, name: str, codes: _Codes, encoding: str, arguments: str, clock: int = MONOTONIC
) -> Call:
    """A call with struct old_timespec32 or old_timeval32."""
    return Call(number, name, codes, encoding, arguments, clock=clock, timespec=TIME32)


def _t64(
    number: int, name: str, codes: _Codes, encoding: str, arguments: str, clock: int = MONOTONIC
) -> Call:
    """A call with struct __kernel_timespec."""
    return Call(number, name, codes, encoding, arguments, clock=clock, timespec=TIME64)


def _ipc(part: int, name: str, codes: _Codes, encoding: str, arguments: str) -> Call:
    return Call(NR_IPC, name, codes, encoding, arguments, timespec=TIME32, part=part)


def _sock(part: int, name: str, codes: _Codes, encoding: str, arguments: str, socket_option: int) -> Call:
    return Call(NR_SOCKETCALL, name, codes, encoding, arguments, socket_option, part=part)


_ROWS = (
    # number  name               codes    timeout       arguments                   option that makes it EINTR
    # -- sleeping: kernel/time/hrtimer.c, posix-timers.c
    _t32(162, "nanosleep",       _BLOCK,  RELATIVE,     "*rqtp rmtp"),
    _t32(267, "clock_nanosleep", _SLEEP,  ABS_IF_FLAG,  "@clockid flags *rqtp rmtp"),
    _t64(407, "clock_nanosleep_time64", _SLEEP, ABS_IF_FLAG, "@clockid flags *rqtp rmtp"),
    # -- futexes: kernel/futex/syscalls.c
    _t32(240, "futex",           _FUTEX,  FUTEX_OP,     "uaddr op val *utime uaddr2 val3"),
    _t64(422, "futex_time64",    _FUTEX,  FUTEX_OP,     "uaddr op val *utime uaddr2 val3"),
    _t64(449, "futex_waitv",     _SYS,    ABSOLUTE,     "waiters nr_futexes flags *timeout @clockid"),
    _t64(455, "futex_wait",      _SYS,    ABSOLUTE,     "uaddr val mask flags *timeout @clockid"),
    # -- waiting for descriptors: fs/select.c, fs/eventpoll.c
    Call(168, "poll",            _BLOCK,  MILLISECONDS, "ufds nfds *timeout"),
    _t32(309, "ppoll",           _NOHAND, LEFT,         "ufds nfds *tsp sigmask size"),
    _t64(414, "ppoll_time64",    _NOHAND, LEFT,         "ufds nfds *tsp sigmask size"),
    _t32(82,  "select",          _NOHAND, LEFT_BY_STRUCT, "*arg"),
    _t32(142, "_newselect",      _NOHAND, LEFT_TIMEVAL, "n inp outp exp *tvp"),
    _t32(308, "pselect6",        _NOHAND, LEFT,         "n inp outp exp *tsp sig"),
    _t64(413, "pselect6_time64", _NOHAND, LEFT,         "n inp outp exp *tsp sig"),
    Call(256, "epoll_wait",      _EINTR,  MILLISECONDS, "epfd events maxevents *timeout"),
    Call(319, "epoll_pwait",     _EINTR,  MILLISECONDS, "epfd events maxevents *timeout sigmask size"),
    _t64(441, "epoll_pwait2",    _EINTR,  RELATIVE,     "epfd events maxevents *timeout sigmask size"),
    # -- signals and children: kernel/signal.c, kernel/exit.c, kernel/fork.c
    Call(29,  "pause",           _NOHAND, NONE,         ""),
    Call(72,  "sigsuspend",      _NOHAND, NONE,         "unused1 unused2 mask"),
    Call(179, "rt_sigsuspend",   _NOHAND, NONE,         "set size"),
    _t32(177, "rt_sigtimedwait", _EINTR,  RELATIVE,     "set info *timeout size"),
    _t64(421, "rt_sigtimedwait_time64", _EINTR, RELATIVE, "set info *timeout size"),
    Call(7,   "waitpid",         _SYS,    NONE,         "upid stat_addr options"),
    Call(114, "wait4",           _SYS,    NONE,         "upid stat_addr options ru"),
    Call(284, "waitid",          _SYS,    NONE,         "which upid infop options ru"),
    Call(120, "clone",           _NOINTR, NONE,         "flags newsp parent_tid tls child_tid"),
    Call(2,   "fork",            _NOINTR, NONE,         ""),
    Call(190, "vfork",           _NOINTR, NONE,         ""),
    Call(435, "clone3",          _NOINTR, NONE,         "uargs size"),
    # -- reading and writing: fs/read_write.c, fs/pipe.c, net/socket.c, drivers/tty/n_tty.c
    Call(3,   "read",            _SYS,    NONE,         "fd buf count", SO_RCVTIMEO),
    Call(4,   "write",           _SYS,    NONE,         "fd buf count", SO_SNDTIMEO),
    Call(180, "pread64",         _SYS,    NONE,         "fd buf count pos_l pos_h"),
    Call(181, "pwrite64",        _SYS,    NONE,         "fd buf count pos_l pos_h"),
    Call(145, "readv",           _SYS,    NONE,         "fd vec vlen", SO_RCVTIMEO),
    Call(146, "writev",          _SYS,    NONE,         "fd vec vlen", SO_SNDTIMEO),
    Call(333, "preadv",          _SYS,    NONE,         "fd vec vlen pos_l pos_h"),
    Call(334, "pwritev",         _SYS,    NONE,         "fd vec vlen pos_l pos_h"),
    Call(378, "preadv2",         _SYS,    NONE,         "fd vec vlen pos_l pos_h flags", SO_RCVTIMEO),
    Call(379, "pwritev2",        _SYS,    NONE,         "fd vec vlen pos_l pos_h flags", SO_SNDTIMEO),
    Call(187, "sendfile",        _SYS,    NONE,         "out_fd in_fd offset count", SO_SNDTIMEO),
    Call(239, "sendfile64",      _SYS,    NONE,         "out_fd in_fd offset count", SO_SNDTIMEO),
    Call(313, "splice",          _SYS,    NONE,         "fd_in off_in fd_out off_out len flags", SO_RCVTIMEO),
    Call(315, "tee",             _SYS,    NONE,         "fdin fdout len flags"),
    Call(316, "vmsplice",        _SYS,    NONE,         "fd uiov nr_segs flags"),
    Call(377, "copy_file_range", _SYS,    NONE,         "fd_in off_in fd_out off_out len flags"),
    Call(54,  "ioctl",           _SYS,    NONE,         "fd cmd arg"),
    Call(355, "getrandom",       _SYS,    NONE,         "ubuf len flags"),
    # -- sockets: net/socket.c, and each protocol's wait loop
    Call(362, "connect",         _SYS,    NONE,         "fd addr addrlen", SO_SNDTIMEO),
    Call(364, "accept4",         _SYS,    NONE,         "fd addr addrlen flags", SO_RCVTIMEO),
    Call(369, "sendto",          _SYS,    NONE,         "fd buf len flags addr addrlen", SO_SNDTIMEO),
    Call(371, "recvfrom",        _SYS,    NONE,         "fd buf len flags addr addrlen", SO_RCVTIMEO),
    Call(370, "sendmsg",         _SYS,    NONE,         "fd msg flags", SO_SNDTIMEO),
    Call(372, "recvmsg",         _SYS,    NONE,         "fd msg flags", SO_RCVTIMEO),
    Call(337, "recvmmsg",        _SYS,    NONE,         "fd mmsg vlen flags timeout", SO_RCVTIMEO),
    Call(417, "recvmmsg_time64", _SYS,    NONE,         "fd mmsg vlen flags timeout", SO_RCVTIMEO),
    Call(345, "sendmmsg",        _SYS,    NONE,         "fd mmsg vlen flags", SO_SNDTIMEO),
    # socketcall: the arguments, the descriptor first, are words in memory at args (include/uapi/linux/net.h)
    _sock(3,  "socketcall(connect)",  _SYS, NONE,       "call args", SO_SNDTIMEO),
    _sock(5,  "socketcall(accept)",   _SYS, NONE,       "call args", SO_RCVTIMEO),
    _sock(9,  "socketcall(send)",     _SYS, NONE,       "call args", SO_SNDTIMEO),
    _sock(10, "socketcall(recv)",     _SYS, NONE,       "call args", SO_RCVTIMEO),
    _sock(11, "socketcall(sendto)",   _SYS, NONE,       "call args", SO_SNDTIMEO),
    _sock(12, "socketcall(recvfrom)", _SYS, NONE,       "call args", SO_RCVTIMEO),
    _sock(16, "socketcall(sendmsg)",  _SYS, NONE,       "call args", SO_SNDTIMEO),
    _sock(17, "socketcall(recvmsg)",  _SYS, NONE,       "call args", SO_RCVTIMEO),
    _sock(18, "socketcall(accept4)",  _SYS, NONE,       "call args", SO_RCVTIMEO),
    _sock(19, "socketcall(recvmmsg)", _SYS, NONE,       "call args", SO_RCVTIMEO),
    _sock(20, "socketcall(sendmmsg)", _SYS, NONE,       "call args", SO_SNDTIMEO),
    # -- opening (a FIFO waits for its other end), locking, flushing: fs/pipe.c, locks.c, sync.c
    Call(5,   "open",            _SYS,    NONE,         "filename flags mode"),
    Call(8,   "creat",           _SYS,    NONE,         "pathname mode"),
    Call(295, "openat",          _SYS,    NONE,         "dfd filename flags mode"),
    Call(437, "openat2",         _SYS,    NONE,         "dfd filename how usize"),
    Call(143, "flock",           _SYS,    NONE,         "fd cmd"),
    Call(55,  "fcntl",           _SYS,    NONE,         "fd cmd arg"),
    Call(221, "fcntl64",         _SYS,    NONE,         "fd cmd arg"),
    Call(144, "msync",           _SYS,    NONE,         "start len flags"),
    Call(118, "fsync",           _SYS,    NONE,         "fd"),
    Call(148, "fdatasync",       _SYS,    NONE,         "fd"),
    Call(36,  "sync",            _SYS,    NONE,         ""),
    Call(314, "sync_file_range", _SYS,    NONE,         "fd off_l off_h n_l n_h flags"),
    Call(344, "syncfs",          _SYS,    NONE,         "fd"),
    Call(92,  "truncate",        _SYS,    NONE,         "path length"),
    Call(93,  "ftruncate",       _SYS,    NONE,         "fd length"),
    Call(193, "truncate64",      _SYS,    NONE,         "path length_l length_h"),
    Call(194, "ftruncate64",     _SYS,    NONE,         "fd length_l length_h"),
    Call(324, "fallocate",       _SYS,    NONE,         "fd mode off_l off_h len_l len_h"),
    # -- System V and POSIX message queues and semaphores: ipc/msg.c, ipc/mqueue.c, ipc/sem.c
    Call(400, "msgsnd",          _NOHAND, NONE,         "msqid msgp msgsz msgflg"),
    Call(401, "msgrcv",          _NOHAND, NONE,         "msqid msgp msgsz msgtyp msgflg"),
    _t64(420, "semtimedop_time64", _EINTR, RELATIVE,    "semid tsops nsops *timeout"),
    # ipc: the operations of include/uapi/linux/ipc.h
    _ipc(1,   "ipc(semop)",      _EINTR,  NONE,         "call semid nsops third tsops"),
    _ipc(4,   "ipc(semtimedop)", _EINTR,  RELATIVE,     "call semid nsops third tsops *timeout"),
    _ipc(11,  "ipc(msgsnd)",     _NOHAND, NONE,         "call msqid msgsz msgflg msgp"),
    _ipc(12,  "ipc(msgrcv)",     _NOHAND, NONE,         "call msqid msgsz msgflg msgp msgtyp"),
    _t32(279, "mq_timedsend",    _SYS,    ABSOLUTE,     "mqdes msg len prio *abs_timeout", clock=REALTIME),
    _t32(280, "mq_timedreceive", _SYS,    ABSOLUTE,     "mqdes msg len prio *abs_timeout", clock=REALTIME),
    _t64(418, "mq_timedsend_time64", _SYS, ABSOLUTE,    "mqdes msg len prio *abs_timeout", clock=REALTIME),
    _t64(419, "mq_timedreceive_time64", _SYS, ABSOLUTE, "mqdes msg len prio *abs_timeout", clock=REALTIME),
    # -- asynchronous input and output: fs/aio.c, io_uring/io_uring.c; 32-bit programs that use it are refused
    _t32(247, "io_getevents",    _EINTR,  RELATIVE,     "ctx_id min_nr nr events *timeout"),
    _t32(385, "io_pgetevents",   _NOHAND, RELATIVE,     "ctx_id min_nr nr events *timeout usig"),
    _t64(416, "io_pgetevents_time64", _NOHAND, RELATIVE, "ctx_id min_nr nr events *timeout usig"),
    _t64(426, "io_uring_enter",  _EINTR,  GETEVENTS_ARG, "fd to_submit min_complete flags *argp argsz"),
)  # fmt: skip

_SEMOP, _SEMTIMEDOP = key(NR_IPC, 1), key(NR_IPC, 4)

I386 = Abi(
    machine.I386,
    {row.key: row for row in _ROWS},
    {
        # function                         kind          calls
        "hrtimer_nanosleep_restart":      ("nanosleep",  (267, 162, 407)),
        "do_restart_poll":                ("poll",       (168,)),
        "futex_wait_restart":             ("futex",      (240, 422)),
        "posix_cpu_nsleep_restart":       ("cpu",        (267, 407)),
        "alarm_timer_nsleep_restart":     ("alarm",      (267, 407)),
        "do_no_restart_syscall":          ("",           ()),
    },
    {
        # program's    made again     differs
        256:          (441,           {3: LEFT_HERE, 4: 0, 5: 8}),  # epoll_wait: no signal mask
        319:          (441,           {3: LEFT_HERE}),              # epoll_pwait
        441:          (441,           {3: LEFT_HERE}),              # epoll_pwait2
        177:          (177,           {2: LEFT_HERE}),              # rt_sigtimedwait
        421:          (421,           {2: LEFT_HERE}),              # rt_sigtimedwait_time64
        420:          (420,           {3: LEFT_HERE}),              # semtimedop_time64
        _SEMTIMEDOP:  (NR_IPC,        {5: LEFT_HERE}),              # ipc(semtimedop)
    },
    (_SEMOP, 256, 319, 441, 177, 421, 420, _SEMTIMEDOP),
    0,  # restart_syscall
    {162: (1,), 267: (3,), 407: (3,)},
    b"\xcd\x80",  # int $0x80; that of the vDSO stands behind its sysenter or syscall
    (NR_IPC, NR_SOCKETCALL),
)  # fmt: skip
