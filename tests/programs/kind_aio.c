/* AIO contexts with nothing in flight: `kind_aio [poll]`. Uses two, leaves completions unread in both, in one of them around
   the end of its ring, prints "ready" and waits for SIGUSR1. Then their ids, what is unread, and their room for requests
   must be as before. "poll": a request that waits for a pipe is in flight. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK(what)                                                                     \
    do {                                                                                \
        if (!(what)) {                                                                  \
            printf("not so, line %d: %s (%s)\n", __LINE__, #what, strerror(errno));     \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

/* The ring as programs may read it (fs/aio.c). */
struct ring {
    unsigned id, nr, head, tail, magic, compat_features, incompat_features, header_length;
};

static int file;
static char buffer[64];

static void submit(aio_context_t context, uint64_t data)
{
    struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (unsigned)file, .aio_data = data,
                           .aio_buf = (uintptr_t)buffer, .aio_nbytes = 1 + data % 7};
    struct iocb *list[] = {&request};
    CHECK(syscall(SYS_io_submit, context, 1L, list) == 1);
}

static void fetch(aio_context_t context, uint64_t data)
{
    struct io_event event;
    CHECK(syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL) == 1);
    CHECK(event.data == data && event.res == (int64_t)(1 + data % 7));
}

static void use(aio_context_t context, int count)
{
    for (int i = 0; i < count; i++) {
        submit(context, (uint64_t)i);
        fetch(context, (uint64_t)i);
    }
}

int main(int argc, char **argv)
{
    aio_context_t first = 0, second = 0;
    int pipe_fds[2], number;
    sigset_t set;
    file = open("/proc/self/exe", O_RDONLY);
    CHECK(file >= 0 && pipe(pipe_fds) == 0);
    CHECK(syscall(SYS_io_setup, 7, &first) == 0 && syscall(SYS_io_setup, 900, &second) == 0);
    const struct ring *ring = (const void *)first;
    use(second, 5);
    submit(second, 42);
    use(first, (int)ring->nr * 3 - 2);
    for (uint64_t i = 0; i < 6; i++)
        submit(first, 100 + i);
    CHECK(ring->tail < ring->head);
    struct ring before = *ring;
    if (argc > 1 && !strcmp(argv[1], "poll")) {
        struct iocb request = {.aio_lio_opcode = IOCB_CMD_POLL, .aio_fildes = (unsigned)pipe_fds[0], .aio_buf = 1};
        struct iocb *list[] = {&request};
        CHECK(syscall(SYS_io_submit, second, 1L, list) == 1);
    }
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    puts("ready");
    fflush(stdout);
    CHECK(sigwait(&set, &number) == 0);
    CHECK(ring->head == before.head && ring->tail == before.tail && ring->nr == before.nr);
    for (uint64_t i = 0; i < 6; i++)
        fetch(first, 100 + i);
    use(first, (int)ring->nr * 2 + 1);
    fetch(second, 42);
    for (uint64_t i = 0; i < 900; i++)
        submit(second, i);
    for (uint64_t i = 0; i < 900; i++)
        fetch(second, i);
    CHECK(syscall(SYS_io_destroy, first) == 0 && syscall(SYS_io_destroy, second) == 0);
    puts("ok");
    return 0;
}
