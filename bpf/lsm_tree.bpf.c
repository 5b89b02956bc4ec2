/* Judges what labelled tasks do at the side doors of their session: signals to and access to
 * processes outside, namespaces, mounts, bpf(). Refuses a fork whose child could not be labelled.
 * Fails closed where the workload says so. */
#include "include/side.h"
#include <bpf/bpf_tracing.h>

#define PTRACE_MODE_READ    1
#define PTRACE_MODE_NOAUDIT 4
#define CAP_SYS_ADMIN	    21
#define SIGIO		    29
#define MS_BIND		    4096
#define MS_MOVE		    8192
#define CLONE_THREAD	    0x00010000
#define CLONE_NEWUSER	    0x10000000
#define CLONE_NEW_ANY	    0x7e020080 /* each kind of namespace */

#if defined(__TARGET_ARCH_x86)
#define NR_PTRACE    101
#define NR_PTRACE32  26
#define NR_UNSHARE   272
#define NR_UNSHARE32 310
#define NR_SETNS     308
#define NR_SETNS32   346
#define NR_KILL	     62
#define NR_KILL32    37
#else
#define NR_PTRACE    117
#define NR_PTRACE32  26
#define NR_UNSHARE   97
#define NR_UNSHARE32 337
#define NR_SETNS     268
#define NR_SETNS32   375
#define NR_KILL	     129
#define NR_KILL32    37
#endif

/* The kernel asks before it shows or gives access to another process's memory, registers,
 * descriptors: ptrace, process_vm_readv and writev, /proc/PID/mem, environ and fd, pidfd_getfd.
 * Only ptrace passes an error on unchanged. */
SEC("lsm/ptrace_access_check")
int BPF_PROG(on_trace, struct task_struct *child, unsigned int mode)
{
	struct deed deed = {.label = current_label(), .hook = HOOK_TRACE, .detail = mode};

	if (!deed.label || !is_outside(deed.label, child) || !aim(&deed, child))
		return 0;
	deed.acts = mode & PTRACE_MODE_READ ? 1 << ACT_TRACE_READ : 1 << ACT_TRACE_ATTACH;
	return judge_side(&deed, in_syscall(NR_PTRACE, NR_PTRACE32), mode & PTRACE_MODE_NOAUDIT);
}

/* A task that asks its parent to trace it: outside the session, that is a way out of its holds. */
SEC("lsm/ptrace_traceme")
int BPF_PROG(on_traceme, struct task_struct *parent)
{
	struct deed deed = {
		.label = current_label(), .hook = HOOK_TRACE, .acts = 1 << ACT_TRACE_ATTACH};

	if (!deed.label || !is_outside(deed.label, parent) || !aim(&deed, parent))
		return 0;
	return judge_side(&deed, false, false);
}

/* Not of a whole group of processes: started again, it would reach some of them twice. */
static __always_inline bool signals_one(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());

	return !in_syscall(NR_KILL, NR_KILL32) || (int)PT_REGS_PARM1_CORE_SYSCALL(regs) > 0;
}

static __always_inline int judge_signal(struct task_struct *target, int sig, bool can_ask)
{
	struct deed deed = {.label = current_label(),
			    .hook = HOOK_SIGNAL,
			    .acts = 1 << ACT_SIGNAL,
			    .detail = sig};
	struct enforcing *now = get_enforcing();

	if (!deed.label || !now || sig <= 0 || sig >= SIGNALS)
		return 0;
	if (!is_outside(deed.label, target) || !aim(&deed, target))
		return 0;
	__u32 index = (now->version & 1) * SIGNALS + sig;
	struct signal_rule *rule = bpf_map_lookup_elem(&signal_rules, &index);
	if (!rule || none_in(&rule->slots))
		return 0;
	deed.only = &rule->slots;
	return judge_side(&deed, can_ask, false);
}

SEC("lsm/task_kill")
int BPF_PROG(on_signal, struct task_struct *target, struct kernel_siginfo *info, int sig,
	     const struct cred *cred)
{
	return is_set(&ctx[3]) ? 0 : judge_signal(target, sig, signals_one());
}

/* fcntl(F_SETOWN, F_SETSIG): the task that makes the descriptor ready sends the signal. */
SEC("lsm/file_send_sigiotask")
int BPF_PROG(on_sigio, struct task_struct *target, struct fown_struct *owner, int sig)
{
	return judge_signal(target, sig ? sig : SIGIO, false);
}

static __always_inline int judge_namespace(__u32 act, __u32 flags, bool can_ask)
{
	struct deed deed = {.label = current_label(),
			    .hook = HOOK_NAMESPACE,
			    .acts = 1 << act,
			    .detail = flags};

	return deed.label ? judge_side(&deed, can_ask, false) : 0;
}

SEC("lsm/userns_create")
int BPF_PROG(on_userns, const struct cred *cred)
{
	return judge_namespace(ACT_NS_USER, CLONE_NEWUSER, true);
}

/* unshare and setns have no hook of their own; each asks for this capability, and makes its own
 * error of the answer. Whoever has made a user namespace has the capability there. */
SEC("lsm/capable")
int BPF_PROG(on_capable, const struct cred *cred, struct user_namespace *ns, int cap)
{
	if (cap != CAP_SYS_ADMIN || !current_label())
		return 0;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (in_syscall(NR_UNSHARE, NR_UNSHARE32))
		return judge_namespace(ACT_NS_CREATE, PT_REGS_PARM1_CORE_SYSCALL(regs), false);
	if (in_syscall(NR_SETNS, NR_SETNS32))
		return judge_namespace(ACT_NS_JOIN, PT_REGS_PARM2_CORE_SYSCALL(regs), false);
	return 0;
}

/* A label of its own for each child: its place is kept before there is one, so that no number of
 * processes leads to one without. */
SEC("lsm/task_alloc")
int BPF_PROG(on_task_alloc, struct task_struct *task, unsigned long clone_flags)
{
	struct label *label = current_label();
	struct label place = {};
	__u32 key = reservation();

	if (!label || clone_flags & CLONE_THREAD)
		return 0;
	if (clone_flags & CLONE_NEW_ANY & ~CLONE_NEWUSER) {
		int result = judge_namespace(ACT_NS_CREATE, clone_flags, true);
		if (result)
			return result;
	}
	if (bpf_map_update_elem(&labels, &key, &place, BPF_ANY)) {
		count_in(&losses, label->workload);
		return -EAGAIN;
	}
	return 0;
}

static __always_inline int judge_mount(struct dentry *dentry, struct vfsmount *mnt, __u32 acts,
				       __u32 flags)
{
	struct deed deed = {.label = current_label(),
			    .dentry = dentry,
			    .from = dentry,
			    .inode = BPF_CORE_READ(dentry, d_inode),
			    .mnt = mnt,
			    .hook = HOOK_MOUNT,
			    .acts = acts,
			    .detail = flags};

	return deed.label ? judge_side(&deed, true, false) : 0;
}

SEC("lsm/sb_mount")
int BPF_PROG(on_mount, const char *device, const struct path *path, const char *type,
	     unsigned long flags)
{
	__u32 act = flags & MS_BIND ? ACT_BIND : flags & MS_MOVE ? ACT_MOVE : ACT_MOUNT;

	return judge_mount(BPF_CORE_READ(path, dentry), BPF_CORE_READ(path, mnt), 1 << act, flags);
}

/* What it puts there may be a new mount, a copy or one that was elsewhere. */
SEC("lsm/move_mount")
int BPF_PROG(on_move_mount, const struct path *from, const struct path *to)
{
	return judge_mount(BPF_CORE_READ(to, dentry), BPF_CORE_READ(to, mnt),
			   1 << ACT_MOUNT | 1 << ACT_BIND | 1 << ACT_MOVE, 0);
}

/* Of the place where it is mounted, not of what is mounted there: that may be a copy. */
SEC("lsm/sb_umount")
int BPF_PROG(on_umount, struct vfsmount *vfsmount, int flags)
{
	struct mount *mount = mount_of(vfsmount), *parent = BPF_CORE_READ(mount, mnt_parent);
	struct vfsmount *mnt = (void *)parent + bpf_core_field_offset(struct mount, mnt);

	return judge_mount(BPF_CORE_READ(mount, mnt_mountpoint), mnt, 1 << ACT_UMOUNT, flags);
}

SEC("lsm/bpf")
int BPF_PROG(on_bpf, int cmd, union bpf_attr *attr, unsigned int size)
{
	struct deed deed = {
		.label = current_label(), .hook = HOOK_BPF, .acts = 1 << ACT_BPF, .detail = cmd};

	return deed.label ? judge_side(&deed, true, false) : 0;
}

char LICENSE[] SEC("license") = "GPL";
