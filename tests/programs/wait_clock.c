/* Reads CLOCK_MONOTONIC and CLOCK_BOOTTIME by the vDSO and by the system call in turn until SIGUSR1 comes, and prints as
   JSON how often a reading was lower than the one before, the longest step between two readings, and how many. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

static volatile sig_atomic_t over;

static void on_usr1(int number)
{
    over = number;
}

int main(void)
{
    static const int clocks[2] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};
    long long last[2] = {0, 0}, longest = 0, backwards = 0, count = 0;
    struct sigaction action = {.sa_handler = on_usr1};
    sigaction(SIGUSR1, &action, NULL);
    while (!over) {
        int which = count / 2 % 2;
        struct timespec t;
        if (count++ % 2)
            clock_gettime(clocks[which], &t);
        else
            syscall(SYS_clock_gettime, clocks[which], &t);
        long long now = t.tv_sec * NS + t.tv_nsec;
        backwards += now < last[which];
        if (last[which] && now - last[which] > longest)
            longest = now - last[which];
        last[which] = now;
        if (count == 1000) {
            printf("ready\n");
            fflush(stdout);
        }
    }
    printf("{\"backwards\": %lld, \"longest_ns\": %lld, \"count\": %lld}\n", backwards, longest, count);
    return 0;
}
