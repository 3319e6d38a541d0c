"""A step that is taken in another place: with a current or a root directory that is not livecr's.

It is taken in a thread that has these for itself (unshare(2), CLONE_FS), so that no other thread's paths lead
elsewhere meanwhile. Called by file_handles and by kinds.
"""

from __future__ import annotations

import os

from livecr._native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["elsewhere"]

_NR_UNSHARE = 272
_CLONE_FS = 0x200


def elsewhere(step: Callable[[], None]) -> None:
    """Take ``step``, which may call chdir and chroot, to its end. Raises what it raises, and OSError."""
    import _thread

    failed: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def take() -> None:
        try:
            result = int(lib.lcr_syscall(_NR_UNSHARE, _CLONE_FS, 0, 0, 0, 0, 0))
            if result:
                raise OSError(-result, os.strerror(-result))
            step()
        except BaseException as error:
            failed.append(error)
        finally:
            done.release()

    _thread.start_new_thread(take, ())
    with done:
        if failed:
            raise failed[0]
