/* Has files open and mapped that are not where they were opened, but have another name: in the same directory, in another
   one, found by nothing but the file system itself; and one by O_DIRECT. Usage: kind_names DIRECTORY. Prints "ready", then
   after SIGUSR1 "ok" or what is different. Links are made by it there, and removed by whoever likes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static int made(const char *name, const char *other, int flags)
{
    int fd = open(name, O_RDWR | O_CREAT | flags, 0600);
    MUST(fd >= 0 && write(fd, name, strlen(name)) == (ssize_t)strlen(name) && !ftruncate(fd, 4096) && !link(name, other) && !unlink(name));
    return fd;
}

static int same(const char *name, int fd)
{
    struct stat one, other;
    return !stat(name, &one) && !fstat(fd, &other) && one.st_dev == other.st_dev && one.st_ino == other.st_ino && one.st_nlink == 1;
}

/* What is written by one way is read by all. */
static void check_one(const char *name, int fd, int reader, char *shared, const char *private)
{
    char text[16] = "";
    int flags = fcntl(reader, F_GETFL);
    CHECK(same(name, fd) && same(name, reader), "%s is another file", name);
    CHECK(lseek(fd, 0, SEEK_CUR) == lseek(reader, 0, SEEK_CUR) + 2, "offsets of %s", name);
    CHECK((flags & O_ACCMODE) == O_RDONLY && flags & O_NOFOLLOW, "flags of %s: %o", name, flags);
    shared[100] = 'x';
    CHECK(pread(reader, text, 1, 100) == 1 && *text == 'x', "%s is not what is mapped", name);
    CHECK(pwrite(fd, "y", 1, 101) == 1 && shared[101] == 'y', "%s is not what is mapped", name);
    CHECK(!memcmp(private, "own", 3), "what is its own of %s: %.3s", name, private);
}

int main(int count, char **arguments)
{
    static const char *const others[] = {"beside", "below/other", "below/lost"};
    sigset_t usr1;
    int fds[3], readers[3];
    char *shared[3], *private[3], text[32];
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    MUST(count == 2 && !chdir(arguments[1]) && !mkdir("below", 0700));
    for (int i = 0; i < 3; i++) {
        fds[i] = made("na", others[i], 0);
        readers[i] = open(others[i], O_RDONLY | O_NOFOLLOW);
        MUST(readers[i] >= 0);
        shared[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
        private[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[i], 0);
        MUST(shared[i] != MAP_FAILED && private[i] != MAP_FAILED);
        memcpy(private[i], "own", 3);
    }
    MUST(!rename("below/lost", "below/found") && !link("below/found", "below/also") && !unlink("below/found") && !rename("below/also", "below/lost"));
    int direct = open("direct", O_RDWR | O_CREAT | O_DIRECT, 0600), direct_flags = direct < 0 ? 0 : fcntl(direct, F_GETFL);
    void *block;
    MUST((direct >= 0 || errno == EINVAL) && !posix_memalign(&block, 4096, 4096));
    memset(block, 'd', 4096);
    MUST(direct < 0 || pwrite(direct, block, 4096, 0) == 4096);
    int named_later = open(".", O_TMPFILE | O_RDWR, 0600);
    if (named_later >= 0) {
        snprintf(text, sizeof text, "/dev/fd/%d", named_later);
        MUST(!linkat(AT_FDCWD, text, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    }

    printf("ready\n");
    sigwaitinfo(&usr1, NULL);

    for (int i = 0; i < 3; i++) check_one(others[i], fds[i], readers[i], shared[i], private[i]);
    CHECK(access("na", F_OK) == -1, "a name is left");
    CHECK(direct < 0 || (fcntl(direct, F_GETFL) == direct_flags && pread(direct, block, 4096, 0) == 4096), "O_DIRECT");
    CHECK(named_later < 0 || same("named", named_later), "what was named later");
    if (!failures) printf("ok\n");
    return failures != 0;
}
