/* Holds files in unusual ways: only as paths, without a name, renamed, by several descriptions; with owners of signals, a
   lease, and pidfds. Usage: kind_file DIRECTORY. Prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static volatile sig_atomic_t go, told_fd = -1, told;
static void on_usr1(int s) { (void)s; go = 1; }
static void on_io(int s, siginfo_t *info, void *u) { (void)s; (void)u; told_fd = info->si_fd; told++; }

static int pidfd(pid_t pid, unsigned flags) { return syscall(SYS_pidfd_open, pid, flags); }
static int ready(int fd) { struct pollfd p = {fd, POLLIN, 0}; return poll(&p, 1, 0) == 1; }

static pid_t child(int code)
{
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid) return pid;
    if (code >= 0) _exit(code);
    for (;;) pause();
}

int main(int count, char **arguments)
{
    signal(SIGUSR1, on_usr1);
    struct sigaction action = {.sa_sigaction = on_io, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGRTMIN + 2, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    MUST(count == 2 && !chdir(arguments[1]));
    char text[256] = "", path[64];
    struct stat st;

    /* Only paths. */
    MUST(!symlink("nowhere", "link") && !mkfifo("fifo", 0600) && !mkdir("directory", 0700));
    int link = open("link", O_PATH | O_NOFOLLOW), fifo = open("fifo", O_PATH), null = open("/dev/null", O_PATH);
    int directory = open("directory", O_PATH | O_DIRECTORY), here = open(".", O_RDONLY);
    MUST(link >= 0 && fifo >= 0 && null >= 0 && directory >= 0 && here >= 0);

    /* Files: appended to and renamed, opened without following links, nameless, unlinked with several descriptions. */
    int appended = open("before", O_WRONLY | O_CREAT | O_APPEND, 0640);
    MUST(appended >= 0 && write(appended, "abc", 3) == 3 && !rename("before", "after"));
    int direct = open("after", O_RDONLY | O_NOFOLLOW);
    MUST(direct >= 0);
    int nameless = open(".", O_TMPFILE | O_RDWR | O_APPEND, 0604);
    MUST(nameless >= 0 && write(nameless, "content", 7) == 7);
    snprintf(path, sizeof path, "/proc/self/fd/%d", nameless);
    int reader = open(path, O_RDONLY);
    MUST(reader >= 0 && read(reader, text, 3) == 3);
    int gone = open("gone", O_RDWR | O_CREAT, 0600), gone_reader = open("gone", O_RDONLY);
    MUST(gone >= 0 && gone_reader >= 0 && write(gone, "unlinked", 8) == 8 && !unlink("gone"));

    /* Signals: from a pipe, by a number of our own choice, to this thread; and an owner without O_ASYNC. */
    int ends[2], quiet[2];
    MUST(!pipe(ends) && !pipe(quiet));
    struct f_owner_ex owner = {F_OWNER_TID, getpid()}, owner_now;
    MUST(!fcntl(ends[0], F_SETOWN_EX, &owner) && !fcntl(ends[0], F_SETSIG, SIGRTMIN + 2));
    MUST(!fcntl(ends[0], F_SETFL, fcntl(ends[0], F_GETFL) | O_ASYNC));
    MUST(!fcntl(quiet[1], F_SETOWN, -getpgrp()));

    /* A lease, which tells us when somebody else opens the file. */
    int leased = open("leased", O_RDONLY | O_CREAT, 0600);
    MUST(leased >= 0 && !fcntl(leased, F_SETSIG, SIGRTMIN + 2) && !fcntl(leased, F_SETLEASE, F_RDLCK));

    /* pidfds: of ourselves, of a child that lives, of one that has ended, of two that have been waited for. */
    pid_t living = child(-1), zombie = child(5), waited = child(9), killed = child(-1);
    int self = pidfd(getpid(), 0), of_living = pidfd(living, O_NONBLOCK), of_zombie = pidfd(zombie, 0);
    int of_waited = pidfd(waited, 0), of_killed = pidfd(killed, 0);
    MUST(self >= 0 && of_living >= 0 && of_zombie >= 0 && of_waited >= 0 && of_killed >= 0);
    siginfo_t info;
    MUST(waitpid(waited, NULL, 0) == waited && !kill(killed, SIGKILL) && waitpid(killed, NULL, 0) == killed);
    MUST(!waitid(P_PID, zombie, &info, WEXITED | WNOWAIT));

    int fds[] = {link, fifo, null, directory, here, appended, direct, nameless, reader, gone, gone_reader, ends[0], quiet[1],
                 leased, self, of_living, of_zombie, of_waited};
    enum { FDS = sizeof fds / sizeof *fds };
    int flags[FDS];
    for (int i = 0; i < FDS; i++) flags[i] = fcntl(fds[i], F_GETFL);

    printf("ready\n");
    while (!go) poll(NULL, 0, 10);

    for (int i = 0; i < FDS; i++) CHECK(fcntl(fds[i], F_GETFL) == flags[i], "flags of %d: %o, %o", fds[i], flags[i], fcntl(fds[i], F_GETFL));
    CHECK(readlinkat(link, "", text, sizeof text) == 7 && !memcmp(text, "nowhere", 7), "the link: %s", text);
    CHECK(!fstat(fifo, &st) && S_ISFIFO(st.st_mode), "the FIFO");
    CHECK(!fstat(null, &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3), "/dev/null");
    CHECK(!fstat(directory, &st) && S_ISDIR(st.st_mode) && !mkdirat(directory, "in it", 0700) && !access("directory/in it", F_OK), "the directory");

    CHECK(write(appended, "def", 3) == 3 && pread(direct, text, 9, 0) == 6 && !memcmp(text, "abcdef", 6), "after: %.6s", text);
    CHECK(read(reader, text, 9) == 4 && !memcmp(text, "tent", 4), "the nameless one: %.4s", text);
    CHECK(write(nameless, "!", 1) == 1 && pread(reader, text, 9, 0) == 8, "its two descriptions");
    CHECK(!fstat(nameless, &st) && st.st_nlink == 0 && (st.st_mode & 07777) == 0604, "mode %o, %d names", st.st_mode, (int)st.st_nlink);
    snprintf(path, sizeof path, "/proc/self/fd/%d", nameless);
    CHECK(!linkat(AT_FDCWD, path, AT_FDCWD, "named at last", AT_SYMLINK_FOLLOW), "it cannot be named: %s", strerror(errno));
    CHECK(read(gone_reader, text, 9) == 8 && !memcmp(text, "unlinked", 8), "the unlinked one");
    CHECK(pwrite(gone, "X", 1, 0) == 1 && pread(gone_reader, text, 1, 0) == 1 && *text == 'X', "one file");

    CHECK(!fcntl(ends[0], F_GETOWN_EX, &owner_now) && owner_now.type == F_OWNER_TID && owner_now.pid == getpid(), "the owner");
    CHECK(fcntl(ends[0], F_GETSIG) == SIGRTMIN + 2 && told == 0, "the signal %d, %d times", fcntl(ends[0], F_GETSIG), (int)told);
    CHECK(write(ends[1], "x", 1) == 1 && told == 1 && told_fd == ends[0], "told %d times of %d", (int)told, (int)told_fd);
    CHECK(fcntl(quiet[1], F_GETOWN) == -getpgrp() && fcntl(quiet[1], F_GETSIG) == 0, "the group that owns: %d", fcntl(quiet[1], F_GETOWN));
    CHECK(fcntl(leased, F_GETLEASE) == F_RDLCK, "the lease: %d", fcntl(leased, F_GETLEASE));
    told = 0;
    pid_t opener = fork();
    if (!opener) _exit(open("leased", O_WRONLY | O_NONBLOCK) >= 0 || errno != EWOULDBLOCK);
    int status;
    waitpid(opener, &status, 0);
    CHECK(status == 0 && told == 1 && told_fd == leased, "the lease told %d times of %d, %x", (int)told, (int)told_fd, status);

    CHECK(!ready(self) && !ready(of_living) && ready(of_zombie) && ready(of_waited) && ready(of_killed), "who is alive");
    CHECK(syscall(SYS_pidfd_send_signal, self, 0, NULL, 0) == 0 && syscall(SYS_pidfd_send_signal, of_living, SIGTERM, NULL, 0) == 0, "signals");
    CHECK(syscall(SYS_pidfd_send_signal, of_waited, 0, NULL, 0) == -1 && errno == ESRCH, "one that is gone");
    CHECK(!waitid(P_PIDFD, of_zombie, &info, WEXITED) && info.si_status == 5 && info.si_pid == zombie, "the zombie");
    CHECK(waitid(P_PIDFD, of_living, &info, WEXITED) == 0 || errno == EAGAIN, "the living one: %s", strerror(errno));
    CHECK(waitpid(living, &status, 0) == living || errno == ECHILD, "the child");
    if (!failures) printf("ok\n");
    return failures != 0;
}
