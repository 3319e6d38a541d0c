/* The guard of a tree that is let go one process after the other: a tracer's death ends only those that are still
   traced (PTRACE_O_EXITKILL). It sees the caller's end by the end-of-file of a pipe. livecr/target/kin.py. */
#include "declarations.inc"
#include "guard.h"
#include "ptrace.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

static void stand_guard(const int *pidfds, size_t count, int from_caller)
{
    char dismissed;
    ssize_t got;
    while ((got = read(from_caller, &dismissed, 1)) < 0 && errno == EINTR)
        ;
    for (size_t i = 0; got != 1 && i < count; i++)
        syscall(SYS_pidfd_send_signal, pidfds[i], SIGKILL, NULL, 0);
    _exit(0);
}

long lcr_guard(const int *pidfds, size_t count, int *pipe)
{
    int ends[2];
    sigset_t all, before;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    /* What a terminal sends to the caller's group must not end it. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    /* A fork without an exit signal: whoever uses livecr as a library is not to be told of this child. */
    long guard = syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
    if (guard == 0) {
        close(ends[1]);
        stand_guard(pidfds, count, ends[0]);
    }
    long result = guard < 0 ? -errno : guard;
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(ends[0]);
    if (result < 0)
        close(ends[1]);
    else
        *pipe = ends[1];
    return result;
}

void lcr_dismiss_guard(int guard, int pipe)
{
    int status;
    /* Nobody reads if it has been killed; Python ignores the SIGPIPE of that. */
    if (write(pipe, "d", 1) < 0)
        errno = 0;
    close(pipe);
    lcr_wait(guard, &status, 0);
}
