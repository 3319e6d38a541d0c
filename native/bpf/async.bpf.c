/* What the kernel knows about the asynchronous input and output of one thread group: its io_uring instances with what
   is registered in them, its AIO contexts, and how many requests of either are in flight. None of it is told anywhere
   else. Iterators over tasks, files and VMAs write one report for each thing found;
   livecr/kernel/async_io.py reads them. As in task.bpf.c, libbpf finds the offsets of members (CO-RE). */
#include <linux/bpf.h>

#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

char LICENSE[] SEC("license") = "GPL";

#define KERNEL __attribute__((preserve_access_index))

#include "numbers.h"

/* A member that older kernels do not have, since what it stands for did not exist. */
#define READ_OPTIONAL(from, member) (bpf_core_field_exists((from)->member) ? BPF_CORE_READ(from, member) : 0)

/* -- the kernel's structures: include/linux/io_uring_types.h, fs/aio.c ------------------------------------- */

struct list_head {
    struct list_head *next;
} KERNEL;

struct xarray {
    void *xa_head;
} KERNEL;

struct percpu_counter {
    s64 count;
    s32 *counters;
} KERNEL;

struct file;

struct io_uring_task {
    int cached_refs;
    struct file *registered_rings[16]; /* IO_RINGFD_REG_MAX */
    struct percpu_counter inflight;
} KERNEL;

struct kioctx_cpu {
    unsigned reqs_available;
} KERNEL;

typedef struct {
    int counter;
} KERNEL atomic_t;

struct kioctx {
    unsigned long user_id;
    struct kioctx_cpu *cpu;
    unsigned max_reqs;
    unsigned nr_events;
    struct {
        atomic_t reqs_available;
    } KERNEL;
    struct {
        unsigned completed_events;
    } KERNEL;
} KERNEL;

struct kioctx_table {
    unsigned nr;
    struct kioctx *table[];
} KERNEL;

struct mm_struct {
    struct kioctx_table *ioctx_table;
} KERNEL;

struct task_struct {
    int pid;
    int tgid;
    unsigned flags;
    struct mm_struct *mm;
    struct io_uring_task *io_uring;
} KERNEL;

struct qstr {
    const unsigned char *name;
} KERNEL;

struct dentry {
    struct qstr d_name;
} KERNEL;

struct path {
    struct dentry *dentry;
} KERNEL;

struct file {
    struct path f_path;
    void *private_data;
} KERNEL;

struct vm_area_struct {
    unsigned long vm_start;
    struct file *vm_file;
} KERNEL;

struct io_mapped_ubuf {
    u64 ubuf;
    unsigned len;
    bool is_kbuf;
} KERNEL;

struct io_rsrc_node {
    u64 tag;
    union {
        unsigned long file_ptr;
        struct io_mapped_ubuf *buf;
    } KERNEL;
} KERNEL;

struct io_rsrc_data {
    unsigned nr;
    struct io_rsrc_node **nodes;
} KERNEL;

struct io_file_table {
    struct io_rsrc_data data;
} KERNEL;

struct io_ev_fd {
    void *cq_ev_fd;
    unsigned eventfd_async;
} KERNEL;

struct io_restriction {
    bool registered;
} KERNEL;

struct io_mapped_region {
    unsigned nr_pages;
} KERNEL;

struct io_ring_ctx {
    unsigned flags;
    struct task_struct *submitter_task;
    int clockid;
    unsigned cached_sq_head;
    unsigned sq_entries;
    struct io_file_table file_table;
    struct io_rsrc_data buf_table;
    struct xarray io_bl_xa;
    unsigned cached_cq_tail;
    unsigned cq_entries;
    struct io_ev_fd *io_ev_fd;
    struct list_head timeout_list;
    struct list_head cq_overflow_list;
    unsigned file_alloc_start;
    unsigned file_alloc_end;
    struct io_restriction restrictions;
    struct xarray zcrx_ctxs;
    struct xarray personalities;
    u32 iowq_limits[2];
    s64 napi_busy_poll_dt;
    struct io_mapped_region param_region;
} KERNEL;

/* include/linux/bpf.h: of a per-CPU array, the per-CPU pointers of its values. */
struct bpf_array {
    union {
        void *pptrs[0];
    } KERNEL;
} KERNEL;

struct bpf_iter_meta {
    struct seq_file *seq;
} KERNEL;

struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
} KERNEL;

struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    u32 fd;
    struct file *file;
} KERNEL;

struct bpf_iter__task_vma {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    struct vm_area_struct *vma;
} KERNEL;

/* -- what is reported; livecr/kernel/async_io.py unpacks the same layout ----------------------------------- */

enum kind { TASK = 1, AIO, FILE_, RING, REGISTERED_FILE, REGISTERED_BUFFER, MAPPING };
/* A report is its head and as many words as that says in its upper half: a stack of 512 bytes has to do. */
enum { TASK_WORDS = 19, RING_WORDS = 24, SHORT_WORDS = 6 };

static __always_inline u64 head_of(enum kind kind, u64 words)
{
    return words << 32 | kind;
}

struct short_report {
    u64 head;
    u64 word[SHORT_WORDS];
};

enum { CPUS_MAX = 8192, TABLE_MAX = 32768, AIO_MAX = 4096, FFS_MASK = 3 /* io_uring/filetable.h */ };

/* -- per-CPU counters ----------------------------------------------------------------------------------------

   A per-CPU pointer becomes an address by adding an offset that the CPU has (__per_cpu_offset), which many kernels
   do not let a program find by name. A map of our own tells it: of its value both the pointer and the addresses are
   to be had. */

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, u32);
    __type(value, u64);
} anchor SEC(".maps");

/* A pointer as the plain number that it is. */
static __always_inline u64 number_of(void *pointer)
{
    u64 number = 0;
    bpf_probe_read_kernel(&number, sizeof(number), &pointer);
    return number;
}

struct sum {
    u64 counter; /* a per-CPU pointer to int */
    u64 anchor;
    s64 total;
};

static long add_one_cpu(u32 cpu, struct sum *sum)
{
    u32 zero = 0;
    s32 value = 0;
    void *there = bpf_map_lookup_percpu_elem(&anchor, &zero, cpu);
    if (!there)
        return 1; /* no such CPU, nor any behind it */
    bpf_probe_read_kernel(&value, sizeof(value), (void *)(sum->counter + number_of(there) - sum->anchor));
    sum->total += value;
    return 0;
}

static __always_inline s64 sum_of(void *counter)
{
    struct bpf_array *array = (void *)number_of(&anchor);
    struct sum sum = {.counter = (u64)counter};
    bpf_core_read(&sum.anchor, sizeof(sum.anchor), &array->pptrs[0]);
    bpf_loop(CPUS_MAX, add_one_cpu, &sum, 0);
    return sum.total;
}

/* -- tasks: requests in flight, registered rings, and of the leader its AIO contexts -------------------------- */

struct contexts {
    struct seq_file *seq;
    struct kioctx_table *table;
};

/* What fs/aio.c, put_reqs_available() and refill_reqs_available(), leave of all that the ring has room for. */
static long report_context(u32 index, struct contexts *contexts)
{
    struct short_report report = {.head = head_of(AIO, SHORT_WORDS)};
    struct kioctx_table *table = contexts->table;
    struct kioctx *ctx = NULL;
    if (index >= BPF_CORE_READ(table, nr))
        return 1;
    bpf_core_read(&ctx, sizeof(ctx), &table->table[index]);
    if (!ctx)
        return 0;
    report.word[0] = BPF_CORE_READ(ctx, user_id);
    report.word[1] = BPF_CORE_READ(ctx, max_reqs);
    report.word[2] = (u64)(BPF_CORE_READ(ctx, nr_events) - 1 - BPF_CORE_READ(ctx, reqs_available.counter) -
                           sum_of(BPF_CORE_READ(ctx, cpu)) - BPF_CORE_READ(ctx, completed_events));
    bpf_seq_write(contexts->seq, &report, sizeof(report));
    return 0;
}

SEC("iter/task")
int report_tasks(struct bpf_iter__task *ctx)
{
    struct seq_file *seq = ctx->meta->seq;
    struct task_struct *task = ctx->task;
    struct {
        u64 head;
        u64 word[TASK_WORDS];
    } report = {.head = head_of(TASK, TASK_WORDS)};
    if (!task)
        return 0;
    struct io_uring_task *own = BPF_CORE_READ(task, io_uring);
    report.word[0] = (u32)number_for_reader(task);
    report.word[1] = (u64)task; /* submitter_task of a ring is told by address as well */
    if (own) {
        report.word[2] = (u64)(BPF_CORE_READ(own, inflight.count) + sum_of(BPF_CORE_READ(own, inflight.counters)) -
                               BPF_CORE_READ(own, cached_refs));
        for (int i = 0; i < 16; i++)
            report.word[3 + i] = (u64)BPF_CORE_READ(own, registered_rings[i]);
    }
    bpf_seq_write(seq, &report, sizeof(report));
    if (BPF_CORE_READ(task, pid) == BPF_CORE_READ(task, tgid)) {
        struct contexts contexts = {.seq = seq, .table = BPF_CORE_READ(task, mm, ioctx_table)};
        if (contexts.table)
            bpf_loop(AIO_MAX, report_context, &contexts, 0);
    }
    return 0;
}

/* -- files: rings -------------------------------------------------------------------------------------------- */

static __always_inline bool is_ring(struct file *file)
{
    static const u64 wanted[2] = {0x6e6972755f6f695b, 0x5d67}; /* "[io_uring]", as the link in /proc shows it */
    union {
        char text[16];
        u64 words[2];
    } name = {};
    bpf_probe_read_kernel_str(name.text, sizeof(name.text), BPF_CORE_READ(file, f_path.dentry, d_name.name));
    return name.words[0] == wanted[0] && name.words[1] == wanted[1];
}

struct table {
    struct seq_file *seq;
    struct io_rsrc_data *data;
    u64 fd;
    u64 kind;
};

static long report_node(u32 index, struct table *table)
{
    struct short_report report = {.head = head_of(table->kind, SHORT_WORDS), .word = {table->fd, index}};
    struct io_rsrc_data *data = table->data;
    struct io_rsrc_node **nodes = BPF_CORE_READ(data, nodes), *node = NULL;
    if (index >= BPF_CORE_READ(data, nr))
        return 1;
    if (bpf_probe_read_kernel(&node, sizeof(node), nodes + index) || !node)
        return 0;
    report.word[2] = BPF_CORE_READ(node, tag);
    if (table->kind == REGISTERED_FILE) {
        report.word[3] = BPF_CORE_READ(node, file_ptr) & ~(u64)FFS_MASK;
    } else {
        struct io_mapped_ubuf *buffer = BPF_CORE_READ(node, buf);
        report.word[3] = BPF_CORE_READ(buffer, ubuf);
        report.word[4] = BPF_CORE_READ(buffer, len);
        report.word[5] = READ_OPTIONAL(buffer, is_kbuf);
    }
    bpf_seq_write(table->seq, &report, sizeof(report));
    return 0;
}

SEC("iter/task_file")
int report_files(struct bpf_iter__task_file *ctx)
{
    struct seq_file *seq = ctx->meta->seq;
    struct file *file = ctx->file;
    struct {
        u64 head;
        u64 word[RING_WORDS];
    } report = {};
    if (!file)
        return 0;
    struct io_ring_ctx *ring = BPF_CORE_READ(file, private_data);
    report.head = head_of(FILE_, SHORT_WORDS);
    report.word[0] = ctx->fd;
    report.word[1] = (u64)file;
    report.word[2] = (u64)ring;
    bpf_seq_write(seq, &report, sizeof(struct short_report));
    if (!is_ring(file))
        return 0;
    report.head = head_of(RING, RING_WORDS);
    report.word[1] = BPF_CORE_READ(ring, flags);
    report.word[2] = BPF_CORE_READ(ring, sq_entries);
    report.word[3] = BPF_CORE_READ(ring, cq_entries);
    report.word[4] = BPF_CORE_READ(ring, cached_sq_head);
    report.word[5] = BPF_CORE_READ(ring, cached_cq_tail);
    report.word[6] = (u64)BPF_CORE_READ(ring, submitter_task);
    report.word[7] = READ_OPTIONAL(ring, clockid);
    report.word[8] = (u64)BPF_CORE_READ(ring, io_ev_fd, cq_ev_fd);
    report.word[9] = BPF_CORE_READ(ring, io_ev_fd, eventfd_async);
    report.word[10] = BPF_CORE_READ(ring, file_table.data.nr);
    report.word[11] = BPF_CORE_READ(ring, buf_table.nr);
    report.word[12] = READ_OPTIONAL(ring, file_alloc_start);
    report.word[13] = READ_OPTIONAL(ring, file_alloc_end);
    report.word[14] = BPF_CORE_READ(ring, restrictions.registered);
    report.word[15] = BPF_CORE_READ(ring, personalities.xa_head) != NULL;
    report.word[16] = BPF_CORE_READ(ring, io_bl_xa.xa_head) != NULL;
    report.word[17] = (u64)READ_OPTIONAL(ring, zcrx_ctxs.xa_head) != 0;
    report.word[18] = (u64)BPF_CORE_READ(ring, timeout_list.next) !=
                      (u64)ring + bpf_core_field_offset(struct io_ring_ctx, timeout_list);
    report.word[19] = (u64)BPF_CORE_READ(ring, cq_overflow_list.next) !=
                      (u64)ring + bpf_core_field_offset(struct io_ring_ctx, cq_overflow_list);
    report.word[20] = READ_OPTIONAL(ring, iowq_limits[0]);
    report.word[21] = READ_OPTIONAL(ring, iowq_limits[1]);
    report.word[22] = READ_OPTIONAL(ring, napi_busy_poll_dt);
    report.word[23] = READ_OPTIONAL(ring, param_region.nr_pages);
    bpf_seq_write(seq, &report, sizeof(report));
    struct table files = {seq, &ring->file_table.data, ctx->fd, REGISTERED_FILE};
    struct table buffers = {seq, &ring->buf_table, ctx->fd, REGISTERED_BUFFER};
    bpf_loop(TABLE_MAX, report_node, &files, 0);
    bpf_loop(TABLE_MAX, report_node, &buffers, 0);
    return 0;
}

/* -- mappings: of which ring ----------------------------------------------------------------------------------- */

SEC("iter/task_vma")
int report_mappings(struct bpf_iter__task_vma *ctx)
{
    struct seq_file *seq = ctx->meta->seq;
    struct vm_area_struct *vma = ctx->vma;
    struct short_report report = {.head = head_of(MAPPING, SHORT_WORDS)};
    if (!vma)
        return 0;
    struct file *file = BPF_CORE_READ(vma, vm_file);
    if (!file || !is_ring(file))
        return 0;
    report.word[0] = BPF_CORE_READ(vma, vm_start);
    report.word[1] = (u64)file;
    bpf_seq_write(seq, &report, sizeof(report));
    return 0;
}
