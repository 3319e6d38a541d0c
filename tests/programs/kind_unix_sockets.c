/* Holds unix sockets of every sort, with data in flight, and checks all of them when it gets SIGUSR1.
   usage: kind_unix_sockets DIRECTORY USER [empty]; the sockets are made with this effective user and group, and
   an empty datagram is among those that wait. Prints "ready", then after SIGUSR1 "ok" or what is different. */
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
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static volatile sig_atomic_t go;
static unsigned user;
static void on_usr1(int s) { (void)s; go = 1; }

static socklen_t name(struct sockaddr_un *a, const char *path)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    strcpy(a->sun_path, path);
    if (path[0] == '@') {
        a->sun_path[0] = 0;
        return offsetof(struct sockaddr_un, sun_path) + strlen(path);
    }
    return sizeof *a;
}

static int named(int type, const char *path)
{
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, type, 0);
    MUST(fd >= 0);
    socklen_t length = name(&a, path);
    MUST(!bind(fd, (void *)&a, length));
    return fd;
}

static int dial(int fd, const char *path)
{
    struct sockaddr_un a;
    socklen_t length = name(&a, path);
    return connect(fd, (void *)&a, length);
}

/* What getsockname (or getpeername) says, with '@' for the zero byte of an abstract name. */
static const char *says(int (*ask)(int, struct sockaddr *, socklen_t *), int fd)
{
    static struct sockaddr_un a;
    static char text[120];
    socklen_t length = sizeof a;
    memset(&a, 0, sizeof a);
    if (ask(fd, (void *)&a, &length)) return strerror(errno);
    size_t n = length - offsetof(struct sockaddr_un, sun_path);
    memset(text, 0, sizeof text);
    memcpy(text, a.sun_path, n < 108 ? n : 108);
    if (n && !text[0]) text[0] = '@';
    return text;
}

static void creator(int fd, int pid, const char *what)
{
    struct ucred c;
    socklen_t length = sizeof c;
    CHECK(!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &length), "SO_PEERCRED: %m");
    CHECK(c.pid == pid && (!pid || (c.uid == user && c.gid == user)), "%s: SO_PEERCRED is %d, %d, %d", what,
          c.pid, (int)c.uid, (int)c.gid);
}

static int option(int fd, int which)
{
    int value = -7;
    socklen_t length = sizeof value;
    getsockopt(fd, SOL_SOCKET, which, &value, &length);
    return value;
}

/* One read; the bytes must be these. */
static void expect(int fd, const char *what, const char *bytes, ssize_t n)
{
    char got[100] = "";
    ssize_t r = recv(fd, got, sizeof got, MSG_DONTWAIT);
    CHECK(r == n && !memcmp(got, bytes, n), "%s: %zd bytes, %.20s", what, r, r < 0 ? strerror(errno) : got);
}

static void nothing(int fd, const char *what)
{
    char c;
    CHECK(recv(fd, &c, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "%s is not empty", what);
}

static void alive(int a, int b, const char *what)
{
    CHECK(send(a, "there", 5, MSG_DONTWAIT) == 5, "%s: %m", what);
    expect(b, what, "there", 5);
    CHECK(send(b, "back", 4, MSG_DONTWAIT) == 4, "%s: %m", what);
    expect(a, what, "back", 4);
}

static int two[2];
static int pair(int type) { MUST(!socketpair(AF_UNIX, type, 0, two)); return two[0]; }

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    int empty = argc > 3;
    user = atoi(argv[2]);
    signal(SIGUSR1, on_usr1);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    MUST(!setresgid(-1, user, -1) && !setresuid(-1, user, -1));
    umask(027);

    /* pairs: data both ways, flags, sharing, buffers */
    int wake = pair(SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC), waken = two[1];
    int same = dup(waken);
    MUST(send(wake, "one", 3, 0) == 3 && send(wake, "two", 3, 0) == 3 && send(waken, "answer", 6, 0) == 6);
    int much = pair(SOCK_STREAM), more = two[1];
    MUST(!setsockopt(much, SOL_SOCKET, SO_SNDBUF, &(int){50000}, 4));
    int sent = 0, last;
    for (char c; (c = 'a' + sent % 26, last = send(much, &c, 1, MSG_DONTWAIT)) == 1;) sent++;
    struct timeval sixteenth = {7, 252000};
    MUST(!setsockopt(much, SOL_SOCKET, SO_RCVTIMEO, &sixteenth, sizeof sixteenth));
    MUST(!setsockopt(much, SOL_SOCKET, SO_PASSCRED, &(int){1}, 4));
    MUST(!setsockopt(more, SOL_SOCKET, SO_RCVBUF, &(int){30000}, 4));
    int buffer = option(much, SO_SNDBUF), room = option(more, SO_RCVBUF);

    int packets = pair(SOCK_SEQPACKET), taker = two[1];
    MUST(send(packets, "first", 5, 0) == 5 && send(packets, "2nd", 3, 0) == 3 && send(packets, "third one", 9, 0) == 9);
    int grams = pair(SOCK_DGRAM), gets = two[1];
    MUST(send(grams, "a", 1, 0) == 1 && (!empty || send(grams, "", 0, 0) == 0) && send(grams, "ccc", 3, 0) == 3);
    char big[90000], back[100000];
    memset(big, 'x', sizeof big);
    MUST(send(grams, big, sizeof big, 0) == sizeof big);
    MUST(!setsockopt(taker, SOL_SOCKET, SO_PEEK_OFF, &(int){2}, 4));

    /* ends */
    int half = pair(SOCK_STREAM), other = two[1];
    MUST(send(half, "bye", 3, 0) == 3 && !shutdown(half, SHUT_WR));
    int left = pair(SOCK_STREAM);
    MUST(send(two[1], "will", 4, 0) == 4 && !close(two[1]));
    int reset = pair(SOCK_STREAM);
    MUST(send(reset, "unread", 6, 0) == 6 && !close(two[1]));
    int lonely = pair(SOCK_DGRAM);
    MUST(send(two[1], "note", 4, 0) == 4 && !close(two[1]));

    /* names */
    char path[200], mine[100], abstract[100];
    MUST(!chdir(argv[1]));
    snprintf(path, sizeof path, "%s/listens", argv[1]);
    snprintf(mine, sizeof mine, "@client-%d", getpid());
    snprintf(abstract, sizeof abstract, "@abstract-%d", getpid());
    int listens = named(SOCK_STREAM, path);
    MUST(!chmod(path, 0710) && !listen(listens, 5));
    int client = named(SOCK_STREAM, mine);
    MUST(!dial(client, path));
    int accepted = accept(listens, NULL, NULL);
    int orphan = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(accepted >= 0 && !dial(orphan, path) && !close(accept(listens, NULL, NULL)));
    MUST(send(client, "query", 5, 0) == 5);
    int packetlistens = named(SOCK_SEQPACKET, abstract);
    MUST(!listen(packetlistens, 0));
    int relative = named(SOCK_DGRAM, "log"); /* as given: relative to the directory */
    int writer = socket(AF_UNIX, SOCK_DGRAM, 0);
    MUST(!dial(writer, "log") && send(writer, "line 1", 6, 0) == 6 && send(writer, "line 2", 6, 0) == 6);
    int unlinked = named(SOCK_DGRAM, "gone");
    MUST(!unlink("gone"));
    int bare = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    MUST(!chdir("/") && !setresuid(-1, 0, -1) && !setresgid(-1, 0, -1));

    printf("ready\n");
    sigset_t set;
    sigemptyset(&set);
    while (!go) poll(NULL, 0, 10);

    CHECK(fcntl(wake, F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(wake, F_GETFD) == FD_CLOEXEC, "flags of the pair");
    CHECK(fcntl(more, F_GETFL) == O_RDWR && fcntl(more, F_GETFD) == 0, "flags of the other pair");
    expect(same, "the shared end", "onetwo", 6);
    expect(wake, "its other end", "answer", 6);
    nothing(waken, "the shared end");
    alive(wake, waken, "the pair");
    creator(wake, getpid(), "the pair");
    creator(waken, getpid(), "the pair's other end");

    CHECK(option(much, SO_SNDBUF) == buffer && option(more, SO_RCVBUF) == room, "buffer sizes");
    CHECK(option(much, SO_PASSCRED) == 1 && option(more, SO_PASSCRED) == 0, "SO_PASSCRED");
    struct timeval t;
    socklen_t length = sizeof t;
    getsockopt(much, SOL_SOCKET, SO_RCVTIMEO, &t, &length);
    CHECK(t.tv_sec == 7 && t.tv_usec == 252000, "SO_RCVTIMEO %d.%06d", (int)t.tv_sec, (int)t.tv_usec);
    int received = 0, wrong = 0;
    for (char c; recv(more, &c, 1, MSG_DONTWAIT) == 1; received++) wrong += c != 'a' + received % 26;
    CHECK(received == sent && !wrong, "%d bytes instead of %d, %d wrong", received, sent, wrong);

    CHECK(option(taker, SO_PEEK_OFF) == 2 && option(gets, SO_PEEK_OFF) == -1, "SO_PEEK_OFF %d", option(taker, SO_PEEK_OFF));
    expect(taker, "packet 1", "first", 5);
    expect(taker, "packet 2", "2nd", 3);
    expect(taker, "packet 3", "third one", 9);
    nothing(taker, "the packets' end");
    alive(packets, taker, "packets");
    expect(gets, "datagram 1", "a", 1);
    if (empty) expect(gets, "datagram 2", "", 0);
    expect(gets, "datagram 3", "ccc", 3);
    CHECK(recv(gets, back, sizeof back, 0) == sizeof big && !memcmp(back, big, sizeof big), "datagram 4");
    nothing(gets, "the datagrams' end");
    alive(grams, gets, "datagrams");

    expect(other, "the last words", "bye", 3);
    expect(other, "end of file", "", 0);
    CHECK(send(half, "x", 1, 0) == -1 && errno == EPIPE, "sending after shutdown");
    CHECK(send(other, "still", 5, 0) == 5, "the other way: %m");
    expect(half, "the other way", "still", 5);
    expect(left, "what a closed peer left", "will", 4);
    expect(left, "and its end", "", 0);
    CHECK(send(left, "x", 1, 0) == -1 && errno == EPIPE, "sending to a closed peer");
    CHECK(option(reset, SO_ERROR) == ECONNRESET, "ECONNRESET");
    expect(reset, "end after the reset", "", 0);
    expect(lonely, "a datagram of a closed peer", "note", 4);
    CHECK(send(lonely, "x", 1, 0) == -1 && errno == ECONNREFUSED, "a datagram to a closed peer");

    struct stat st;
    CHECK(!stat(path, &st) && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0710, "the socket file");
    CHECK(!strcmp(says(getsockname, listens), path), "the listener's name: %s", says(getsockname, listens));
    creator(listens, getpid(), "the listener");
    expect(accepted, "the query", "query", 5);
    alive(client, accepted, "the connection");
    CHECK(!strcmp(says(getpeername, client), path), "the client's peer: %s", says(getpeername, client));
    CHECK(!strcmp(says(getsockname, accepted), path), "the accepted end: %s", says(getsockname, accepted));
    CHECK(!strcmp(says(getpeername, accepted), mine), "the accepted end's peer: %s", says(getpeername, accepted));
    CHECK(!strcmp(says(getpeername, orphan), path), "the orphan's peer: %s", says(getpeername, orphan));
    expect(orphan, "the orphan", "", 0);
    creator(client, getpid(), "the client");
    creator(accepted, getpid(), "the accepted end");
    int made = 0, again[10];
    for (int i = 0; i < 10; i++) {
        again[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        made += !dial(again[i], path);
    }
    CHECK(made == 6, "a backlog of 5 takes %d", made);
    int late = accept(listens, NULL, NULL);
    alive(again[0], late, "a new connection");

    CHECK(option(packetlistens, SO_ACCEPTCONN) == 1, "it listens");
    int caller = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    CHECK(!dial(caller, abstract), "the abstract name: %m");
    CHECK(!strcmp(says(getsockname, relative), "log"), "a relative name: %s", says(getsockname, relative));
    expect(relative, "line 1", "line 1", 6);
    expect(relative, "line 2", "line 2", 6);
    CHECK(send(writer, "line 3", 6, 0) == 6, "one way: %m");
    expect(relative, "line 3", "line 3", 6);
    CHECK(!strcmp(says(getpeername, writer), "log"), "the writer's peer: %s", says(getpeername, writer));
    creator(writer, 0, "the writer");
    CHECK(!strcmp(says(getsockname, unlinked), "gone"), "an unlinked name: %s", says(getsockname, unlinked));
    snprintf(path, sizeof path, "%s/gone", argv[1]);
    CHECK(stat(path, &st) && errno == ENOENT, "the unlinked file is there");
    CHECK(option(bare, SO_TYPE) == SOCK_SEQPACKET && !*says(getsockname, bare), "the bare socket");
    nothing(unlinked, "the unlinked one");
    if (!failures) printf("ok\n");
    return failures != 0;
}
