/* One process of a tree whose programs are 32-bit and 64-bit by turns: `mixed [PROGRAM ...]` starts the next PROGRAM with the
   rest of them. Prints "ready BYTES_OF_A_POINTER"; after SIGUSR1 sends that on, waits for its child's end, prints "done". */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    sigset_t usr1;
    int number, status = 0;
    pid_t child = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    if (argc > 1 && (child = fork()) == 0) {
        execv(argv[1], argv + 1);
        _exit(127);
    }
    printf("ready %zu\n", sizeof(void *));
    sigwait(&usr1, &number);
    if (child) {
        kill(child, SIGUSR1);
        if (waitpid(child, &status, 0) != child)
            return 1;
    }
    printf("done %zu\n", sizeof(void *));
    return status != 0;
}
