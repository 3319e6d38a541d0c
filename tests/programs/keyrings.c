/* A process that has a key in its process keyring, its thread keyring, or a session keyring of its own. On SIGUSR1
   it looks whether it has it still. usage: keyrings process|thread|session */
#include <linux/keyctl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    int keyring = !strcmp(kind, "process") ? KEY_SPEC_PROCESS_KEYRING
                  : !strcmp(kind, "thread") ? KEY_SPEC_THREAD_KEYRING
                                            : KEY_SPEC_SESSION_KEYRING;
    long key, found;
    char content[8] = "";
    int got;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (keyring == KEY_SPEC_SESSION_KEYRING && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0)
        return 2;
    key = syscall(SYS_add_key, "user", "livecr-test", "secret", 6, keyring);
    puts(key < 0 ? "no keys here" : "ready");
    fflush(stdout);
    sigwait(&set, &got);
    found = syscall(SYS_keyctl, KEYCTL_SEARCH, keyring, "user", "livecr-test", 0);
    if (found != key || syscall(SYS_keyctl, KEYCTL_READ, key, content, sizeof content) != 6 || strcmp(content, "secret"))
        printf("wrong: key %ld is %ld: %s\n", key, found, content);
    else
        puts("ok");
    return found != key;
}
