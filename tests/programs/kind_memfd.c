/* Holds memfds: with holes, sealed, shared, empty; and checks them when it gets SIGUSR1.
   Prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

#define FAR (1l << 26)

int main(void)
{
    signal(SIGUSR1, on_usr1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char path[64], text[64] = "", link[128] = "";

    int holes = memfd_create("holes and (deleted)", MFD_CLOEXEC);
    MUST(holes >= 0 && pwrite(holes, "far", 3, FAR) == 3 && write(holes, "near", 4) == 4);
    MUST(!ftruncate(holes, FAR + 4096) && !fchmod(holes, 0640) && !fchown(holes, 12, 34));
    int same = dup(holes);
    snprintf(path, sizeof path, "/proc/self/fd/%d", holes);
    int reads = open(path, O_RDONLY | O_NONBLOCK);
    MUST(reads >= 0 && lseek(reads, FAR, SEEK_SET) == FAR);

    int sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
    MUST(sealed >= 0 && write(sealed, "kept", 4) == 4);
    MUST(!fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW));
    int open_ended = memfd_create("", MFD_ALLOW_SEALING);
    int seals = fcntl(holes, F_GET_SEALS);
    MUST(open_ended >= 0 && seals >= 0);
    struct stat before, st;
    MUST(!fstat(holes, &before));

    printf("ready\n");
    while (!go) poll(NULL, 0, 10);

    MUST(!fstat(holes, &st));
    CHECK(st.st_size == FAR + 4096 && st.st_blocks == before.st_blocks, "%ld bytes in %ld blocks", (long)st.st_size,
          (long)st.st_blocks);
    CHECK((st.st_mode & 07777) == 0640 && st.st_uid == 12 && st.st_gid == 34, "mode %o or owner", st.st_mode);
    CHECK(readlink(path, link, sizeof link - 1) > 0 && !strcmp(link, "/memfd:holes and (deleted) (deleted)"), "name %s", link);
    CHECK(fcntl(holes, F_GETFD) == FD_CLOEXEC && fcntl(same, F_GETFD) == 0, "close-on-exec");
    CHECK(lseek(same, 0, SEEK_CUR) == 4 && lseek(holes, 1, SEEK_CUR) == 5 && lseek(same, 0, SEEK_CUR) == 5, "offsets");
    CHECK(pread(same, text, 8, 0) == 8 && !memcmp(text, "near\0\0\0\0", 8), "near: %s", text);
    CHECK(read(reads, text, 3) == 3 && !memcmp(text, "far", 3), "far: %s", text);
    CHECK((fcntl(reads, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDONLY | O_NONBLOCK), "flags of the reader");
    CHECK(pwrite(holes, "new", 3, 100) == 3 && pread(reads, text, 3, 100) == 3 && !memcmp(text, "new", 3), "one file");
    CHECK(fcntl(holes, F_GET_SEALS) == seals, "seals %d", fcntl(holes, F_GET_SEALS));
    CHECK(fcntl(sealed, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), "seals");
    CHECK(pread(sealed, text, 8, 0) == 4 && !memcmp(text, "kept", 4), "sealed: %s", text);
    CHECK(pwrite(sealed, "x", 1, 0) == -1 && errno == EPERM, "a sealed one was written");
    CHECK(fcntl(open_ended, F_GET_SEALS) == 0 && !fcntl(open_ended, F_ADD_SEALS, F_SEAL_WRITE), "no seals yet");
    CHECK(!fstat(open_ended, &st) && st.st_size == 0, "the empty one");
    if (!failures) printf("ok\n");
    return failures != 0;
}
