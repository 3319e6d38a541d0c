/* What waits in pseudoterminals: for each master (/dev/ptmx) that a process has open, the state of both sides and
   what is in their buffers, which cannot be read in any other way without taking it out. A file iterator
   (Documentation/bpf/bpf_iterators.rst) limited to the process writes one struct pty_report a master, with what is
   in each side's flip buffers behind it; livecr/kernel/pty.py reads it. Structures as in task.bpf.c: only members
   used, offsets from the running kernel's BTF. */
#include <linux/bpf.h>

#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

char LICENSE[] SEC("license") = "GPL";

#define KERNEL __attribute__((preserve_access_index))
#define PTMX_RDEV (5 << 20 | 2) /* Documentation/admin-guide/devices.txt; include/linux/kdev_t.h, MKDEV */
#define N_TTY_BUF_SIZE 4096     /* include/linux/tty.h */
#define FLIP_BUFFERS_MAX 512    /* drivers/tty/pty.c limits a side to 8 KiB, in pieces of 256 bytes and more */

/* -- the kernel's structures ----------------------------------------------------------------------------- */

struct tty_buffer {
    struct tty_buffer *next;
    unsigned int commit, read;
    u8 data[];
} KERNEL;

struct tty_bufhead {
    struct tty_buffer *head;
} KERNEL;

/* Bits of tty_struct.flags. Before Linux 6.16 they were macros, with these numbers (include/linux/tty.h). */
enum tty_struct_flags { TTY_OTHER_CLOSED = 2, TTY_EXCLUSIVE = 3, TTY_PTY_LOCK = 16 };

struct tty_port {
    struct tty_bufhead buf;
} KERNEL;

struct tty_ldisc_ops {
    int num;
} KERNEL;

struct tty_ldisc {
    struct tty_ldisc_ops *ops;
} KERNEL;

struct n_tty_data {
    unsigned long read_head, canon_head, echo_head, echo_tail, read_tail;
    unsigned char lnext : 1;
    unsigned char erasing : 1;
    u8 read_buf[N_TTY_BUF_SIZE];
    unsigned long read_flags[N_TTY_BUF_SIZE / 64];
} KERNEL;

struct tty_struct {
    int index;
    unsigned long flags;
    struct tty_port *port;
    struct tty_ldisc *ldisc;
    struct {
        bool stopped, tco_stopped;
    } KERNEL flow;
    struct {
        unsigned char pktstatus;
        bool packet;
    } KERNEL ctrl;
    struct tty_struct *link;
    struct n_tty_data *disc_data;
} KERNEL;

struct tty_file_private {
    struct tty_struct *tty;
} KERNEL;

struct inode {
    u32 i_rdev;
    u16 i_mode;
} KERNEL;

struct file {
    struct inode *f_inode;
    void *private_data;
} KERNEL;

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
} KERNEL;

struct task_struct;

struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    u32 fd;
    struct file *file;
} KERNEL;

/* -- the report ------------------------------------------------------------------------------------------ */

struct side {
    u64 read_head, canon_head, read_tail, echoes; /* echoes: characters that are still to be echoed */
    u8 stopped, tco_stopped, packet, pktstatus;
    u8 other_closed, exclusive, pty_lock;
    u8 lnext, erasing;
    u8 whole; /* nothing was too much for this report */
    u16 discipline;
    u32 flip_bytes; /* of what stands behind the report */
    u64 read_flags[N_TTY_BUF_SIZE / 64];
    u8 read_buf[N_TTY_BUF_SIZE];
};

struct pty_report {
    u32 fd;
    int index;
    struct side side[2]; /* the master, the slave */
};

/* -- reading -------------------------------------------------------------------------------------------------- */

static struct pty_report report; /* too large for the stack */
static u8 piece[N_TTY_BUF_SIZE];

struct walk {
    struct seq_file *seq; /* NULL: only count */
    struct tty_buffer *at;
    u32 bytes;
    u32 whole;
};

static long look_at_buffer(u64 number, struct walk *walk)
{
    struct tty_buffer *buffer = walk->at;
    if (!buffer) {
        walk->whole = 1;
        return 1;
    }
    u32 from = BPF_CORE_READ(buffer, read), to = BPF_CORE_READ(buffer, commit);
    walk->at = BPF_CORE_READ(buffer, next);
    if (from >= to)
        return 0;
    u32 length = to - from;
    if (length > sizeof(piece))
        return 1;
    if (walk->seq) {
        u64 data = (u64)buffer + bpf_core_field_offset(struct tty_buffer, data) + from;
        if (bpf_probe_read_kernel(piece, length, (void *)data) < 0)
            return 1;
        bpf_seq_write(walk->seq, piece, length);
    }
    walk->bytes += length;
    return 0;
}

#define FLAG(flags, name)                                                                                      \
    ((flags) >> (bpf_core_enum_value_exists(enum tty_struct_flags, name)                                       \
                     ? bpf_core_enum_value(enum tty_struct_flags, name)                                        \
                     : (u64)name) &                                                                            \
     1)

static __always_inline void look_at_side(struct tty_struct *tty, struct side *side)
{
    struct n_tty_data *data = BPF_CORE_READ(tty, disc_data);
    struct walk walk = {.at = BPF_CORE_READ(tty, port, buf.head)};
    unsigned long flags = BPF_CORE_READ(tty, flags);
    side->other_closed = FLAG(flags, TTY_OTHER_CLOSED);
    side->exclusive = FLAG(flags, TTY_EXCLUSIVE);
    side->pty_lock = FLAG(flags, TTY_PTY_LOCK);
    side->stopped = BPF_CORE_READ(tty, flow.stopped);
    side->tco_stopped = BPF_CORE_READ(tty, flow.tco_stopped);
    side->packet = BPF_CORE_READ(tty, ctrl.packet);
    side->pktstatus = BPF_CORE_READ(tty, ctrl.pktstatus);
    side->discipline = BPF_CORE_READ(tty, ldisc, ops, num);
    bpf_loop(FLIP_BUFFERS_MAX, look_at_buffer, &walk, 0);
    side->flip_bytes = walk.bytes;
    side->whole = walk.whole;
    if (side->discipline) /* N_TTY is 0; of another the data are of another form */
        return;
    side->read_head = BPF_CORE_READ(data, read_head);
    side->canon_head = BPF_CORE_READ(data, canon_head);
    side->read_tail = BPF_CORE_READ(data, read_tail);
    side->echoes = BPF_CORE_READ(data, echo_head) - BPF_CORE_READ(data, echo_tail);
    side->lnext = BPF_CORE_READ_BITFIELD_PROBED(data, lnext);
    side->erasing = BPF_CORE_READ_BITFIELD_PROBED(data, erasing);
    BPF_CORE_READ_INTO(&side->read_flags, data, read_flags);
    BPF_CORE_READ_INTO(&side->read_buf, data, read_buf);
}

static __always_inline void write_flip(struct seq_file *seq, struct tty_struct *tty)
{
    struct walk walk = {.seq = seq, .at = BPF_CORE_READ(tty, port, buf.head)};
    bpf_loop(FLIP_BUFFERS_MAX, look_at_buffer, &walk, 0);
}

SEC("iter/task_file")
int report_pty(struct bpf_iter__task_file *ctx)
{
    struct seq_file *seq = ctx->meta->seq;
    struct file *file = ctx->file;
    if (!file || BPF_CORE_READ(file, f_inode, i_rdev) != PTMX_RDEV ||
        (BPF_CORE_READ(file, f_inode, i_mode) & 0170000) != 0020000)
        return 0;
    struct tty_file_private *private = BPF_CORE_READ(file, private_data);
    struct tty_struct *master = BPF_CORE_READ(private, tty);
    struct tty_struct *slave = BPF_CORE_READ(master, link);
    if (!slave)
        return 0;
    report.fd = ctx->fd;
    report.index = BPF_CORE_READ(master, index);
    look_at_side(master, &report.side[0]);
    look_at_side(slave, &report.side[1]);
    bpf_seq_write(seq, &report, sizeof(report));
    write_flip(seq, master);
    write_flip(seq, slave);
    return 0;
}
