/* The first thread exits, another runs on until SIGUSR1. Prints "ready" and "ok". */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_t first;

static void *run_on(void *unused)
{
    sigset_t usr1;
    int signal;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_join(first, NULL);
    printf("ready\n");
    fflush(stdout);
    sigwait(&usr1, &signal);
    printf("ok\n");
    exit(0);
    return unused;
}

int main(void)
{
    pthread_t thread;
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    first = pthread_self();
    pthread_create(&thread, NULL, run_on, NULL);
    pthread_exit(NULL);
}
