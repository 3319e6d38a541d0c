/* Makes a process that has a chosen number, and waits for ever, as this one does for it.
   usage: with_number PID; prints "ready". Tries for 30 seconds, since another may have the number for a while. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    pid_t wanted = argc == 2 ? atoi(argv[1]) : 0;
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
    long child = -1;
    for (int tries = 0; tries < 3000 && (child = syscall(SYS_clone3, &args, sizeof args)) < 0 && errno == EEXIST; tries++)
        usleep(10000);
    if (child < 0) {
        perror("clone3");
        return 1;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) pause();
    }
    puts("ready");
    fflush(stdout);
    waitpid((pid_t)child, NULL, 0);
    return 0;
}
