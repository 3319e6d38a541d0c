/* Watches directories and files, and after SIGUSR1 makes one event of each kind and checks what it is told.
   usage: kind_inotify DIRECTORY [unread]; prints "ready", then "ok" or what is different. With "unread" one event is
   left in the queue. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static int notify;

static void touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd < 0 || write(fd, "x", 1) != 1) { perror(path); exit(1); }
    close(fd);
}

static int watch(const char *path, unsigned mask)
{
    int wd = inotify_add_watch(notify, path, mask);
    if (wd < 0) { perror(path); exit(1); }
    return wd;
}

/* The next event is this one, and nothing else is left in the queue. */
static void expect(const char *what, int wd, unsigned mask, const char *name)
{
    union { char raw[4096]; struct inotify_event event; } got;
    ssize_t bytes = read(notify, got.raw, sizeof got);
    CHECK(bytes > 0, "%s: no event (%m)", what);
    if (bytes <= 0) return;
    CHECK(got.event.wd == wd && got.event.mask == mask, "%s: event %#x of watch %d", what, got.event.mask, got.event.wd);
    CHECK(!strcmp(got.event.len ? got.event.name : "", name), "%s: it names %s", what, got.event.name);
    CHECK(bytes == (ssize_t)(sizeof got.event + got.event.len), "%s: more events than one", what);
}

int main(int argc, char **argv)
{
    if (argc < 2 || chdir(argv[1])) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    mkdir("directory", 0700);
    mkdir("other", 0700);
    touch("file");
    touch("once");
    touch("also-open");
    if (symlink("file", "link")) perror("symlink");
    int open_too = open("also-open", O_RDONLY);
    int wd_directory = watch("directory", IN_CREATE | IN_DELETE);
    for (int i = 0; i < 5; i++) inotify_rm_watch(notify, watch("other", IN_CREATE));
    int wd_file = watch("link", IN_MODIFY | IN_EXCL_UNLINK);
    int wd_link = watch("link", IN_ATTRIB | IN_DELETE_SELF | IN_DONT_FOLLOW);
    for (int i = 0; i < 1000; i++) inotify_rm_watch(notify, watch("other", IN_CREATE));
    int wd_once = watch("once", IN_MODIFY | IN_ONESHOT);
    int wd_open = watch("also-open", IN_OPEN | IN_ACCESS | IN_CLOSE);
    char queue[65536];
    while (read(notify, queue, sizeof queue) > 0) {}
    if (argc > 2) touch("file");

    struct sigaction action = {.sa_handler = on_usr1};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    puts("ready");
    while (!go) sigsuspend(&before);

    int unread = -1;
    CHECK(ioctl(notify, FIONREAD, &unread) == 0 && unread == (argc > 2 ? 16 : 0), "%d bytes of events", unread);
    if (argc > 2) expect("the unread event", wd_file, IN_MODIFY, "");
    CHECK(fcntl(notify, F_GETFL) & O_NONBLOCK, "it is not non-blocking any more");
    CHECK(fcntl(notify, F_GETFD) == FD_CLOEXEC, "it is not close-on-exec any more");
    touch("directory/new");
    expect("a new file", wd_directory, IN_CREATE, "new");
    touch("file");
    expect("a file changed", wd_file, IN_MODIFY, "");
    unlink("link");
    union { char raw[4096]; struct inotify_event event[3]; } got;
    CHECK(read(notify, got.raw, sizeof got) == 48, "a link removed: %m");
    static const unsigned masks[3] = {IN_ATTRIB, IN_DELETE_SELF, IN_IGNORED};
    for (int i = 0; i < 3; i++)
        CHECK(got.event[i].wd == wd_link && got.event[i].mask == masks[i], "a link removed: event %#x", got.event[i].mask);
    touch("once");
    CHECK(read(notify, got.raw, sizeof got) == 32, "the one-shot watch: %m");
    CHECK(got.event[0].wd == wd_once && got.event[0].mask == IN_MODIFY, "the one-shot watch: event %#x", got.event[0].mask);
    CHECK(got.event[1].wd == wd_once && got.event[1].mask == IN_IGNORED, "the one-shot watch is still there");
    touch("once");
    CHECK(read(notify, queue, sizeof queue) < 0 && errno == EAGAIN, "the one-shot watch is still there");
    close(open_too);
    expect("a file closed", wd_open, IN_CLOSE_NOWRITE, "");
    CHECK(inotify_rm_watch(notify, wd_directory) == 0, "removing a watch: %m");
    expect("a watch removed", wd_directory, IN_IGNORED, "");
    CHECK(watch("also-open", IN_ATTRIB) == wd_open, "the same file has got another number");
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
