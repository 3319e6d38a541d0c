/* Holds pipes and FIFOs: in packet mode with packets in them, large, opened again, and a FIFO without a name.
   Usage: kind_pipe DIRECTORY. Prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(what) do { if (!(what)) { printf("line %d: %m\n", __LINE__); exit(2); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

int main(int count, char **arguments)
{
    signal(SIGUSR1, on_usr1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    MUST(count == 2 && !chdir(arguments[1]));
    static char page[4096], text[8192];
    memset(page, 'p', sizeof page);

    int packets[2], plain[2], one[2];
    MUST(!pipe2(packets, O_DIRECT | O_NONBLOCK) && !pipe(plain) && !pipe2(one, O_DIRECT));
    MUST(write(packets[1], "one", 3) == 3 && write(packets[1], "twotwo", 6) == 6 && write(packets[1], page, 4096) == 4096);
    MUST(fcntl(packets[1], F_SETPIPE_SZ, 1 << 18) == 1 << 18);
    MUST(write(one[1], "alone", 5) == 5);
    MUST(write(plain[1], "ab", 2) == 2 && write(plain[1], "cd", 2) == 2);
    char path[64], link[256] = "", before[256] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", plain[0]);
    int again = open(path, O_RDONLY | O_NONBLOCK);
    MUST(again >= 0);

    MUST(!mkfifo("nameless", 0600) && !mkfifo("named", 0600));
    int nameless = open("nameless", O_RDWR), named = open("named", O_RDWR | O_NONBLOCK);
    MUST(nameless >= 0 && named >= 0 && !fchown(nameless, 12, 34) && !unlink("nameless"));
    MUST(write(nameless, "still here", 10) == 10 && write(named, "and here", 8) == 8);
    snprintf(path, sizeof path, "/proc/self/fd/%d", nameless);
    int writer = open(path, O_WRONLY);
    MUST(writer >= 0 && readlink(path, before, sizeof before - 1) > 0);
    int fds[] = {packets[0], packets[1], plain[0], plain[1], one[0], one[1], again, nameless, named, writer}, flags[10];
    for (int i = 0; i < 10; i++) flags[i] = fcntl(fds[i], F_GETFL);

    printf("ready\n");
    while (!go) poll(NULL, 0, 10);

    for (int i = 0; i < 10; i++) CHECK(fcntl(fds[i], F_GETFL) == flags[i], "flags of %d: %o, %o", fds[i], flags[i], fcntl(fds[i], F_GETFL));
    CHECK(read(packets[0], text, sizeof text) == 3 && !memcmp(text, "one", 3), "the first packet");
    CHECK(read(packets[0], text, 4) == 4 && !memcmp(text, "twot", 4), "a part of the second packet");
    CHECK(read(packets[0], text, sizeof text) == 4096 && !memcmp(text, page, 4096), "the third packet");
    CHECK(read(packets[0], text, sizeof text) == -1 && errno == EAGAIN, "a fourth packet");
    CHECK(fcntl(packets[0], F_GETPIPE_SZ) == 1 << 18, "capacity %d", fcntl(packets[0], F_GETPIPE_SZ));
    MUST(write(packets[1], "4", 1) == 1 && write(packets[1], "5", 1) == 1);
    CHECK(read(packets[0], text, sizeof text) == 1, "packets that are written now");
    MUST(write(one[1], "more", 4) == 4);
    CHECK(read(one[0], text, sizeof text) == 5, "a packet alone");
    CHECK(read(again, text, 3) == 3 && read(plain[0], text + 3, 9) == 1 && !memcmp(text, "abcd", 4), "no packets: %.4s", text);
    CHECK(read(nameless, text, 99) == 10 && !memcmp(text, "still here", 10), "the FIFO without a name");
    CHECK(write(writer, "x", 1) == 1 && read(nameless, text, 9) == 1, "its two descriptions");
    struct stat st;
    CHECK(!fstat(nameless, &st) && st.st_nlink == 0 && st.st_uid == 12 && st.st_gid == 34 && (st.st_mode & 07777) == 0600, "its inode");
    CHECK(readlink(path, link, sizeof link - 1) > 0 && !strcmp(link, before), "its name: %s", link);
    CHECK(access("nameless", F_OK) == -1 && errno == ENOENT, "its name is there again");
    CHECK(read(named, text, 99) == 8 && !memcmp(text, "and here", 8), "the FIFO with a name");
    if (!failures) printf("ok\n");
    return failures != 0;
}
