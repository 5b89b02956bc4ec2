/* Keeps the current task from going on until user space has judged it.
 *
 * The hold is entered in the map first, so that the supervisor finds the task whatever happens to
 * the ring or the engine. Then its record is sent. Then the task waits on its CPU for a moment:
 * most verdicts come within it, and neither the task, nor its other threads, nor its parent notice
 * anything. Only when that was not enough it is stopped with SIGSTOP.
 *
 * The two sides agree through `struct wait`: each writes its own word before it reads the other's,
 * so either the kernel sees the verdict and does not stop, or user space sees that it is stopping
 * and sends SIGCONT when it has. */
#pragma once

#include "common.h"

#define SIGKILL 9
/* Always to the thread. It stops its whole process all the same; but one to the process does
 * nothing while another thread's is pending, and this thread would be in user mode before that one
 * stops it.
 */
#define SIGSTOP 19

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hold);
} hold_scratch SEC(".maps");

/* Zeroes a hold and fills in the identity of the current task. */
static __always_inline void fill_hold(struct hold *hold, const struct label *label, __u16 kind)
{
	__u64 id = bpf_get_current_pid_tgid();

	__builtin_memset(hold, 0, sizeof(*hold));
	hold->time_ns = bpf_ktime_get_boot_ns();
	hold->cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	hold->id = hold->time_ns << 8 | (hold->cpu & 0xff);
	hold->start_ns = label->start_ns;
	hold->tgid = id >> 32;
	hold->tid = (__u32)id;
	hold->session = label->session;
	hold->workload = label->workload;
	hold->kind = kind;
}

static __always_inline struct hold *new_hold(const struct label *label, __u16 kind)
{
	__u32 zero = 0;
	struct hold *hold = bpf_map_lookup_elem(&hold_scratch, &zero);

	if (hold)
		fill_hold(hold, label, kind);
	return hold;
}

/* Index: CPU, as a task that waits in a tracepoint cannot be preempted; after those, index of the
 * `struct work` that the call has claimed. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_WAITS);
	__type(key, __u32);
	__type(value, struct wait);
} waits SEC(".maps");

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

/* Enters the hold; false if that is not possible, and the workload's choice has been made. It says
 * that the task waits before anybody is told of it: who judges and finds it not waiting may then
 * take it for stopped. */
static __always_inline bool enter_hold(struct hold *hold, __u32 flags)
{
	__u32 cpu = hold->cpu;
	struct wait *wait = bpf_map_lookup_elem(&waits, &cpu);

	hold->state = HOLD_PENDING;
	if (!wait || !judged_here() || traced_by_agent() ||
	    bpf_map_update_elem(&holds, &hold->id, hold, BPF_NOEXIST)) {
		hold_failed(hold, flags);
		return false;
	}
	__sync_lock_test_and_set(&wait->waiting, hold->id);
	return true;
}

static __always_inline bool engine_is_awake(void)
{
	struct enforcing *now = get_enforcing();

	return now && *(volatile __u64 *)&now->awake;
}

static __always_inline void wake_engine(void)
{
	__u64 *nobody_reads_it = bpf_ringbuf_reserve(&hold_ring, sizeof(__u64), 0);

	if (nobody_reads_it)
		bpf_ringbuf_discard(nobody_reads_it, BPF_RB_FORCE_WAKEUP);
}

/* Tells of a hold; the record is `size` bytes of `scratch`, what follows the struct included, or
 * the struct alone where that does not fit any more. A full ring loses nothing: the engine sweeps
 * the map. An engine that is awake is not woken: it says that it sleeps before it looks at the ring
 * for the last time, so either it sees the record then, or that it sleeps is seen here, where the
 * record is in the ring (heartbeat.py). */
static __always_inline void announce(const struct hold *hold, struct scratch *scratch, __u32 size)
{
	__builtin_memcpy(scratch->bytes, hold, sizeof(*hold));
	if (size > SCRATCH_LEN ||
	    (bpf_ringbuf_output(&hold_ring, scratch->bytes, size, BPF_RB_NO_WAKEUP) &&
	     bpf_ringbuf_output(&hold_ring, scratch->bytes, sizeof(*hold), BPF_RB_NO_WAKEUP)))
		count_in(&failed_holds, hold->workload);
	else if (!engine_is_awake())
		wake_engine();
}

struct patience {
	struct wait *wait;
	__u64 id;
	__u64 deadline;
};

static long wait_step(__u32 index, void *data)
{
	struct patience *patience = data;

	if (*(volatile __u64 *)&patience->wait->decided == patience->id)
		return 1;
	return bpf_ktime_get_ns() > patience->deadline;
}

static __always_inline void wait_a_moment(struct wait *wait, __u64 id)
{
	__u32 zero = 0;
	struct settings *value = bpf_map_lookup_elem(&settings, &zero);
	struct patience patience = {.wait = wait, .id = id};

	if (!value || !value->patience_us)
		return;
	patience.deadline = bpf_ktime_get_ns() + value->patience_us * 1000ULL;
	bpf_loop(1 << 20, wait_step, &patience, 0);
}

/* Returns when the verdict is there, or with the task about to stop for it. */
static __always_inline void await_verdict(struct hold *hold, __u32 flags)
{
	__u32 cpu = hold->cpu;
	__u64 id = hold->id;
	struct wait *wait = bpf_map_lookup_elem(&waits, &cpu);

	if (!wait)
		return;
	wait_a_moment(wait, id);
	__sync_lock_test_and_set(&wait->stopping, id);
	if (*(volatile __u64 *)&wait->decided == id) {
		bpf_map_delete_elem(&holds, &id);
		__sync_lock_test_and_set(&wait->stopping, ~id);
	} else if (bpf_send_signal_thread(SIGSTOP)) {
		bpf_map_delete_elem(&holds, &id);
		hold_failed(hold, flags);
	} else {
		hold->state = HOLD_STOPPED;
		bpf_map_update_elem(&holds, &id, hold, BPF_EXIST);
	}
	__sync_lock_test_and_set(&wait->waiting, 0);
}
