/* What is done with the verdict on a call on a socket: refused and told, or held. */
#pragma once

#include "entry.h"
#include "netrules.h"

#define BLOCKED_BURST 4
#define MAX_ERRNO     4095

#if defined(__TARGET_ARCH_x86)
#define NR_SENDMMSG 307
#else
#define NR_SENDMMSG 269
#endif

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct seen_key);
	__type(value, __u32);
} blocked SEC(".maps");

/* What the rules on addresses say, if it is more severe than what is known already. */
static __noinline int judge_address(struct deed *deed, const struct target *target, __u32 use)
{
	struct judge judge = {.target = target, .use = use};
	__u32 action = ACTION_DENY;

	if (!deed || !target || !judge_target(deed->label, &judge))
		return 0;
	if (judge.flags & (RULE_ASK | RULE_KILL))
		action = judge.flags & RULE_ASK ? ACTION_ASK : ACTION_KILL;
	if (action > deed->action) {
		deed->action = action;
		deed->rule = SOCKET_RULE_BASE + judge.found - 1;
	}
	return 0;
}

static __always_inline void pack_subject(struct subject *subject, const struct deed *deed,
					 const struct target *target)
{
	__u32 port = target->port & (ANY_PORT - 1);

	subject->a = target->address[0];
	subject->b = target->address[1];
	subject->c = (__u64)target->family << 48 | (__u64)target->protocol << 16 | port;
	if (deed->hook == HOOK_SOCKET)
		subject->c = (__u64)target->family << 48 | (__u64)port << 32 |
			     (__u64)target->protocol << 16;
	subject->hook = deed->hook;
	subject->acts = 1 << ACT_CONNECT;
}

static __always_inline __u16 told_as(__u32 hook)
{
	if (hook == HOOK_SOCKET)
		return SOCKET_CREATE_BLOCKED;
	return hook == HOOK_BIND ? SOCKET_BIND_BLOCKED : SOCKET_BLOCKED;
}

/* Tells of a refusal that no path says all of. `judged` is 0 where nobody was there to judge. */
static __noinline int tell_blocked(struct work *work, const struct deed *deed,
				   const struct target *target, bool judged)
{
	const struct label *label = deed->label;
	struct socket_record *record = (void *)&work->scratch;
	struct seen_key key = {label->session, deed->hook, target->address[0], target->address[1],
			       target->port | (__u64)target->protocol << 32};
	__u32 *before = bpf_map_lookup_elem(&blocked, &key);
	__u32 count = before ? __sync_fetch_and_add(before, 1) + 1 : 1;

	if (!before)
		bpf_map_update_elem(&blocked, &key, &count, BPF_NOEXIST);
	if (count > BLOCKED_BURST && count & (count - 1))
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	fill_head(&record->head, REC_SOCKET, label);
	record->head.count = count;
	record->op = told_as(deed->hook);
	record->result = judged ? -EPERM : -EAGAIN;
	record->rule = deed->rule - SOCKET_RULE_BASE;
	record->family = target->family;
	record->protocol = target->protocol;
	record->port = target->port;
	__builtin_memcpy(record->address, target->address, sizeof(record->address));
	if (deed->name) {
		record->path_len = deed->name_len;
		bpf_probe_read_kernel(record->path, deed->name_len & 0x7f, deed->name);
	}
	send_record(record, sizeof(*record), label->workload);
	return 0;
}

static __always_inline void remember_refusal(void)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u32 one = 1;

	bpf_map_update_elem(&refused, &thread, &one, BPF_ANY);
}

/* Whether this is one of several messages of one call. When the first has been sent, the call
 * cannot be started again: it would say how many there were and keep the error for the next one. */
static __always_inline bool in_batch(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ(regs, orig_ax) == NR_SENDMMSG && BPF_CORE_READ(regs, dx) > 1;
#else
	return BPF_CORE_READ(regs, syscallno) == NR_SENDMMSG && BPF_CORE_READ(regs, regs[2]) > 1;
#endif
}

/* Carries out the verdict on a call whose subject is in `work`; the hook's result. */
static __noinline int settle(struct work *work, struct deed *deed, const struct target *target,
			     bool may_wait)
{
	bool asks = deed->action == ACTION_ASK;
	int result = -EPERM;

	if (asks && deed->hook == HOOK_SEND && in_batch())
		result = unjudged(work, deed, workload_flags(deed->label));
	else if (asks)
		result = ask(work, deed, may_wait);
	else
		result = refuse(work, deed);
	if (result != -EPERM)
		return result;
	remember_refusal();
	/* A held call that was denied is told by who has judged it. */
	if (!deed->from && deed->action != ACTION_ASK)
		tell_blocked(work, deed, target, !asks);
	return result;
}

/* A hook's result within the range that the verifier wants to see, of which it has lost sight. */
static __always_inline int hook_result(int result)
{
	barrier_var(result);
	if (!result)
		return 0;
	return result < 0 && result >= -MAX_ERRNO ? result : -EPERM;
}

/* `settle` for an address. */
static __noinline int settle_address(struct deed *deed, const struct target *target)
{
	struct work *work = claim_work();

	if (!work)
		return -EAGAIN;
	pack_subject(&work->subject, deed, target);
	int result = settle(work, deed, target, true);
	give_back(work);
	return result;
}
