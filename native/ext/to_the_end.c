/* Calls that change something of the target's for a moment and put it back, and must not be left half made.

   A SIGKILL for livecr is one for all its threads, but not for a process that only shares its memory (CLONE_VM, as
   after vfork). It leaves livecr's process group and session first. The kernel lets a killed parent go, and not the
   child (kernel/fork.c, wait_for_vfork_done). */
#define _GNU_SOURCE
#include "declarations.inc"
#include "inject.h"
#include "to_the_end.h"

#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STACK_BYTES = 65536 };

struct work {
    struct lcr_call *calls;
    size_t count;
};

static int make_calls(void *argument)
{
    struct work *work = argument;
    setsid();
    for (size_t i = 0; i < work->count; i++) {
        struct lcr_call *call = &work->calls[i];
        const uint64_t *a = call->args;
        long result = syscall(call->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
        call->result = result < 0 ? -errno : result;
    }
    _exit(0);
}

long lcr_calls_to_the_end(struct lcr_call *calls, size_t count)
{
    struct work work = {calls, count};
    sigset_t all, before;
    char *stack = malloc(STACK_BYTES);
    if (!stack)
        return -ENOMEM;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* its memory is ours, and so would be what a handler does to it */
    int pid = clone(make_calls, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_FILES, &work);
    long result = pid < 0 ? -errno : 0;
    while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    sigprocmask(SIG_SETMASK, &before, NULL);
    free(stack);
    return result;
}

long lcr_stand_in(int pid)
{
    pid_t wanted = pid;
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
    long child = syscall(SYS_clone3, &args, sizeof args);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return child < 0 ? -errno : 0;
}
