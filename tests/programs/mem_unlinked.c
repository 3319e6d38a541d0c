/* A parent and a child with mapped files that no name leads to: memfds and unlinked files, shared and private,
   sealed, with and without a descriptor; semaphores and shared memory of POSIX. Arguments: a directory, and a
   name for POSIX objects. Prints "ready"; on SIGUSR1 both look at everything, then it says "ok". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

enum { PAGE = 4096, PAGES = 8, SIZE = PAGE * PAGES };
enum { RW = PROT_READ | PROT_WRITE };

static char *map(int fd, int protection, int flags)
{
    char *at = mmap(NULL, SIZE, protection, flags, fd, 0);
    MUST(at != MAP_FAILED);
    return at;
}

static void number(char *at)
{
    for (int i = 0; i < PAGES; i++)
        if (i != 2) sprintf(at + i * PAGE, "page %d", i);
}

static int numbered(const char *at, int but)
{
    char text[16];
    for (int i = 0; i < PAGES; i++) {
        sprintf(text, "page %d", i);
        if (i != but && strcmp(at + i * PAGE, i == 2 ? "" : text)) return 0;
    }
    return 1;
}

static int memfd(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    MUST(fd >= 0 && !ftruncate(fd, SIZE));
    return fd;
}

static int file(const char *directory, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    MUST(fd >= 0 && !ftruncate(fd, SIZE) && !unlink(path));
    return fd;
}

int main(int argc, char **argv)
{
    MUST(argc == 3);
    signal(SIGUSR1, on_usr1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char exe[4096] = "", now[4096] = "", name[128];

    int fd = memfd("closed");
    char *closed = map(fd, RW, MAP_SHARED);
    number(closed);
    close(fd);
    int open_fd = memfd("open");
    char *opened = map(open_fd, RW, MAP_SHARED);
    char *twice = map(open_fd, PROT_READ, MAP_SHARED);
    number(opened);
    fd = memfd("private");
    char *own = map(fd, RW, MAP_PRIVATE);
    MUST(pwrite(fd, "page 0", 7, 0) == 7 && pwrite(fd, "page 1", 7, PAGE) == 7);
    strcpy(own + PAGE, "my own");
    close(fd);
    int future = memfd("future");
    char *writable = map(future, RW, MAP_SHARED);
    number(writable);
    MUST(!fcntl(future, F_ADD_SEALS, 0x10 /* F_SEAL_FUTURE_WRITE */ | F_SEAL_SHRINK));
    int sealed_fd = memfd("sealed");
    MUST(pwrite(sealed_fd, "kept", 5, 0) == 5 && !fcntl(sealed_fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW));
    char *sealed = map(sealed_fd, PROT_READ, MAP_SHARED);

    int disk = file(argv[1], "unlinked");
    char *shared = map(disk, RW, MAP_SHARED);
    char *private = map(disk, RW, MAP_PRIVATE);
    number(shared);
    strcpy(private + PAGE, "my own");
    fd = file(argv[1], "unlinked");
    char *namesake = map(fd, RW, MAP_SHARED);
    strcpy(namesake, "another");
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reading = open(path, O_RDONLY);
    char *reads = map(reading, PROT_READ, MAP_SHARED);
    close(reading);
    close(fd);

    snprintf(name, sizeof name, "/%s-gone", argv[2]);
    fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    MUST(fd >= 0 && !ftruncate(fd, SIZE));
    char *gone = map(fd, RW, MAP_SHARED);
    number(gone);
    MUST(!close(fd) && !shm_unlink(name));
    sem_t *unnamed = sem_open(name, O_CREAT | O_EXCL, 0600, 3);
    MUST(unnamed != SEM_FAILED && !sem_unlink(name));
    snprintf(name, sizeof name, "/%s-here", argv[2]);
    sem_t *named = sem_open(name, O_CREAT | O_EXCL, 0600, 5);
    MUST(named != SEM_FAILED);
    fd = open("/dev/zero", O_RDWR);
    char *zeros = map(fd, RW, MAP_PRIVATE);
    MUST(fd >= 0 && !close(fd));
    strcpy(zeros, "of its own");
    MUST(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);

    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        char *left = closed + 2 * PAGE;
        while (strcmp(left, "go")) poll(NULL, 0, 5);
        CHECK(numbered(closed, 2) && numbered(opened, -1) && numbered(shared, -1) && numbered(gone, -1), "the child's pages");
        CHECK(!strcmp(own + PAGE, "my own") && !strcmp(own, "page 0"), "the child's private pages");
        strcpy(opened + 2 * PAGE, "from the child");
        strcpy(gone + 2 * PAGE, "from the child");
        strcpy(shared + 2 * PAGE, "from the child");
        strcpy(namesake + PAGE, "from the child");
        sem_post(named);
        sem_post(unnamed);
        _exit(failures);
    }
    printf("ready\n");
    while (!go) poll(NULL, 0, 10);

    ssize_t length = readlink("/proc/self/exe", now, sizeof now - 1);
    CHECK(length > 0 && !strncmp(exe, now, strcspn(exe, " ")), "executable %s", now);
    CHECK((fd = open("/proc/self/exe", O_RDONLY)) >= 0 && read(fd, now, 4) == 4 && !memcmp(now, "\177ELF", 4), "exe");
    CHECK(numbered(closed, -1), "closed");
    strcpy(closed + 2 * PAGE, "go");
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child: %x", status);
    CHECK(numbered(opened, 2) && numbered(shared, 2) && numbered(gone, 2), "pages");
    CHECK(!strcmp(opened + 2 * PAGE, "from the child") && !strcmp(gone + 2 * PAGE, "from the child"), "not shared");
    CHECK(!strcmp(twice + 2 * PAGE, "from the child"), "two mappings");
    CHECK(!strcmp(shared + 2 * PAGE, "from the child") && !strcmp(private + 2 * PAGE, "from the child"), "disk");
    CHECK(!strcmp(private + PAGE, "my own") && !strcmp(shared + PAGE, "page 1"), "private");
    CHECK(!strcmp(namesake, "another") && !strcmp(reads + PAGE, "from the child"), "its namesake");
    CHECK(mprotect(reads, PAGE, RW) == -1 && errno == EACCES, "may write");
    struct stat st;
    CHECK(pwrite(open_fd, "new", 4, 100) == 4 && !strcmp(opened + 100, "new"), "memfd: two files");
    CHECK(pwrite(disk, "new", 4, 100) == 4 && !strcmp(shared + 100, "new") && !strcmp(private + 100, "new"), "two files");
    CHECK(!fstat(disk, &st) && st.st_nlink == 0 && st.st_size == SIZE && (st.st_mode & 07777) == 0640, "unlinked");
    CHECK(numbered(writable, -1) && strcpy(writable, "goes on"), "future");
    CHECK(fcntl(future, F_GET_SEALS) == (0x10 | F_SEAL_SHRINK), "seals %x", fcntl(future, F_GET_SEALS));
    CHECK(mmap(NULL, SIZE, RW, MAP_SHARED, future, 0) == MAP_FAILED && errno == EPERM, "not sealed");
    CHECK(!strcmp(sealed, "kept") && mprotect(sealed, PAGE, RW) == -1, "sealed");
    CHECK(fcntl(sealed_fd, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_GROW), "seals");
    CHECK(!strcmp(own, "page 0") && !strcmp(own + PAGE, "my own"), "private memfd");
    CHECK(!strcmp(zeros, "of its own") && !zeros[PAGE], "/dev/zero");
    int value = -1;
    CHECK(!sem_getvalue(unnamed, &value) && value == 4, "unnamed semaphore %d", value);
    CHECK(!sem_getvalue(named, &value) && value == 6, "named semaphore %d", value);
    sem_t *again = sem_open(name, 0);
    CHECK(again != SEM_FAILED && !sem_post(again) && !sem_getvalue(named, &value) && value == 7, "named: two");
    sem_unlink(name);
    if (!failures) printf("ok\n");
    return failures != 0;
}
