/* Timerfds of every sort, set before a checkpoint; after it (SIGUSR1) each is held against the program's own clock.
   usage: kind_timerfd; prints "ready", then after SIGUSR1 "ok" or what is different; "late", if that is all. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define S 1000000000ll
#define MS 1000000ll
#define SLACK 1000000ll /* what a deadline may be later than it was: on a busy machine it cannot be read better */

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static long long now(int clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * S + t.tv_nsec;
}

static struct itimerspec spec(long long value, long long interval)
{
    return (struct itimerspec){{interval / S, interval % S}, {value / S, value % S}};
}

static int timer(int clock, int create_flags, int flags, long long value, long long interval)
{
    struct itimerspec s = spec(value, interval);
    int fd = timerfd_create(clock, create_flags);
    if (fd < 0 || timerfd_settime(fd, flags, &s, 0)) { printf("different: cannot set a timer (%m)\n"); exit(1); }
    return fd;
}

/* The deadline of fd on the clock that it counts lies where it did. */
static void deadline_is(const char *name, int fd, int clock, long long earliest, long long latest, long long interval)
{
    struct itimerspec s;
    long long before = now(clock);
    CHECK(timerfd_gettime(fd, &s) == 0, "%s: timerfd_gettime: %m", name);
    long long after = now(clock), left = s.it_value.tv_sec * S + s.it_value.tv_nsec;
    CHECK(left > 0, "%s: it is not armed", name);
    CHECK(after + left >= earliest, "%s: early by %lld ns", name, earliest - (after + left));
    CHECK(before + left <= latest + SLACK, "%s: late by %lld ns", name, before + left - latest);
    CHECK(s.it_interval.tv_sec * S + s.it_interval.tv_nsec == interval, "%s: interval", name);
}

/* As many expirations since `first` as the clock says, less those that were read. */
static void ticks_are(const char *name, int fd, int clock, long long first, long long interval, uint64_t were_read)
{
    uint64_t ticks = 0;
    long long before = now(clock);
    CHECK(read(fd, &ticks, 8) == 8, "%s: read: %m", name);
    long long after = now(clock);
    long long least = (before - SLACK - first) / interval + 1 - were_read, most = (after + SLACK - first) / interval + 1 - were_read;
    CHECK((long long)ticks >= least, "%s: late: %llu ticks, not %lld", name, (unsigned long long)ticks, least);
    CHECK((long long)ticks <= most, "%s: %llu ticks, not %lld", name, (unsigned long long)ticks, most);
}

static void says(const char *name, int fd, const char *line)
{
    char path[64], text[1024] = "";
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(read(info, text, sizeof text - 1) > 0 && strstr(text, line), "%s: no \"%s\" in %s", name, line, text);
    close(info);
}

int main(void)
{
    uint64_t ticks = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t usr1, old;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, &old);
    signal(SIGUSR1, on_usr1);

    long long mono = now(CLOCK_MONOTONIC), boot = now(CLOCK_BOOTTIME), real = now(CLOCK_REALTIME);
    int once = timer(CLOCK_MONOTONIC, 0, 0, 3600 * S, 0);
    int soon = timer(CLOCK_MONOTONIC, 0, TFD_TIMER_ABSTIME, mono + 4 * S, 0);
    int relative_real = timer(CLOCK_REALTIME, 0, 0, 3600 * S, 7 * S);
    int boot_once = timer(CLOCK_BOOTTIME, 0, 0, 3600 * S, 0);
    int alarm = timer(CLOCK_BOOTTIME_ALARM, 0, 0, 3600 * S, 0);
    long long set = now(CLOCK_MONOTONIC), boot_set = now(CLOCK_BOOTTIME);
    int periodic = timer(CLOCK_MONOTONIC, 0, TFD_TIMER_ABSTIME, mono + 10 * MS, 50 * MS);
    int fast = timer(CLOCK_MONOTONIC, 0, TFD_TIMER_ABSTIME, mono + 10 * MS, 100000);
    int boot_periodic = timer(CLOCK_BOOTTIME, 0, TFD_TIMER_ABSTIME, boot + 10 * MS, 30 * MS);
    int absolute = timer(CLOCK_REALTIME, 0, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, real + 3600 * S, 0);
    int real_periodic = timer(CLOCK_REALTIME, 0, TFD_TIMER_ABSTIME, real + 10 * MS, 20 * MS);
    int distant = timer(CLOCK_REALTIME, 0, TFD_TIMER_ABSTIME, real + 2500 * MS, 1000 * MS);
    int fired = timer(CLOCK_MONOTONIC, 0, 0, 1, 0);
    int unset = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int twin = dup(periodic);

    uint64_t were_read = 0;
    struct pollfd p = {boot_periodic, POLLIN, 0};
    CHECK(poll(&p, 1, -1) == 1 && read(boot_periodic, &were_read, 8) == 8, "read: %m");
    p.fd = fired;
    CHECK(poll(&p, 1, -1) == 1, "poll: %m");
    p.fd = periodic;
    CHECK(poll(&p, 1, -1) == 1, "poll: %m");

    puts("ready");
    while (!go) sigsuspend(&old);

    deadline_is("relative, CLOCK_MONOTONIC", once, CLOCK_MONOTONIC, mono + 3600 * S, set + 3600 * S, 0);
    deadline_is("relative, CLOCK_REALTIME", relative_real, CLOCK_MONOTONIC, mono + 3600 * S, set + 3600 * S, 7 * S);
    deadline_is("relative, CLOCK_BOOTTIME", boot_once, CLOCK_BOOTTIME, boot + 3600 * S, boot_set + 3600 * S, 0);
    deadline_is("alarm", alarm, CLOCK_BOOTTIME, boot + 3600 * S, boot_set + 3600 * S, 0);
    deadline_is("absolute, CLOCK_REALTIME", absolute, CLOCK_REALTIME, real + 3600 * S, real + 3600 * S, 0);
    says("cancelled when the clock is set", absolute, "settime flags: 03\n");
    says("alarm", alarm, "clockid: 9\n");
    ticks_are("periodic, CLOCK_MONOTONIC", twin, CLOCK_MONOTONIC, mono + 10 * MS, 50 * MS, 0);
    ticks_are("fast", fast, CLOCK_MONOTONIC, mono + 10 * MS, 100000, 0);
    ticks_are("periodic, CLOCK_BOOTTIME", boot_periodic, CLOCK_BOOTTIME, boot + 10 * MS, 30 * MS, were_read);
    ticks_are("periodic, CLOCK_REALTIME", real_periodic, CLOCK_REALTIME, real + 10 * MS, 20 * MS, 0);

    fcntl(periodic, F_SETFL, O_NONBLOCK);
    CHECK(fcntl(twin, F_GETFL) & O_NONBLOCK, "twins are not one description");
    fcntl(periodic, F_SETFL, 0);
    CHECK(fcntl(unset, F_GETFL) & O_NONBLOCK, "O_NONBLOCK is lost");
    CHECK(fcntl(unset, F_GETFD) == FD_CLOEXEC && fcntl(once, F_GETFD) == 0, "close-on-exec");
    CHECK(read(unset, &ticks, 8) == -1 && errno == EAGAIN, "one that was not set has ticks");
    fcntl(fired, F_SETFL, O_NONBLOCK);
    CHECK(read(fired, &ticks, 8) == 8 && ticks == 1, "one that has fired: %llu ticks", (unsigned long long)ticks);
    CHECK(read(fired, &ticks, 8) == -1 && errno == EAGAIN, "it fires again");

    CHECK(read(soon, &ticks, 8) == 8 && ticks == 1, "one that fires soon: %llu ticks", (unsigned long long)ticks);
    CHECK(now(CLOCK_MONOTONIC) >= mono + 4 * S, "it fires too soon");
    CHECK(read(periodic, &ticks, 8) == 8 && ticks >= 1, "a periodic one has stopped");
    ticks_are("some moments of CLOCK_REALTIME", distant, CLOCK_REALTIME, real + 2500 * MS, 1000 * MS, 0);
    if (!failures) puts("ok");
    return failures != 0;
}
