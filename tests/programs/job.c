/* A job of two processes in one group, which tell what signals they get. Prints "ready"; then "NAME SIGNAL" for each;
   SIGTERM ends it with 7. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *name = "parent";
static pid_t child;

static void on_signal(int number)
{
    char line[64];
    int length = snprintf(line, sizeof line, "%s %s\n", name, sigabbrev_np(number));
    if (write(1, line, (size_t)length) != length) _exit(1);
    if (number == SIGTERM) {
        if (child) { kill(child, SIGKILL); waitpid(child, NULL, 0); }
        _exit(7);
    }
}

int main(void)
{
    int handled[] = {SIGINT, SIGCONT, SIGTERM, SIGUSR1};
    for (unsigned i = 0; i < sizeof handled / sizeof *handled; i++)
        sigaction(handled[i], &(struct sigaction){.sa_handler = on_signal, .sa_flags = SA_RESTART}, NULL);
    if (!(child = fork())) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        name = "child";
        puts("ready");
        fflush(stdout);
    }
    for (;;) pause();
}
