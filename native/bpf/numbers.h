/* The numbers of tasks as livecr knows them. Included by each BPF program, behind its types and its KERNEL. */
#define PID_NAMESPACES_MAX 32 /* include/linux/pid_namespace.h, MAX_PID_NS_LEVEL */

/* A number in one PID namespace; a struct pid has one for each namespace that it is in, the outermost first. */
struct upid {
    int nr;
} KERNEL;

struct pid {
    unsigned int level;
    struct upid numbers[];
} KERNEL;

struct task_struct___numbered {
    struct pid *thread_pid;
} KERNEL;

/* The task's number as livecr knows it: task->pid is that of the initial PID namespace, not of livecr's own. */
static __always_inline int number_for_reader(void *of)
{
    struct task_struct___numbered *task = of, *reader = (void *)bpf_get_current_task();
    unsigned int level = BPF_CORE_READ(reader, thread_pid, level);
    struct pid *pid = BPF_CORE_READ(task, thread_pid);
    struct upid in_namespace = {};
    if (pid && level <= PID_NAMESPACES_MAX)
        bpf_probe_read_kernel(&in_namespace, sizeof(in_namespace),
                              (char *)pid + bpf_core_field_offset(pid->numbers) +
                                  level * bpf_core_type_size(struct upid));
    return in_namespace.nr;
}
