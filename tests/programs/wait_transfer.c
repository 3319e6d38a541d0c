/* Moves more at once than there is room for, or has come: `wait_transfer CALL WHERE SIZE [MILLISECONDS]`.
   CALL: write, writev, send, sendmsg, recv, recvmsg (both with MSG_WAITALL), read or readv (both with SO_RCVLOWAT of SIZE);
   WHERE: pipe or unix (a stream). MILLISECONDS: SO_SNDTIMEO or SO_RCVTIMEO. Another thread is the other end: each SIGUSR1 lets it move an eighth of
   SIZE, SIGUSR2 all that is left. SIGHUP has a handler, for the first thread. Prints "waiting", then JSON: what the call
   returned (or -errno), whether the registers of its arguments are as before, whether the other end has got, or the
   program, just the bytes that were sent, how many, and how long it took. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "raw_call.h"

static int sends, other;
static size_t size, at_other_end;
static unsigned char *data;
static int wrong;

static void on_hangup(int number) { (void)number; }

static unsigned char byte_at(size_t at) { return (unsigned char)(at ^ at >> 8 ^ at >> 16); }

static void move(size_t bytes)
{
    unsigned char piece[4096];
    while (bytes) {
        size_t now = bytes < sizeof piece ? bytes : sizeof piece;
        for (size_t i = 0; !sends && i < now; i++)
            piece[i] = byte_at(at_other_end + i);
        ssize_t moved = sends ? read(other, piece, now) : write(other, piece, now);
        if (moved <= 0)
            return;
        for (ssize_t i = 0; sends && i < moved; i++)
            wrong += piece[i] != byte_at(at_other_end + i);
        at_other_end += moved, bytes -= moved;
    }
}

static void *be_other_end(void *signals)
{
    int number;
    while (!sigwait(signals, &number)) {
        move(number == SIGUSR1 ? size / 8 : size - at_other_end);
        if (number == SIGUSR2)
            return NULL;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static sigset_t signals;
    int ends[2];
    if (argc < 4)
        return 2;
    const char *name = argv[1];
    size = strtoul(argv[3], NULL, 10);
    int ms = argc > 4 ? atoi(argv[4]) : 0;
    sends = strncmp(name, "recv", 4) && strncmp(name, "read", 4);
    if (!strcmp(argv[2], "pipe") ? pipe(ends) : socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        return 3;
    int ours = ends[sends];
    other = ends[!sends];
    struct timeval timeout = {ms / 1000, ms % 1000 * 1000};
    int least = (int)size;
    if (ms && setsockopt(ours, SOL_SOCKET, sends ? SO_SNDTIMEO : SO_RCVTIMEO, &timeout, sizeof timeout))
        return 3;
    if (!strncmp(name, "read", 4) && setsockopt(ours, SOL_SOCKET, SO_RCVLOWAT, &least, sizeof least))
        return 3;
    data = malloc(size);
    for (size_t i = 0; i < size; i++)
        data[i] = sends ? byte_at(i) : 0;
    struct sigaction action = {.sa_handler = on_hangup};
    sigaction(SIGHUP, &action, NULL);
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    sigset_t hangup;
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    pthread_t thread;
    pthread_sigmask(SIG_BLOCK, &hangup, NULL);
    if (pthread_create(&thread, NULL, be_other_end, &signals))
        return 3;
    pthread_sigmask(SIG_UNBLOCK, &hangup, NULL);

    const uint64_t a = 0x1234567812345678, b = 0x8765432187654321, c = 0x1111222233334444;
    struct iovec vector[3] = {{data, 10}, {data + 10, 0}, {data + 10, size - 10}};
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = 3, .msg_flags = 0x55};
    uint64_t in[6] = {ours, (uintptr_t)data, size, a, b, c};
    long number = SYS_write;
    if (!strcmp(name, "read"))
        number = SYS_read;
    else if (!strcmp(name, "send") || !strcmp(name, "recv"))
        number = sends ? SYS_sendto : SYS_recvfrom, in[3] = sends ? 0 : MSG_WAITALL, in[4] = 0;
    else if (!strcmp(name, "readv") || !strcmp(name, "writev"))
        number = sends ? SYS_writev : SYS_readv, in[1] = (uintptr_t)vector, in[2] = 3;
    else if (!strcmp(name, "sendmsg") || !strcmp(name, "recvmsg"))
        number = sends ? SYS_sendmsg : SYS_recvmsg, in[1] = (uintptr_t)&message, in[2] = sends ? 0 : MSG_WAITALL;
    puts("waiting");
    fflush(stdout);
    int kept;
    int64_t began = now_ns();
    long result = call(number, in, &kept);
    int64_t took = now_ns() - began;
    if (result >= 0 && (size_t)result < size && sends)
        close(ours); /* so that the other end finds an end */
    kill(getpid(), SIGUSR2);
    pthread_join(thread, NULL);
    for (long i = 0; !sends && i < result; i++)
        wrong += data[i] != byte_at(i);
    if (!strcmp(name, "recvmsg")) /* it tells that, too */
        wrong += message.msg_flags != 0 || message.msg_controllen != 0;
    printf("{\"result\": %ld, \"registers_kept\": %d, \"right\": %d, \"at_other_end\": %zu, \"took_ns\": %lld}\n", result, kept,
           !wrong, at_other_end, (long long)took);
    return 0;
}
