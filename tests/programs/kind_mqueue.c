/* build: -lrt
   Holds POSIX message queues: one with a name through two descriptions, unlinked ones with messages of several sizes
   and priorities, and registrations with mq_notify of three kinds.
   usage: kind_mqueue NAME [told]; prints "ready". After SIGUSR1 it checks all of it and prints "ok" or what is
   different. With "told" somebody has sent a message to NAME-signal, of which it must have been told. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static volatile sig_atomic_t told, told_code, told_value;
static void on_usr1(int s) { (void)s; go = 1; }
static void on_message(int s, siginfo_t *info, void *context)
{
    (void)s, (void)context;
    told++, told_code = info->si_code, told_value = info->si_value.sival_int;
}

static mqd_t queue(const char *name, int flags, long messages, long bytes)
{
    struct mq_attr attributes = {.mq_maxmsg = messages, .mq_msgsize = bytes};
    mqd_t made = mq_open(name, flags | O_CREAT, 0640, &attributes);
    if (made < 0) { perror(name); exit(1); }
    return made;
}

static const struct { unsigned priority; size_t bytes; } messages[] = {
    {3, 5}, {1, 8192}, {3, 0}, {77, 4048}, {77, 4049}, {0, 1}, {5, 4500}, {3, 6}, {32767, 100},
}, in_order[] = {{32767, 100}, {77, 4048}, {77, 4049}, {5, 4500}, {3, 5}, {3, 0}, {3, 6}, {1, 8192}, {0, 1}};
#define MESSAGES (sizeof messages / sizeof *messages)

static char content[8192], got[8192];
static void fill(size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) content[i] = (char)(i * 7 + bytes);
}

static void check_attributes(mqd_t q, const char *name, long flags, long most, long bytes, long waiting)
{
    struct mq_attr is;
    CHECK(mq_getattr(q, &is) == 0 && is.mq_flags == flags && is.mq_maxmsg == most && is.mq_msgsize == bytes &&
          is.mq_curmsgs == waiting, "%s: flags %ld, %ld messages of %ld bytes, %ld of them there", name, is.mq_flags,
          is.mq_maxmsg, is.mq_msgsize, is.mq_curmsgs);
}

static void notify(mqd_t q, int how, int value)
{
    struct sigevent event = {.sigev_notify = how, .sigev_signo = SIGUSR2, .sigev_value.sival_int = value};
    if (mq_notify(q, &event)) { perror("mq_notify"); exit(1); }
}

int main(int argc, char **argv)
{
    if (argc < 2) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_usr1}, NULL);
    sigaction(SIGUSR2, &(struct sigaction){.sa_sigaction = on_message, .sa_flags = SA_SIGINFO}, NULL);

    mqd_t named = queue(argv[1], O_RDWR, 4, 64), reader = queue(argv[1], O_RDONLY | O_NONBLOCK, 0, 0);
    if (mq_send(named, "first", 5, 1)) return perror("mq_send"), 1;

    char name[256];
    snprintf(name, sizeof name, "%s-gone", argv[1]);
    mqd_t gone = queue(name, O_WRONLY, 9, 8192), gone_reader = queue(name, O_RDONLY, 0, 0), twin = dup(gone);
    mq_unlink(name);
    for (size_t i = 0; i < MESSAGES; i++) {
        fill(messages[i].bytes);
        if (mq_send(gone, content, messages[i].bytes, messages[i].priority)) return perror("mq_send"), 1;
    }
    snprintf(name, sizeof name, "%s-signal", argv[1]);
    mqd_t signalling = queue(name, O_RDWR | O_NONBLOCK, 2, 10);
    notify(signalling, SIGEV_SIGNAL, 4711);
    snprintf(name, sizeof name, "%s-none", argv[1]);
    mqd_t silent = queue(name, O_RDWR, 2, 10);
    mq_unlink(name);
    notify(silent, SIGEV_NONE, 0);

    puts("ready");
    while (!go) sigsuspend(&before);

    if (argc > 2) {
        CHECK(told == 1 && told_code == SI_MESGQ && told_value == 4711, "told %d times, code %d, value %d", told, told_code, told_value);
        check_attributes(signalling, "the queue that signals", O_NONBLOCK, 2, 10, 1);
        puts(failures ? "failed" : "ok");
        return failures != 0;
    }
    unsigned priority;
    check_attributes(named, "the named queue", 0, 4, 64, 1);
    check_attributes(reader, "its reader", O_NONBLOCK, 4, 64, 1);
    CHECK(mq_receive(reader, got, 64, &priority) == 5 && !memcmp(got, "first", 5) && priority == 1, "its message");
    CHECK(mq_receive(reader, got, 64, &priority) < 0 && errno == EAGAIN, "a second message");
    CHECK(mq_send(reader, "x", 1, 0) < 0 && errno == EBADF, "its reader writes");
    CHECK(mq_send(named, "x", 1, 0) == 0 && mq_receive(reader, got, 64, NULL) == 1, "they are not one queue");

    check_attributes(gone, "the unlinked queue", 0, 9, 8192, MESSAGES);
    CHECK(mq_receive(gone, got, 8192, NULL) < 0 && errno == EBADF, "its writer reads");
    for (size_t i = 0; i < MESSAGES; i++) {
        fill(in_order[i].bytes);
        ssize_t bytes = mq_receive(gone_reader, got, 8192, &priority);
        CHECK(bytes == (ssize_t)in_order[i].bytes && priority == in_order[i].priority && !memcmp(got, content, in_order[i].bytes),
              "message %zu: %zd bytes of priority %u", i, bytes, priority);
    }
    struct stat about;
    CHECK(fstat(gone, &about) == 0 && about.st_nlink == 0 && (about.st_mode & 07777) == 0640, "its mode or links");
    struct mq_attr not_waiting = {.mq_flags = O_NONBLOCK}, was;
    CHECK(mq_setattr(twin, &not_waiting, &was) == 0 && mq_getattr(gone, &was) == 0 && was.mq_flags == O_NONBLOCK,
          "the duplicate is not one description with it");

    CHECK(told == 0, "a notification without a message");
    CHECK(mq_send(signalling, "m", 1, 0) == 0 && told == 1 && told_code == SI_MESGQ && told_value == 4711,
          "told %d times, code %d, value %d", told, told_code, told_value);
    check_attributes(signalling, "the queue that signals", O_NONBLOCK, 2, 10, 1);
    struct sigevent other = {.sigev_notify = SIGEV_NONE};
    CHECK(mq_notify(silent, &other) < 0 && errno == EBUSY, "the silent registration is gone");
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
