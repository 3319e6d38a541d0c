/* Waits in calls on sockets that have SO_RCVTIMEO or SO_SNDTIMEO, each in a thread of its own:
   `wait_socket MILLISECONDS ACT_MS CALL:SOCKET...`. SOCKET: unix (a stream), seqpacket, dgram, udp, listen (unix), tcp (a
   listening one), named (a datagram socket that sends to another by its name), peer (a stream that connects to
   $LISTENER), netlink. After ACT_MS, unless 0, something comes, or room is made, for each. SIGUSR1 has a handler, SIGUSR2
   one with SA_RESTART. Prints "waiting", then a JSON list: what each call returned (or -errno), how long it took, whether
   the registers of its arguments and the timeout of the socket are as before (then, too), what data came, how often a
   handler ran. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "raw_call.h"

struct wait {
    const char *name, *kind;
    int ours, theirs, sends, kept, timeout_kept, pipe[2];
    struct sockaddr_storage address;
    socklen_t address_length;
    struct iovec vector[2];
    struct mmsghdr message;
    uint32_t words[6]; /* of socketcall */
    uint64_t in[6];
    long number, result;
    long long took_ns;
    char received[64];
    pthread_t thread;
};

static int handled, act_ms;
static struct timeval timeout;

static void on_signal(int number)
{
    (void)number;
    handled++;
}

static void fail(const char *what)
{
    perror(what);
    exit(3);
}

static void make_sockets(struct wait *w)
{
    int pair[2];
    int named = !strcmp(w->kind, "named"), datagrams = !strcmp(w->kind, "dgram") || named;
    int type = !strcmp(w->kind, "seqpacket") ? SOCK_SEQPACKET : datagrams ? SOCK_DGRAM : SOCK_STREAM;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un unix_name = {.sun_family = AF_UNIX}; /* the kernel finds a name */
    int inet = !strcmp(w->kind, "udp") || !strcmp(w->kind, "tcp");
    if (!strcmp(w->kind, "peer") || !strcmp(w->kind, "netlink")) {
        w->ours = *w->kind == 'p' ? socket(AF_UNIX, SOCK_STREAM, 0) : socket(AF_NETLINK, SOCK_RAW, 0);
        return;
    }
    if (!inet && strcmp(w->kind, "listen") && !named) {
        if (socketpair(AF_UNIX, type, 0, pair))
            fail("socketpair");
        w->ours = pair[0], w->theirs = pair[1];
        return;
    }
    w->ours = socket(inet ? AF_INET : AF_UNIX, *w->kind == 'u' ? SOCK_DGRAM : type, 0);
    w->address_length = sizeof w->address;
    if (inet ? bind(w->ours, (void *)&here, sizeof here) : bind(w->ours, (void *)&unix_name, sizeof unix_name.sun_family))
        fail("bind");
    if (getsockname(w->ours, (void *)&w->address, &w->address_length))
        fail("getsockname");
    if (named)
        w->theirs = w->ours, w->ours = socket(AF_UNIX, SOCK_DGRAM, 0);
    else if (*w->kind != 'u' && listen(w->ours, 0))
        fail("listen");
}

/* Until no more fits. */
static void fill(struct wait *w)
{
    static char full[65536];
    size_t piece = !strcmp(w->kind, "unix") ? sizeof full : 512; /* by memory is how full a stream is */
    if (!strcmp(w->name, "connect")) { /* whoever listens has seen to it */
        struct sockaddr_un *address = (void *)&w->address;
        address->sun_family = AF_UNIX;
        snprintf(address->sun_path, sizeof address->sun_path, "%s", getenv("LISTENER"));
        w->address_length = sizeof *address;
    } else
        while (sendto(w->ours, full, piece, MSG_DONTWAIT, (void *)&w->address, w->address_length) > 0)
            ;
}

static void prepare(struct wait *w)
{
    const uint64_t a = 0x1234567812345678, b = 0x8765432187654321, c = 0x1111222233334444;
    w->timeout_kept = 1;
    make_sockets(w);
    w->sends = !strncmp(w->name, "send", 4) || !strncmp(w->name, "write", 5) || !strcmp(w->name, "connect");
    if (w->sends)
        fill(w);
    if (setsockopt(w->ours, SOL_SOCKET, w->sends ? SO_SNDTIMEO : SO_RCVTIMEO, &timeout, sizeof timeout))
        fail("setsockopt");
    int least = 5, low = strstr(w->name, "low") != NULL, to = !strcmp(w->kind, "named");
    if (low && setsockopt(w->ours, SOL_SOCKET, SO_RCVLOWAT, &least, sizeof least))
        fail("setsockopt");
    w->vector[0] = (struct iovec){w->received, low ? 2 : 5};
    w->vector[1] = (struct iovec){w->received + 2, 3};
    w->message = (struct mmsghdr){.msg_hdr = {.msg_iov = w->vector, .msg_iovlen = low ? 2 : 1, .msg_flags = 0x55}};
    if (to)
        w->message.msg_hdr.msg_name = &w->address, w->message.msg_hdr.msg_namelen = w->address_length;
    uint64_t data = (uintptr_t)w->received, vector = (uintptr_t)w->vector, message = (uintptr_t)&w->message;
    uint64_t file = 0, address = (uintptr_t)&w->address, length = (uintptr_t)&w->address_length;
    static const uint64_t part[] = {10, 12, 9, 11};
    const char *const parts[] = {"socketcall-recv", "socketcall-recvfrom", "send-socketcall", "sendto-socketcall"};
    uint32_t words[6] = {(uint32_t)w->ours, (uint32_t)data, 5, 0, (uint32_t)address, (uint32_t)length};
    if (!strcmp(w->name, parts[3]))
        words[5] = w->address_length;
    memcpy(w->words, words, sizeof words);
    for (int i = 0; i < 4; i++)
        if (!strcmp(w->name, parts[i])) {
            w->number = 102;
            w->in[0] = part[i], w->in[1] = (uintptr_t)w->words, w->in[2] = w->in[3] = w->in[4] = w->in[5] = c;
            return;
        }
    if (!strcmp(w->name, "sendfile"))
        file = open("/proc/self/exe", O_RDONLY);
    if (!strcmp(w->name, "splice") && pipe(w->pipe))
        fail("pipe");
    struct {
        const char *name;
        long number;
        uint64_t rest[5];
    } calls[] = {
        {"read", SYS_read, {data, 5, a, b, c}},
        {"readv", SYS_readv, {vector, 1, a, b, c}},
        {"readvlow", SYS_readv, {vector, 2, a, b, c}},
        {"recvfrom", SYS_recvfrom, {data, 5, 0, address, length}},
        {"recvmsglow", SYS_recvmsg, {message, 0, a, b, c}},
        {"recv", SYS_recvfrom, {data, 5, 0, 0, 0}},
        {"recvmsgall", SYS_recvmsg, {message, MSG_WAITALL, a, b, c}},
        {"recvmsg", SYS_recvmsg, {message, 0, a, b, c}},
        {"recvmmsg", SYS_recvmmsg, {message, 1, 0, 0, c}},
#ifdef SYS_accept
        {"accept", SYS_accept, {0, 0, a, b, c}},
#endif
        {"accept4", SYS_accept4, {0, 0, SOCK_CLOEXEC, b, c}},
        {"splice", SYS_splice, {0, w->pipe[1], 0, 5, 0}},
        {"write", SYS_write, {data, 5, a, b, c}},
        {"writev", SYS_writev, {vector, 1, a, b, c}},
        {"send", SYS_sendto, {data, 5, 0, 0, 0}},
        {"sendto", SYS_sendto, {data, 5, 0, address, w->address_length}},
        {"sendmsg", SYS_sendmsg, {message, 0, a, b, c}},
        {"sendmmsg", SYS_sendmmsg, {message, 1, 0, b, c}},
        {"sendfile", SYS_sendfile, {file, 0, 5, b, c}},
        {"connect", SYS_connect, {address, w->address_length, a, b, c}},
    };
    w->in[0] = w->ours;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(calls[i].name, w->name)) {
            w->number = calls[i].number;
            memcpy(w->in + 1, calls[i].rest, sizeof calls[i].rest);
            return;
        }
    exit(2);
}

static int timeout_as_before(const struct wait *w)
{
    struct timeval now;
    socklen_t length = sizeof now;
    getsockopt(w->ours, SOL_SOCKET, w->sends ? SO_SNDTIMEO : SO_RCVTIMEO, &now, &length);
    return !memcmp(&timeout, &now, sizeof now);
}

static void *wait_in_it(void *argument)
{
    struct wait *w = argument;
    int64_t began = now_ns();
    w->result = call(w->number, w->in, &w->kept);
    w->took_ns = now_ns() - began;
    return NULL;
}

/* Makes the call return. */
static void act(struct wait *w)
{
    static char taken[65536];
    int connected = w->theirs;
    w->timeout_kept &= timeout_as_before(w);
    if (w->sends) {
        while (recv(w->theirs, taken, sizeof taken, MSG_DONTWAIT) > 0)
            ;
        return;
    }
    if (!w->theirs) {
        connected = socket(w->address.ss_family, *w->kind == 'u' ? SOCK_DGRAM : SOCK_STREAM, 0);
        if (connect(connected, (void *)&w->address, w->address_length))
            fail("connect");
    }
    if (strncmp(w->name, "accept", 6) && send(connected, "hello", 5, 0) != 5)
        fail("send");
}

static void show(struct wait *w, int last)
{
    if (*w->pipe && w->result > 0 && read(*w->pipe, w->received, sizeof w->received) != w->result)
        fail("read");
    w->timeout_kept &= timeout_as_before(w);
    long result = !strncmp(w->name, "accept", 6) && w->result > 0 ? 0 : w->result; /* which descriptor does not matter */
    printf("{\"result\": %ld, \"took_ns\": %lld, \"registers_kept\": %d, \"timeout_kept\": %d, \"received\": \"%s\", "
           "\"handled\": %d}%s\n",
           result, w->took_ns, w->kept, w->timeout_kept, w->received, handled, last ? "]" : ",");
}

int main(int argc, char **argv)
{
    static struct wait waits[32];
    int count = argc - 3;
    if (count < 1 || count > 32)
        return 2;
    long ms = atol(argv[1]);
    timeout = (struct timeval){ms / 1000, ms % 1000 * 1000};
    act_ms = atoi(argv[2]);
    struct timespec until_acting = {act_ms / 1000, act_ms % 1000 * 1000000};
    struct sigaction action = {.sa_handler = on_signal}, restarting = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &restarting, NULL);
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGUSR2);
    for (int i = 0; i < count; i++) {
        waits[i].name = strtok(argv[3 + i], ":"), waits[i].kind = strtok(NULL, ":");
        prepare(&waits[i]);
        if (pthread_create(&waits[i].thread, NULL, wait_in_it, &waits[i]))
            return 3;
    }
    pthread_sigmask(SIG_BLOCK, &both, NULL); /* they are for the others */
    puts("waiting");
    fflush(stdout);
    if (act_ms) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &until_acting, NULL);
        for (int i = 0; i < count; i++)
            act(&waits[i]);
    }
    for (int i = 0; i < count; i++)
        pthread_join(waits[i].thread, NULL);
    putchar('[');
    for (int i = 0; i < count; i++)
        show(&waits[i], i == count - 1);
    return 0;
}
