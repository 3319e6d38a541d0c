/* Holds file locks of every kind and, in a thread each, waits for two that somebody else holds.
   usage: kind_locks DIRECTORY [wait]; prints "ready". After SIGUSR1 it checks its locks, from a child that has none
   of them and through descriptions that are not theirs, and prints "ok" or what is different. With "wait" it then
   prints "got" once both threads have their lock. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static const char *directory;
static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static int file(const char *name, int flags)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, flags | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) { perror(path); exit(1); }
    return fd;
}

static struct flock range(int type, off_t start, off_t length)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

/* The type of lock that would stand in the way of a write lock here, F_UNLCK if none; `end`: its last byte or 0. */
static int in_the_way(int fd, int command, off_t at, off_t *end)
{
    struct flock asked = range(F_WRLCK, at, 1);
    if (fcntl(fd, command, &asked)) return -1;
    *end = asked.l_len ? asked.l_start + asked.l_len - 1 : 0;
    return asked.l_type;
}

/* In a child: POSIX locks are not inherited, so what the parent holds is in its way. */
static void check_posix(void)
{
    static const struct { off_t at; int type; off_t end; } rows[] = {
        {0, F_UNLCK, 0}, {4, F_UNLCK, 0}, {5, F_WRLCK, 14}, {14, F_WRLCK, 14}, {15, F_UNLCK, 0},
        {100, F_RDLCK, 119}, {120, F_WRLCK, 129}, {130, F_RDLCK, 149}, {1ll << 40, F_WRLCK, 0},
    };
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int fd = file("posix", O_RDWR);
        failures = 0;
        for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
            off_t end = 0;
            int type = in_the_way(fd, F_GETLK, rows[i].at, &end);
            CHECK(type == rows[i].type && (type == F_UNLCK || end == rows[i].end),
                  "byte %ld of the POSIX locks: type %d up to %ld", (long)rows[i].at, type, (long)end);
            struct flock asked = range(F_WRLCK, rows[i].at, 1);
            if (type != F_UNLCK)
                CHECK(fcntl(fd, F_GETLK, &asked) == 0 && asked.l_pid == getppid(), "its owner is %d", asked.l_pid);
        }
        fflush(stdout);
        _exit(failures != 0);
    }
    int status;
    waitpid(child, &status, 0);
    failures += status != 0;
}

static int try_flock(const char *name, int operation)
{
    int fd = file(name, O_RDONLY);
    int result = flock(fd, operation | LOCK_NB) ? errno : 0;
    close(fd);
    return result;
}

static void *wait_flock(void *unused)
{
    int fd = file("wanted-flock", O_RDONLY);
    CHECK(flock(fd, LOCK_EX) == 0, "waiting in flock: %m");
    CHECK(try_flock("wanted-flock", LOCK_SH) == EWOULDBLOCK, "flock came back without a lock");
    return unused;
}

static void *wait_posix(void *unused)
{
    struct flock whole = range(F_WRLCK, 0, 0);
    CHECK(fcntl(file("wanted-posix", O_RDWR), F_SETLKW, &whole) == 0, "waiting in F_SETLKW: %m");
    return unused;
}

int main(int argc, char **argv)
{
    if (argc < 2) return 2;
    directory = argv[1];
    setvbuf(stdout, NULL, _IOLBF, 0);

    int posix = file("posix", O_RDWR), reader = file("posix", O_RDONLY);
    struct flock own[] = {range(F_WRLCK, 5, 10), range(F_RDLCK, 100, 50), range(F_WRLCK, 120, 10), range(F_WRLCK, 1ll << 40, 0)};
    for (int i = 0; i < 4; i++)
        if (fcntl(i == 1 ? reader : posix, F_SETLK, &own[i])) return perror("F_SETLK"), 1;
    int ofd = file("ofd", O_RDWR), ofd_reader = file("ofd", O_RDONLY), other = file("ofd", O_RDWR);
    struct flock write_lock = range(F_WRLCK, 0, 8), read_lock = range(F_RDLCK, 50, 0);
    if (fcntl(ofd, F_OFD_SETLK, &write_lock) || fcntl(ofd_reader, F_OFD_SETLK, &read_lock)) return perror("F_OFD_SETLK"), 1;
    int exclusive = file("flock-exclusive", O_RDONLY), shared = file("flock-shared", O_RDONLY), twin = dup(exclusive);
    if (flock(exclusive, LOCK_EX) || flock(shared, LOCK_SH)) return perror("flock"), 1;
    int deleted = file("deleted", O_RDWR), again;
    char path[4096];
    snprintf(path, sizeof path, "/proc/self/fd/%d", deleted);
    if (flock(deleted, LOCK_EX)) return perror("flock"), 1;
    again = open(path, O_RDONLY);
    snprintf(path, sizeof path, "%s/deleted", directory);
    unlink(path);

    struct sigaction action = {.sa_handler = on_usr1};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    pthread_t threads[2];
    int waiting = argc > 2;
    if (waiting && (pthread_create(&threads[0], NULL, wait_flock, NULL) || pthread_create(&threads[1], NULL, wait_posix, NULL)))
        return 1;
    puts("ready");
    while (!go) sigsuspend(&before);

    check_posix();
    off_t end;
    CHECK(in_the_way(other, F_OFD_GETLK, 0, &end) == F_WRLCK && end == 7, "the OFD write lock");
    CHECK(in_the_way(other, F_OFD_GETLK, 8, &end) == F_UNLCK, "there is an OFD lock where none was");
    CHECK(in_the_way(other, F_OFD_GETLK, 50, &end) == F_RDLCK && end == 0, "the OFD read lock");
    CHECK(in_the_way(ofd, F_OFD_GETLK, 0, &end) == F_UNLCK, "the OFD lock is not its own description's");
    close(ofd);
    CHECK(in_the_way(other, F_OFD_GETLK, 0, &end) == F_UNLCK, "the OFD lock outlives its description");
    CHECK(try_flock("flock-exclusive", LOCK_SH) == EWOULDBLOCK, "the exclusive flock is lost");
    CHECK(try_flock("flock-shared", LOCK_EX) == EWOULDBLOCK, "the shared flock is lost");
    CHECK(try_flock("flock-shared", LOCK_SH) == 0, "the shared flock is exclusive");
    CHECK(flock(again, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK, "the lock of the deleted file is lost");
    close(exclusive);
    CHECK(try_flock("flock-exclusive", LOCK_SH) == EWOULDBLOCK, "the flock is gone though a dup is open");
    close(twin);
    CHECK(try_flock("flock-exclusive", LOCK_SH) == 0, "the flock outlives its description");
    puts(failures ? "failed" : "ok");
    if (waiting && !failures) {
        pthread_join(threads[0], NULL);
        pthread_join(threads[1], NULL);
        puts(failures ? "failed" : "got");
    }
    return failures != 0;
}
