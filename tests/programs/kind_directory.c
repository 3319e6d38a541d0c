/* Is in places that are no more, or that are its own: a current directory that has been removed, with the one that it was
   in; open directories that are removed, replaced, renamed; a thread with a place for itself; a child in another root, with
   a server there. Usage: kind_directory DIRECTORY. Prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
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

static int go[2], there[2], here, removed, inner;
static char top[4096];

static void until_told(void) { char c; while (read(go[0], &c, 1) < 0 && errno == EINTR) { } }

static int same(const char *path, int fd)
{
    struct stat one, other;
    return !stat(path, &one) && !fstat(fd, &other) && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

static int entries(int fd)
{
    int found = 0;
    DIR *d = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY));
    if (!d) return -1;
    for (struct dirent *e; (e = readdir(d)); ) found += *e->d_name != '.';
    closedir(d);
    return found;
}

/* A directory that is no more, as it is seen from within. */
static void check_removed(void)
{
    char text[4096];
    CHECK(!getcwd(text, sizeof text) && errno == ENOENT, "the current directory has a name: %s", text);
    CHECK(same(".", inner) && same("..", removed) && same("../..", here) == 0, "other directories are around it");
    CHECK(mkdir("x", 0700) == -1 && errno == ENOENT, "something can be made in it");
}

static void *in_its_own_place(void *unused)
{
    char text[4096], wanted[4200];
    MUST(!unshare(CLONE_FS) && !chdir("/") && !chdir(top) && !chdir("thread") && umask(077) == 022);
    MUST(write(there[1], "t", 1) == 1);
    until_told();
    snprintf(wanted, sizeof wanted, "%s/thread", top);
    CHECK(getcwd(text, sizeof text) && !strcmp(text, wanted), "the thread's directory: %s", text);
    CHECK(umask(0) == 077, "the thread's umask");
    return unused;
}

static int in_another_root(void)
{
    int outside = open("jail", O_PATH | O_DIRECTORY), listening = socket(AF_UNIX, SOCK_STREAM, 0), client;
    struct sockaddr_un name = {AF_UNIX, "/run/server"}, told = {0};
    socklen_t length = sizeof told;
    char text[4096] = "";
    MUST(!mkdirat(outside, "run", 0700) && !chroot("jail") && !chdir("/run") && !mkdir("gone", 0700));
    int file = open("/run/file", O_RDWR | O_CREAT, 0600);
    MUST(file >= 0 && write(file, "content", 7) == 7);
    MUST(!bind(listening, (void *)&name, sizeof name) && !listen(listening, 5) && !chdir("gone") && !rmdir("/run/gone"));
    MUST(write(there[1], "c", 1) == 1);
    until_told();
    CHECK(same("/", outside) && same("/..", outside), "another root");
    CHECK(!getcwd(text, sizeof text) && errno == ENOENT, "the directory within: %s", text);
    CHECK(pread(file, text, 9, 0) == 7 && same("/run/file", file) && same("../file", file), "a file within");
    CHECK(!getsockname(listening, (void *)&told, &length) && !strcmp(told.sun_path, "/run/server"), "its name: %s", told.sun_path);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(!connect(client, (void *)&name, sizeof name) && accept(listening, NULL, NULL) >= 0, "the server: %m");
    return failures != 0;
}

int main(int count, char **arguments)
{
    sigset_t usr1;
    pthread_t thread;
    struct stat st;
    char text[16] = "";
    int code;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    umask(022);
    MUST(count == 2 && !chdir(arguments[1]) && getcwd(top, sizeof top) && !pipe(go) && !pipe(there));
    MUST(!mkdir("a", 0755) && !mkdir("a/b", 0755) && !mkdir("a/b/c", 0700) && !mkdir("jail", 0755) && !mkdir("thread", 0755));

    MUST(!pthread_create(&thread, NULL, in_its_own_place, NULL) && read(there[0], text, 1) == 1);
    pid_t jailed = fork();
    if (!jailed) return in_another_root();
    MUST(read(there[0], text, 1) == 1);

    /* A file without a name in a directory without one; a name that another has taken; another name. */
    here = open(".", O_RDONLY);
    removed = open("a/b", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    inner = open("a/b/c", O_PATH);
    int file = open("a/b/file", O_RDWR | O_CREAT, 0640);
    MUST(removed >= 0 && inner >= 0 && file >= 0 && write(file, "content", 7) == 7 && !unlink("a/b/file"));
    MUST(!mkdir("replaced", 0700));
    int replaced = open("replaced", O_RDONLY), flags = fcntl(removed, F_GETFL), other_flags = fcntl(inner, F_GETFL);
    MUST(replaced >= 0 && !rmdir("replaced") && !mkdir("replaced", 0700) && !mkdir("replaced/in", 0700));
    MUST(!mkdir("before", 0700));
    int renamed = open("before", O_RDONLY);
    MUST(renamed >= 0 && !rename("before", "after"));

    MUST(!chdir("a/b/c") && !fchmodat(removed, ".", 0751, 0) && !fchownat(here, "a/b/c", 12, 34, 0));
    MUST(!unlinkat(here, "a/b/c", AT_REMOVEDIR) && !unlinkat(here, "a/b", AT_REMOVEDIR));
    pid_t with_us = fork();
    if (!with_us) { until_told(); check_removed(); return failures != 0; }

    printf("ready\n");
    sigwaitinfo(&usr1, NULL);
    MUST(write(go[1], "123", 3) == 3);

    check_removed();
    CHECK(!fstat(removed, &st) && (st.st_mode & 07777) == 0751, "its mode: %o", st.st_mode);
    CHECK(!fstat(inner, &st) && st.st_uid == 12 && st.st_gid == 34, "its owner");
    CHECK(fcntl(removed, F_GETFL) == flags && fcntl(inner, F_GETFL) == other_flags, "flags %o, %o", fcntl(removed, F_GETFL), fcntl(inner, F_GETFL));
    CHECK(entries(removed) <= 0, "something is in it");
    CHECK(faccessat(removed, "../b", F_OK, 0) == -1 && entries(openat(here, "a", O_RDONLY)) == 0, "a name is left");
    CHECK(same("../..", openat(here, "a", O_PATH)), "it is elsewhere");
    CHECK(read(file, text, 9) == 0 && pread(file, text, 9, 0) == 7 && !memcmp(text, "content", 7), "the file");
    CHECK(!same("/proc/self/cwd/../../../replaced", replaced), "the replaced one is the new one");
    CHECK(mkdirat(replaced, "x", 0700) == -1 && errno == ENOENT, "the replaced one is there again");
    CHECK(entries(openat(here, "replaced", O_RDONLY)) == 1, "the new one");
    CHECK(!fstatat(here, "after", &st, 0) && !mkdirat(renamed, "x", 0700) && !faccessat(here, "after/x", F_OK, 0), "the renamed one");
    CHECK(umask(0) == 022, "the umask");
    CHECK(!pthread_join(thread, NULL), "the thread");
    CHECK(waitpid(jailed, &code, 0) == jailed && code == 0, "the child in another root: %x", code);
    CHECK(waitpid(with_us, &code, 0) == with_us && code == 0, "the child in the same place: %x", code);
    if (!failures) printf("ok\n");
    return failures != 0;
}
