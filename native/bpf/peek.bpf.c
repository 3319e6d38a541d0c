/* Reading what the kernel keeps and tells nobody: the messages of a POSIX queue, which no call gives without taking
   them, whom the queue will notify, what semaphores get back when a process ends, a running task's seccomp filters,
   and what waits to be accepted. A program
   of type syscall (BPF_PROG_TEST_RUN), run on livecr's own descriptors; livecr/kernel/peek.py runs it and walks the
   structures. They are declared with only the members used; libbpf finds their offsets in the running kernel's BTF. */
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;

char LICENSE[] SEC("license") = "GPL";

#define KERNEL __attribute__((preserve_access_index))

/* -- the kernel's structures ----------------------------------------------------------------------------- */

struct inode {
    unsigned long i_ino;
    void *i_private;
} KERNEL;

struct file {
    struct inode *f_inode;
    void *private_data;
} KERNEL;

struct fdtable {
    unsigned int max_fds;
    struct file **fd;
} KERNEL;

struct files_struct {
    struct fdtable *fdt;
} KERNEL;

struct list_head {
    struct list_head *next;
} KERNEL;

struct rb_node {
    struct rb_node *rb_right;
    struct rb_node *rb_left;
} KERNEL;

struct rb_root {
    struct rb_node *rb_node;
} KERNEL;

union sigval {
    void *sival_ptr;
} KERNEL;

typedef union sigval sigval_t;

struct sigevent {
    sigval_t sigev_value;
} KERNEL;

struct socket {
    struct file *file;
    struct sock *sk;
} KERNEL;

struct sk_buff_head {
    struct sk_buff *next;
    u32 qlen;
} KERNEL;

struct sock {
    struct socket *sk_socket;
    struct sk_buff_head sk_receive_queue;
    struct pid *sk_peer_pid;
    const struct cred *sk_peer_cred;
    __u8 sk_scm_recv_flags;
} KERNEL;

struct sk_buff {
    struct sk_buff *next;
    struct sock *sk;
    char cb[48];
    unsigned int len, data_len;
    unsigned char *data;
} KERNEL;

typedef struct {
    u32 val;
} kuid_t, kgid_t;

struct unix_skb_parms {
    struct pid *pid;
    kuid_t uid;
    kgid_t gid;
    struct scm_fp_list *fp;
} KERNEL;

struct sockaddr_un {
    __u16 sun_family;
} KERNEL;

struct unix_address {
    int len;
    struct sockaddr_un name[0];
} KERNEL;

struct unix_sock {
    struct unix_address *addr;
    struct sock *peer;
    struct sk_buff *oob_skb;
} KERNEL;

struct udp_sock {
    struct sk_buff_head reader_queue;
} KERNEL;

struct cred {
    kuid_t euid;
    kgid_t egid;
} KERNEL;

struct upid {
    int nr;
} KERNEL;

struct mqueue_inode_info {
    struct inode vfs_inode;
    struct rb_root msg_tree;
    struct sigevent notify;
    struct sock *notify_sock;
    struct sk_buff *notify_cookie;
} KERNEL;

struct posix_msg_tree_node {
    struct rb_node rb_node;
    struct list_head msg_list;
} KERNEL;

struct msg_msgseg {
    struct msg_msgseg *next;
} KERNEL;

struct msg_msg {
    struct list_head m_list;
    long m_type;
    unsigned long m_ts;
    struct msg_msgseg *next;
} KERNEL;

struct hlist_node {
    struct hlist_node *next;
} KERNEL;

struct hlist_head {
    struct hlist_node *first;
} KERNEL;

struct pid {
    unsigned int level;
    struct hlist_head tasks[4];
    struct upid numbers[0];
} KERNEL;

struct sem_undo_list {
    struct list_head list_proc;
} KERNEL;

struct sysv_sem {
    struct sem_undo_list *undo_list;
} KERNEL;

struct seccomp {
    int mode;
    struct seccomp_filter *filter;
} KERNEL;

struct task_struct {
    struct seccomp seccomp;
    struct files_struct *files;
    struct hlist_node pid_links[4];
    struct sysv_sem sysvsem;
} KERNEL;

struct sem_undo {
    struct list_head list_proc;
    int semid;
    short *semadj;
} KERNEL;

/* Where the numbers stand behind the structure and not in a piece of memory of their own. */
struct sem_undo___in_one {
    short semadj[0];
} KERNEL;

struct sock_fprog_kern {
    __u16 len;
    struct sock_filter *filter;
} KERNEL;

struct bpf_prog {
    struct sock_fprog_kern *orig_prog;
} KERNEL;

struct seccomp_filter {
    struct seccomp_filter *prev;
    struct bpf_prog *prog;
} KERNEL;

/* -- what is asked and answered; livecr/kernel/peek.py packs the same layout --------------------------------- */

enum { READ, QUEUE, UNDO, FILTERS, BACKLOG, DATAGRAMS };
enum { DATA_WORDS = 32, DATA_BYTES = 8 * DATA_WORDS }; /* a BPF stack has 512 bytes */

struct request {
    u32 what;
    u32 bytes;   /* READ: how many, at most DATA_BYTES */
    u64 address; /* READ: where; QUEUE: livecr's descriptor of the queue; UNDO, FILTERS: its pidfd of the task;
                    BACKLOG: its descriptor of a unix socket that listens; DATAGRAMS: of a UDP socket */
    s32 error;
    u32 unused;
    u64 answer[16];
    u64 data[DATA_WORDS];
};

/* -- the program ------------------------------------------------------------------------------------------- */

static __always_inline struct file *own_file(u64 fd)
{
    struct task_struct *task = (void *)bpf_get_current_task();
    struct fdtable *table = BPF_CORE_READ(task, files, fdt);
    struct file *file = 0;
    if (fd < BPF_CORE_READ(table, max_fds))
        bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(table, fd) + fd);
    return file;
}

static __always_inline void look_at_queue(struct request *request)
{
    struct file *file = own_file(request->address);
    struct inode *inode = BPF_CORE_READ(file, f_inode);
    struct mqueue_inode_info *queue = (void *)inode - bpf_core_field_offset(struct mqueue_inode_info, vfs_inode);
    struct sk_buff *cookie = BPF_CORE_READ(queue, notify_cookie);
    struct sock *socket = BPF_CORE_READ(queue, notify_sock);
    if (!inode)
        return;
    request->answer[0] = (u64)BPF_CORE_READ(queue, msg_tree.rb_node);
    request->answer[1] = (u64)BPF_CORE_READ(queue, notify.sigev_value.sival_ptr);
    request->answer[2] = socket ? BPF_CORE_READ(socket, sk_socket, file, f_inode, i_ino) : 0;
    request->answer[3] = cookie ? (u64)BPF_CORE_READ(cookie, data) : 0;
    request->answer[4] = bpf_core_field_offset(struct posix_msg_tree_node, rb_node);
    request->answer[5] = bpf_core_field_offset(struct rb_node, rb_left);
    request->answer[6] = bpf_core_field_offset(struct rb_node, rb_right);
    request->answer[7] = bpf_core_field_offset(struct posix_msg_tree_node, msg_list);
    request->answer[8] = bpf_core_field_offset(struct list_head, next);
    request->answer[9] = bpf_core_field_offset(struct msg_msg, m_list);
    request->answer[10] = bpf_core_field_offset(struct msg_msg, m_type);
    request->answer[11] = bpf_core_field_offset(struct msg_msg, m_ts);
    request->answer[12] = bpf_core_field_offset(struct msg_msg, next);
    request->answer[13] = bpf_core_type_size(struct msg_msg);
    request->answer[14] = bpf_core_field_offset(struct msg_msgseg, next);
    request->answer[15] = bpf_core_type_size(struct msg_msgseg);
}

/* The first task of the list that a pid has for its own number is the task of that number. */
static __always_inline struct task_struct *task_of(u64 pidfd)
{
    struct file *file = own_file(pidfd);
    struct pid *pid = BPF_CORE_READ(file, private_data);
    struct task_struct *task;
    if (!pid)
        pid = BPF_CORE_READ(file, f_inode, i_private); /* pidfs (6.9) */
    task = (void *)BPF_CORE_READ(pid, tasks[0].first);
    return task ? (void *)task - bpf_core_field_offset(task->pid_links) : 0;
}

static __always_inline void look_at_filters(struct request *request)
{
    struct task_struct *task = task_of(request->address);
    if (!task)
        return;
    request->answer[0] = (u64)BPF_CORE_READ(task, seccomp.filter);
    request->answer[1] = bpf_core_field_offset(struct seccomp_filter, prev);
    request->answer[2] = bpf_core_field_offset(struct seccomp_filter, prog);
    request->answer[3] = bpf_core_field_offset(struct bpf_prog, orig_prog);
    request->answer[4] = bpf_core_field_offset(struct sock_fprog_kern, len);
    request->answer[5] = bpf_core_field_offset(struct sock_fprog_kern, filter);
}

static __always_inline void look_at_undo_list(struct request *request)
{
    struct task_struct *task = task_of(request->address);
    if (!task)
        return;
    struct sem_undo_list *list = BPF_CORE_READ(task, sysvsem.undo_list);
    request->answer[0] = list ? (u64)list + bpf_core_field_offset(list->list_proc) : 0;
    request->answer[1] = bpf_core_field_offset(struct list_head, next);
    request->answer[2] = bpf_core_field_offset(struct sem_undo, list_proc);
    request->answer[3] = bpf_core_field_offset(struct sem_undo, semid);
    request->answer[4] = bpf_core_field_exists(struct sem_undo___in_one, semadj);
    if (request->answer[4])
        request->answer[5] = bpf_core_field_offset(struct sem_undo___in_one, semadj);
    else
        request->answer[5] = bpf_core_field_offset(struct sem_undo, semadj);
}

/* Connections that wait to be accepted are in the queue of the socket that listens, each as the owner of an empty
   buffer (net/unix/af_unix.c, unix_stream_connect). */
static __always_inline void look_at_backlog(struct request *request)
{
    struct file *file = own_file(request->address);
    struct socket *socket = BPF_CORE_READ(file, private_data);
    request->answer[0] = (u64)BPF_CORE_READ(socket, sk);
    request->answer[1] = bpf_core_field_offset(struct sock, sk_receive_queue);
    request->answer[2] = bpf_core_field_offset(struct sock, sk_peer_pid);
    request->answer[3] = bpf_core_field_offset(struct sock, sk_peer_cred);
    request->answer[4] = bpf_core_field_offset(struct sk_buff, next);
    request->answer[5] = bpf_core_field_offset(struct sk_buff, sk);
    request->answer[6] = bpf_core_field_offset(struct sk_buff, cb);
    request->answer[7] = (u64)bpf_core_field_offset(struct sk_buff, len) << 32 | bpf_core_field_offset(struct sk_buff, data_len);
    request->answer[8] = bpf_core_field_offset(struct sk_buff, data);
    request->answer[9] = (u64)bpf_core_field_offset(struct unix_skb_parms, pid) << 32 | bpf_core_field_offset(struct unix_skb_parms, fp);
    request->answer[10] = (u64)bpf_core_field_offset(struct unix_skb_parms, uid) << 32 | bpf_core_field_offset(struct unix_skb_parms, gid);
    request->answer[11] = (u64)bpf_core_field_offset(struct cred, euid) << 32 | bpf_core_field_offset(struct cred, egid);
    request->answer[12] = (u64)bpf_core_field_offset(struct unix_sock, addr) << 32 | bpf_core_field_offset(struct unix_sock, peer);
    if (bpf_core_field_exists(struct sock, sk_scm_recv_flags))
        request->answer[13] = (u64)bpf_core_field_offset(struct sock, sk_scm_recv_flags) << 32;
    if (bpf_core_field_exists(struct unix_sock, oob_skb))
        request->answer[13] |= bpf_core_field_offset(struct unix_sock, oob_skb);
    request->answer[14] = (u64)bpf_core_field_offset(struct unix_address, len) << 32 | bpf_core_field_offset(struct unix_address, name);
    request->answer[15] = (u64)bpf_core_field_offset(struct pid, level) << 32 | bpf_core_field_offset(struct pid, numbers);
}

/* What has come in, and what readers have already set aside for themselves (net/ipv4/udp.c). */
static __always_inline void count_datagrams(struct request *request)
{
    struct file *file = own_file(request->address);
    struct socket *socket = BPF_CORE_READ(file, private_data);
    struct sock *sock = BPF_CORE_READ(socket, sk);
    struct udp_sock *udp = (void *)sock;
    request->answer[0] = (u64)BPF_CORE_READ(sock, sk_receive_queue.qlen) + BPF_CORE_READ(udp, reader_queue.qlen);
}

/* By way of the stack: no helper writes to the context of a program. */
static __always_inline void read_memory(struct request *request)
{
    u64 data[DATA_WORDS] = {};
    u32 bytes = request->bytes;
    if (!bytes || bytes > DATA_BYTES)
        return;
    request->error = bpf_probe_read_kernel(data, bytes, (void *)request->address);
#pragma unroll
    for (int i = 0; i < DATA_WORDS; i++)
        request->data[i] = data[i];
}

SEC("syscall")
int peek(struct request *request)
{
    if (request->what == QUEUE)
        look_at_queue(request);
    else if (request->what == UNDO)
        look_at_undo_list(request);
    else if (request->what == FILTERS)
        look_at_filters(request);
    else if (request->what == BACKLOG)
        look_at_backlog(request);
    else if (request->what == DATAGRAMS)
        count_datagrams(request);
    else
        read_memory(request);
    return 0;
}
