/* An empty process with a chosen PID, in a time namespace of its own.

   A time namespace takes in only children born after its offsets are set (time_namespaces(7)), and unshare
   would change the caller for good; so a short-lived go-between unshares, sets the offsets and makes the
   child with CLONE_PARENT, which makes it a child of livecr itself. */
#include "declarations.inc"
#include "ptrace.h"
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

struct report {
    int step, error;
};

static int enter_time_namespace(const char *offsets)
{
    if (syscall(SYS_unshare, CLONE_NEWTIME) < 0)
        return -errno;
    int fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t done = write(fd, offsets, strlen(offsets));
    int result = done < 0 ? -errno : 0;
    close(fd);
    return result;
}

/* The child: waits until it is seized (end-of-file: livecr has died), then becomes the seed. */
static void become_seed(int gate, int seed_fd)
{
    char go, *argv[] = {"livecr-seed", NULL}, *envp[] = {NULL};
    if (read(gate, &go, 1) == 1)
        syscall(SYS_execveat, seed_fd, "", argv, envp, AT_EMPTY_PATH);
    _exit(127);
}

static struct report go_between(int pid, int seed_fd, const char *offsets, const int gate[2])
{
    struct report report = {LCR_SPAWN_TIME_NAMESPACE, 0};
    if (offsets && (report.error = -enter_time_namespace(offsets)))
        return report;
    pid_t wanted = pid;
    struct clone_args args = {
        /* exit_signal has to be 0 with CLONE_PARENT: the child takes the go-between's, SIGCHLD. */
        .flags = CLONE_PARENT,
        .set_tid = (uintptr_t)&wanted,
        .set_tid_size = 1,
    };
    report.step = LCR_SPAWN_CLONE;
    long child = syscall(SYS_clone3, &args, sizeof args);
    if (child == 0) {
        close(gate[1]);
        become_seed(gate[0], seed_fd);
    }
    report.error = child < 0 ? errno : 0;
    return report;
}

static long seize_into_exec(int pid, int gate, long options, int *step)
{
    int status;
    *step = LCR_SPAWN_SEIZE;
    if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)options) < 0)
        return -errno;
    *step = LCR_SPAWN_EXEC;
    if (write(gate, "g", 1) != 1)
        return -errno;
    for (;;) {
        long result = lcr_wait(pid, &status, 0);
        if (result < 0)
            return result;
        if (!WIFSTOPPED(status))
            return -ENOEXEC;
        if (status >> 16 == PTRACE_EVENT_EXEC)
            return 0;
        ptrace(PTRACE_CONT, pid, NULL, NULL);
    }
}

static void discard(int pid)
{
    int status;
    kill(pid, SIGKILL);
    while (lcr_wait(pid, &status, 0) > 0 && !WIFEXITED(status) && !WIFSIGNALED(status))
        ;
}

long lcr_spawn(int pid, int seed_fd, const char *offsets, long options, int *step)
{
    int gate[2], answer[2];
    struct report report = {LCR_SPAWN_PREPARE, 0};
    *step = LCR_SPAWN_PREPARE;
    if (pipe2(gate, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(answer, O_CLOEXEC) < 0) {
        int error = errno;
        close(gate[0]);
        close(gate[1]);
        return -error;
    }
    pid_t helper = fork();
    if (helper == 0) {
        report = go_between(pid, seed_fd, offsets, gate);
        ssize_t told = write(answer[1], &report, sizeof report);
        _exit(told == sizeof report ? 0 : 1);
    }
    long result = helper < 0 ? -errno : 0;
    close(answer[1]);
    close(gate[0]);
    if (helper > 0) {
        int status;
        if (read(answer[0], &report, sizeof report) != sizeof report)
            report.error = EIO;
        lcr_wait(helper, &status, 0);
        *step = report.step;
        result = -report.error;
        if (result == 0 && (result = seize_into_exec(pid, gate[1], options, step)) < 0)
            discard(pid);
    }
    close(answer[0]);
    close(gate[1]);
    return result < 0 ? result : pid;
}
