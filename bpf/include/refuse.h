/* A refusal by rule, carried out and told. */
#pragma once

#include "decide.h"

/* Tells of a refusal; the decision does not wait for that or depend on it. */
static __always_inline void tell_times(struct work *work, const struct deed *deed, __u32 count)
{
	struct scratch *scratch = &work->scratch;
	struct refusal_record *record = (void *)scratch;
	struct dentry *from = deed->from;
	__u32 at = sizeof(*record);

	if (!from && deed->hook < HOOK_TRACE) /* an address: told by who judges those */
		return;
	fill_head(&record->head, REC_REFUSAL, deed->label);
	record->head.count = count;
	record->ino = BPF_CORE_READ(from, d_inode, i_ino);
	record->dev = BPF_CORE_READ(from, d_inode, i_sb, s_dev);
	record->hook = deed->hook;
	record->acts = deed->acts;
	record->action = deed->action;
	record->rule = deed->rule;
	record->version = deed->version;
	record->target = deed->target;
	record->detail = deed->detail;
	record->path_len = write_names(scratch, at, from, deed->mnt);
	at += record->path_len;
	record->to_len = deed->to ? write_names(scratch, at, deed->to, deed->mnt) : 0;
	at += record->to_len;
	if (at <= SCRATCH_LEN)
		send_record(scratch, at, deed->label->workload);
}

static __always_inline void tell_refusal(struct work *work, const struct deed *deed)
{
	tell_times(work, deed, 1);
}

/* Carries out a static refusal: the hook's result. */
static __noinline __attribute__((unused)) int refuse(struct work *work, struct deed *deed)
{
	if (!work || !deed)
		return -EPERM;
	if (deed->action == ACTION_KILL)
		bpf_send_signal(SIGKILL);
	tell_refusal(work, deed);
	return -EPERM;
}
