/* Waits in one blocking call and knows until when: prints "CLOCK-ID DEADLINE-NS SEMAPHORE" before (the semaphore set is
   for whoever ends the program to remove, -1 if there is none), and after it what the call returned. The kind of
   wait is the first argument, how many milliseconds the second. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

static int word;
static struct timespec relative, deadline, rmtp;
static int milliseconds;
static int semaphore = -1;

static void announce(int clock_id)
{
    printf("%d %lld %d\n", clock_id, deadline.tv_sec * NS + deadline.tv_nsec, semaphore);
    fflush(stdout);
}

/* Told before the call is made, so a relative wait ends later than told by what it takes to print the line. */
static void reckon(int clock_id)
{
    struct timespec now;
    clock_gettime(clock_id, &now);
    long long ns = now.tv_sec * NS + now.tv_nsec + milliseconds * 1000000LL;
    deadline = (struct timespec){ns / NS, ns % NS};
}

static void *other_thread(void *unused)
{
    (void)unused;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (;;)
        pause();
    return NULL;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    milliseconds = argc > 2 ? atoi(argv[2]) : 60000;
    relative = (struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000L};
    pthread_t thread;
    pthread_create(&thread, NULL, other_thread, NULL);

    int clock_id = CLOCK_MONOTONIC;
    if (strstr(kind, "realtime"))
        clock_id = CLOCK_REALTIME;
    if (strstr(kind, "boottime"))
        clock_id = CLOCK_BOOTTIME;
    if (strstr(kind, "tai"))
        clock_id = CLOCK_TAI;
    /* A relative sleep on CLOCK_REALTIME is one on CLOCK_MONOTONIC: setting the clock does not change it. */
    int deadline_clock = strstr(kind, "relative-realtime") ? CLOCK_MONOTONIC : clock_id;
    if (!strcmp(kind, "semtimedop"))
        semaphore = semget(IPC_PRIVATE, 1, 0600);
    long result = -1;
    reckon(deadline_clock);
    announce(deadline_clock);
    if (!strcmp(kind, "nanosleep"))
        result = syscall(SYS_nanosleep, &relative, &rmtp);
    else if (!strncmp(kind, "relative-", 9))
        result = syscall(SYS_clock_nanosleep, clock_id, 0, &relative, &rmtp);
    else if (!strncmp(kind, "absolute-", 9))
        result = syscall(SYS_clock_nanosleep, clock_id, TIMER_ABSTIME, &deadline, NULL);
    else if (!strcmp(kind, "futex-wait"))
        result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &relative);
    else if (!strncmp(kind, "futex-bitset-", 13))
        result = syscall(SYS_futex, &word,
                         FUTEX_WAIT_BITSET_PRIVATE | (clock_id == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0), 0,
                         &deadline, NULL, 0x5);
    else if (!strcmp(kind, "poll"))
        result = syscall(SYS_poll, NULL, 0, milliseconds);
    else if (!strcmp(kind, "ppoll"))
        result = syscall(SYS_ppoll, NULL, 0, &relative, NULL, 8);
    else if (!strcmp(kind, "select")) {
        struct timeval timeval = {relative.tv_sec, relative.tv_nsec / 1000};
        result = syscall(SYS_select, 0, NULL, NULL, NULL, &timeval);
    } else if (!strcmp(kind, "epoll")) {
        struct epoll_event event;
        int epoll = epoll_create1(0);
        reckon(clock_id);
        result = syscall(SYS_epoll_wait, epoll, &event, 1, milliseconds);
    } else if (!strcmp(kind, "sigtimedwait")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        sigprocmask(SIG_BLOCK, &set, NULL);
        result = syscall(SYS_rt_sigtimedwait, &set, NULL, &relative, 8);
    } else if (!strcmp(kind, "semtimedop")) {
        struct sembuf down = {0, -1, 0};
        result = syscall(SYS_semtimedop, semaphore, &down, 1, &relative);
    } else if (!strcmp(kind, "rcvtimeo")) {
        int pair[2];
        char byte;
        struct timeval timeval = {relative.tv_sec, relative.tv_nsec / 1000};
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeval, sizeof(timeval));
        result = syscall(SYS_recvfrom, pair[0], &byte, 1, 0, NULL, NULL);
    } else if (!strcmp(kind, "pause"))
        result = syscall(SYS_pause);
    else if (!strcmp(kind, "read"))
        result = syscall(SYS_read, 0, &word, 1);
    printf("returned %ld errno %d\n", result, result < 0 ? errno : 0);
    return 0;
}
