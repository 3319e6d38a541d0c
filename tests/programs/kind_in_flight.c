/* Sends descriptors and credentials over unix sockets, reads nothing until SIGUSR1, and then checks all that arrives.
   usage: kind_in_flight DIRECTORY [empty]; one of the datagrams has nothing but descriptors.
   Prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#define SCM_PIDFD_ 4

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static int two[2];
static int pair(int type) { MUST(!socketpair(AF_UNIX, type, 0, two)); return two[0]; }

/* One message with descriptors (a list that ends with -1). */
static void send_fds(int over, const char *text, size_t length, const int *fds)
{
    int n = 0;
    while (fds[n] != -1) n++;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * 300)] = {0};
    struct iovec vector = {(void *)text, length};
    struct msghdr m = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(n * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    MUST(sendmsg(over, &m, 0) == (ssize_t)length);
}
#define SEND(over, text, ...) send_fds(over, text, strlen(text), (int[]){__VA_ARGS__, -1})

static int got[300], count;
static struct ucred from;
static int pidfd;

/* One read of up to `most` bytes: the bytes must be these, with so many descriptors. */
static void expect(int fd, const char *what, size_t most, const char *text, int descriptors)
{
    char bytes[200] = "";
    _Alignas(struct cmsghdr) char control[2000];
    struct iovec vector = {bytes, most};
    struct msghdr m = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
    count = 0, from = (struct ucred){-7, -7, -7}, pidfd = -1;
    memset(got, -1, sizeof got);
    CHECK(n == (ssize_t)strlen(text) && !memcmp(bytes, text, n), "%s: %zd bytes, %.100s", what, n, n < 0 ? strerror(errno) : bytes);
    CHECK(!(m.msg_flags & (MSG_CTRUNC | MSG_TRUNC)), "%s: flags %x", what, m.msg_flags);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); n >= 0 && c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_type == SCM_RIGHTS) {
            count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(got, CMSG_DATA(c), count * sizeof(int));
        } else if (c->cmsg_type == SCM_CREDENTIALS)
            memcpy(&from, CMSG_DATA(c), sizeof from);
        else if (c->cmsg_type == SCM_PIDFD_)
            memcpy(&pidfd, CMSG_DATA(c), sizeof pidfd);
    }
    CHECK(count == descriptors, "%s: %d descriptors", what, count);
}

static ino_t inode(int fd) { struct stat st = {0}; return fstat(fd, &st) ? 0 : st.st_ino; }

static int option(int fd, int which)
{
    int value = -7;
    socklen_t length = sizeof value;
    getsockopt(fd, SOL_SOCKET, which, &value, &length);
    return value;
}

static void talk(int a, int b, const char *what)
{
    char bytes[8];
    CHECK(send(a, "tell", 4, MSG_DONTWAIT) == 4 && recv(b, bytes, 8, MSG_DONTWAIT) == 4, "%s: %m", what);
    CHECK(send(b, "told", 4, MSG_DONTWAIT) == 4 && recv(a, bytes, 8, MSG_DONTWAIT) == 4, "%s, the other way: %m", what);
}

/* It has sent a word when this returns, and then lives on, or has ended. */
static int a_child(int over, int lives)
{
    int sent[2], status = 0;
    MUST(!pipe(sent));
    int pid = fork();
    if (pid == 0) {
        if (send(over, lives ? "alive" : "dead", lives ? 5 : 4, 0) < 0) _exit(1);
        close(sent[0]), close(sent[1]);
        while (lives) pause();
        _exit(0);
    }
    char none;
    MUST(pid > 0 && !close(sent[1]) && read(sent[0], &none, 1) == 0 && !close(sent[0]));
    MUST(lives || (waitpid(pid, &status, 0) == pid && status == 0));
    return pid;
}

int main(int argc, char **argv)
{
    if (argc < 2) return 2;
    const char *little = argc > 2 ? "" : "little";
    signal(SIGUSR1, on_usr1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    MUST(!chdir(argv[1]));

    /* a stream: bytes before and behind a message with descriptors, and two such in a row */
    int stream = pair(SOCK_STREAM), reads = two[1];
    int file = open("file", O_RDWR | O_CREAT, 0600), unlinked = open("unlinked", O_RDWR | O_CREAT, 0600), ends[2];
    MUST(write(file, "0123456789", 10) == 10 && lseek(file, 3, SEEK_SET) == 3);
    MUST(write(unlinked, "deleted", 7) == 7 && !unlink("unlinked") && !pipe(ends) && write(ends[1], "in the pipe", 11) == 11);
    MUST(send(stream, "a plain start, ", 15, 0) == 15 && send(stream, "ab", 2, 0) == 2);
    SEND(stream, "cde", file, ends[0], unlinked);
    MUST(send(stream, "fg", 2, 0) == 2);
    SEND(stream, "h", ends[1]);
    SEND(stream, "ij", ends[1]);
    close(ends[0]), close(unlinked);

    /* the same stream, read in pieces */
    int pieces = pair(SOCK_STREAM), reader = two[1];
    MUST(send(pieces, "xyz", 3, 0) == 3);
    SEND(pieces, "with", file);

    /* datagrams: each its own, an empty one, many at once; what also stays open here shares its offset */
    int grams = pair(SOCK_DGRAM), gets = two[1];
    int event = eventfd(5, EFD_NONBLOCK), memory = memfd_create("flying", MFD_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    struct itimerspec late = {.it_value = {1000, 0}};
    MUST(write(memory, "memory", 6) == 6 && !timerfd_settime(timer, 0, &late, NULL));
    int many[254], own = syscall(SYS_pidfd_open, getpid(), 0);
    for (int i = 0; i < 253; i++) many[i] = event;
    many[253] = -1;
    MUST(own >= 0);
    SEND(grams, "one", file, event, memory);
    SEND(grams, little, timer, udp, own);
    send_fds(grams, "many", 4, many);
    close(memory), close(timer), close(own), close(udp), close(event);

    /* sockets in flight: one with data, one that holds another that holds a descriptor, circles */
    int packets = pair(SOCK_SEQPACKET), takes = two[1];
    int near = pair(SOCK_STREAM), away = two[1];
    MUST(send(near, "hello", 5, 0) == 5);
    SEND(packets, "socket", away);
    close(away);
    int outer = pair(SOCK_STREAM), outer_away = two[1];
    int inner = pair(SOCK_DGRAM), inner_away = two[1];
    SEND(inner, "innermost", file);
    SEND(outer, "inner", inner_away, inner);
    SEND(packets, "outer", outer_away);
    close(outer_away), close(inner), close(inner_away);
    int left = pair(SOCK_STREAM), right = two[1];
    SEND(left, "right over itself", right);  /* waits in right */
    SEND(right, "right over its peer", right);  /* waits in left */
    ino_t right_inode = inode(right), left_inode = inode(left);
    close(right);

    /* credentials: asked for by the receiver; of whoever sent it, also when it has ended; two writers of a stream */
    int asks = pair(SOCK_DGRAM), asked = two[1];
    MUST(!setsockopt(asked, SOL_SOCKET, SO_PASSCRED, &(int){1}, 4));
    MUST(send(asks, "mine", 4, 0) == 4);
    int living = a_child(asks, 1), dead = a_child(asks, 0), status;
    int writes = pair(SOCK_STREAM), written = two[1];
    MUST(!setsockopt(written, SOL_SOCKET, SO_PASSCRED, &(int){1}, 4) && send(writes, "mine", 4, 0) == 4);
    int gone = a_child(writes, 0);
    MUST(send(writes, "again", 5, 0) == 5);
    int silent = pair(SOCK_STREAM), unasked = two[1];
    MUST(send(silent, "nobody", 6, 0) == 6);
    int tells = pair(SOCK_STREAM), told = two[1];
    int passes_pidfd = !setsockopt(told, SOL_SOCKET, SO_PASSPIDFD, &(int){1}, 4);
    MUST(send(tells, "who", 3, 0) == 3);

    printf("ready\n");
    while (!go) poll(NULL, 0, 10);

    char bytes[100];
    CHECK(option(reads, SO_PEEK_OFF) == -1 && option(reads, SO_PASSCRED) == 0, "options of the stream");
    expect(reads, "the stream, first", 150, "a plain start, abcde", 3);
    CHECK(lseek(got[0], 0, SEEK_CUR) == 3 && lseek(file, 5, SEEK_SET) == 5 && lseek(got[0], 0, SEEK_CUR) == 5, "the file's offset");
    CHECK(read(got[1], bytes, 100) == 11 && !memcmp(bytes, "in the pipe", 11), "the pipe");
    CHECK(pread(got[2], bytes, 100, 0) == 7 && !memcmp(bytes, "deleted", 7), "the deleted file");
    int pipe_out = got[1];
    expect(reads, "the stream, second", 150, "fgh", 1);
    CHECK(write(got[0], "new", 3) == 3 && read(pipe_out, bytes, 100) == 3, "the pipe's other end: %m");
    expect(reads, "the stream, third", 150, "ij", 1);
    CHECK(recv(reads, bytes, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "the stream is not at its end");
    expect(reader, "pieces, first", 2, "xy", 0);
    expect(reader, "pieces, second", 1, "z", 0);
    expect(reader, "pieces, third", 2, "wi", 1);
    CHECK(inode(got[0]) == inode(file), "the file in pieces");
    expect(reader, "pieces, fourth", 10, "th", 0);
    talk(stream, reads, "the stream");

    uint64_t value = 0;
    expect(gets, "datagram", 150, "one", 3);
    CHECK(lseek(got[0], 0, SEEK_CUR) == 5, "the file in a datagram");
    CHECK(read(got[1], &value, 8) == 8 && value == 5, "the eventfd has %d", (int)value);
    CHECK(pread(got[2], bytes, 100, 0) == 6 && !memcmp(bytes, "memory", 6), "the memfd");
    int same_event = got[1];
    expect(gets, "a little datagram", 150, little, 3);
    struct itimerspec now = {0};
    CHECK(!timerfd_gettime(got[0], &now) && now.it_value.tv_sec > 800, "the timer has %d s", (int)now.it_value.tv_sec);
    CHECK(option(got[1], SO_TYPE) == SOCK_DGRAM && option(got[1], SO_DOMAIN) == AF_INET, "the UDP socket");
    CHECK(!syscall(SYS_pidfd_send_signal, got[2], 0, NULL, 0), "the pidfd: %m");
    expect(gets, "many", 150, "many", 253);
    value = 9;
    CHECK(write(got[252], &value, 8) == 8 && read(same_event, &value, 8) == 8 && value == 9, "one of many");

    expect(takes, "a socket", 150, "socket", 1);
    CHECK(recv(got[0], bytes, 100, MSG_DONTWAIT) == 5 && !memcmp(bytes, "hello", 5), "data in a socket in flight: %m");
    talk(near, got[0], "a socket that was in flight");
    expect(takes, "the outer socket", 150, "outer", 1);
    int was_outer = got[0];
    expect(was_outer, "the inner sockets", 150, "inner", 2);
    talk(outer, was_outer, "the outer socket");
    int was_inner = got[0];
    expect(was_inner, "the innermost", 150, "innermost", 1);
    CHECK(inode(got[0]) == inode(file), "the innermost file");
    expect(left, "over its peer", 150, "right over its peer", 1);
    int back = got[0];
    CHECK(inode(back) && (inode(back) == right_inode) == (inode(left) == left_inode), "which socket came back");
    expect(back, "over itself", 150, "right over itself", 1);
    CHECK(inode(got[0]) == inode(back), "it is another socket");
    talk(left, got[0], "a socket that held itself");

    CHECK(option(asked, SO_PASSCRED) == 1 && option(asked, SO_PEEK_OFF) == -1, "options of who asks");
    expect(asked, "mine", 150, "mine", 0);
    CHECK(from.pid == getpid() && from.uid == 0 && from.gid == 0, "it was sent by %d, not %d", from.pid, getpid());
    expect(asked, "of a child", 150, "alive", 0);
    CHECK(from.pid == living, "it was sent by %d, not %d", from.pid, living);
    expect(asked, "of a child that has ended", 150, "dead", 0);
    CHECK(from.pid == dead && kill(dead, 0) == -1, "it was sent by %d, not %d", from.pid, dead);
    expect(written, "a stream by two, first", 150, "mine", 0);
    CHECK(from.pid == getpid(), "it was sent by %d", from.pid);
    expect(written, "a stream by two, second", 150, "dead", 0);
    CHECK(from.pid == gone, "it was sent by %d, not %d", from.pid, gone);
    expect(written, "a stream by two, third", 150, "again", 0);
    MUST(!setsockopt(unasked, SOL_SOCKET, SO_PASSCRED, &(int){1}, 4));
    expect(unasked, "without credentials", 150, "nobody", 0);
    CHECK(from.pid == 0, "somebody sent it: %d", from.pid);
    expect(told, "with a pidfd", 150, "who", 0);
    if (passes_pidfd) CHECK(pidfd >= 0 && !syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0), "the pidfd of the sender: %m");
    kill(living, SIGKILL);
    MUST(waitpid(living, &status, 0) == living);
    if (!failures) printf("ok\n");
    return failures != 0;
}
