/* Load and run the BPF program that reads what the kernel keeps of IPC. Called by livecr/kernel/peek.py, seldom, so
   that nothing is kept from one run to the next. Relies on BPF_PROG_TYPE_SYSCALL (5.14). */
#include "declarations.inc"
#include "bpf.h"
#include "peek.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

static int silent(enum libbpf_print_level level, const char *format, va_list arguments)
{
    return 0;
}

int lcr_peek_open(const char *object)
{
    struct bpf_object *opened;
    struct bpf_program *program;
    int result;
    libbpf_set_print(silent);
    opened = bpf_object__open_file(object, NULL);
    if (!opened)
        return -errno;
    program = bpf_object__find_program_by_name(opened, "peek");
    result = program ? bpf_object__load(opened) : -ENOENT;
    if (result == 0 && (result = fcntl(bpf_program__fd(program), F_DUPFD_CLOEXEC, 3)) < 0)
        result = -errno;
    bpf_object__close(opened);
    return result;
}

int lcr_peek(int program, void *request, size_t size)
{
    union bpf_attr run = {.test = {.prog_fd = (uint32_t)program, .ctx_in = (uint64_t)(uintptr_t)request,
                                   .ctx_size_in = (uint32_t)size}};
    return syscall(SYS_bpf, BPF_PROG_TEST_RUN, &run, sizeof(run)) < 0 ? -errno : 0;
}
