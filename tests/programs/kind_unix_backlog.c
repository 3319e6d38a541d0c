/* Unix sockets with connections that wait to be accepted; SIGUSR1 makes it accept all, and check what they are.
   usage: kind_unix_backlog DIRECTORY. Prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static socklen_t name(struct sockaddr_un *a, const char *path)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    strcpy(a->sun_path, path);
    if (path[0] == '@') a->sun_path[0] = 0;
    return offsetof(struct sockaddr_un, sun_path) + strlen(path) + (path[0] != '@');
}

static int named(int type, const char *path)
{
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, type, 0);
    socklen_t length = name(&a, path);
    MUST(fd >= 0 && !bind(fd, (void *)&a, length));
    return fd;
}

static int dial(int fd, const char *path)
{
    struct sockaddr_un a;
    socklen_t length = name(&a, path);
    return connect(fd, (void *)&a, length);
}

/* Bytes of one read, and who has sent them if that is asked for. */
static void expect(int fd, const char *what, const char *text, int sender)
{
    char bytes[200] = "";
    _Alignas(struct cmsghdr) char control[200];
    struct iovec vector = {bytes, sizeof bytes};
    struct msghdr m = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
    struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&m) : NULL;
    struct ucred from = {0, 0, 0};
    if (c) memcpy(&from, CMSG_DATA(c), sizeof from);
    CHECK(n == (ssize_t)strlen(text) && !memcmp(bytes, text, n), "%s: %zd bytes, %.100s", what, n, n < 0 ? strerror(errno) : bytes);
    CHECK(from.pid == sender, "%s: from %d, not %d", what, from.pid, sender);
}

static void creator(int fd, int pid, unsigned user, const char *what)
{
    struct ucred c;
    socklen_t length = sizeof c;
    CHECK(!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &length), "SO_PEERCRED: %m");
    CHECK(c.pid == pid && c.uid == user, "%s: SO_PEERCRED is %d, %d", what, c.pid, (int)c.uid);
}

static void talk(int a, int b, const char *what)
{
    char bytes[8];
    CHECK(send(a, "tell", 4, MSG_DONTWAIT) == 4 && recv(b, bytes, 8, MSG_DONTWAIT) == 4, "%s: %m", what);
    CHECK(send(b, "told", 4, MSG_DONTWAIT) == 4 && recv(a, bytes, 8, MSG_DONTWAIT) == 4, "%s, the other way: %m", what);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    signal(SIGUSR1, on_usr1);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    umask(0);
    char mine[50], path[100];
    snprintf(mine, sizeof mine, "@client-%d", getpid());
    snprintf(path, sizeof path, "%s/listens", argv[1]);

    /* a backlog of one: two connections; they were accepted from before */
    int listens = named(SOCK_STREAM, path);
    MUST(!listen(listens, 5) && !setsockopt(listens, SOL_SOCKET, SO_PASSCRED, &(int){1}, 4));
    int early = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(!dial(early, path));
    int accepted = accept(listens, NULL, NULL), ready[2], status;
    MUST(accepted >= 0 && !pipe(ready));
    int first = socket(AF_UNIX, SOCK_STREAM, 0), second = named(SOCK_STREAM, mine);
    MUST(!dial(first, path));
    MUST(!setresuid(-1, 77, -1) && !dial(second, path) && !setresuid(-1, 0, -1));
    MUST(send(second, "asks", 4, 0) == 4 && send(second, " twice", 6, 0) == 6);
    int half = socket(AF_UNIX, SOCK_STREAM, 0), gone = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(!dial(half, path) && send(half, "no more", 7, 0) == 7 && !shutdown(half, SHUT_WR));
    MUST(!dial(gone, path) && send(gone, "farewell", 8, 0) == 8 && !close(gone));
    int child = fork(), of_child = -1;
    if (child == 0) {
        int own = socket(AF_UNIX, SOCK_STREAM, 0);
        if (dial(own, path) || send(own, "a child", 7, 0) != 7) _exit(1);
        close(ready[0]), close(ready[1]);
        char bytes[8];
        if (recv(own, bytes, 8, 0) != 6 || memcmp(bytes, "answer", 6)) _exit(2);
        _exit(0);
    }
    char none;
    MUST(child > 0 && !close(ready[1]) && read(ready[0], &none, 1) == 0 && !close(ready[0]));
    MUST(!listen(listens, 1));

    int packets = named(SOCK_SEQPACKET, "@backlog-of-packets");
    MUST(!listen(packets, 3));
    int packeteer = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    MUST(!dial(packeteer, "@backlog-of-packets") && send(packeteer, "one", 3, 0) == 3 && send(packeteer, "two", 3, 0) == 3);

    printf("ready\n");
    while (!go) poll(NULL, 0, 10);

    int late = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(dial(late, path) == -1 && errno == EAGAIN, "the backlog is not full: %m");
    talk(early, accepted, "a connection from before");
    int one = accept(listens, NULL, NULL), two = accept(listens, NULL, NULL), three = accept(listens, NULL, NULL);
    int four = accept(listens, NULL, NULL), five = accept4(listens, NULL, NULL, SOCK_NONBLOCK);
    creator(one, getpid(), 0, "the first"), creator(two, getpid(), 77, "the second"), creator(five, child, 0, "the child");
    creator(first, getpid(), 0, "the first client"), creator(second, getpid(), 0, "the second client");
    CHECK(recv(one, &none, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "the first has sent something");
    MUST(!setsockopt(one, SOL_SOCKET, SO_PASSCRED, &(int){0}, 4) && !setsockopt(accepted, SOL_SOCKET, SO_PASSCRED, &(int){0}, 4));
    talk(first, one, "the first");
    expect(two, "the second", "asks twice", getpid());
    struct sockaddr_un a = {0};
    socklen_t length = sizeof a;
    CHECK(!getpeername(two, (void *)&a, &length) && !strcmp(a.sun_path + 1, mine + 1), "the second's name: %s", a.sun_path + 1);
    MUST(!setsockopt(two, SOL_SOCKET, SO_PASSCRED, &(int){0}, 4));
    talk(second, two, "the second");
    expect(three, "the third", "no more", getpid());
    CHECK(recv(three, &none, 1, MSG_DONTWAIT) == 0, "the third is not at its end");
    CHECK(send(three, "x", 1, 0) == 1 && recv(half, &none, 1, MSG_DONTWAIT) == 1, "to the third: %m");
    expect(four, "the closed one", "farewell", getpid());
    CHECK(recv(four, &none, 1, MSG_DONTWAIT) == 0 && send(four, "x", 1, 0) == -1 && errno == EPIPE, "the closed one is open");
    expect(five, "the child", "a child", child);
    CHECK(send(five, "answer", 6, 0) == 6, "to the child: %m");
    MUST(waitpid(child, &status, 0) == child);
    CHECK(status == 0, "the child's end: %x", status);
    MUST(!fcntl(listens, F_SETFL, O_NONBLOCK));
    CHECK(accept(listens, NULL, NULL) == -1 && errno == EAGAIN, "one more");
    CHECK(!dial(late, path), "a later one: %m");

    of_child = accept(packets, NULL, NULL);
    expect(of_child, "a packet", "one", 0);
    expect(of_child, "another packet", "two", 0);
    talk(packeteer, of_child, "packets");
    if (!failures) printf("ok\n");
    return failures != 0;
}
