/* io_urings with nothing in flight: `kind_io_uring KIND`. Uses one, registers things in it, leaves completions unread and a
   request unsubmitted, prints "ready" and waits for SIGUSR1. Then everything must be as it was and go on from there:
   positions, completions, the request, registered files, buffers, eventfd, ring descriptor, all by number and content.
   KIND: plain, silent (operations without completions), single (one thread only may submit, and it is not the leader),
   big (SQE128, CQE32), two (a second instance, mapped at a lower address), used (many operations before),
   forked (a child has the instance and its requests mapped too).
   In flight for the tests of refusals: timeout, read; closed (a registered file whose descriptor is closed). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what)                                                                     \
    do {                                                                                \
        if (!(what)) {                                                                  \
            printf("not so, line %d: %s (%s)\n", __LINE__, #what, strerror(errno));     \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

/* <linux/io_uring.h> may be older than the kernel. */
enum { SINGLE_ISSUER = 1 << 12, DEFER_TASKRUN = 1 << 13, REGISTER_RING_FDS = 20, ENTER_REGISTERED_RING = 1 << 4 };
enum { ENTRIES = 8 };

struct ring {
    int fd, registered; /* its number among registered rings */
    unsigned flags, sqe_bytes, cqe_bytes;
    char *rings, *sqes;
    volatile unsigned *sq_head, *sq_tail, *cq_head, *cq_tail, *array, sq_mask, cq_mask;
    char *cqes;
};

static void make(struct ring *ring, unsigned flags)
{
    struct io_uring_params p = {.flags = flags, .cq_entries = flags & IORING_SETUP_CQSIZE ? 64 : 0};
    ring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &p);
    CHECK(ring->fd >= 0);
    ring->flags = flags;
    ring->registered = -1;
    ring->sqe_bytes = flags & IORING_SETUP_SQE128 ? 128 : 64;
    ring->cqe_bytes = flags & IORING_SETUP_CQE32 ? 32 : 16;
    size_t size = p.cq_off.cqes + p.cq_entries * ring->cqe_bytes, least = p.sq_off.array + p.sq_entries * 4;
    size = size > least ? size : least;
    ring->rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
    ring->sqes = mmap(NULL, ENTRIES * ring->sqe_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
                      IORING_OFF_SQES);
    CHECK(ring->rings != MAP_FAILED && ring->sqes != MAP_FAILED);
    CHECK(madvise(ring->rings, size, MADV_DONTFORK) == 0); /* as liburing can be asked to */
    ring->sq_head = (void *)(ring->rings + p.sq_off.head);
    ring->sq_tail = (void *)(ring->rings + p.sq_off.tail);
    ring->cq_head = (void *)(ring->rings + p.cq_off.head);
    ring->cq_tail = (void *)(ring->rings + p.cq_off.tail);
    ring->array = (void *)(ring->rings + p.sq_off.array);
    ring->cqes = ring->rings + p.cq_off.cqes;
    ring->sq_mask = p.sq_entries - 1;
    ring->cq_mask = p.cq_entries - 1;
}

static struct io_uring_sqe *next(struct ring *ring, uint8_t opcode, uint64_t data)
{
    unsigned index = *ring->sq_tail & ring->sq_mask;
    struct io_uring_sqe *sqe = (void *)(ring->sqes + index * ring->sqe_bytes);
    memset(sqe, 0, ring->sqe_bytes);
    sqe->opcode = opcode;
    sqe->user_data = data;
    ring->array[index] = index;
    __atomic_store_n(ring->sq_tail, *ring->sq_tail + 1, __ATOMIC_RELEASE);
    return sqe;
}

static long enter(struct ring *ring, unsigned submit, unsigned wait)
{
    unsigned flags = IORING_ENTER_GETEVENTS;
    int fd = ring->fd;
    if (ring->registered >= 0)
        fd = ring->registered, flags |= ENTER_REGISTERED_RING;
    return syscall(SYS_io_uring_enter, fd, submit, wait, flags, NULL, 0);
}

static int take(struct ring *ring, uint64_t data)
{
    CHECK(__atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) != *ring->cq_head);
    struct io_uring_cqe *cqe = (void *)(ring->cqes + (*ring->cq_head & ring->cq_mask) * ring->cqe_bytes);
    CHECK(cqe->user_data == data);
    int result = cqe->res;
    __atomic_store_n(ring->cq_head, *ring->cq_head + 1, __ATOMIC_RELEASE);
    return result;
}

static void some_nops(struct ring *ring, int count, uint8_t flags)
{
    for (int i = 0; i < count; i++) {
        next(ring, IORING_OP_NOP, i)->flags = flags;
        CHECK(enter(ring, 1, 0) == 1);
        if (!flags)
            CHECK(take(ring, i) == 0);
    }
}

static const char *kind;
static pthread_barrier_t barrier;

static void wait_for_signal(void)
{
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    puts("ready");
    fflush(stdout);
    CHECK(sigwait(&set, &number) == 0);
}

static void *use(void *unused)
{
    (void)unused;
    static struct ring ring, other;
    static char buffer[2][4096];
    unsigned flags = 0;
    int pipe_fds[2], events = eventfd(0, EFD_NONBLOCK);
    uint64_t count = 0;

    if (!strcmp(kind, "single"))
        flags = SINGLE_ISSUER | DEFER_TASKRUN | IORING_SETUP_CQSIZE;
    if (!strcmp(kind, "big"))
        flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32;
    make(&ring, flags);
    CHECK(pipe(pipe_fds) == 0);
    next(&ring, IORING_OP_NOP, 7)->flags = IOSQE_ASYNC; /* by a worker of the kernel's, a task of this process */
    CHECK(enter(&ring, 1, 1) == 1 && take(&ring, 7) == 0);
    some_nops(&ring, !strcmp(kind, "used") ? 300000 : 21, 0);
    if (!strcmp(kind, "silent"))
        some_nops(&ring, 13, IOSQE_CQE_SKIP_SUCCESS);
    if (!strcmp(kind, "two")) {
        make(&other, 0);
        some_nops(&other, 5, 0);
        next(&other, IORING_OP_NOP, 77);
        CHECK(enter(&other, 1, 1) == 1);
    }

    int files[4] = {-1, pipe_fds[0], -1, pipe_fds[1]};
    struct iovec buffers[3] = {{buffer[0], 4096}, {NULL, 0}, {buffer[1] + 100, 200}};
    CHECK(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, files, 4) == 0);
    CHECK(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, buffers, 3) == 0);
    CHECK(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_EVENTFD, &events, 1) == 0);
    struct io_uring_rsrc_update update = {.offset = 3, .data = (unsigned)ring.fd};
    CHECK(syscall(SYS_io_uring_register, ring.fd, REGISTER_RING_FDS, &update, 1) == 1);
    ring.registered = 3;

    if (!strcmp(kind, "closed"))
        CHECK(close(pipe_fds[0]) == 0);
    if (!strcmp(kind, "timeout")) {
        static struct __kernel_timespec long_time = {.tv_sec = 1000};
        struct io_uring_sqe *sqe = next(&ring, IORING_OP_TIMEOUT, 5);
        sqe->addr = (uintptr_t)&long_time, sqe->len = 1;
        CHECK(enter(&ring, 1, 0) == 1);
    }
    if (!strcmp(kind, "read")) {
        struct io_uring_sqe *sqe = next(&ring, IORING_OP_READ, 6);
        sqe->fd = pipe_fds[0], sqe->addr = (uintptr_t)buffer, sqe->len = 1;
        CHECK(enter(&ring, 1, 0) == 1);
    }

    next(&ring, IORING_OP_NOP, 101);
    next(&ring, IORING_OP_NOP, 102);
    CHECK(enter(&ring, 2, 0) == 2);
    if (strcmp(kind, "read"))
        CHECK(write(pipe_fds[1], "fixed", 5) == 5);
    struct io_uring_sqe *later = next(&ring, IORING_OP_READ_FIXED, 103);
    later->flags = IOSQE_FIXED_FILE, later->fd = 1, later->len = 5, later->addr = (uintptr_t)buffer[1] + 150;
    later->buf_index = 2;
    unsigned before[4] = {*ring.sq_head, *ring.sq_tail, *ring.cq_head, *ring.cq_tail};
    CHECK(before[3] - before[2] == 2 && before[1] - before[0] == 1);

    int ends[2];
    pid_t child = -1;
    CHECK(pipe(ends) == 0);
    if (!strcmp(kind, "forked") && (child = fork()) == 0) {
        char none;
        close(ends[1]);
        CHECK(read(ends[0], &none, 1) == 0); /* until the parent closes its end, or ends */
        _exit(later->user_data == 104 && fcntl(ring.fd, F_GETFD) >= 0 ? 0 : 1);
    }

    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier); /* the signal has come */

    unsigned after[4] = {*ring.sq_head, *ring.sq_tail, *ring.cq_head, *ring.cq_tail};
    CHECK(memcmp(before, after, sizeof before) == 0);
    CHECK(read(events, &count, 8) == 8 && count >= 1 && count <= 2);
    CHECK(take(&ring, 101) == 0 && take(&ring, 102) == 0);
    CHECK(enter(&ring, 1, 1) == 1);
    CHECK(take(&ring, 103) == 5 && memcmp(buffer[1] + 150, "fixed", 5) == 0);
    CHECK(read(events, &count, 8) == 8 && count == 1);
    struct io_uring_sqe *hole = next(&ring, IORING_OP_READ_FIXED, 104);
    hole->flags = IOSQE_FIXED_FILE, hole->fd = 0, hole->len = 5, hole->addr = (uintptr_t)buffer[0];
    CHECK(enter(&ring, 1, 1) == 1 && take(&ring, 104) == -EBADF);
    CHECK(read(events, &count, 8) == 8 && count == 1);
    if (child > 0) {
        int status;
        later->user_data = 104; /* in memory that the child sees */
        close(ends[1]);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    for (int i = 0; i < 100; i++)
        some_nops(&ring, 1, 0);
    if (!strcmp(kind, "silent"))
        some_nops(&ring, 13, IOSQE_CQE_SKIP_SUCCESS);
    unsigned extra = !strcmp(kind, "silent") ? 13 : 0;
    CHECK(*ring.sq_head == before[0] + 102 + extra && *ring.cq_tail == before[3] + 102);
    if (!strcmp(kind, "two"))
        CHECK(take(&other, 77) == 0);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    sigset_t set;
    kind = argc > 1 ? argv[1] : "plain";
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pthread_barrier_init(&barrier, NULL, 2);
    CHECK(pthread_create(&thread, NULL, use, NULL) == 0);
    pthread_barrier_wait(&barrier);
    wait_for_signal();
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    puts("ok");
    return 0;
}
