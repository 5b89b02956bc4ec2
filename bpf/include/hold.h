/* Stops the current task until user space has judged it.
 *
 * Order: the map entry first (so that the supervisor finds the task whatever happens to the ring
 * or the engine), then SIGSTOP, then the record: a SIGCONT can never come before the stop. */
#pragma once

#include "common.h"

#define SIGKILL 9
#define SIGSTOP 19

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hold);
} hold_scratch SEC(".maps");

/* A zeroed hold for the current task with its identity filled in. */
static __always_inline struct hold *new_hold(const struct label *label, __u16 kind)
{
	__u32 zero = 0;
	struct hold *hold = bpf_map_lookup_elem(&hold_scratch, &zero);
	__u64 id = bpf_get_current_pid_tgid();

	if (!hold)
		return NULL;
	__builtin_memset(hold, 0, sizeof(*hold));
	hold->time_ns = bpf_ktime_get_boot_ns();
	hold->id = hold->time_ns << 8 | (bpf_get_smp_processor_id() & 0xff);
	hold->start_ns = label->start_ns;
	hold->tgid = id >> 32;
	hold->tid = (__u32)id;
	hold->session = label->session;
	hold->workload = label->workload;
	hold->kind = kind;
	return hold;
}

static __always_inline void hold_failed(const struct hold *hold, __u32 flags)
{
	count_in(&failed_holds, hold->workload);
	if (flags & HOLDS_FAIL_CLOSED)
		bpf_send_signal(SIGKILL);
}

/* A tracer is told of SIGSTOP first and can swallow it. One that belongs to a session itself does
 * not decide for agentd; one from outside (a person with strace) is trusted to pass it on. */
static __always_inline bool traced_by_agent(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, ptrace) && label_of(BPF_CORE_READ(task, parent, tgid));
}

static __always_inline bool stop_current(struct hold *hold, __u32 flags)
{
	hold->state = HOLD_PENDING;
	if (traced_by_agent() || bpf_map_update_elem(&holds, &hold->id, hold, BPF_NOEXIST)) {
		hold_failed(hold, flags);
		return false;
	}
	if (bpf_send_signal(SIGSTOP)) {
		bpf_map_delete_elem(&holds, &hold->id);
		hold_failed(hold, flags);
		return false;
	}
	hold->state = HOLD_STOPPED;
	bpf_map_update_elem(&holds, &hold->id, hold, BPF_EXIST);
	return true;
}

static __always_inline void take_hold(struct hold *hold, __u32 flags)
{
	if (!stop_current(hold, flags))
		return;
	/* A full ring loses nothing: the engine sweeps the map. */
	if (bpf_ringbuf_output(&hold_ring, hold, sizeof(*hold), 0))
		count_in(&failed_holds, hold->workload);
}

/* Tells of a stop whose record is `size` bytes of `scratch`, what follows the struct included. */
static __always_inline void announce(const struct hold *hold, struct scratch *scratch, __u32 size)
{
	__builtin_memcpy(scratch->bytes, hold, sizeof(*hold));
	if (size > SCRATCH_LEN || bpf_ringbuf_output(&hold_ring, scratch->bytes, size, 0))
		count_in(&failed_holds, hold->workload);
}
