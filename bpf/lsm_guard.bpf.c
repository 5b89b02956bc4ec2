/* Protects agentd from the tasks that it watches, whatever their workload's posture: they may not
 * signal, trace or throttle its processes, nor wake, stop or trace a process of a session that is
 * held for a verdict. Its files, mounts and bpf() are rules of its own (lsm_files, lsm_names,
 * lsm_tree). */
#include "include/side.h"
#include <bpf/bpf_tracing.h>

#define PTRACE_MODE_NOAUDIT 4
#define PTRACE_MODE_ATTACH  2
#define SIGCONT		    18
#define SIGTTOU		    22
#define SIGIO		    29
#define START_UNIT	    10000000ULL /* of a start time in /proc */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct guarded);
} guarded SEC(".maps");

static __always_inline bool is_listed(struct task_struct *task)
{
	__u32 tgid = BPF_CORE_READ(task, tgid);
	struct guarded *own = bpf_map_lookup_elem(&guarded, &tgid);

	return own && own->start_ns / START_UNIT == leader_start(task) / START_UNIT;
}

/* agentd's processes, and those that they start: one reads the rules. */
static __always_inline bool is_own(struct task_struct *task)
{
	return is_listed(task) || is_listed(BPF_CORE_READ(task, real_parent));
}

struct seek {
	__u32 tgid;
	__u32 found;
};

static long seek_hold(struct bpf_map *map, const void *key, void *value, void *data)
{
	const struct hold *hold = value;
	struct seek *seek = data;

	if (hold->tgid != seek->tgid || hold->state == HOLD_DECIDED)
		return 0;
	seek->found = 1;
	return 1;
}

static __always_inline bool is_held(struct task_struct *task)
{
	struct seek seek = {.tgid = BPF_CORE_READ(task, tgid)};

	bpf_for_each_map_elem(&holds, seek_hold, &seek, 0);
	return seek.found;
}

static __always_inline bool is_armed(void)
{
	struct enforcing *now = get_enforcing();

	return now && now->armed;
}

static __always_inline int refuse_self(struct deed *deed, struct task_struct *target, bool quiet)
{
	struct work *work = quiet ? NULL : claim_work();

	if (!work)
		return -EPERM;
	aim(deed, target);
	deed->action = ACTION_DENY;
	deed->rule = SELF_RULE;
	tell_folded(work, deed);
	give_back(work);
	return -EPERM;
}

SEC("lsm/task_kill")
int BPF_PROG(on_guarded_signal, struct task_struct *target, struct kernel_siginfo *info, int sig,
	     const struct cred *cred)
{
	struct deed deed = {.label = current_label(),
			    .hook = HOOK_SIGNAL,
			    .acts = 1 << ACT_SIGNAL,
			    .detail = sig};

	if (!deed.label || !sig || is_set(&ctx[3]) || !is_armed())
		return 0;
	if (is_own(target) || (sig >= SIGCONT && sig <= SIGTTOU && is_held(target)))
		return refuse_self(&deed, target, false);
	return 0;
}

/* What fcntl(F_SETOWN, F_SETSIG) has sent may come from whoever made the descriptor ready, or from
 * an interrupt: neither says who is behind it, and agentd has no use for such signals. */
SEC("lsm/file_send_sigiotask")
int BPF_PROG(on_guarded_sigio, struct task_struct *target, struct fown_struct *owner, int sig)
{
	struct deed deed = {.label = current_label(),
			    .hook = HOOK_SIGNAL,
			    .acts = 1 << ACT_SIGNAL,
			    .detail = sig ? sig : SIGIO};

	if (!is_armed())
		return 0;
	if (is_own(target) || (sig >= SIGCONT && sig <= SIGTTOU && is_held(target)))
		return refuse_self(&deed, target, !deed.label);
	return 0;
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(on_guarded_trace, struct task_struct *child, unsigned int mode)
{
	struct deed deed = {.label = current_label(), .hook = HOOK_TRACE, .detail = mode};

	if (!deed.label || !is_armed())
		return 0;
	if (!is_own(child) && !(mode & PTRACE_MODE_ATTACH && is_held(child)))
		return 0;
	deed.acts = mode & PTRACE_MODE_ATTACH ? 1 << ACT_TRACE_ATTACH : 1 << ACT_TRACE_READ;
	return refuse_self(&deed, child, mode & PTRACE_MODE_NOAUDIT);
}

static __always_inline int guard_control(struct task_struct *target, __u32 detail)
{
	struct deed deed = {.label = current_label(), .hook = HOOK_CONTROL, .detail = detail};

	if (!deed.label || !is_armed() || !is_own(target))
		return 0;
	return refuse_self(&deed, target, false);
}

/* A limit of CPU time kills as well as a signal. */
SEC("lsm/task_setrlimit")
int BPF_PROG(on_guarded_limit, struct task_struct *target, unsigned int resource)
{
	return guard_control(target, resource);
}

SEC("lsm/task_setscheduler")
int BPF_PROG(on_guarded_scheduler, struct task_struct *target)
{
	return guard_control(target, 0);
}

SEC("lsm/task_setnice")
int BPF_PROG(on_guarded_nice, struct task_struct *target, int nice)
{
	return guard_control(target, 0);
}

/* As in attribution.bpf.c. */
struct {
	struct guarded guarded;
	struct refusal_record refusal;
} guard_types SEC("types") __attribute__((used)) = {};

char LICENSE[] SEC("license") = "GPL";
