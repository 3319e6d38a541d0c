/* A signalfd with a signal queued before a checkpoint; after it (SIGUSR1) it is read, and another one through it.
   usage: kind_signalfd; prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t all, old, set, other;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    signal(SIGUSR1, on_usr1);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGRTMAX); /* bit 63 */
    sigemptyset(&other);
    sigaddset(&other, SIGINT);
    int fd = signalfd(-1, &set, SFD_NONBLOCK), blocking = signalfd(-1, &other, SFD_CLOEXEC);
    sigqueue(getpid(), SIGRTMAX, (union sigval){.sival_int = 42});
    sigdelset(&all, SIGUSR1);

    puts("ready");
    while (!go) sigsuspend(&all);

    struct signalfd_siginfo info;
    CHECK(read(fd, &info, sizeof info) == sizeof info, "the queued signal is lost: %m");
    CHECK(info.ssi_signo == (unsigned)SIGRTMAX && info.ssi_int == 42, "signal %u, value %d", info.ssi_signo, info.ssi_int);
    CHECK(info.ssi_pid == (unsigned)getpid(), "its sender");
    CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN, "there is a second one, or O_NONBLOCK is lost");
    kill(getpid(), SIGINT);
    CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN, "it tells signals that are not in its set");
    CHECK(read(blocking, &info, sizeof info) == sizeof info && info.ssi_signo == SIGINT, "SIGINT");
    kill(getpid(), SIGUSR2);
    CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2, "SIGUSR2");
    CHECK(fcntl(blocking, F_GETFD) == FD_CLOEXEC && fcntl(fd, F_GETFD) == 0, "close-on-exec");
    CHECK(!(fcntl(blocking, F_GETFL) & O_NONBLOCK), "O_NONBLOCK");
    if (!failures) puts("ok");
    return failures != 0;
}
