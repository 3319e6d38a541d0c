/* Periodic timers: of timer_create, whose expirations are counted against the clock, and of setitimer.
   usage: kind_timers taken|pending. "pending": SIGALRM is blocked until SIGUSR1, so it is pending nearly all the time.
   Prints "ready"; SIGUSR1: checks, prints "ok" and ends. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000LL
#define NS (1000 * MS)
#define PERIOD_MS 10
#define CHECK(x, ...) do { if (!(x)) { printf("wrong: " __VA_ARGS__); printf("\n"); exit(1); } } while (0)

static atomic_int alarms;

static void count_alarm(int signal)
{
    (void)signal;
    alarms++;
}

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

int main(int argc, char **argv)
{
    sigset_t taken, alarm_only;
    siginfo_t info;
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct itimerspec periodic = {{0, PERIOD_MS * MS}, {0, PERIOD_MS * MS}};
    struct itimerval interval = {{0, PERIOD_MS * 1000}, {0, PERIOD_MS * 1000}};
    long long expirations = 0, lost = 0, readings = 0;

    CHECK(argc == 2, "usage");
    sigemptyset(&taken);
    sigaddset(&taken, SIGRTMIN);
    sigaddset(&taken, SIGUSR1);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    sigprocmask(SIG_BLOCK, &taken, NULL);
    if (!strcmp(argv[1], "pending"))
        sigprocmask(SIG_BLOCK, &alarm_only, NULL);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = count_alarm, .sa_flags = SA_RESTART}, NULL);
    CHECK(setitimer(ITIMER_REAL, &interval, NULL) == 0, "setitimer");
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
    long long began_ns = now_ns();
    CHECK(timer_settime(timer, 0, &periodic, NULL) == 0, "timer_settime");
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int number = sigwaitinfo(&taken, &info);
        if (number < 0)
            continue; /* EINTR: an alarm was handled */
        if (number == SIGUSR1)
            break;
        CHECK(info.si_code == SI_TIMER, "si_code %d", info.si_code);
        expirations += 1 + info.si_overrun;
        long long due = (now_ns() - began_ns) / (PERIOD_MS * MS);
        CHECK(expirations <= due, "%lld expirations, %lld due", expirations, due);
        /* Some may come between the two looks at the clock; what is lost is missing for ever. */
        lost = readings++ % 16 == 0 || due - expirations < lost ? due - expirations : lost;
    }
    CHECK(lost == 0, "%lld expirations lost of %lld", lost, expirations);
    sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
    int before = alarms;
    long long end_ns = now_ns() + 20 * PERIOD_MS * MS;
    while (now_ns() < end_ns)
        usleep(1000);
    CHECK(alarms - before >= 10, "only %d alarms in 20 periods", alarms - before);
    printf("ok\n");
    return 0;
}
