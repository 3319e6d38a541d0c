/* build: -shared -fPIC
   Preloaded into fio, which keeps its state in System V shared memory without need: here that is anonymous memory. */
#include <stddef.h>
#include <sys/mman.h>
#include <sys/shm.h>

static size_t bytes;

int shmget(key_t key, size_t size, int flags)
{
    (void)key, (void)flags;
    bytes = size;
    return 1;
}

void *shmat(int id, const void *address, int flags)
{
    (void)id, (void)address, (void)flags;
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

int shmdt(const void *address)
{
    return munmap((void *)address, bytes);
}

int shmctl(int id, int command, struct shmid_ds *about)
{
    (void)id, (void)command, (void)about;
    return 0;
}
