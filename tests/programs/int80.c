/* A 64-bit program that waits in a 32-bit system call: pause, by int $0x80, until SIGUSR1. */
#include <signal.h>
#include <stdio.h>

static volatile int handled;
static void on_usr1(int number) { (void)number; handled++; }

int main(void)
{
    long result;
    signal(SIGUSR1, on_usr1);
    puts("waiting");
    fflush(stdout);
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(29L) : "r8", "r9", "r10", "r11", "memory");
    printf("result %d, handled %d\n", (int)result, handled);
    return 0;
}
