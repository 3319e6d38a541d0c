/* A daemon as those of systemd are made: one epoll instance over timerfds, a signalfd and an eventfd; it does nothing but wait.
   daemon WAIT_MS. Prints "ready", then "NAME ASKED_NS TOOK_NS" for each timer, by the timer's own clock, and "signal NAME"
   for each signal; SIGTERM ends it: "done". Knows nothing of livecr. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define CHECK(x) do { if (!(x)) { fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, strerror(errno)); exit(1); } } while (0)
/* Of the periodic timer, whose expirations are counted over the whole time. */
#define PERIODS 8

static struct timer {
    const char *name;
    clockid_t clock;
    int flags, periods;
    long long began_ns;
    uint64_t expirations;
} timers[] = {
    {"monotonic", CLOCK_MONOTONIC, 0, 1, 0, 0},
    {"monotonic-absolute", CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, 1, 0, 0},
    {"boottime-absolute", CLOCK_BOOTTIME, TFD_TIMER_ABSTIME, 1, 0, 0},
    {"realtime-absolute", CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, 1, 0, 0},
    {"periodic", CLOCK_MONOTONIC, 0, PERIODS, 0, 0},
};
#define TIMERS (sizeof timers / sizeof *timers)
#define SIGNALS TIMERS
#define EVENTS (TIMERS + 1)

static int epoll_fd, fds[TIMERS + 2];
static long long asked_ns;

static long long now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static struct timespec timespec_of(long long ns) { return (struct timespec){ns / NS, ns % NS}; }

static void watch(size_t i, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = i};
    CHECK(fd >= 0);
    fds[i] = fd;
    CHECK(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void start(size_t i)
{
    struct timer *timer = &timers[i];
    struct itimerspec when = {.it_value = timespec_of(asked_ns / timer->periods)};

    watch(i, timerfd_create(timer->clock, TFD_NONBLOCK | TFD_CLOEXEC));
    timer->began_ns = now_ns(timer->clock);
    if (timer->flags & TFD_TIMER_ABSTIME)
        when.it_value = timespec_of(timer->began_ns + asked_ns);
    if (timer->periods > 1)
        when.it_interval = when.it_value;
    CHECK(timerfd_settime(fds[i], timer->flags, &when, NULL) == 0);
}

static void expired(size_t i)
{
    struct timer *timer = &timers[i];
    uint64_t count;

    CHECK(read(fds[i], &count, sizeof count) == sizeof count);
    timer->expirations += count;
    CHECK(timer->expirations <= (uint64_t)timer->periods);
    if (timer->expirations == (uint64_t)timer->periods) {
        printf("%s %lld %lld\n", timer->name, asked_ns, now_ns(timer->clock) - timer->began_ns);
        struct itimerspec off = {0};
        CHECK(timerfd_settime(fds[i], 0, &off, NULL) == 0);
    }
}

/* False when it shall end. A reload goes through the eventfd, as a request to another thread would. */
static int took_signal(void)
{
    struct signalfd_siginfo info;

    CHECK(read(fds[SIGNALS], &info, sizeof info) == sizeof info);
    printf("signal %s\n", sigabbrev_np(info.ssi_signo));
    if (info.ssi_signo == SIGHUP)
        CHECK(eventfd_write(fds[EVENTS], 1) == 0);
    return info.ssi_signo != SIGTERM;
}

int main(int argc, char **argv)
{
    sigset_t set;
    struct epoll_event event;

    CHECK(argc == 2);
    asked_ns = atoll(argv[1]) * 1000000;
    setvbuf(stdout, NULL, _IOLBF, 0);
    CHECK((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) >= 0);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    watch(SIGNALS, signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    watch(EVENTS, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    for (size_t i = 0; i < TIMERS; i++)
        start(i);
    printf("ready\n");
    for (int running = 1; running;) {
        int count = epoll_wait(epoll_fd, &event, 1, -1); /* EINTR would be an error: all signals are blocked */
        CHECK(count == 1);
        if (event.data.u64 < TIMERS) {
            expired(event.data.u64);
        } else if (event.data.u64 == SIGNALS) {
            running = took_signal();
        } else {
            eventfd_t value;
            CHECK(eventfd_read(fds[EVENTS], &value) == 0 && value == 1);
            printf("signal reloaded\n");
        }
    }
    printf("done\n");
    return 0;
}
