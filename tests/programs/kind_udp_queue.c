/* UDP sockets with datagrams that it does not read until SIGUSR1; then it checks them.
   usage: kind_udp_queue. Prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static struct sockaddr_in address(const char *host, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &a.sin_addr);
    return a;
}

static int port_of(int fd)
{
    struct sockaddr_in a;
    socklen_t length = sizeof a;
    MUST(!getsockname(fd, (void *)&a, &length));
    return ntohs(a.sin_port);
}

static int bound(const char *host)
{
    struct sockaddr_in a = address(host, 0);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    MUST(fd >= 0 && !bind(fd, (void *)&a, sizeof a));
    return fd;
}

static void say(int from, const char *host, int to, const void *data, size_t length)
{
    struct sockaddr_in a = address(host, port_of(to));
    MUST(sendto(from, data, length, 0, (void *)&a, sizeof a) == (ssize_t)length);
}

static int option(int fd, int level, int which)
{
    int value = -7;
    socklen_t length = sizeof value;
    getsockopt(fd, level, which, &value, &length);
    return value;
}

static char bytes[70000];

/* The next datagram, its sender, and what is told besides if ttl is not 0. */
static void expect(int fd, const char *what, const char *data, size_t size, const char *host, int port, int ttl, int tos, const char *to)
{
    struct sockaddr_in a = {0};
    _Alignas(struct cmsghdr) char control[300];
    struct iovec vector = {bytes, sizeof bytes};
    struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
    char from[20] = "", told[20] = "";
    int has_ttl = 0, has_tos = 0;
    inet_ntop(AF_INET, &a.sin_addr, from, sizeof from);
    CHECK(n == (ssize_t)size && !memcmp(bytes, data, size), "%s: %zd bytes instead of %zu, %.20s", what, n, size, n < 0 ? strerror(errno) : bytes);
    CHECK(!strcmp(from, host) && ntohs(a.sin_port) == port, "%s: from %s:%d, not %s:%d", what, from, ntohs(a.sin_port), host, port);
    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_type == IP_TTL) memcpy(&has_ttl, CMSG_DATA(c), 4);
        if (c->cmsg_type == IP_TOS) has_tos = *CMSG_DATA(c);
        if (c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            inet_ntop(AF_INET, &info.ipi_addr, told, sizeof told);
            CHECK(info.ipi_ifindex == 1, "%s: by interface %d", what, info.ipi_ifindex);
        }
    }
    if (ttl) CHECK(has_ttl == ttl && has_tos == tos && !strcmp(told, to), "%s: TTL %d, TOS %d, to %s", what, has_ttl, has_tos, told);
}

/* A datagram from an address that this machine does not have. */
static void from_afar(const char *host, int port, const char *to_host, int to, const char *text)
{
    char packet[100] = {0};
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    struct sockaddr_in a = address(to_host, 0), from = address(host, port);
    struct iphdr *ip = (void *)packet;
    struct udphdr *udp = (void *)(ip + 1);
    size_t length = sizeof *udp + strlen(text);
    *ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 44, .protocol = IPPROTO_UDP, .saddr = from.sin_addr.s_addr, .daddr = a.sin_addr.s_addr};
    *udp = (struct udphdr){.source = htons(port), .dest = htons(port_of(to)), .len = htons(length)};
    memcpy(udp + 1, text, strlen(text));
    MUST(raw >= 0 && sendto(raw, packet, sizeof *ip + length, 0, (void *)&a, sizeof a) == (ssize_t)(sizeof *ip + length) && !close(raw));
}

/* What a socket of IPv6 has got, from itself and from one of IPv4. */
static void expect6(int fd, const char *text, const char *host, int port, int hops, int class, const char *to)
{
    struct sockaddr_in6 a = {0};
    _Alignas(struct cmsghdr) char control[300];
    struct iovec vector = {bytes, sizeof bytes};
    struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
    char from[50] = "", told[50] = "";
    int has_hops = 0, has_class = 0;
    inet_ntop(AF_INET6, &a.sin6_addr, from, sizeof from);
    CHECK(n == (ssize_t)strlen(text) && !memcmp(bytes, text, n), "%s: %zd bytes, %s", text, n, n < 0 ? strerror(errno) : bytes);
    CHECK(!strcmp(from, host) && ntohs(a.sin6_port) == port, "%s: from %s:%d", text, from, ntohs(a.sin6_port));
    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_IPV6) continue;
        if (c->cmsg_type == IPV6_HOPLIMIT) memcpy(&has_hops, CMSG_DATA(c), 4);
        if (c->cmsg_type == IPV6_TCLASS) memcpy(&has_class, CMSG_DATA(c), 4);
        if (c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            inet_ntop(AF_INET6, &info.ipi6_addr, told, sizeof told);
            CHECK(info.ipi6_ifindex == 1, "%s: by interface %d", text, info.ipi6_ifindex);
        }
    }
    CHECK(has_hops == hops && has_class == class && !strcmp(told, to), "%s: hop limit %d, class %x, to %s", text, has_hops, has_class, told);
}

int main(void)
{
    signal(SIGUSR1, on_usr1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    static char big[60000];
    memset(big, 'x', sizeof big);
    int one = bound("127.0.0.1"), two = bound("127.0.0.2");
    int from_one = port_of(one), from_two = port_of(two);
    MUST(!setsockopt(two, SOL_IP, IP_TTL, &(int){7}, 4) && !setsockopt(two, SOL_IP, IP_TOS, &(int){0x28}, 4));

    int plain = bound("127.0.0.1"), all = bound("0.0.0.0"), joined = bound("127.0.0.1");
    say(one, "127.0.0.1", plain, "first", 5), say(two, "127.0.0.1", plain, "", 0);
    say(one, "127.0.0.1", plain, big, sizeof big), say(two, "127.0.0.1", plain, "last", 4);
    from_afar("192.0.2.7", 5353, "127.0.0.1", plain, "from afar");

    MUST(!setsockopt(all, SOL_IP, IP_RECVTTL, &(int){1}, 4) && !setsockopt(all, SOL_IP, IP_RECVTOS, &(int){1}, 4));
    MUST(!setsockopt(all, SOL_IP, IP_PKTINFO, &(int){1}, 4));
    say(two, "127.0.0.9", all, "to nine", 7), say(one, "127.0.0.1", all, "to one", 6);

    struct sockaddr_in a = address("127.0.0.2", from_two);
    say(one, "127.0.0.1", joined, "before", 6);
    MUST(!connect(joined, (void *)&a, sizeof a));
    say(two, "127.0.0.1", joined, "after", 5);
    int six = socket(AF_INET6, SOCK_DGRAM, 0), speaks = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6}, self = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    MUST(!bind(six, (void *)&any, sizeof any) && !bind(speaks, (void *)&self, sizeof self));
    MUST(!setsockopt(six, SOL_IPV6, IPV6_RECVPKTINFO, &(int){1}, 4) && !setsockopt(six, SOL_IPV6, IPV6_RECVHOPLIMIT, &(int){1}, 4));
    MUST(!setsockopt(six, SOL_IPV6, IPV6_RECVTCLASS, &(int){1}, 4) && !setsockopt(speaks, SOL_IPV6, IPV6_TCLASS, &(int){0x40}, 4));
    MUST(!setsockopt(speaks, SOL_IPV6, IPV6_UNICAST_HOPS, &(int){9}, 4));
    self.sin6_port = htons(port_of(six));
    MUST(sendto(speaks, "of six", 6, 0, (void *)&self, sizeof self) == 6);
    say(two, "127.0.0.8", six, "of four", 7);
    MUST(sendto(speaks, "odd", 3, 0, (void *)&self, sizeof self) == 3);
    int buffer = option(plain, SOL_SOCKET, SO_RCVBUF);

    printf("ready\n");
    while (!go) poll(NULL, 0, 10);

    CHECK(option(plain, SOL_SOCKET, SO_RCVBUF) == buffer, "SO_RCVBUF is %d", option(plain, SOL_SOCKET, SO_RCVBUF));
    CHECK(option(plain, SOL_SOCKET, SO_PEEK_OFF) == -1 && !option(plain, SOL_IP, IP_PKTINFO), "options");
    CHECK(!option(plain, SOL_IP, IP_RECVTTL) && !option(plain, SOL_IP, IP_RECVTOS), "options");
    expect(plain, "first", "first", 5, "127.0.0.1", from_one, 0, 0, "");
    expect(plain, "the empty one", "", 0, "127.0.0.2", from_two, 0, 0, "");
    expect(plain, "the big one", big, sizeof big, "127.0.0.1", from_one, 0, 0, "");
    expect(plain, "last", "last", 4, "127.0.0.2", from_two, 0, 0, "");
    expect(plain, "from afar", "from afar", 9, "192.0.2.7", 5353, 0, 0, "");
    CHECK(recv(plain, bytes, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "one too many");
    expect(all, "to nine", "to nine", 7, "127.0.0.2", from_two, 7, 0x28, "127.0.0.9");
    expect(all, "to one", "to one", 6, "127.0.0.1", from_one, 64, 0, "127.0.0.1");
    expect(joined, "before", "before", 6, "127.0.0.1", from_one, 0, 0, "");
    expect(joined, "after", "after", 5, "127.0.0.2", from_two, 0, 0, "");
    CHECK(recv(all, bytes, 1, MSG_DONTWAIT) == -1 && recv(joined, bytes, 1, MSG_DONTWAIT) == -1, "one too many");
    expect6(six, "of six", "::1", port_of(speaks), 9, 0x40, "::1");
    expect6(six, "of four", "::ffff:127.0.0.2", from_two, 0, 0, "::ffff:127.0.0.8");
    expect6(six, "odd", "::1", port_of(speaks), 9, 0x40, "::1");
    CHECK(recv(six, bytes, 1, MSG_DONTWAIT) == -1, "one too many");
    say(one, "127.0.0.1", plain, "new", 3);
    expect(plain, "new", "new", 3, "127.0.0.1", from_one, 0, 0, "");
    if (!failures) printf("ok\n");
    return failures != 0;
}
