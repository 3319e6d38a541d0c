/* Counts, publishes the count in a file, and checks itself all the time: its memory, its sleeps, its descriptor.
   usage: counter KIND [PATH]; KIND is what it holds as descriptor 3, see below. Prints "ready"; at SIGTERM "ok"
   and ends with 0, at SIGINT with 7. What is wrong is printed at once, and ends it with 1. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define WORDS ((4u << 20) / 8)
static uint64_t memory[WORDS];
static volatile sig_atomic_t ended;
static void on_end(int s) { ended = s; }

static void fail(const char *what)
{
    printf("wrong: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static int hold(const char *kind, const char *path)
{
    int two[2];
    if (!strcmp(kind, "nothing")) return open("/dev/null", O_RDONLY);
    if (!strcmp(kind, "socket")) return socket(AF_PACKET, SOCK_RAW, 0);
    if (!strcmp(kind, "stale epoll")) { /* watches a pipe that has another number now */
        struct epoll_event event = {.events = EPOLLIN};
        int instance = epoll_create1(0);
        if (pipe(two) || epoll_ctl(instance, EPOLL_CTL_ADD, two[0], &event) || dup2(two[0], 50) < 0) return -1;
        return close(two[0]) ? -1 : instance;
    }
    if (!strcmp(kind, "memfd")) return memfd_create("held", 0);
    if (!strcmp(kind, "pipe")) return pipe(two) ? -1 : two[0];
    if (!strcmp(kind, "file")) return open(path, O_RDWR | O_CREAT, 0600);
    if (!strcmp(kind, "lease")) {
        int fd = open(path, O_RDWR | O_CREAT, 0600);
        return fcntl(fd, F_SETLEASE, F_WRLCK) ? -1 : fd;
    }
    if (!strcmp(kind, "terminal")) {
        int master = posix_openpt(O_RDWR | O_NOCTTY);
        return grantpt(master) || unlockpt(master) || open(ptsname(master), O_RDWR | O_NOCTTY) < 0 ? -1 : master;
    }
    if (!strcmp(kind, "child")) {
        pid_t parent = getpid();
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            while (getppid() == parent) pause();
            _exit(0);
        }
        return open("/dev/null", O_RDONLY);
    }
    errno = EINVAL;
    return -1;
}

int main(int argc, char **argv)
{
    if (argc < 2) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    /* A name that a terminal would obey. */
    if (argc > 2) prctl(PR_SET_NAME, "\033[31mred");
    struct sigaction action = {.sa_handler = on_end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    struct stat before, now;
    if (hold(argv[1], argc > 2 ? argv[2] : NULL) != 3 || fstat(3, &before)) fail("holding descriptor 3");
    int published = open("count", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (published < 0) fail("opening the file");

    uint64_t count = 0, from_file;
    for (size_t i = 0; i < WORDS; i++) memory[i] = i * 0x9E3779B97F4A7C15ull;
    struct timespec pause_ = {0, 2000000};
    puts("ready");
    while (!ended) {
        if (count && (pread(published, &from_file, 8, 0) != 8 || from_file != count)) fail("the count in the file");
        count++;
        if (pwrite(published, &count, 8, 0) != 8) fail("publishing the count");
        if (clock_nanosleep(CLOCK_MONOTONIC, 0, &pause_, NULL) && !ended) fail("a sleep was interrupted");
        for (size_t i = count % 512; i < WORDS; i += 512)
            if (memory[i] != i * 0x9E3779B97F4A7C15ull) fail("memory has changed");
        if (fstat(3, &now) || now.st_mode != before.st_mode) fail("descriptor 3 has changed");
    }
    if (ended == SIGINT) return 7;
    puts("ok");
    return 0;
}
