/* An epoll instance that watches one of everything, in every manner; after a checkpoint (SIGUSR1) it is asked.
   usage: kind_epoll; prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

/* What each item gives back; the upper half shows that all 64 bits are kept. */
#define DATA(item) (0xFEDCBA9800000000ull | (item))
enum { LEVEL, EDGE, FIRED, ARMED, EXCLUSIVE, READER, WRITER, TWIN, NESTED, TIMER, SIGNAL, QUIET, ITEMS };

static int ep;
static void watch(int instance, int fd, uint32_t events, int item)
{
    struct epoll_event e = {events, {.u64 = DATA(item)}};
    if (epoll_ctl(instance, EPOLL_CTL_ADD, fd, &e)) { printf("different: epoll_ctl for %d (%m)\n", item); exit(1); }
}

/* The events of each item that is told now. */
static void ask(uint32_t events[ITEMS])
{
    struct epoll_event told[2 * ITEMS];
    memset(events, 0, ITEMS * sizeof *events);
    int n = epoll_wait(ep, told, 2 * ITEMS, 0);
    CHECK(n >= 0, "epoll_wait: %m");
    for (int i = 0; i < n; i++) {
        unsigned item = (unsigned)told[i].data.u64;
        if (item >= ITEMS || told[i].data.u64 != DATA(item)) { CHECK(0, "data %llx", (unsigned long long)told[i].data.u64); continue; }
        CHECK(!events[item], "item %u is told twice", item);
        events[item] = told[i].events;
    }
}

/* Descriptor, events and data of every item; the inode numbers of what is watched may be new. */
static int compare(const void *a, const void *b) { return strcmp(a, b); }
static void items(int instance, char text[4096])
{
    char path[64], lines[32][96], line[256];
    int n = 0;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", instance);
    FILE *f = fopen(path, "re");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "tfd:", 4) && n < 32) snprintf(lines[n++], 96, "%.*s\n", (int)(strstr(line, " pos:") - line), line);
    fclose(f);
    qsort(lines, n, 96, compare);
    text[0] = 0;
    for (int i = 0; i < n; i++) strcat(text, lines[i]);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, &old);
    signal(SIGUSR1, on_usr1);
    sigdelset(&set, SIGUSR1);

    int ends[2], full[2];
    char byte = 0;
    uint64_t count;
    uint32_t told[ITEMS];
    ep = epoll_create1(0);
    int inner = epoll_create1(EPOLL_CLOEXEC), innermost = epoll_create1(0);
    int level = eventfd(1, 0), edge = eventfd(1, EFD_NONBLOCK), fired = eventfd(1, 0), armed = eventfd(1, 0);
    int exclusive = eventfd(1, 0), deep = eventfd(1, 0), twin = dup(level);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0), signals = signalfd(-1, &set, 0);
    if (pipe(ends) || pipe(full)) return 2;
    struct itimerspec in_a_nanosecond = {{0, 0}, {0, 1}};
    timerfd_settime(timer, 0, &in_a_nanosecond, 0);
    watch(ep, fired, EPOLLIN | EPOLLOUT | EPOLLONESHOT, FIRED);
    watch(ep, edge, EPOLLIN | EPOLLET, EDGE);
    ask(told);
    CHECK(told[FIRED] == (EPOLLIN | EPOLLOUT) && told[EDGE] == EPOLLIN, "before: the first shot, the first edge");
    watch(ep, level, EPOLLIN, LEVEL);
    watch(ep, twin, EPOLLIN, TWIN);
    watch(ep, armed, EPOLLIN | EPOLLONESHOT, ARMED);
    watch(ep, exclusive, EPOLLIN | EPOLLEXCLUSIVE, EXCLUSIVE);
    watch(ep, ends[0], EPOLLIN | EPOLLRDHUP, READER);
    watch(ep, ends[1], EPOLLOUT, WRITER);
    watch(ep, full[0], EPOLLONESHOT, QUIET);
    watch(ep, timer, EPOLLIN, TIMER);
    watch(ep, signals, EPOLLIN, SIGNAL);
    watch(ep, inner, EPOLLIN, NESTED);
    watch(inner, innermost, EPOLLIN, 0);
    watch(innermost, deep, EPOLLIN, 0);
    char before[3][4096], after[4096];
    int instances[3] = {ep, inner, innermost};
    for (int i = 0; i < 3; i++) items(instances[i], before[i]);
    CHECK(strstr(before[0], "40000000"), "before: the fired item is not disabled");

    puts("ready");
    while (!go) sigsuspend(&old);

    for (int i = 0; i < 3; i++) {
        items(instances[i], after);
        CHECK(!strcmp(before[i], after), "items of instance %d:\n%s-- were:\n%s", i, after, before[i]);
    }
    ask(told);
    static const uint32_t expected[ITEMS] = {
        [LEVEL] = EPOLLIN, [TWIN] = EPOLLIN, [ARMED] = EPOLLIN, [EXCLUSIVE] = EPOLLIN,
        [WRITER] = EPOLLOUT, [NESTED] = EPOLLIN, [TIMER] = EPOLLIN,
    };
    for (int i = 0; i < ITEMS; i++) /* one more event on an edge is permitted by epoll(7) */
        CHECK(told[i] == expected[i] || (i == EDGE && told[i] == EPOLLIN), "item %d: %x, not %x", i, told[i], expected[i]);

    /* What changes now is told, and only that. */
    CHECK(write(ends[1], &byte, 1) == 1 && read(level, &count, 8) == 8 && count == 1, "a pipe, an eventfd: %m");
    CHECK(read(timer, &count, 8) == 8 && read(deep, &count, 8) == 8 && read(exclusive, &count, 8) == 8, "reading: %m");
    kill(getpid(), SIGUSR2);
    ask(told);
    CHECK(told[READER] == EPOLLIN && told[SIGNAL] == EPOLLIN, "a pipe and a signal: %x, %x", told[READER], told[SIGNAL]);
    CHECK(!told[LEVEL] && !told[TWIN] && !told[TIMER] && !told[NESTED] && !told[EXCLUSIVE], "what has been read is still told");
    CHECK(!told[ARMED] && !told[FIRED], "a shot is fired twice");
    CHECK(!told[EDGE], "an edge is told again and again");
    count = 1;
    CHECK(write(edge, &count, 8) == 8 && write(exclusive, &count, 8) == 8, "eventfd: %m");
    ask(told);
    CHECK(told[EDGE] == EPOLLIN && told[EXCLUSIVE] == EPOLLIN, "a new edge");
    struct epoll_event again = {EPOLLIN | EPOLLONESHOT, {.u64 = DATA(FIRED)}};
    CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, fired, &again) == 0, "loading it again: %m");
    ask(told);
    CHECK(told[FIRED] == EPOLLIN, "a shot that was loaded again");
    close(ends[1]);
    ask(told);
    CHECK(told[READER] & EPOLLHUP, "a hang-up");
    CHECK(fcntl(inner, F_GETFD) == FD_CLOEXEC && fcntl(ep, F_GETFD) == 0, "close-on-exec");
    if (!failures) puts("ok");
    return failures != 0;
}
