/* Two threads asleep three functions deep, with a value on the heap: what a debugger should find in a core. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static volatile int woken;
char *on_the_heap;

__attribute__((noinline)) static void innermost(int seconds)
{
    struct timespec time = {seconds, 0};
    nanosleep(&time, NULL);
    woken++;
}

__attribute__((noinline)) static void middle(int seconds)
{
    innermost(seconds * 2);
    woken++;
}

static void *second_thread(void *argument)
{
    middle(500);
    return argument;
}

int main(void)
{
    pthread_t thread;
    on_the_heap = strdup("remember the milk");
    pthread_create(&thread, NULL, second_thread, NULL);
    puts("ready");
    fflush(stdout);
    middle(2000);
    return 0;
}
