/* Holds internet sockets without a connection, in every state, and after SIGUSR1 checks and uses each of them.
   usage: kind_inet [connection | waiting]; the word adds one thing that cannot be saved.
   Prints "ready PORT", PORT being that of its listening socket, then "ok" or what is different. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static int sure(int result, const char *what)
{
    if (result < 0) { perror(what); exit(1); }
    return result;
}

union address { struct sockaddr any; struct sockaddr_in four; struct sockaddr_in6 six; };

static socklen_t loopback(union address *address, int family, int port)
{
    memset(address, 0, sizeof *address);
    if (family == AF_INET) {
        address->four = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        return sizeof address->four;
    }
    address->six = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = in6addr_loopback};
    return sizeof address->six;
}

static int bound(int family, int type)
{
    union address address;
    int fd = sure(socket(family, type, 0), "socket");
    socklen_t size = loopback(&address, family, 0);
    sure(bind(fd, &address.any, size), "bind");
    return fd;
}

static union address name_of(int fd)
{
    union address address;
    memset(&address, 0, sizeof address);
    socklen_t size = sizeof address;
    sure(getsockname(fd, &address.any, &size), "getsockname");
    return address;
}

static int port_of(int fd) { return name_of(fd).four.sin_port; }

/* Options that are set before, and read again after: on which socket, level, option, value. */
enum { PLAIN, LISTENS, LISTENS6, DUAL, SENDS, RECEIVES, PAIR, UNBOUND6, SOCKETS };
static int sockets[SOCKETS];
static struct { int on, level, option, value, got; } options[] = {
    {PLAIN, SOL_SOCKET, SO_KEEPALIVE, 1, 0},     {PLAIN, IPPROTO_TCP, TCP_KEEPIDLE, 77, 0},
    {PLAIN, IPPROTO_TCP, TCP_KEEPINTVL, 11, 0},  {PLAIN, IPPROTO_TCP, TCP_KEEPCNT, 3, 0},
    {PLAIN, IPPROTO_TCP, TCP_NODELAY, 1, 0},     {PLAIN, IPPROTO_TCP, TCP_USER_TIMEOUT, 4321, 0},
    {PLAIN, SOL_SOCKET, SO_SNDBUF, 50000, 0},    {PLAIN, IPPROTO_IP, IP_TOS, 0x10, 0},
    {LISTENS, SOL_SOCKET, SO_REUSEADDR, 1, 0},   {LISTENS, SOL_SOCKET, SO_REUSEPORT, 1, 0},
    {LISTENS, SOL_SOCKET, SO_RCVBUF, 12345, 0},  {LISTENS, IPPROTO_TCP, TCP_DEFER_ACCEPT, 3, 0},
    {LISTENS6, IPPROTO_IPV6, IPV6_V6ONLY, 1, 0}, {DUAL, IPPROTO_IPV6, IPV6_V6ONLY, 0, 0},
    {SENDS, SOL_SOCKET, SO_BROADCAST, 1, 0},     {SENDS, IPPROTO_IP, IP_TTL, 9, 0},
    {RECEIVES, IPPROTO_IP, IP_PKTINFO, 1, 0},    {RECEIVES, SOL_SOCKET, SO_TIMESTAMP, 1, 0},
    {UNBOUND6, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 5, 0}, {UNBOUND6, IPPROTO_IPV6, IPV6_TCLASS, 32, 0},
};
#define OPTIONS (sizeof options / sizeof *options)

static int option(int i)
{
    int value = -1;
    socklen_t size = sizeof value;
    sure(getsockopt(sockets[options[i].on], options[i].level, options[i].option, &value, &size), "getsockopt");
    return value;
}

/* A connection to it arrives, and carries data. */
static void check_listens(int i, int family)
{
    union address address;
    int client = sure(socket(family, SOCK_STREAM, 0), "socket");
    socklen_t size = loopback(&address, family, port_of(sockets[i]));
    if (connect(client, &address.any, size)) { CHECK(0, "connecting to socket %d: %m", i); return; }
    CHECK(write(client, "hello", 5) == 5, "writing to socket %d: %m", i);
    struct pollfd ready = {.fd = sockets[i], .events = POLLIN};
    CHECK(poll(&ready, 1, 10000) == 1, "nothing arrives at socket %d", i);
    int server = accept(sockets[i], NULL, NULL);
    char got[6] = "";
    CHECK(server >= 0 && read(server, got, 5) == 5 && !strcmp(got, "hello"), "a connection to socket %d: %m", i);
    close(server);
    close(client);
}

int main(int argc, char **argv)
{
    const char *extra = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    union address names[SOCKETS], address;
    socklen_t size;
    sockets[PLAIN] = sure(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    sockets[UNBOUND6] = sure(socket(AF_INET6, SOCK_DGRAM, 0), "socket");
    sockets[LISTENS] = bound(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    sockets[LISTENS6] = sure(socket(AF_INET6, SOCK_STREAM, 0), "socket");
    sockets[DUAL] = sure(socket(AF_INET6, SOCK_STREAM, 0), "socket");
    sockets[SENDS] = bound(AF_INET, SOCK_DGRAM);
    sockets[RECEIVES] = bound(AF_INET, SOCK_DGRAM);
    sockets[PAIR] = bound(AF_INET6, SOCK_DGRAM);
    for (unsigned i = 0; i < OPTIONS; i++)
        sure(setsockopt(sockets[options[i].on], options[i].level, options[i].option, &options[i].value, sizeof(int)), "setsockopt");
    struct timeval timeout = {123, 0}, got_timeout;
    sure(setsockopt(sockets[PLAIN], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout), "SO_RCVTIMEO");
    struct linger linger = {1, 7}, got_linger;
    sure(setsockopt(sockets[PLAIN], SOL_SOCKET, SO_LINGER, &linger, sizeof linger), "SO_LINGER");
    size = loopback(&address, AF_INET6, 0);
    sure(bind(sockets[LISTENS6], &address.any, size), "bind");
    address.six.sin6_addr = in6addr_any;
    sure(bind(sockets[DUAL], &address.any, size), "bind");
    sure(listen(sockets[LISTENS], 5), "listen");
    sure(listen(sockets[LISTENS6], 1), "listen");
    sure(listen(sockets[DUAL], 100), "listen");
    size = loopback(&address, AF_INET, port_of(sockets[RECEIVES]));
    sure(connect(sockets[SENDS], &address.any, size), "connect");
    size = loopback(&address, AF_INET6, port_of(sockets[PAIR]));
    sure(connect(sockets[PAIR], &address.any, size), "connect to itself");

    int listens_again = sockets[LISTENS], client = -1, server = -1;
    if (!strcmp(extra, "connection") || !strcmp(extra, "waiting")) {
        int other = bound(AF_INET, SOCK_STREAM);
        sure(listen(other, 5), "listen");
        client = sure(socket(AF_INET, SOCK_STREAM, 0), "socket");
        size = loopback(&address, AF_INET, port_of(other));
        sure(connect(client, &address.any, size), "connect");
        if (*extra == 'c') server = sure(accept(other, NULL, NULL), "accept");
    }
    for (int i = 0; i < SOCKETS; i++) names[i] = name_of(sockets[i]);
    for (unsigned i = 0; i < OPTIONS; i++) options[i].got = option(i);
    socklen_t default_size = sizeof(int);
    int automatic, automatic_now;
    sure(getsockopt(sockets[DUAL], SOL_SOCKET, SO_RCVBUF, &automatic, &default_size), "SO_RCVBUF");

    struct sigaction action = {.sa_handler = on_usr1};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    printf("ready %d\n", ntohs(port_of(listens_again)));
    while (!go) sigsuspend(&before);

    for (int i = 0; i < SOCKETS; i++) {
        union address now = name_of(sockets[i]);
        CHECK(!memcmp(&now, &names[i], sizeof now), "the name of socket %d", i);
        int error = -1;
        size = sizeof error;
        CHECK(getsockopt(sockets[i], SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0, "socket %d has error %d", i, error);
    }
    for (unsigned i = 0; i < OPTIONS; i++)
        CHECK(option(i) == options[i].got, "option %d of socket %d was %d, is %d", options[i].option, options[i].on, options[i].got, option(i));
    size = sizeof got_timeout;
    getsockopt(sockets[PLAIN], SOL_SOCKET, SO_RCVTIMEO, &got_timeout, &size);
    CHECK(got_timeout.tv_sec == 123 && got_timeout.tv_usec == 0, "SO_RCVTIMEO is %ld s", (long)got_timeout.tv_sec);
    size = sizeof got_linger;
    getsockopt(sockets[PLAIN], SOL_SOCKET, SO_LINGER, &got_linger, &size);
    CHECK(got_linger.l_onoff == 1 && got_linger.l_linger == 7, "SO_LINGER");
    sure(getsockopt(sockets[DUAL], SOL_SOCKET, SO_RCVBUF, &automatic_now, &default_size), "SO_RCVBUF");
    CHECK(automatic == automatic_now, "SO_RCVBUF that was never set is %d", automatic_now);
    CHECK(fcntl(sockets[LISTENS], F_GETFL) & O_NONBLOCK, "it is not non-blocking any more");
    CHECK(!(fcntl(sockets[DUAL], F_GETFL) & O_NONBLOCK), "it is non-blocking now");
    CHECK(fcntl(sockets[PLAIN], F_GETFD) == FD_CLOEXEC, "it is not close-on-exec any more");
    struct tcp_info info;
    size = sizeof info;
    CHECK(getsockopt(sockets[DUAL], IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_sacked == 100, "the backlog is %u", info.tcpi_sacked);

    char got[16] = "";
    if (!*extra) {
        check_listens(LISTENS, AF_INET);
        check_listens(LISTENS6, AF_INET6);
        check_listens(DUAL, AF_INET);
        check_listens(DUAL, AF_INET6);
        CHECK(send(sockets[SENDS], "datagram", 8, 0) == 8, "sending: %m");
        CHECK(recv(sockets[RECEIVES], got, sizeof got, 0) == 8 && !memcmp(got, "datagram", 8), "receiving: %m");
        CHECK(send(sockets[PAIR], "self", 4, 0) == 4 && recv(sockets[PAIR], got, sizeof got, 0) == 4, "IPv6 to itself: %m");
        size = loopback(&address, AF_INET, port_of(sockets[LISTENS]));
        CHECK(connect(sockets[PLAIN], &address.any, size) == 0, "the unbound socket connects: %m");
    } else if (server >= 0) {
        CHECK(write(client, "still", 5) == 5 && read(server, got, 5) == 5, "the connection: %m");
    }
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
