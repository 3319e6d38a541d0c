/* A parent with many children, which wait in a read of one pipe that they all have, or in a sleep that is not over.
   On SIGUSR1 the parent closes the pipe; each child looks whether it is still who it was, and ends with 0 if so.
   usage: processes_alike COUNT */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct { unsigned ready, over; } *common;
static long own;

/* One of four sleeps in short pieces, since nothing else wakes it; the others read until the end of the pipe. */
static void wait_for_the_end(long number, int pipe_end)
{
    char byte;
    struct timespec piece = {0, 50000000};
    if (number % 4)
        while (read(pipe_end, &byte, 1) != 0)
            ;
    else
        while (!__atomic_load_n(&common->over, __ATOMIC_SEQ_CST))
            if (clock_nanosleep(CLOCK_MONOTONIC, 0, &piece, NULL) != 0)
                _exit(3);
}

static void child(long number, int pipe_end, pid_t parent)
{
    pid_t me = getpid(), group = getpgrp();
    own = number;
    __atomic_add_fetch(&common->ready, 1, __ATOMIC_SEQ_CST);
    wait_for_the_end(number, pipe_end);
    _exit(own != number || getpid() != me || getppid() != parent || getpgrp() != group);
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 0, right = 0;
    pid_t parent = getpid(), *children = calloc((size_t)count, sizeof *children);
    int ends[2], got, status;
    sigset_t set;
    common = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (common == MAP_FAILED || pipe(ends) != 0)
        return 2;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (long i = 0; i < count; i++) {
        children[i] = fork();
        if (children[i] < 0) {
            perror("fork");
            return 2;
        }
        if (children[i] == 0) {
            close(ends[1]);
            child(i, ends[0], parent);
        }
    }
    while (__atomic_load_n(&common->ready, __ATOMIC_SEQ_CST) < (unsigned)count)
        usleep(1000);
    printf("ready\n");
    fflush(stdout);
    sigwait(&set, &got);
    close(ends[1]);
    __atomic_store_n(&common->over, 1, __ATOMIC_SEQ_CST);
    for (long i = 0; i < count; i++)
        if (waitpid(children[i], &status, 0) == children[i] && status == 0)
            right++;
        else
            printf("child %ld ended with %#x\n", i, status);
    puts(right == count ? "ok" : "wrong");
    return right != count;
}
