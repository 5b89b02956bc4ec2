/* What every hook needs: the label of the current task, the head of a record, losses. */
#pragma once

#include "maps.h"

#define S_IFMT 0170000

static __always_inline __u32 current_tgid(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, tgid);
}

/* The byte of a process in `labelled`; NULL for a number that is too high to have one. */
static __always_inline volatile __u8 *labelled_byte(__u32 tgid)
{
	__u32 index = tgid / LABELLED_ROW;
	struct labelled_row *row = bpf_map_lookup_elem(&labelled, &index);
	return row ? &row->of[tgid % LABELLED_ROW] : NULL;
}

static __always_inline bool may_have_label(__u32 tgid)
{
	volatile __u8 *byte = labelled_byte(tgid);

	return !byte || *byte;
}

static __always_inline struct label *label_of(__u32 tgid)
{
	return may_have_label(tgid) ? bpf_map_lookup_elem(&labels, &tgid) : NULL;
}

static __always_inline struct label *current_label(void)
{
	return label_of(bpf_get_current_pid_tgid() >> 32);
}

/* The key under which the current thread keeps a place in `labels` for the child it is making. */
static __always_inline __u32 reservation(void)
{
	return (__u32)bpf_get_current_pid_tgid() | LABEL_RESERVED;
}

static __always_inline __u32 workload_flags(const struct label *label)
{
	__u32 index = label->workload;
	struct workload *workload = bpf_map_lookup_elem(&workloads, &index);
	return workload ? workload->flags : 0;
}

static __always_inline __u32 settings_flags(void)
{
	__u32 zero = 0;
	struct settings *value = bpf_map_lookup_elem(&settings, &zero);
	return value ? value->flags : 0;
}

static __always_inline __u32 settings_generation(void)
{
	__u32 zero = 0;
	struct settings *value = bpf_map_lookup_elem(&settings, &zero);
	return value ? value->generation : 0;
}

static __always_inline struct enforcing *get_enforcing(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&enforcing, &zero);
}

#define ALIVE_NS 2000000000LL

/* Whether anybody is there to judge what is held. */
static __always_inline bool judged_here(void)
{
	struct enforcing *now = get_enforcing();

	/* Signed: the word may have been written since, on another CPU. */
	return now && (__s64)(bpf_ktime_get_boot_ns() - now->alive_ns) < ALIVE_NS;
}

static __always_inline struct scratch *get_scratch(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&scratches, &zero);
}

static __always_inline void count_in(void *map, __u32 workload)
{
	__u64 *count = bpf_map_lookup_elem(map, &workload);
	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void fill_head(struct record *head, __u16 kind, const struct label *label)
{
	__u64 id = bpf_get_current_pid_tgid();

	head->kind = kind;
	head->workload = label->workload;
	head->session = label->session;
	head->time_ns = bpf_ktime_get_boot_ns();
	head->start_ns = label->start_ns;
	head->tgid = id >> 32;
	head->tid = (__u32)id;
	head->uid = (__u32)bpf_get_current_uid_gid();
	head->count = 1;
	__builtin_memset(head->comm, 0, sizeof(head->comm)); /* Linux 6.1 pads nothing */
	bpf_get_current_comm(head->comm, sizeof(head->comm));
}

/* While records come the engine looks every now and then by itself (agentd/daemon/pace.py), so it
 * is woken only by the first after a pause, and when a burst begins to fill the ring. */
static __always_inline __u64 wakeup_flags(void)
{
	__u32 zero = 0;
	__u64 now = bpf_ktime_get_ns();
	__u64 *sent = bpf_map_lookup_elem(&last_sent, &zero);
	__u64 before = sent ? *(volatile __u64 *)sent : 0;
	struct settings *value = bpf_map_lookup_elem(&settings, &zero);

	if (sent)
		*(volatile __u64 *)sent = now;
	if (!value || now - before > value->quiet_us * 1000ULL)
		return BPF_RB_FORCE_WAKEUP;
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > EVENTS_LEN / 8 ? BPF_RB_FORCE_WAKEUP
									      : BPF_RB_NO_WAKEUP;
}

/* Sends `size` bytes that start with a struct record; a full ring is counted as a loss. */
static __always_inline void send_record(void *data, __u64 size, __u32 workload)
{
	if (bpf_ringbuf_output(&events, data, size, wakeup_flags()))
		count_in(&losses, workload);
}

/* The same for a record on which labels or watched inodes depend: the engine looks at once. */
static __always_inline void send_urgent(void *data, __u64 size, __u32 workload)
{
	if (bpf_ringbuf_output(&events, data, size, BPF_RB_FORCE_WAKEUP))
		count_in(&losses, workload);
}

/* Counts an event of a session; returns how many of its kind there have been. */
static __always_inline __u64 count_total(__u32 session, __u32 kind)
{
	struct total_key key = {session, kind};
	__u64 *total = bpf_map_lookup_elem(&totals, &key);
	__u64 none = 0;

	if (!total) {
		bpf_map_update_elem(&totals, &key, &none, BPF_NOEXIST);
		total = bpf_map_lookup_elem(&totals, &key);
	}
	return total ? __sync_fetch_and_add(total, 1) + 1 : 0;
}

/* Returns how often this has been seen, or 0 if its record can be left out: only the first `burst`
 * and then every power of two are worth one. `key->kind` is the kind of record in its low byte;
 * what is above tells events of one kind apart. */
static __always_inline __u32 fold(const struct seen_key *key, __u32 burst)
{
	__u32 *count = bpf_map_lookup_elem(&seen, key);
	__u32 now = 1;

	if (!count) {
		if (!bpf_map_update_elem(&seen, key, &now, BPF_NOEXIST))
			return 1;
		count = bpf_map_lookup_elem(&seen, key); /* another CPU was first */
		if (!count)
			return 1;
	}
	now = __sync_fetch_and_add(count, 1) + 1;
	return now <= burst || !(now & (now - 1)) ? now : 0;
}

/* The same, for an event that is counted with the others of its kind, too. */
static __always_inline __u32 worth_telling(const struct seen_key *key, __u32 burst)
{
	count_total(key->session, key->kind & 0xff);
	return fold(key, burst);
}

static __always_inline __u64 leader_start(struct task_struct *task)
{
	return BPF_CORE_READ(task, group_leader, start_boottime);
}

/* The number of the system call whose registers these are. */
static __always_inline __u32 syscall_number(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ(regs, orig_ax);
#elif defined(__TARGET_ARCH_arm64)
	return BPF_CORE_READ(regs, syscallno);
#else
#error "unknown architecture"
#endif
}
