/* Waits in calls on sockets that have SO_RCVTIMEO or SO_SNDTIMEO, each in a thread of its own:
   `wait_socket MILLISECONDS ACT_MS CALL:SOCKET...`. SOCKET: unix (a stream), seqpacket, dgram, udp, listen (unix), tcp (a
   listening one). After ACT_MS, unless 0, something comes, or room is made, for each. SIGUSR1 has a handler, SIGUSR2 one
   with SA_RESTART. Prints "waiting", then a JSON list: what each call returned (or -errno), how long it took, whether the
   registers of its arguments and the timeout of the socket are as before, what data came, how often a handler ran. */
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

struct wait {
    const char *name, *kind;
    int ours, theirs, sends, kept, timeout_kept, pipe[2];
    struct sockaddr_storage address;
    socklen_t address_length;
    struct iovec vector;
    struct mmsghdr message;
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

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(3);
}

/* The call, and whether rdi, rsi, rdx, r10, r8, r9 came back as they were. */
static long call(long number, const uint64_t in[6], int *kept)
{
    register uint64_t rdi __asm__("rdi") = in[0], rsi __asm__("rsi") = in[1], rdx __asm__("rdx") = in[2];
    register uint64_t r10 __asm__("r10") = in[3], r8 __asm__("r8") = in[4], r9 __asm__("r9") = in[5];
    long result = number;
    __asm__ volatile("syscall"
                     : "+a"(result), "+r"(rdi), "+r"(rsi), "+r"(rdx), "+r"(r10), "+r"(r8), "+r"(r9)
                     :
                     : "rcx", "r11", "memory");
    *kept = rdi == in[0] && rsi == in[1] && rdx == in[2] && r10 == in[3] && r8 == in[4] && r9 == in[5];
    return result;
}

static void make_sockets(struct wait *w)
{
    int pair[2];
    int type = !strcmp(w->kind, "seqpacket") ? SOCK_SEQPACKET : !strcmp(w->kind, "dgram") ? SOCK_DGRAM : SOCK_STREAM;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un unix_name = {.sun_family = AF_UNIX}; /* the kernel finds a name */
    int inet = !strcmp(w->kind, "udp") || !strcmp(w->kind, "tcp");
    if (!inet && strcmp(w->kind, "listen")) {
        if (socketpair(AF_UNIX, type, 0, pair))
            fail("socketpair");
        w->ours = pair[0], w->theirs = pair[1];
        return;
    }
    w->ours = socket(inet ? AF_INET : AF_UNIX, *w->kind == 'u' ? SOCK_DGRAM : SOCK_STREAM, 0);
    w->address_length = sizeof w->address;
    if (inet ? bind(w->ours, (void *)&here, sizeof here) : bind(w->ours, (void *)&unix_name, sizeof unix_name.sun_family))
        fail("bind");
    if (getsockname(w->ours, (void *)&w->address, &w->address_length))
        fail("getsockname");
    if (*w->kind != 'u' && listen(w->ours, 0))
        fail("listen");
}

/* Until no more fits. */
static void fill(struct wait *w)
{
    char full[512] = {0};
    if (!strcmp(w->name, "connect")) {
        w->theirs = w->ours, w->ours = socket(AF_UNIX, SOCK_STREAM, 0); /* the backlog of 0 has room for one */
        if (connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&w->address, w->address_length))
            fail("connect");
    } else
        while (send(w->ours, full, sizeof full, MSG_DONTWAIT) > 0)
            ;
}

static void prepare(struct wait *w)
{
    const uint64_t a = 0x1234567812345678, b = 0x8765432187654321, c = 0x1111222233334444;
    make_sockets(w);
    w->sends = !strncmp(w->name, "send", 4) || !strncmp(w->name, "write", 5) || !strcmp(w->name, "connect");
    if (w->sends)
        fill(w);
    if (setsockopt(w->ours, SOL_SOCKET, w->sends ? SO_SNDTIMEO : SO_RCVTIMEO, &timeout, sizeof timeout))
        fail("setsockopt");
    w->vector = (struct iovec){w->received, 5};
    w->message = (struct mmsghdr){.msg_hdr = {.msg_iov = &w->vector, .msg_iovlen = 1}};
    uint64_t data = (uintptr_t)w->received, vector = (uintptr_t)&w->vector, message = (uintptr_t)&w->message;
    uint64_t file = 0, address = (uintptr_t)&w->address;
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
        {"recv", SYS_recvfrom, {data, 5, 0, 0, 0}},
        {"recvmsgall", SYS_recvmsg, {message, MSG_WAITALL, a, b, c}},
        {"recvmsg", SYS_recvmsg, {message, 0, a, b, c}},
        {"recvmmsg", SYS_recvmmsg, {message, 1, 0, 0, c}},
        {"accept", SYS_accept, {0, 0, a, b, c}},
        {"accept4", SYS_accept4, {0, 0, SOCK_CLOEXEC, b, c}},
        {"splice", SYS_splice, {0, w->pipe[1], 0, 5, 0}},
        {"write", SYS_write, {data, 5, a, b, c}},
        {"writev", SYS_writev, {vector, 1, a, b, c}},
        {"send", SYS_sendto, {data, 5, 0, 0, 0}},
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
    char taken[4096];
    int connected = w->theirs;
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
    struct timeval after;
    socklen_t length = sizeof after;
    if (*w->pipe && w->result > 0 && read(*w->pipe, w->received, sizeof w->received) != w->result)
        fail("read");
    getsockopt(w->ours, SOL_SOCKET, w->sends ? SO_SNDTIMEO : SO_RCVTIMEO, &after, &length);
    long result = !strncmp(w->name, "accept", 6) && w->result > 0 ? 0 : w->result; /* which descriptor does not matter */
    printf("{\"result\": %ld, \"took_ns\": %lld, \"registers_kept\": %d, \"timeout_kept\": %d, \"received\": \"%s\", "
           "\"handled\": %d}%s\n",
           result, w->took_ns, w->kept, !memcmp(&timeout, &after, sizeof after), w->received, handled, last ? "]" : ",");
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
