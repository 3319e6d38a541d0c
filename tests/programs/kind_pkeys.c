/* Memory protection keys: allocates keys 1 to 4, frees 2 and 3, and gives key 4, which forbids to write, to a page.
   usage: kind_pkeys; prints "ready"; after SIGUSR1 it looks whether all is as it was and prints "ok" or what is
   different. Prints "none" where the machine has no protection keys. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile sig_atomic_t code;

static void on_fault(int s, siginfo_t *info, void *context)
{
    (void)s;
    (void)context;
    code = info->si_code;
    siglongjmp(back, 1);
}

static int different(const char *what)
{
    printf("different: %s\n", what);
    return 1;
}

int main(void)
{
    sigset_t usr1;
    int number, keys[4];
    volatile char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[0] = 'x';
    for (int i = 0; i < 4; i++) {
        keys[i] = pkey_alloc(0, i == 3 ? PKEY_DISABLE_WRITE : 0);
        if (keys[i] < 0) return puts("none"), 0;
    }
    pkey_mprotect((void *)page, 4096, PROT_READ | PROT_WRITE, keys[3]);
    pkey_free(keys[1]);
    pkey_free(keys[2]);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    puts("ready");
    fflush(stdout);
    sigwait(&usr1, &number);
    struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &fault, NULL);
    if (page[0] != 'x') return different("the page's content");
    if (!sigsetjmp(back, 1)) {
        page[0] = 'y';
        return different("the page can be written to");
    }
    if (code != SEGV_PKUERR) return different("why the page cannot be written to");
    pkey_set(keys[3], 0);
    page[0] = 'y';
    if (pkey_alloc(0, 0) != keys[1]) return different("which key is the first free one");
    if (pkey_alloc(0, 0) != keys[2]) return different("which key is the next free one");
    if (pkey_free(keys[0]) || pkey_free(keys[3])) return different("keys that were allocated are not");
    puts("ok");
    return 0;
}
