/* Load the task iterator and read it. libbpf relocates it (CO-RE), which takes 30-40 ms because it reads all of the
   kernel's BTF; the outcome, plain instructions, is kept for as long as the kernel runs and loaded with four
   bpf(2) calls from then on. Nothing in the cache is trusted beyond its root-only directory: the kernel verifies
   the program each time, and whatever fails falls back to libbpf. */
#include "declarations.inc"
#include "bpf.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char PROGRAM[] = "report_task";
static const char CALLBACK[] = "look_at_word"; /* the one function that is not inlined: bpf_loop calls it */

static char message[512];
static int was_cached;

/* The relocated program: this header, then instructions, BTF and .rodata. */
struct relocated {
    uint64_t magic;
    uint32_t instructions; /* of 8 bytes */
    uint32_t btf_bytes;
    uint32_t rodata_bytes;
    uint32_t attach_btf_id;
    uint32_t functions;
    struct bpf_func_info function[2];
    unsigned char content[];
};
#define MAGIC 0x3130504f4f4c524cULL

static int remember(enum libbpf_print_level level, const char *format, va_list arguments)
{
    char line[sizeof(message)];
    if (level != LIBBPF_WARN)
        return 0;
    vsnprintf(line, sizeof(line), format, arguments);
    line[strcspn(line, "\n")] = 0; /* the first line says what; what follows a verifier's is its log */
    memcpy(message, line, sizeof(line));
    return 0;
}

static long bpf(int command, union bpf_attr *attributes)
{
    long result = syscall(SYS_bpf, command, attributes, sizeof(*attributes));
    return result < 0 ? -errno : result;
}

static uint64_t pointer(const void *to)
{
    return (uint64_t)(uintptr_t)to;
}

/* -- loading what was relocated before ----------------------------------------------------------------------- */

static long load_btf(const void *content, uint32_t size)
{
    union bpf_attr attributes = {.btf = pointer(content), .btf_size = size};
    return bpf(BPF_BTF_LOAD, &attributes);
}

/* A read-only, frozen array of one value: what bpf_snprintf demands of its format. */
static long make_rodata(const void *content, uint32_t size)
{
    uint32_t zero = 0;
    union bpf_attr create = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = size, .max_entries = 1,
                             .map_flags = BPF_F_RDONLY_PROG, .map_name = "livecr.rodata"};
    long map = bpf(BPF_MAP_CREATE, &create), result;
    if (map < 0)
        return map;
    union bpf_attr fill = {.map_fd = (uint32_t)map, .key = pointer(&zero), .value = pointer(content)};
    union bpf_attr freeze = {.map_fd = (uint32_t)map};
    if ((result = bpf(BPF_MAP_UPDATE_ELEM, &fill)) < 0 || (result = bpf(BPF_MAP_FREEZE, &freeze)) < 0) {
        close((int)map);
        return result;
    }
    return map;
}

static long load(struct relocated *from)
{
    struct bpf_insn *instructions = (void *)from->content;
    const unsigned char *btf_content = from->content + from->instructions * sizeof(*instructions);
    long btf = load_btf(btf_content, from->btf_bytes);
    long rodata = btf < 0 ? btf : make_rodata(btf_content + from->btf_bytes, from->rodata_bytes);
    long program = rodata;
    if (rodata >= 0) {
        for (uint32_t i = 0; i < from->instructions; i++)
            if (instructions[i].code == (BPF_LD | BPF_IMM | BPF_DW) && instructions[i].src_reg == BPF_PSEUDO_MAP_VALUE)
                instructions[i].imm = (int)rodata;
        union bpf_attr attributes = {
            .prog_type = BPF_PROG_TYPE_TRACING, .expected_attach_type = BPF_TRACE_ITER,
            .attach_btf_id = from->attach_btf_id, .prog_name = "report_task",
            .insns = pointer(instructions), .insn_cnt = from->instructions, .license = pointer("GPL"),
            .prog_btf_fd = (uint32_t)btf, .func_info = pointer(from->function),
            .func_info_cnt = from->functions, .func_info_rec_size = sizeof(from->function[0])};
        program = bpf(BPF_PROG_LOAD, &attributes);
        close((int)rodata);
    }
    if (btf >= 0)
        close((int)btf);
    return program;
}

/* -- the cache ------------------------------------------------------------------------------------------------- */

/* The cache directory, only if nobody but ourselves can write or read there. */
static int open_cache(const char *path)
{
    struct stat about;
    int fd;
    if (!*path || (mkdir(path, 0700) < 0 && errno != EEXIST))
        return -1;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &about) < 0 || about.st_uid != geteuid() || (about.st_mode & 077))) {
        close(fd);
        return -1;
    }
    return fd;
}

static struct relocated *read_cache(int directory, const char *key)
{
    struct relocated *found = NULL;
    struct stat about;
    int fd = openat(directory, key, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &about) == 0 && about.st_uid == geteuid() && about.st_size >= (off_t)sizeof(*found) &&
        about.st_size < 1 << 20 && (found = malloc((size_t)about.st_size)) != NULL) {
        uint64_t size;
        if (read(fd, found, (size_t)about.st_size) != about.st_size || found->magic != MAGIC)
            goto unusable;
        size = sizeof(*found) + 8ULL * found->instructions + found->btf_bytes + (uint64_t)found->rodata_bytes;
        if (size != (uint64_t)about.st_size || found->functions > 2)
            goto unusable;
    }
    close(fd);
    return found;
unusable:
    close(fd);
    free(found);
    return NULL;
}

static void write_cache(int directory, const char *key, const struct relocated *what, size_t size)
{
    char name[64];
    int fd, written;
    snprintf(name, sizeof(name), ".%d", getpid());
    fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    written = write(fd, what, size) == (ssize_t)size;
    close(fd);
    if (!written || renameat(directory, name, directory, key) < 0)
        unlinkat(directory, name, 0);
}

/* -- libbpf: relocate, load, and keep ---------------------------------------------------------------------------- */

/* func_info as the kernel wants it again: the program at 0, the callback where the one BPF_PSEUDO_FUNC points. */
static int describe_functions(const struct btf *btf, const struct bpf_insn *instructions, struct relocated *into)
{
    int program = btf__find_by_name_kind(btf, PROGRAM, BTF_KIND_FUNC);
    int callback = btf__find_by_name_kind(btf, CALLBACK, BTF_KIND_FUNC);
    if (program < 0 || callback < 0)
        return -1;
    into->functions = 1;
    into->function[0] = (struct bpf_func_info){0, (uint32_t)program};
    for (uint32_t i = 0; i < into->instructions; i++) {
        if (instructions[i].code == (BPF_LD | BPF_IMM | BPF_DW) && instructions[i].src_reg == BPF_PSEUDO_FUNC) {
            if (into->functions == 2)
                return -1;
            into->function[1] = (struct bpf_func_info){i + (uint32_t)instructions[i].imm + 1, (uint32_t)callback};
            into->functions = 2;
        }
    }
    return 0;
}

static void keep(int directory, const char *key, struct bpf_object *object, struct bpf_program *program)
{
    struct bpf_prog_info info = {};
    uint32_t info_size = sizeof(info), btf_size = 0;
    size_t rodata_size = 0, count = bpf_program__insn_cnt(program), size;
    const struct bpf_insn *instructions = bpf_program__insns(program);
    const struct btf *btf = bpf_object__btf(object);
    const void *btf_content = btf ? btf__raw_data(btf, &btf_size) : NULL, *rodata = NULL;
    struct bpf_map *map;
    struct relocated *made;

    bpf_object__for_each_map(map, object)
        rodata = bpf_map__initial_value(map, &rodata_size); /* .rodata is the only one */
    if (!btf_content || !rodata || bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &info_size) < 0)
        return;
    size = sizeof(*made) + count * sizeof(*instructions) + btf_size + rodata_size;
    made = calloc(1, size);
    if (!made)
        return;
    *made = (struct relocated){.magic = MAGIC, .instructions = (uint32_t)count, .btf_bytes = btf_size,
                               .rodata_bytes = (uint32_t)rodata_size, .attach_btf_id = info.attach_btf_id};
    if (describe_functions(btf, instructions, made) == 0) {
        unsigned char *at = made->content;
        memcpy(at, instructions, count * sizeof(*instructions));
        memcpy(at += count * sizeof(*instructions), btf_content, btf_size);
        memcpy(at + btf_size, rodata, rodata_size);
        write_cache(directory, key, made, size);
    }
    free(made);
}

static long relocate(const char *path, int directory, const char *key)
{
    struct bpf_object *object;
    struct bpf_program *program;
    long result;
    libbpf_set_print(remember);
    object = bpf_object__open_file(path, NULL);
    if (!object)
        return -errno;
    program = bpf_object__find_program_by_name(object, PROGRAM);
    result = program ? bpf_object__load(object) : -ENOENT;
    if (result == 0) {
        result = fcntl(bpf_program__fd(program), F_DUPFD_CLOEXEC, 3);
        if (result < 0)
            result = -errno;
        else if (directory >= 0)
            keep(directory, key, object, program);
    }
    bpf_object__close(object);
    return result;
}

int lcr_bpf_open(const char *object, const char *cache, const char *key)
{
    int directory = open_cache(cache);
    struct relocated *kept = directory < 0 ? NULL : read_cache(directory, key);
    long program = kept ? load(kept) : -ENOENT;
    message[0] = 0;
    was_cached = program >= 0;
    free(kept);
    if (program < 0)
        program = relocate(object, directory, key);
    if (directory >= 0)
        close(directory);
    return (int)program;
}

int lcr_bpf_open_all(const char *path, int *programs, size_t count)
{
    struct bpf_object *object;
    struct bpf_program *program;
    size_t opened = 0;
    int result;
    message[0] = 0;
    libbpf_set_print(remember);
    object = bpf_object__open_file(path, NULL);
    if (!object)
        return -errno;
    result = bpf_object__load(object);
    bpf_object__for_each_program(program, object) {
        if (result < 0 || opened == count)
            break;
        programs[opened] = fcntl(bpf_program__fd(program), F_DUPFD_CLOEXEC, 3);
        if (programs[opened] < 0)
            result = -errno;
        else
            opened++;
    }
    bpf_object__close(object);
    if (result == 0 && opened == count)
        return 0;
    while (opened)
        close(programs[--opened]);
    return result < 0 ? result : -ENOENT;
}

int lcr_bpf_was_cached(void)
{
    return was_cached;
}

/* -- reading ------------------------------------------------------------------------------------------------------- */

long lcr_bpf_read(int program, int pid, void *buffer, size_t room)
{
    union bpf_iter_link_info group = {.task = {.pid = (uint32_t)pid}};
    union bpf_attr attach = {.link_create = {.prog_fd = (uint32_t)program, .attach_type = BPF_TRACE_ITER,
                                             .iter_info = pointer(&group), .iter_info_len = sizeof(group)}};
    long link = bpf(BPF_LINK_CREATE, &attach), iterator, got = 0;
    size_t total = 0;
    if (link < 0)
        return link;
    union bpf_attr open_iterator = {.iter_create = {.link_fd = (uint32_t)link}};
    iterator = bpf(BPF_ITER_CREATE, &open_iterator);
    if (iterator >= 0) {
        while (total < room && (got = read((int)iterator, (char *)buffer + total, room - total)) > 0)
            total += (size_t)got;
        got = got < 0 ? -errno : total == room ? -ENOSPC : (long)total;
        close((int)iterator);
    }
    close((int)link);
    return iterator < 0 ? iterator : got;
}

void lcr_bpf_close(int program)
{
    close(program);
}

const char *lcr_bpf_message(void)
{
    return message;
}
