/* Acts at the side doors of a session: what they are done to is no file of the session's own but
 * another process, a namespace, a mount, the kernel's programs. Rules are looked up by act, and
 * where there is a path (of the other process's executable, of a mount point) by that as well. */
#pragma once

#include "entry.h"

#define TELL_BURST 8

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VERSIONS *SIGNALS);
	__type(key, __u32);
	__type(value, struct signal_rule);
} signal_rules SEC(".maps");

/* The verdict of the rules that name no path. */
static __noinline int decide_unnamed(struct work *work, struct deed *deed)
{
	struct act_rules *rules;

	deed->action = deed->slot = 0;
	__builtin_memset(&work->wanted, 0, sizeof(work->wanted));
	rules = rules_for(deed, &work->wanted);
	if (rules && intersect(&work->wanted, &rules->unnamed))
		settle_on(deed, &work->wanted);
	return 0;
}

/* The verdict of all of them: that of the highest slot. */
static __noinline int decide_side(struct work *work, struct deed *deed)
{
	decide_unnamed(work, deed);
	if (!deed->dentry)
		return 0;
	__u32 action = deed->action, rule = deed->rule, slot = deed->slot;
	int result = decide(work, deed);
	if (action && (!deed->action || deed->slot < slot)) {
		deed->action = action;
		deed->rule = rule;
	}
	return result;
}

static __noinline int tell_folded(struct work *work, struct deed *deed)
{
	struct seen_key key = {.session = deed->label->session,
			       .kind = deed->hook << 8 | REC_REFUSAL,
			       .a = bpf_get_current_pid_tgid() >> 32 | (__u64)deed->acts << 32,
			       .b = (__u64)deed->inode,
			       .c = (__u64)deed->target << 32 | deed->detail};
	__u32 count = fold(&key, TELL_BURST);

	if (count)
		tell_times(work, deed, count);
	return 0;
}

static __noinline int carry_out(struct work *work, struct deed *deed, bool can_ask)
{
	struct subject *subject = &work->subject;

	if (deed->action == ACTION_TELL)
		return tell_folded(work, deed);
	if (deed->action != ACTION_ASK)
		return refuse(work, deed);
	if (!can_ask)
		return unjudged(work, deed, workload_flags(deed->label));
	subject->a = (__u64)deed->detail << 32 | deed->target;
	subject->b = (__u64)deed->inode;
	subject->c = 0;
	subject->hook = deed->hook;
	subject->acts = deed->acts;
	return ask(work, deed, false);
}

/* What the hook returns. `can_ask`: the call that it was reached by passes the hook's error on as
 * it is, so that it can be started again. `quiet`: nobody tried anything, the kernel only looks
 * whether it might; then nothing is told, and a rule that would ask refuses. */
static __always_inline int judge_side(struct deed *deed, bool can_ask, bool quiet)
{
	struct enforcing *now = get_enforcing();

	if (!now || !now->armed)
		return 0;
	deed->version = now->version & 1;
	if (!has_rules(deed))
		return 0;
	struct work *work = claim_work();
	if (!work)
		return -EAGAIN;
	int result = decide_side(work, deed);
	if (!result && deed->action)
		result = !quiet			       ? carry_out(work, deed, can_ask)
			 : deed->action == ACTION_TELL ? 0
						       : -EPERM;
	give_back(work);
	return result;
}

/* The number of the current system call in the 64-bit table, or in the 32-bit one where the task
 * has used that. */
static __always_inline bool in_syscall(__u32 number, __u32 number32)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
#if defined(__TARGET_ARCH_x86)
	struct task_struct *task = (void *)bpf_get_current_task();
	bool compat = BPF_CORE_READ(task, thread_info.status) & 2; /* TS_COMPAT */

	return (BPF_CORE_READ(regs, orig_ax) & 0xffff) == (compat ? number32 : number);
#else
	return BPF_CORE_READ(regs, syscallno) == number;
#endif
}

/* Whether an argument is not NULL. Since Linux 6.12 the verifier takes every pointer for that, and
 * leaves out what is done about it otherwise. task_kill has a sender where that is not the current
 * task. */
static __always_inline bool is_set(const void *argument)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), argument);
	return value;
}

/* Fills in who it is done to, and the path of its executable. False for a kernel thread, and for
 * what has ended already. */
static __always_inline bool aim(struct deed *deed, struct task_struct *target)
{
	struct file *exe = BPF_CORE_READ(target, mm, exe_file);

	if (!exe)
		return false;
	deed->target = BPF_CORE_READ(target, tgid);
	deed->dentry = deed->from = BPF_CORE_READ(exe, f_path.dentry);
	deed->mnt = BPF_CORE_READ(exe, f_path.mnt);
	deed->inode = BPF_CORE_READ(exe, f_inode);
	return true;
}

static __always_inline bool is_outside(const struct label *label, struct task_struct *task)
{
	struct label *other = label_of(BPF_CORE_READ(task, tgid));

	return !other || other->session != label->session;
}
