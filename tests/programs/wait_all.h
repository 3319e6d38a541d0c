/* What the calls of wait_all_calls.h work with: the state of one wait, and system calls made without a library. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define LONG 600 /* seconds: the timeout of calls that are woken before it */
#define PIPE_BYTES 65536
#define MESSAGE_BYTES 4096
#define A(x) ((uint64_t)(uintptr_t)(x))

struct wait {
    const struct row *row;
    long long began_ns, due_ns, late_ns, handled_ns;
    struct timespec given, due, left;
    struct timeval tv;
    struct epoll_event event;
    struct pollfd polled;
    fd_set set;
    struct iovec part;
    struct mmsghdr messages[1];
    uint32_t word, other;
    uint64_t waiter[3]; /* struct futex_waitv: val, uaddr, flags */
    int fd, another, pipe[2], more[2], index;
    volatile int tid, ended;
    int handled, registers_kept, calls;
    long result;
    uint64_t mask;
    unsigned long context; /* of AIO */
    char data[40], text[PIPE_BYTES];
};

/* One call: its name, the clock that it is given, the clock that its time is on, what makes it and what ends it. */
struct row {
    const char *name;
    int id, clock;
    long (*call)(struct wait *w);
    void (*prepare)(struct wait *w);
    void (*peer)(struct wait *w); /* NULL: it ends by its own timeout */
};

static uint64_t nothing_blocked, usr1_blocked = 1ULL << (SIGUSR1 - 1), usr2_blocked = 1ULL << (SIGUSR2 - 1);
static const struct timespec longer = {LONG, 0};

static long long now_ns(int clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

/* A call with up to six arguments; -errno. Looks whether the registers of its arguments come back as they were. */
static long raw(struct wait *w, long number, const uint64_t in[6])
{
    register uint64_t rdi __asm__("rdi") = in[0], rsi __asm__("rsi") = in[1], rdx __asm__("rdx") = in[2];
    register uint64_t r10 __asm__("r10") = in[3], r8 __asm__("r8") = in[4], r9 __asm__("r9") = in[5];
    long result = number;
    __asm__ volatile("syscall"
                     : "+a"(result), "+r"(rdi), "+r"(rsi), "+r"(rdx), "+r"(r10), "+r"(r8), "+r"(r9)
                     :
                     : "rcx", "r11", "memory");
    w->registers_kept = rdi == in[0] && rsi == in[1] && rdx == in[2] && r10 == in[3] && r8 == in[4] && r9 == in[5];
    return result;
}
#define CALL(w, number, ...) raw(w, number, (const uint64_t[6]){__VA_ARGS__})
