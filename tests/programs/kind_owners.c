/* Descriptions with an owner: a pipe that sends a chosen signal with the number of its descriptor, a socket pair that
   sends SIGIO to a process group, another pipe that sends it to a thread.
   usage: kind_owners; prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)
#define MUST(call) do { if ((call) < 0) { perror(#call); exit(1); } } while (0)

static const int CHOSEN_SIGNAL = 40;
static int of_thread[2];

static int taken(int number, siginfo_t *info, int seconds) /* the signal if it comes in that time, 0 if not */
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    struct timespec limit = {.tv_sec = seconds};
    int got;
    while ((got = sigtimedwait(&set, info, &limit)) < 0 && errno == EINTR)
        ;
    return got < 0 ? 0 : got;
}

static void *waits_for_data(void *nothing)
{
    struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = gettid()};
    MUST(fcntl(of_thread[0], F_SETOWN_EX, &owner));
    MUST(fcntl(of_thread[0], F_SETFL, O_ASYNC));
    siginfo_t info;
    return taken(SIGIO, &info, 60) == SIGIO ? of_thread : nothing;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    int ends[2], pair[2];
    MUST(pipe(ends));
    MUST(fcntl(ends[0], F_SETOWN, getpid()));
    MUST(fcntl(ends[0], F_SETSIG, CHOSEN_SIGNAL));
    MUST(fcntl(ends[0], F_SETFL, O_ASYNC));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    pid_t child = fork(); /* of a group of its own, which is told */
    if (child == 0) {
        siginfo_t told;
        _exit(taken(SIGIO, &told, 60) == SIGIO ? 7 : 1);
    }
    MUST(setpgid(child, child));
    MUST(fcntl(pair[0], F_SETOWN, -child));
    MUST(fcntl(pair[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    MUST(pipe(of_thread));
    pthread_t thread;
    pthread_create(&thread, NULL, waits_for_data, NULL);
    while (!(fcntl(of_thread[0], F_GETFL) & O_ASYNC))
        usleep(1000);
    siginfo_t info;
    puts("ready");
    while (taken(SIGUSR1, &info, 60) != SIGUSR1)
        ;
    CHECK(taken(CHOSEN_SIGNAL, &info, 0) == 0, "a signal without anything to read");
    MUST(write(ends[1], "x", 1));
    CHECK(taken(CHOSEN_SIGNAL, &info, 60), "no signal of the pipe");
    CHECK(info.si_fd == ends[0], "si_fd is %d", info.si_fd);
    CHECK(info.si_code == POLL_IN, "si_code is %d", info.si_code);
    CHECK(fcntl(ends[0], F_GETFL) == O_ASYNC, "flags of the pipe are %#x", fcntl(ends[0], F_GETFL));
    CHECK(fcntl(pair[0], F_GETOWN) == -child, "the socket's owner is %d", fcntl(pair[0], F_GETOWN));
    CHECK((fcntl(pair[0], F_GETFL) & (O_ASYNC | O_NONBLOCK)) == (O_ASYNC | O_NONBLOCK), "flags of the socket");
    CHECK(!(fcntl(pair[1], F_GETFL) & O_ASYNC) && fcntl(pair[1], F_GETOWN) == 0, "the other end has an owner");
    MUST(write(pair[1], "x", 1));
    int status;
    MUST(waitpid(child, &status, 0));
    CHECK(WEXITSTATUS(status) == 7, "the child has got no SIGIO: %#x", status);
    void *seen;
    MUST(write(of_thread[1], "x", 1));
    pthread_join(thread, &seen);
    CHECK(seen == of_thread, "no SIGIO for the thread");
    if (!failures)
        puts("ok");
    return failures != 0;
}
