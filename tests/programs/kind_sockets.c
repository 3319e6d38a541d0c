/* build: -lrt
   Holds the rarer sockets: netlink with port, groups and options, two of user programs connected to each other; UDP
   with a packet filter and as a member of multicast groups; raw; UDP-Lite; and a notification of a message queue by a
   thread, which the C library does by a netlink socket.
   usage: kind_sockets [message | packet | generic | vsock]; prints "ready". The word adds one thing that cannot be saved.
   After SIGUSR1 it checks and uses all of it, and prints "ok" or what is different. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#define SOL_UDPLITE 136
#define UDPLITE_SEND_CSCOV 10
#define ICMP_FILTER 1

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }
static sem_t notified;
static void on_message(union sigval value) { if (value.sival_int == 4711) sem_post(&notified); }

static int sure(int result, const char *what)
{
    if (result < 0) { perror(what); exit(1); }
    return result;
}

static int netlink(int protocol, unsigned port, unsigned groups)
{
    struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups};
    int fd = sure(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), "socket");
    sure(bind(fd, (void *)&name, sizeof name), "bind");
    return fd;
}

static struct sockaddr_nl nl_name(int fd)
{
    struct sockaddr_nl name = {0};
    socklen_t size = sizeof name;
    sure(getsockname(fd, (void *)&name, &size), "getsockname");
    return name;
}

static int number(int fd, int level, int option)
{
    int value = -1;
    socklen_t size = sizeof value;
    sure(getsockopt(fd, level, option, &value, &size), "getsockopt");
    return value;
}

static void set(int fd, int level, int option, int value) { sure(setsockopt(fd, level, option, &value, sizeof value), "setsockopt"); }

static int bound(int type, int protocol)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = sure(socket(AF_INET, type, protocol), "socket");
    sure(bind(fd, (void *)&name, sizeof name), "bind");
    return fd;
}

static void send_to(int from, int to, const char *text)
{
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    sure(getsockname(to, (void *)&name, &size), "getsockname");
    CHECK(sendto(from, text, strlen(text), 0, (void *)&name, sizeof name) == (ssize_t)strlen(text), "sending: %m");
}

/* How many sources it hears or does not hear in a group, -1 if it is no member. */
static int sources(int fd, const char *group, unsigned *mode)
{
    char room[sizeof(struct group_filter) + 8 * sizeof(struct sockaddr_storage)] = "";
    struct group_filter *filter = (void *)room;
    filter->gf_interface = 1;
    struct sockaddr_in *address = (void *)&filter->gf_group;
    address->sin_family = AF_INET;
    inet_pton(AF_INET, group, &address->sin_addr);
    filter->gf_numsrc = 8;
    socklen_t size = sizeof room;
    if (getsockopt(fd, IPPROTO_IP, MCAST_MSFILTER, filter, &size)) return -1;
    *mode = filter->gf_fmode;
    return (int)filter->gf_numsrc;
}

int main(int argc, char **argv)
{
    const char *extra = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    sem_init(&notified, 0, 0);
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_usr1}, NULL);

    unsigned own = (unsigned)getpid() << 8 & 0x7fffffff;
    int route = netlink(NETLINK_ROUTE, 0, RTMGRP_LINK), unbound = sure(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE), "socket");
    set(route, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NSID); /* not the first */
    set(route, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 33);
    set(route, SOL_NETLINK, NETLINK_EXT_ACK, 1);
    set(route, SOL_SOCKET, SO_PASSCRED, 1);
    int sender = netlink(NETLINK_USERSOCK, own + 1, 0), receiver = netlink(NETLINK_USERSOCK, own + 2, 0);
    struct sockaddr_nl peer = nl_name(receiver);
    sure(connect(sender, (void *)&peer, sizeof peer), "connect");
    unsigned first_port = nl_name(route).nl_pid;

    int filtered = bound(SOCK_DGRAM, 0), client = bound(SOCK_DGRAM, 0);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8), /* behind the UDP header */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'x', 0, 1), BPF_STMT(BPF_RET | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, 0xffff),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    sure(setsockopt(filtered, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), "SO_ATTACH_FILTER");
    set(filtered, SOL_SOCKET, SO_LOCK_FILTER, 1);
    struct ip_mreqn join = {.imr_address.s_addr = htonl(INADDR_LOOPBACK), .imr_ifindex = 1};
    inet_pton(AF_INET, "239.7.7.7", &join.imr_multiaddr);
    sure(setsockopt(client, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join), "IP_ADD_MEMBERSHIP");
    struct ip_mreq_source only = {.imr_interface.s_addr = htonl(INADDR_LOOPBACK)};
    inet_pton(AF_INET, "239.7.7.8", &only.imr_multiaddr);
    inet_pton(AF_INET, "127.0.0.5", &only.imr_sourceaddr);
    sure(setsockopt(client, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &only, sizeof only), "IP_ADD_SOURCE_MEMBERSHIP");

    int raw = sure(socket(AF_INET, SOCK_RAW, 253), "socket"), icmp = sure(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "socket");
    struct sockaddr_in self = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    sure(bind(raw, (void *)&self, sizeof self), "bind");
    sure(connect(raw, (void *)&self, sizeof self), "connect");
    set(raw, IPPROTO_IP, IP_HDRINCL, 0);
    set(icmp, SOL_RAW, ICMP_FILTER, ~(1 << ICMP_TIMESTAMPREPLY));
    int lite = bound(SOCK_DGRAM, IPPROTO_UDPLITE), lite_client = bound(SOCK_DGRAM, IPPROTO_UDPLITE);
    set(lite_client, SOL_UDPLITE, UDPLITE_SEND_CSCOV, 12);

    char name[64], got[64];
    snprintf(name, sizeof name, "/livecr-thread-%d", getpid());
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 8};
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    mq_unlink(name);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_message, .sigev_value.sival_int = 4711};
    if (queue < 0 || mq_notify(queue, &event)) return perror("mq_notify"), 1;

    if (!strcmp(extra, "message")) sure((int)send(sender, "waits", 5, 0), "send");
    if (!strcmp(extra, "packet")) sure(socket(AF_PACKET, SOCK_RAW, 0), "packet");
    if (!strcmp(extra, "generic")) netlink(NETLINK_GENERIC, 0, 0);
    if (!strcmp(extra, "vsock")) sure(socket(AF_VSOCK, SOCK_STREAM, 0), "vsock");
    puts("ready");
    while (!go) sigsuspend(&before);
    if (*extra) return puts("ok"), 0;

    unsigned members[16] = {0}, mode = 9;
    socklen_t size = sizeof members;
    sure(getsockopt(route, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, members, &size), "NETLINK_LIST_MEMBERSHIPS");
    CHECK(members[0] == (1u << (RTNLGRP_LINK - 1) | 1u << (RTNLGRP_NSID - 1)) && members[1] == 1, "groups %x %x", members[0], members[1]);
    CHECK(nl_name(route).nl_pid == first_port && nl_name(unbound).nl_pid == 0, "ports %u, %u", nl_name(route).nl_pid, nl_name(unbound).nl_pid);
    CHECK(number(route, SOL_NETLINK, NETLINK_EXT_ACK) == 1 && number(route, SOL_SOCKET, SO_PASSCRED) == 1, "an option of netlink");
    struct { struct nlmsghdr head; struct rtgenmsg body; } ask = {
        {sizeof ask, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
    static char answer[65536];
    CHECK(send(route, &ask, sizeof ask, 0) == sizeof ask && recv(route, answer, sizeof answer, 0) > 16 &&
          ((struct nlmsghdr *)answer)->nlmsg_type == RTM_NEWLINK, "the kernel does not answer");
    CHECK(send(sender, "hello", 5, 0) == 5 && recv(receiver, got, sizeof got, MSG_DONTWAIT) == 5 && !memcmp(got, "hello", 5), "a peer: %m");

    send_to(client, filtered, "xgone");
    send_to(client, filtered, "kept");
    CHECK(recv(filtered, got, sizeof got, MSG_DONTWAIT) == 4 && !memcmp(got, "kept", 4), "the filter");
    CHECK(setsockopt(filtered, SOL_SOCKET, SO_DETACH_FILTER, &mode, sizeof mode) && errno == EPERM, "the filter is not locked");
    CHECK(sources(client, "239.7.7.7", &mode) == 0 && mode == MCAST_EXCLUDE, "the first group, mode %u", mode);
    CHECK(sources(client, "239.7.7.8", &mode) == 1 && mode == MCAST_INCLUDE, "the second group, mode %u", mode);
    CHECK(sources(client, "239.7.7.9", &mode) == -1, "a group that it is no member of");

    CHECK(number(raw, SOL_SOCKET, SO_PROTOCOL) == 253 && send(raw, "raw", 3, 0) == 3 && recv(raw, got, sizeof got, MSG_DONTWAIT) == 23 &&
          !memcmp(got + 20, "raw", 3), "the raw socket: %m");
    CHECK(number(icmp, SOL_RAW, ICMP_FILTER) == ~(1 << ICMP_TIMESTAMPREPLY), "the ICMP filter");
    send_to(lite_client, lite, "lite");
    CHECK(recv(lite, got, sizeof got, MSG_DONTWAIT) == 4 && number(lite_client, SOL_UDPLITE, UDPLITE_SEND_CSCOV) == 12, "UDP-Lite: %m");

    struct timespec late = {time(NULL) + 10, 0};
    CHECK(!mq_send(queue, "m", 1, 0) && !sem_timedwait(&notified, &late), "no thread was notified: %m");
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
