/* Brings a new io_uring to where an old one was: the kernel counts operations and completions for itself, so as
   many are made that do nothing, in batches as large as the ring. Runs in the half-built process, since an io_uring may
   be bound to one task; ends by int3 as fill.c does. Freestanding, position-independent, without writable data. */
#include <stddef.h>
#include <stdint.h>

#include "../ext/pump.h"

#define NR_IO_URING_ENTER 426
#define IORING_ENTER_GETEVENTS 1
#define IOSQE_CQE_SKIP_SUCCESS (1 << 6)
#define EIO 5

static long enter(uint64_t fd, uint64_t count)
{
    register uint64_t flags __asm__("r10") = IORING_ENTER_GETEVENTS, argp __asm__("r8") = 0, argsz __asm__("r9") = 0;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(NR_IO_URING_ENTER), "D"(fd), "S"(count), "d"(0), "r"(flags), "r"(argp), "r"(argsz)
                     : "rcx", "r11", "memory");
    return result;
}

/* An IORING_OP_NOP is all zeros but for its flags (struct io_uring_sqe: opcode, flags, …). */
static void prepare(const struct lcr_pump *pump, uint8_t flags)
{
    for (uint64_t i = 0; i < pump->entries; i++) {
        volatile uint8_t *sqe = (volatile uint8_t *)(pump->sqes + i * pump->sqe_bytes);
        for (uint64_t byte = 0; byte < pump->sqe_bytes; byte++)
            sqe[byte] = 0;
        sqe[1] = flags;
        if (pump->sq_array)
            ((volatile uint32_t *)pump->sq_array)[i] = (uint32_t)i;
    }
}

static long make(const struct lcr_pump *pump, uint64_t count)
{
    volatile uint32_t *sq_tail = (volatile uint32_t *)pump->sq_tail;
    volatile uint32_t *cq_head = (volatile uint32_t *)pump->cq_head, *cq_tail = (volatile uint32_t *)pump->cq_tail;
    while (count) {
        uint64_t batch = count < pump->entries ? count : pump->entries;
        __atomic_store_n(sq_tail, *sq_tail + (uint32_t)batch, __ATOMIC_RELEASE);
        long result = enter(pump->fd, batch);
        if (result != (long)batch)
            return result < 0 ? result : -EIO;
        __atomic_store_n(cq_head, __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
        count -= batch;
    }
    return 0;
}

__attribute__((section(".text.entry"), noreturn)) void pump(struct lcr_pump *pump)
{
    prepare(pump, 0);
    pump->error = make(pump, pump->completing);
    if (!pump->error && pump->silent) {
        prepare(pump, IOSQE_CQE_SKIP_SUCCESS);
        pump->error = make(pump, pump->silent);
    }
    for (;;)
        __asm__ volatile("int3");
}
