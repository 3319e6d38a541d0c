"""A restore in a PID namespace of its own, in which all numbers are free.

A fork of livecr becomes process 1 of a new PID namespace, with its own /proc, and restores there as ever: the
numbers that it sees, and that the program will see, are those of the image. When all runs it executes init
(native/init), so the program's parent stays the same process. Whatever goes wrong before ends process 1, and
with it all that is in the namespace (pid_namespaces(7)). Used for `restore --new-pid-namespace`.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress

from livecr._native import ffi, lib
from livecr.content import Content
from livecr.errors import BadImage, Failed, LivecrError, Refused
from livecr.image import manifest
from livecr.kernel import procfs
from livecr.plausible import all_numbers
from livecr.restore import Restored, restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["restore_in_namespace"]

_NR_PRCTL, _NR_MOUNT, _NR_UNSHARE, _NR_SETNS = 157, 165, 272, 308
_CLONE_NEWNS, _CLONE_NEWPID = 0x20000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 2, 4, 8, 0x4000, 0x80000
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_ERRORS = {one.__name__: one for one in (BadImage, Failed, Refused)}
_INIT = os.path.join(os.path.dirname(__file__), "native", "init")
_WHERE = "the new PID namespace"


def restore_in_namespace(image: str, **options: Any) -> Restored:
    """As restore(); ``pid`` is the root's number here, ``child`` that of its init.

    ``options``: those of restore().
    """
    told, telling = os.pipe()
    going, go = os.pipe()
    try:
        init = _fork_into_namespace()
        if init == 0:
            os.close(told)
            os.close(go)
            _be_first(telling, going, image, options)
        try:
            telling, going = _close(telling), _close(going)
            with open(told, "rb", closefd=False) as pipe:
                restored = _understand(pipe.readline(), init)
                os.write(go, b"g")
                _has_become_init(pipe.read())  # to its end: it is closed when init is executed
        except BaseException:
            os.kill(init, _SIGKILL)
            os.waitpid(init, 0)
            raise
        return restored
    finally:
        for fd in (told, telling, going, go):
            _close(fd)


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1


def _fork_into_namespace() -> int:
    """fork(2), with the child as process 1 of a new PID namespace; of this task only its children change."""
    before = os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _must(lib.lcr_syscall(_NR_UNSHARE, _CLONE_NEWPID, 0, 0, 0, 0, 0), "making it")
        child = -1
        try:
            child = os.fork()
        finally:
            if child != 0:
                lib.lcr_syscall(_NR_SETNS, before, _CLONE_NEWPID, 0, 0, 0, 0)
        return child
    finally:
        os.close(before)


def _must(result: int, doing: str) -> None:
    if result < 0:
        raise Refused(
            f"{doing}: {os.strerror(-result)}",
            where=_WHERE,
            way_out="run livecr as root, where namespaces may be made (/proc/sys/user/max_pid_namespaces)",
        )


# -- process 1 -----------------------------------------------------------------------------------------------


def _be_first(telling: int, going: int, image: str, options: dict[str, Any]) -> None:
    """Restore, tell of it, and become init when livecr has heard. Does not return."""
    import msgspec

    said: dict[str, Any]
    try:
        try:
            _prepare(image, telling)
            restored = restore(image, **options)
            # The program runs, and no longer depends on livecr, nor on the thread of it that called.
            lib.lcr_syscall(_NR_PRCTL, _PR_SET_PDEATHSIG, 0, 0, 0, 0, 0)
            said = {"root": restored.pid, "warnings": restored.warnings}
        except LivecrError as error:
            said = {"error": type(error).__name__, "what": error.what, "where": error.where}
            said["way_out"] = error.way_out
        except Exception as error:
            said = {"error": "", "what": f"{type(error).__name__}: {error}"}
        with suppress(BrokenPipeError):  # livecr has been killed
            os.write(telling, msgspec.json.encode(said) + b"\n")
        if "root" in said:
            os.read(going, 1)  # the root's number outside can be told only until it has been waited for
            _become_init(said["root"])
    except OSError as error:
        os.write(telling, str(error).encode())
    finally:
        os._exit(1)


def _prepare(image: str, telling: int) -> None:
    lib.lcr_syscall(_NR_PRCTL, _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0, 0)
    poll = select.poll()
    poll.register(telling, 0)
    if poll.poll(0):  # nobody listens: livecr has been killed before that
        os._exit(1)
    os.setsid()  # the caller's session and group have no number here
    _must(lib.lcr_syscall(_NR_UNSHARE, _CLONE_NEWNS, 0, 0, 0, 0, 0), "making its mount namespace")
    _mount(b"none", b"/", b"", _MS_REC | _MS_SLAVE)  # what is mounted outside is seen here, not the reverse
    _mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _count_on_behind(all_numbers(manifest.read(image, Content).content))


def _mount(source: bytes, target: bytes, kind: bytes, flags: int) -> None:
    texts = [ffi.new("char[]", text) for text in (source, target, kind)]
    addresses = [int(ffi.cast("uintptr_t", text)) for text in texts]
    result = lib.lcr_syscall(_NR_MOUNT, *addresses, flags, 0, 0)
    _must(result, f"mounting {target.decode()}")


def _count_on_behind(taken: list[int]) -> None:
    """What livecr itself starts here shall not get a number of the image, but one of the largest gap."""
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
        limit = int(file.read())
    ordered = [1, *sorted(taken), limit]
    last = max(range(len(ordered) - 1), key=lambda i: ordered[i + 1] - ordered[i])
    with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
        file.write(str(min(ordered[last], limit - 1)))


def _become_init(root: int) -> None:
    fd = os.memfd_create("livecr-init", os.MFD_CLOEXEC)
    with open(_INIT, "rb") as file:
        os.write(fd, file.read())
    os.execve(fd, ["livecr-init", str(root)], {})


# -- outside -------------------------------------------------------------------------------------------------


def _understand(message: bytes, init: int) -> Restored:
    """What process 1 has said. Raises what was raised there."""
    import msgspec

    if not message:
        raise Failed("livecr was killed in it", where=_WHERE)
    said = msgspec.json.decode(message)
    if "error" in said:
        if said["error"] not in _ERRORS:
            raise RuntimeError(said["what"])
        raise _ERRORS[said["error"]](said["what"], where=said["where"], way_out=said["way_out"])
    return Restored(_outside(said["root"], init), said["warnings"], child=init)


def _has_become_init(trouble: bytes) -> None:
    if trouble:
        raise Failed(f"exec of init: {trouble.decode()}", where=_WHERE)


def _outside(number: int, init: int) -> int:
    """The number here of the child of ``init`` that has ``number`` there, and has not been waited for yet."""
    for child in procfs.children(init):
        if int(procfs.status(child)["NSpid"].split()[-1]) == number:
            return child
    raise Failed("the program's root is not to be found", where=_WHERE)
