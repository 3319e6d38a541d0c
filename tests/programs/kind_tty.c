/* Holds pseudoterminals, both sides of each, with settings and with data in both directions; and a session at one of them.
   Prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTLCK
#define TIOCGPTLCK _IOR('T', 0x39, int)
#define TIOCGPKT _IOR('T', 0x38, int)
#define TIOCGEXCL _IOR('T', 0x40, int)
#endif

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static volatile sig_atomic_t go, interrupted;
static void on_usr1(int s) { (void)s; go = 1; }
static void on_int(int s) { (void)s; interrupted++; }

struct pair { int master, slave; char name[64]; };

static struct pair open_pair(int flags)
{
    struct pair p;
    p.master = posix_openpt(O_RDWR | O_NOCTTY | flags);
    MUST(p.master >= 0 && !grantpt(p.master) && !unlockpt(p.master) && !ptsname_r(p.master, p.name, sizeof p.name));
    p.slave = open(p.name, O_RDWR | O_NOCTTY);
    MUST(p.slave >= 0);
    return p;
}

/* Line disciplines get what is written by a worker: wait until so many bytes can be read. */
static void until_arrived(int fd, int bytes)
{
    int there = -1;
    for (int i = 0; i < 20000 && there != bytes; i++) {
        MUST(!ioctl(fd, FIONREAD, &there));
        poll(NULL, 0, 1);
    }
    MUST(there == bytes);
}

static int reads(int fd, const char *expected, size_t length)
{
    static char got[20000];
    size_t total = 0;
    while (total < length) {
        ssize_t n = read(fd, got + total, length - total);
        if (n <= 0) break;
        total += n;
    }
    if (total == length && !memcmp(got, expected, length)) return 1;
    printf("got %zu bytes: '%.*s'\n", total, total < 60 ? (int)total : 60, got);
    return 0;
}

static int asked(int fd, unsigned long request)
{
    int value = -1;
    ioctl(fd, request, &value);
    return value;
}

/* A session leader at the terminal, a job of it in the foreground and one in the background; each ends with what it found. */
static pid_t *job; /* in memory that all share */

static pid_t start_session(struct pair *p)
{
    job = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(job != MAP_FAILED);
    pid_t leader = fork();
    MUST(leader >= 0);
    if (leader) return leader;
    MUST(setsid() > 0 && !ioctl(p->slave, TIOCSCTTY, 0));
    int tty = open("/dev/tty", O_RDWR);
    MUST(tty >= 0);
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child)
            job[i] = child;
        else {
            signal(SIGINT, on_int);
            while (!go) poll(NULL, 0, 10);
            for (int n = 0; n < 1000 && !interrupted && i == 0; n++) poll(NULL, 0, 10);
            CHECK(interrupted == (i == 0), "job %d was interrupted %d times", i, (int)interrupted);
            CHECK(tcgetpgrp(tty) == getpgrp() || i, "the foreground group is %d", tcgetpgrp(tty));
            fflush(stdout);
            _exit(failures);
        }
        setpgid(job[i], job[i]);
    }
    signal(SIGTTOU, SIG_IGN);
    MUST(!tcsetpgrp(tty, job[0]));
    signal(SIGTTOU, SIG_DFL);
    signal(SIGHUP, SIG_IGN);
    MUST(write(p->slave, "set", 3) == 3);
    while (!go) poll(NULL, 0, 10);
    CHECK(tcgetsid(tty) == getpid() && tcgetpgrp(p->slave) == job[0], "session %d, group %d", tcgetsid(tty), tcgetpgrp(tty));
    char link[64] = "", path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", tty);
    CHECK(readlink(path, link, sizeof link - 1) > 0 && !strcmp(link, "/dev/tty"), "/dev/tty is %s", link);
    CHECK(write(p->master, "\3", 1) == 1, "^C");
    for (int i = 0, status; i < 2; i++) {
        waitpid(job[i], &status, 0);
        CHECK(status == 0, "job %d: %x", i, status);
    }
    fflush(stdout);
    _exit(failures);
}

int main(void)
{
    signal(SIGUSR1, on_usr1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char big[6000];
    memset(big, 'x', sizeof big);

    /* By lines, with two that end, an end of file, one that ends by VEOL2, and one that is being typed after a ^V. */
    struct pair lines = open_pair(O_NONBLOCK);
    struct termios settings, now, at_first;
    MUST(!tcgetattr(lines.slave, &settings));
    settings.c_cc[VEOL2] = 'Q';
    settings.c_cc[VERASE] = '#';
    settings.c_lflag &= ~(ECHO | ECHOE);
    settings.c_iflag |= IUTF8;
    cfsetspeed(&settings, B9600);
    MUST(!tcsetattr(lines.slave, TCSANOW, &settings) && !tcgetattr(lines.slave, &at_first));
    struct winsize size = {33, 101, 7, 9}, size_now;
    MUST(!ioctl(lines.master, TIOCSWINSZ, &size));
    static const char typed[] = "one\ntwo\n\x04threeQ\x16\x04#par\x16#t\x16";
    MUST(write(lines.master, typed, sizeof typed - 1) == sizeof typed - 1);
    until_arrived(lines.slave, 14);
    MUST(write(lines.slave, "out\n", 4) == 4);
    until_arrived(lines.master, 5);
    int again = open(lines.name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    MUST(again >= 0 && !fchmod(lines.slave, 0600) && !fchown(lines.slave, 12, 34));

    /* Raw, with more printed than a line discipline takes, in packet mode, exclusive, and locked again. */
    struct pair raw = open_pair(0);
    struct termios raw_settings;
    MUST(!tcgetattr(raw.slave, &raw_settings));
    cfmakeraw(&raw_settings);
    raw_settings.c_cc[VMIN] = 3;
    raw_settings.c_cc[VTIME] = 5;
    MUST(!tcsetattr(raw.slave, TCSANOW, &raw_settings));
    MUST(write(raw.master, "\3\4\n\r\0\377", 6) == 6);
    until_arrived(raw.slave, 6);
    MUST(write(raw.slave, big, sizeof big) == sizeof big);
    until_arrived(raw.master, 4095);
    int one = 1;
    MUST(!ioctl(raw.master, TIOCPKT, &one) && !ioctl(raw.slave, TIOCEXCL) && !ioctl(raw.master, TIOCSPTLCK, &one));

    /* Stopped by ^S; a slave that nobody has open any more, and one that nobody ever had; one without its master. */
    struct pair stopped = open_pair(0);
    MUST(write(stopped.master, "\x13", 1) == 1);
    struct pollfd out = {stopped.slave, POLLOUT, 0};
    for (int i = 0; i < 20000 && poll(&out, 1, 0) == 1; i++) poll(NULL, 0, 1);
    MUST(poll(&out, 1, 0) == 0);
    struct pair closed = open_pair(0);
    MUST(write(closed.slave, "last words", 10) == 10);
    until_arrived(closed.master, 10);
    close(closed.slave);
    int lonely = posix_openpt(O_RDWR | O_NOCTTY);
    MUST(lonely >= 0);
    struct pair hung = open_pair(0);
    close(hung.master);

    struct pair session = open_pair(0);
    pid_t leader = start_session(&session);
    until_arrived(session.master, 3);

    printf("ready\n");
    while (!go) poll(NULL, 0, 10);

    char name[64] = "";
    CHECK(!ptsname_r(lines.master, name, sizeof name) && !strcmp(name, lines.name), "%s has become %s", lines.name, name);
    CHECK(!ttyname_r(lines.slave, name, sizeof name) && !strcmp(name, lines.name), "the slave of %s is %s", lines.name, name);
    struct stat st;
    CHECK(!fstat(lines.slave, &st) && (st.st_mode & 07777) == 0600 && st.st_uid == 12 && st.st_gid == 34, "mode %o", st.st_mode);
    CHECK(!ioctl(lines.slave, TIOCGWINSZ, &size_now) && !memcmp(&size, &size_now, sizeof size), "size %dx%d", size_now.ws_row, size_now.ws_col);
    CHECK(!tcgetattr(lines.slave, &now) && !memcmp(&now, &at_first, sizeof now), "settings of the first");
    CHECK((fcntl(lines.master, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDWR | O_NONBLOCK), "flags of the master");
    CHECK((fcntl(again, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDONLY | O_NONBLOCK), "flags of the second slave");
    CHECK(!(fcntl(raw.master, F_GETFL) & O_NONBLOCK), "the second master does not block");
    char text[64] = "";
    CHECK(asked(lines.slave, FIONREAD) == 14, "%d bytes to read", asked(lines.slave, FIONREAD));
    CHECK(read(again, text, 60) == 4 && !memcmp(text, "one\n", 4), "the first line: %.4s", text);
    CHECK(read(lines.slave, text, 60) == 4 && !memcmp(text, "two\n", 4), "the second line: %.4s", text);
    CHECK(read(lines.slave, text, 60) == 0, "end of file");
    CHECK(read(lines.slave, text, 60) == 6 && !memcmp(text, "threeQ", 6), "the third line: %.6s", text);
    CHECK(read(again, text, 60) == -1 && errno == EAGAIN, "a line that is not ended was read");
    CHECK(write(lines.master, "###u#tn\n", 8) == 8, "typing on");
    CHECK(read(lines.slave, text, 60) == 7 && !memcmp(text, "par#tn\n", 7), "the line typed on: %.7s", text);
    CHECK(reads(lines.master, "out\r\n", 5), "what was printed");

    CHECK(!tcgetattr(raw.slave, &now) && !memcmp(&now, &raw_settings, sizeof now), "settings of the raw one");
    CHECK(asked(raw.master, TIOCGPKT) == 1 && asked(raw.slave, TIOCGEXCL) == 1 && asked(raw.master, TIOCGPTLCK) == 1, "modes");
    CHECK(asked(raw.master, TIOCGEXCL) == 0 && asked(lines.master, TIOCGPKT) == 0 && asked(lines.master, TIOCGPTLCK) == 0, "modes");
    CHECK(reads(raw.slave, "\3\4\n\r\0\377", 6), "what was typed raw");
    one = 0;
    MUST(!ioctl(raw.master, TIOCPKT, &one));
    CHECK(reads(raw.master, big, sizeof big), "what was printed raw");

    CHECK(poll(&out, 1, 0) == 0, "it is not stopped any more");
    CHECK(write(stopped.master, "\x11", 1) == 1 && poll(&out, 1, 5000) == 1, "^Q does not continue it");
    CHECK(reads(closed.master, "last words", 10), "what was printed before it was closed");
    CHECK(read(closed.master, text, 1) == -1 && errno == EIO, "the closed one is open");
    struct pollfd hup = {lonely, 0, 0};
    CHECK(poll(&hup, 1, 0) == 0 && asked(lonely, TIOCGPTLCK) == 1, "one that was never open");
    CHECK(read(hung.slave, text, 1) == 0 && write(hung.slave, "x", 1) == -1 && errno == EIO, "it is not hung up");

    int status;
    CHECK(reads(session.master, "set", 3), "what the session printed");
    for (int i = 0; i < 2; i++) MUST(!kill(job[i], SIGUSR1));
    MUST(!kill(leader, SIGUSR1));
    MUST(waitpid(leader, &status, 0) == leader);
    CHECK(status == 0, "the session: %x", status);
    if (!failures) printf("ok\n");
    return failures != 0;
}
