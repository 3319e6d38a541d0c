/* Two threads in cancellation points, one in epoll_wait with a timeout and one in recv on a socket with SO_RCVTIMEO. SIGUSR1
   lets the first thread cancel them. Prints "waiting", then how many were cancelled and how many clean-up handlers ran. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>

static int cleaned, pair[2];

static void clean(void *unused)
{
    (void)unused;
    __atomic_add_fetch(&cleaned, 1, __ATOMIC_SEQ_CST);
}

static void *in_epoll(void *unused)
{
    struct epoll_event event;
    pthread_cleanup_push(clean, NULL);
    pthread_cleanup_push(clean, NULL);
    epoll_wait(epoll_create1(0), &event, 1, 60000);
    pthread_cleanup_pop(0);
    pthread_cleanup_pop(0);
    return unused;
}

static void *in_recv(void *unused)
{
    char byte;
    pthread_cleanup_push(clean, NULL);
    recv(pair[0], &byte, 1, 0);
    pthread_cleanup_pop(0);
    return unused;
}

int main(void)
{
    struct timeval timeout = {60, 0};
    sigset_t told;
    int number, cancelled = 0;
    pthread_t threads[2];
    sigemptyset(&told);
    sigaddset(&told, SIGUSR1);
    sigprocmask(SIG_BLOCK, &told, NULL);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout))
        return 3;
    if (pthread_create(&threads[0], NULL, in_epoll, NULL) || pthread_create(&threads[1], NULL, in_recv, NULL))
        return 3;
    puts("waiting");
    fflush(stdout);
    sigwait(&told, &number);
    for (int i = 0; i < 2; i++) {
        void *result;
        pthread_cancel(threads[i]);
        pthread_join(threads[i], &result);
        cancelled += result == PTHREAD_CANCELED;
    }
    printf("cancelled %d cleaned %d\n", cancelled, cleaned);
    return 0;
}
