/* Waits in a call that a freeze ends with EINTR: `wait_again KIND MILLISECONDS [stay]`, -1 for no timeout. With
   "stay" the handler of SIGUSR1 does not return before SIGHUP has come.
   Prints "waiting", then JSON: what the call returned, errno, how long it took by CLOCK_MONOTONIC, whether the registers
   of its arguments were as before, and how often a handler ran.
   The kinds "-some" wait for two completions where there is one already: the call tells that when it ends. "-least" is
   the same, but with MILLISECONDS as the least time to wait; "-both" has a half of them as that, "-alone" no timeout. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "raw_call.h"

static volatile int handled, stay;
static void on_signal(int number)
{
    (void)number;
    while (stay)
        pause();
    handled++;
}

static void on_hangup(int number)
{
    (void)number;
    stay = 0;
}

#ifdef __i386__
#define SYS_semtimedop SYS_ipc
#endif

/* An AIO context, with a completion in it if `some`. */
static uint64_t make_context(int some)
{
    static char byte;
    aio_context_t context = 0;
    int null = open("/dev/null", O_RDONLY);
    struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (unsigned)null, .aio_buf = (uintptr_t)&byte};
    struct iocb *list[] = {&request};
    if (null < 0 || syscall(SYS_io_setup, 4, &context) || (some && syscall(SYS_io_submit, context, 1L, list) != 1))
        exit(3);
    return context;
}

/* An io_uring, with an operation to be submitted if `some`. */
static uint64_t make_ring(int some)
{
    struct io_uring_params p = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 4, &p);
    size_t size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    char *rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    char *sqes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    if (fd < 0 || rings == MAP_FAILED || sqes == MAP_FAILED)
        exit(3);
    *(unsigned *)(rings + p.sq_off.tail) = (unsigned)some; /* all zeros: IORING_OP_NOP */
    return (uint64_t)fd;
}

/* struct __aio_sigset of fs/aio.c; struct io_uring_getevents_arg of newer kernels. */
struct aio_sigset {
    uint64_t mask, size;
};
struct getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_size, min_wait_usec;
    uint64_t ts;
};

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    stay = argc > 3;
    long ms = atol(argv[2]);
    struct timespec left = {ms / 1000, ms % 1000 * 1000000}, before = left;
    uint64_t timeout = ms < 0 ? 0 : (uintptr_t)&left;
    int64_t wide[2] = {left.tv_sec, left.tv_nsec}; /* struct __kernel_timespec, all that some calls take */
    uint64_t wide_timeout = ms < 0 ? 0 : (uintptr_t)wide;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = on_hangup;
    sigaction(SIGHUP, &action, NULL);
    sigset_t set, mask;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigemptyset(&mask);
    siginfo_t info;
    struct sembuf operation = {.sem_op = -1};
    struct epoll_event event;
    int semaphores = -1, epoll = -1, kept;
    uint64_t in[6] = {0, 0, 0, 0x1234567812345678, 0x8765432187654321, 0x1111222233334444};
    long number;
    int64_t began = 0;
    if (!strcmp(argv[1], "rt_sigtimedwait")) {
        number = SYS_rt_sigtimedwait;
        in[0] = (uintptr_t)&set, in[1] = (uintptr_t)&info, in[2] = timeout, in[3] = 8;
    } else if (!strcmp(argv[1], "semtimedop")) {
        number = SYS_semtimedop;
        semaphores = semget(IPC_PRIVATE, 1, 0600);
        in[0] = semaphores, in[1] = (uintptr_t)&operation, in[2] = 1, in[3] = timeout;
#ifdef __i386__ /* SEMTIMEDOP, id, count, nothing, operations, timeout */
        in[0] = 4, in[1] = semaphores, in[2] = 1, in[3] = 0, in[4] = (uintptr_t)&operation, in[5] = timeout;
#endif
    } else if (!strncmp(argv[1], "io_getevents", 12) || !strcmp(argv[1], "io_pgetevents")) {
        static struct io_event events[4];
        static struct aio_sigset with;
        int some = argv[1][strlen(argv[1]) - 1] == 'e';
        with = (struct aio_sigset){(uintptr_t)&mask, 8};
        number = argv[1][3] == 'p' ? 333 : SYS_io_getevents;
        in[0] = make_context(some), in[1] = 1 + some, in[2] = 4, in[3] = (uintptr_t)events, in[4] = timeout;
        if (number == 333)
            in[5] = (uintptr_t)&with;
    } else if (!strncmp(argv[1], "io_uring_enter", 14)) {
        static struct getevents_arg arg;
        int some = argv[1][strlen(argv[1]) - 1] == 'e';
        const char *least = argv[1] + 14;
        if (!strcmp(least, "-least")) {
            some = 1, wide[0] = 600;
            arg.min_wait_usec = (uint32_t)ms * 1000;
        } else if (!strcmp(least, "-both"))
            some = 0, arg.min_wait_usec = (uint32_t)ms * 500;
        else if (!strcmp(least, "-alone"))
            some = 0, arg.min_wait_usec = (uint32_t)ms * 1000, wide_timeout = 0;
        arg.sigmask = (uintptr_t)&mask, arg.sigmask_size = 8, arg.ts = wide_timeout;
        number = 426;
        in[0] = make_ring(some), in[1] = some, in[2] = 1 + some, in[4] = (uintptr_t)&arg, in[5] = sizeof arg;
        in[3] = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
        if (!strcmp(argv[1], "io_uring_enter-until")) { /* IORING_ENTER_ABS_TIMER */
            began = now_ns();
            int64_t until = began + ms * 1000000ll;
            wide[0] = until / 1000000000, wide[1] = until % 1000000000;
            in[3] |= 1 << 5;
        }
    } else {
        epoll = epoll_create1(0);
        in[0] = epoll, in[1] = (uintptr_t)&event, in[2] = 1;
        if (!strcmp(argv[1], "epoll_wait")) {
            number = SYS_epoll_wait;
            in[3] = (uint32_t)ms;
        } else if (!strcmp(argv[1], "epoll_pwait")) {
            number = SYS_epoll_pwait;
            in[3] = (uint32_t)ms, in[4] = (uintptr_t)&mask, in[5] = 8;
        } else {
            number = 441; /* epoll_pwait2 */
            in[3] = wide_timeout, in[4] = (uintptr_t)&mask, in[5] = 8;
        }
    }
    int64_t wide_before[2] = {wide[0], wide[1]};
    puts("waiting");
    fflush(stdout);
    if (!began)
        began = now_ns();
    long result = call(number, in, &kept);
    int64_t took = now_ns() - began;
    if (semaphores >= 0)
        semctl(semaphores, 0, IPC_RMID);
    printf("{\"result\": %ld, \"took_ns\": %lld, \"registers_kept\": %d, \"timeout_kept\": %d, \"handled\": %d}\n", result,
           (long long)took, kept, !memcmp(&left, &before, sizeof left) && !memcmp(wide, wide_before, sizeof wide), handled);
    return 0;
}
