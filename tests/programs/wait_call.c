/* Blocks in one system call, by the kind named in the first argument, until it is due: after as many milliseconds as
   the second says, either by its own timeout or because a second thread then does what it waits for. Prints as
   JSON what the call gave back, and how far beyond the due time it came back on the clock that the time is on.
   Built with -m32 it makes the first 32-bit calls, with -D_TIME_BITS=64 as well those of 64-bit time.
   A third argument says how a handler of SIGUSR1 is installed: "handler" or "restart" (SA_RESTART). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifdef __i386__ /* the older of each pair of calls, or that of 64-bit time */
#undef SYS_select
#define SYS_select SYS__newselect
#if _TIME_BITS == 64
#undef SYS_clock_nanosleep
#undef SYS_futex
#undef SYS_ppoll
#undef SYS_pselect6
#define SYS_clock_nanosleep SYS_clock_nanosleep_time64
#define SYS_futex SYS_futex_time64
#define SYS_ppoll SYS_ppoll_time64
#define SYS_pselect6 SYS_pselect6_time64
#endif
#endif

#define NS 1000000000LL
#define LONG 60 /* seconds: the timeout of calls that are woken before it */
#define UNTOUCHED {7, 7}

static int milliseconds, id, word, pipes[2], others[2], event;
static struct timespec given, due, left = UNTOUCHED, longer = {LONG, 0};
static struct timeval tv;
static uint64_t nobody_blocked, usr1_blocked = 1ULL << (SIGUSR1 - 1);
static char data[65536];
static pthread_t main_thread;
static volatile long long handled_ns;
static volatile int handled;

static long long now_ns(int clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static void on_usr1(int number)
{
    (void)number;
    handled_ns = now_ns(CLOCK_MONOTONIC);
    handled++;
}

static long as_left(long result)
{
    left = given;
    return result;
}

/* -- the calls: raw, so that no library stands between the program and what the kernel gives back */

static long c_nanosleep(void) { return syscall(SYS_nanosleep, &given, &left); }
static long c_nanosleep_null(void) { return syscall(SYS_nanosleep, &given, NULL); }
static long c_nanosleep_same(void) { return as_left(syscall(SYS_nanosleep, &given, &given)); }
static long c_relative(void) { return syscall(SYS_clock_nanosleep, id, 0, &given, &left); }
static long c_relative_null(void) { return syscall(SYS_clock_nanosleep, id, 0, &given, NULL); }
static long c_absolute(void) { return syscall(SYS_clock_nanosleep, id, TIMER_ABSTIME, &due, &left); }

static long futex(int op, struct timespec *timeout, int bitset)
{
    return syscall(SYS_futex, &word, op, 0, timeout, NULL, bitset);
}
static long c_futex(void) { return futex(FUTEX_WAIT_PRIVATE, &given, 0); }
static long c_futex_shared(void) { return futex(FUTEX_WAIT, &given, 0); }
static long c_futex_forever(void) { return futex(FUTEX_WAIT_PRIVATE, NULL, 0); }
static long c_futex_woken(void) { return futex(FUTEX_WAIT_PRIVATE, &longer, 0); }
static long c_bitset_forever(void) { return futex(FUTEX_WAIT_BITSET_PRIVATE, NULL, 4); }
static long c_bitset(void)
{
    return futex(FUTEX_WAIT_BITSET_PRIVATE | (id == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0), &due, 4);
}
static long c_lock_pi(void) { return syscall(SYS_futex, &word, FUTEX_LOCK_PI_PRIVATE, 0, NULL); }
static long c_join(void) { return pthread_join(*(pthread_t *)data, NULL); }

static struct pollfd polled;
static long as_polled(long result)
{
    snprintf(data, sizeof(data), "%#x", polled.revents);
    return result;
}
static long c_poll(void) { return syscall(SYS_poll, NULL, 0, milliseconds); }
static long c_poll_pipe(void) { return as_polled(syscall(SYS_poll, &polled, 1, milliseconds)); }
static long c_poll_woken(void) { return as_polled(syscall(SYS_poll, &polled, 1, LONG * 1000)); }
static long c_poll_forever(void) { return as_polled(syscall(SYS_poll, &polled, 1, -1)); }
static long c_ppoll(void) { return as_left(syscall(SYS_ppoll, &polled, 1, &given, &usr1_blocked, 8)); }
static const struct timespec constant = {5, 0};
static long c_ppoll_constant(void) { return syscall(SYS_ppoll, &polled, 1, &constant, NULL, 8); }
static long c_ppoll_woken(void)
{
    given = longer;
    return as_left(as_polled(syscall(SYS_ppoll, &polled, 1, &given, NULL, 8)));
}

static fd_set set;
static long as_selected(long result)
{
    snprintf(data, sizeof(data), "%d", FD_ISSET(pipes[0], &set));
    return result;
}
static long c_select(void)
{
    long result = as_selected(syscall(SYS_select, pipes[0] + 1, &set, NULL, NULL, &tv));
    left = (struct timespec){tv.tv_sec, tv.tv_usec * 1000};
    return result;
}
#ifdef __i386__
/* The first of its calls, 82: struct sel_arg_struct of fs/select.c. */
static long old_select(struct timeval *timeout)
{
    struct { uint32_t n, inp, outp, exp, tvp; } arg = {pipes[0] + 1, (uintptr_t)&set, 0, 0, (uintptr_t)timeout};
    return as_selected(syscall(82, &arg));
}
static long c_old_select(void)
{
    long result = old_select(&tv);
    left = (struct timespec){tv.tv_sec, tv.tv_usec * 1000};
    return result;
}
static long c_old_select_forever(void) { return old_select(NULL); }
static long c_old_sigsuspend(void) { return syscall(72, 0, 0, 0); }
#endif
static long c_select_forever(void) { return as_selected(syscall(SYS_select, pipes[0] + 1, &set, NULL, NULL, NULL)); }
static long c_pselect(void)
{
    struct { uint64_t *mask; unsigned long size; } mask = {&usr1_blocked, 8};
    return as_left(as_selected(syscall(SYS_pselect6, pipes[0] + 1, &set, NULL, NULL, &given, &mask)));
}

static long c_pause(void) { return syscall(SYS_pause); }
static long c_sigsuspend(void) { return syscall(SYS_rt_sigsuspend, &nobody_blocked, 8); }

static long c_read(void) { return syscall(SYS_read, pipes[0], data, 100); }
static long c_readv(void)
{
    struct iovec parts[2] = {{data + 1, 2}, {data, 1}};
    return syscall(SYS_readv, pipes[0], parts, 2);
}
/* The pipe holds 64 KiB and is full: written is what the second thread makes room for. */
static long c_write(void) { return syscall(SYS_write, pipes[1], data, 4096); }
static long c_write_more(void) { return syscall(SYS_write, pipes[1], data, 65536); }
static long c_splice(void) { return syscall(SYS_splice, pipes[0], NULL, others[1], NULL, 100, 0); }
static long c_tee(void) { return syscall(SYS_tee, pipes[0], others[1], 100, 0); }
static long c_read_event(void) { return syscall(SYS_read, event, data, 8); }
static long c_open_fifo(void) { return syscall(SYS_openat, AT_FDCWD, "fifo", O_RDONLY) >= 0 ? 0 : -1; }
static long c_read_fifo(void) { return syscall(SYS_read, others[0], data, 100); }

/* -- what the second thread does when it is time */

static void p_wake(void)
{
    word = 1;
    syscall(SYS_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 4);
}
static void p_write(void) { (void)!write(pipes[1], "hello", 5); }
static void p_drain(void)
{
    static char room[131072];
    for (long sum = 0; sum < 65536;)
        sum += read(pipes[0], room, 65536);
}
static void p_signal(void) { pthread_kill(main_thread, SIGUSR1); }
static void p_event(void) { (void)!write(event, "*-------", 8); }
static void p_open_fifo(void) { others[1] = open("fifo", O_WRONLY); }
static void p_write_fifo(void) { (void)!write(others[1], "fifo", 4); }
static void p_unlock(void) { syscall(SYS_futex, &word, FUTEX_UNLOCK_PI_PRIVATE); }
static void p_end(void) {}

/* -- one row a kind: the clock passed to the call; the clock that the due time is on */

static const struct row {
    const char *name;
    int id, clock;
    long (*call)(void);
    void (*peer)(void);
} rows[] = {
    {"nanosleep", 0, CLOCK_MONOTONIC, c_nanosleep, NULL},
    {"nanosleep-null", 0, CLOCK_MONOTONIC, c_nanosleep_null, NULL},
    {"nanosleep-same", 0, CLOCK_MONOTONIC, c_nanosleep_same, NULL},
    {"relative-realtime", CLOCK_REALTIME, CLOCK_MONOTONIC, c_relative, NULL},
    {"relative-monotonic", CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_relative, NULL},
    {"relative-boottime", CLOCK_BOOTTIME, CLOCK_MONOTONIC, c_relative, NULL},
    {"relative-tai", CLOCK_TAI, CLOCK_MONOTONIC, c_relative, NULL},
    {"relative-null", CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_relative_null, NULL},
    {"absolute-realtime", CLOCK_REALTIME, CLOCK_REALTIME, c_absolute, NULL},
    {"absolute-monotonic", CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_absolute, NULL},
    {"absolute-boottime", CLOCK_BOOTTIME, CLOCK_BOOTTIME, c_absolute, NULL},
    {"absolute-tai", CLOCK_TAI, CLOCK_TAI, c_absolute, NULL},
    {"futex", 0, CLOCK_MONOTONIC, c_futex, NULL},
    {"futex-shared", 0, CLOCK_MONOTONIC, c_futex_shared, NULL},
    {"futex-forever", 0, CLOCK_MONOTONIC, c_futex_forever, p_wake},
    {"futex-woken", 0, CLOCK_MONOTONIC, c_futex_woken, p_wake},
    {"bitset-monotonic", CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_bitset, NULL},
    {"bitset-realtime", CLOCK_REALTIME, CLOCK_REALTIME, c_bitset, NULL},
    {"bitset-forever", 0, CLOCK_MONOTONIC, c_bitset_forever, p_wake},
    {"lock-pi", 0, CLOCK_MONOTONIC, c_lock_pi, p_unlock},
    {"join", 0, CLOCK_MONOTONIC, c_join, p_end},
    {"poll", 0, CLOCK_MONOTONIC, c_poll, NULL},
    {"poll-pipe", 0, CLOCK_MONOTONIC, c_poll_pipe, NULL},
    {"poll-woken", 0, CLOCK_MONOTONIC, c_poll_woken, p_write},
    {"poll-forever", 0, CLOCK_MONOTONIC, c_poll_forever, p_write},
    {"ppoll", 0, CLOCK_MONOTONIC, c_ppoll, NULL},
    {"ppoll-woken", 0, CLOCK_MONOTONIC, c_ppoll_woken, p_write},
    {"ppoll-constant", 0, CLOCK_MONOTONIC, c_ppoll_constant, NULL},
    {"select", 0, CLOCK_MONOTONIC, c_select, NULL},
    {"select-forever", 0, CLOCK_MONOTONIC, c_select_forever, p_write},
#ifdef __i386__
    {"old-select", 0, CLOCK_MONOTONIC, c_old_select, NULL},
    {"old-select-forever", 0, CLOCK_MONOTONIC, c_old_select_forever, p_write},
    {"old-sigsuspend", 0, CLOCK_MONOTONIC, c_old_sigsuspend, p_signal},
#endif
    {"pselect", 0, CLOCK_MONOTONIC, c_pselect, NULL},
    {"pause", 0, CLOCK_MONOTONIC, c_pause, p_signal},
    {"sigsuspend", 0, CLOCK_MONOTONIC, c_sigsuspend, p_signal},
    {"read", 0, CLOCK_MONOTONIC, c_read, p_write},
    {"readv", 0, CLOCK_MONOTONIC, c_readv, p_write},
    {"write", 0, CLOCK_MONOTONIC, c_write, p_drain},
    {"write-more", 0, CLOCK_MONOTONIC, c_write_more, p_drain},
    {"splice", 0, CLOCK_MONOTONIC, c_splice, p_write},
    {"tee", 0, CLOCK_MONOTONIC, c_tee, p_write},
    {"read-event", 0, CLOCK_MONOTONIC, c_read_event, p_event},
    {"open-fifo", 0, CLOCK_MONOTONIC, c_open_fifo, p_open_fifo},
    {"read-fifo", 0, CLOCK_MONOTONIC, c_read_fifo, p_write_fifo},
};

static const struct row *row;

static void *peer(void *unused)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    if (row->peer == p_unlock)
        syscall(SYS_futex, &word, FUTEX_LOCK_PI_PRIVATE, 0, NULL);
    struct timespec own = given; /* the call may write to that */
    *(volatile int *)unused = 1;
    syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &own, NULL);
    row->peer();
    if (row->peer != p_end) /* else its end would be noticed too */
        pause();
    return NULL;
}

static void prepare(void)
{
    (void)!pipe(pipes);
    polled = (struct pollfd){pipes[0], POLLIN, 0};
    FD_SET(pipes[0], &set);
    event = eventfd(0, 0);
    if (strstr(row->name, "fifo"))
        mkfifo("fifo", 0600);
    if (row->peer == p_write_fifo)
        others[0] = others[1] = open("fifo", O_RDWR);
    else if (row->call == c_splice || row->call == c_tee)
        (void)!pipe(others);
    if (row->peer == p_drain)
        (void)!write(pipes[1], data, 65536);
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows) && argc > 2; i++)
        if (!strcmp(argv[1], rows[i].name))
            row = &rows[i];
    if (!row)
        return 2;
    id = row->id;
    milliseconds = atoi(argv[2]);
    given = (struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000L};
    tv = (struct timeval){given.tv_sec, given.tv_nsec / 1000};
    main_thread = pthread_self();
    prepare();
    if (argc > 3 || row->peer == p_signal) {
        struct sigaction action = {.sa_handler = on_usr1};
        if (argc > 3 && !strcmp(argv[3], "restart"))
            action.sa_flags = SA_RESTART;
        sigaction(SIGUSR1, &action, NULL);
    }
    if (strstr(row->name, "sigsuspend"))
        sigprocmask(SIG_BLOCK, (sigset_t *)&usr1_blocked, NULL);

    long long began = now_ns(CLOCK_MONOTONIC), due_ns = now_ns(row->clock) + milliseconds * 1000000LL;
    due = (struct timespec){due_ns / NS, due_ns % NS};
    volatile int running = 0;
    if (row->peer) {
        pthread_t thread;
        pthread_create(&thread, NULL, peer, (void *)&running);
        if (row->peer == p_end)
            memcpy(data, &thread, sizeof(thread));
        while (!running)
            usleep(1000);
    }
    errno = 0;
    long result = row->call();
    int number = result < 0 ? errno : 0;
    long long late_ns = now_ns(row->clock) - due_ns, ended = now_ns(CLOCK_MONOTONIC);
    if (row->peer == p_end)
        *data = 0;
    printf("{\"result\": %ld, \"errno\": %d, \"left_ns\": %lld, \"handled\": %d, \"handled_ns\": %lld, "
           "\"late_ns\": %lld, \"elapsed_ns\": %lld, \"data\": \"%.8s\"}\n",
           result, number, left.tv_sec * NS + left.tv_nsec, handled, handled ? handled_ns - began : 0, late_ns,
           ended - began, data);
    return 0;
}
