/* Holds at the entry of a call: the thread is stopped before the call has any effect, and the
 * kernel starts the call again once the verdict is there (-ERESTARTNOINTR). Only when the verdict
 * comes within a moment the call simply goes on.
 *
 * An answer belongs to one call: it is taken by the first hook that asks for the same subject. That
 * on an exec stays until the exec is done, because the interpreter of a script may be held as well,
 * and then the call starts again from the script. */
#pragma once

#include "refuse.h"
#include "hold.h"

#define ERESTARTNOINTR	  513
#define PF_IO_WORKER	  0x00000010
#define NR_IO_URING_ENTER 426

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct answer_key);
	__type(value, struct answer);
} answers SEC(".maps");

/* The hold of each thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct pending);
} pendings SEC(".maps");

static __always_inline bool same_subject(const struct subject *one, const struct subject *other)
{
	return one->a == other->a && one->b == other->b && one->c == other->c &&
	       one->hook == other->hook && one->acts == other->acts;
}

/* Takes the verdict on this call, if there is one: 0 or a negative errno. */
static __always_inline bool take_answer(const struct label *label, const struct subject *subject,
					int *result)
{
	struct answer_key key = {.thread = bpf_get_current_pid_tgid(), .hook = subject->hook};
	struct answer *answer = bpf_map_lookup_elem(&answers, &key);

	if (!answer)
		return false;
	bool ours = same_subject(&answer->subject, subject) &&
		    answer->start_ns == label->start_ns &&
		    bpf_ktime_get_boot_ns() < answer->until_ns;
	*result = answer->result ? -EPERM : 0; /* Linux 6.12 wants to see that it is an errno */
	if (ours)			       /* the same call made once more is another one */
		bpf_map_delete_elem(&pendings, &key.thread);
	if (!ours || (key.hook != HOOK_EXEC && key.hook != HOOK_INTERPRETER))
		bpf_map_delete_elem(&answers, &key);
	return ours;
}

/* Whether this thread's call can be started again. What io_uring does on a program's behalf
 * cannot: it would be told -EINTR. */
static __always_inline bool restartable(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (BPF_CORE_READ(task, flags) & PF_IO_WORKER)
		return false;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	return syscall_number(regs) != NR_IO_URING_ENTER;
}

/* Whether a shell with job control waits for this task directly: it would take a stop for one of
 * the user's. Such a shell puts what it starts into process groups of their own. */
static __always_inline bool shell_waits(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct pid *session = BPF_CORE_READ(task, signal, pids[PIDTYPE_SID]);
	struct pid *group = BPF_CORE_READ(task, signal, pids[PIDTYPE_PGID]);

	return BPF_CORE_READ(task, signal, tty) && BPF_CORE_READ(task, group_leader) &&
	       session == BPF_CORE_READ(parent, signal, pids[PIDTYPE_SID]) &&
	       group != BPF_CORE_READ(parent, signal, pids[PIDTYPE_PGID]);
}

/* Where no verdict is to be had, the workload's choice. */
static __always_inline int unjudged(struct work *work, struct deed *deed, __u32 flags)
{
	count_in(&failed_holds, deed->label->workload);
	if (!(flags & HOLDS_FAIL_CLOSED))
		return 0;
	deed->action = ACTION_DENY;
	tell_refusal(work, deed);
	return -EPERM;
}

/* Stops the thread, unless the verdict is there by now. */
static __always_inline int stop_for(struct work *work, const struct subject *subject,
				    struct wait *wait, struct deed *deed, __u32 flags)
{
	struct hold *hold = &work->hold;
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 id = hold->id;
	int result = -EPERM;

	__sync_lock_test_and_set(&wait->stopping, id);
	if (*(volatile __u64 *)&wait->decided == id) {
		bpf_map_delete_elem(&holds, &id);
		bpf_map_delete_elem(&pendings, &thread);
		__sync_lock_test_and_set(&wait->stopping, ~id);
		__sync_lock_test_and_set(&wait->waiting, 0);
		return take_answer(deed->label, subject, &result) ? result : -EPERM;
	}
	if (bpf_send_signal_thread(SIGSTOP)) {
		bpf_map_delete_elem(&holds, &id);
		bpf_map_delete_elem(&pendings, &thread);
		__sync_lock_test_and_set(&wait->waiting, 0);
		return unjudged(work, deed, flags);
	}
	hold->state = HOLD_STOPPED;
	bpf_map_update_elem(&holds, &id, hold, BPF_EXIST);
	__sync_lock_test_and_set(&wait->waiting, 0);
	return -ERESTARTNOINTR;
}

/* Somebody has woken the thread before its verdict: another one of its process, for whom a verdict
 * came, or a stranger. It stops again for the same hold. Each side writes before it reads: here the
 * slot and then the answer, there the answer and then the slot. */
static __always_inline int stop_again(struct work *work, struct hold *open, struct wait *wait,
				      struct deed *deed, __u32 flags)
{
	int result = 0;

	__builtin_memcpy(&work->hold, open, sizeof(*open));
	work->hold.cpu = MAX_CPUS + work->index;
	__sync_lock_test_and_set(&wait->waiting, work->hold.id);
	__sync_lock_test_and_set(&open->cpu, work->hold.cpu);
	if (take_answer(deed->label, &work->subject, &result)) {
		__sync_lock_test_and_set(&wait->waiting, 0);
		return result;
	}
	return stop_for(work, &work->subject, wait, deed, flags);
}

/* Asks user space for the verdict on a call, whose subject is `work->subject`; the hook's result.
 * Not `may_wait` where a lock is held. */
static __noinline int ask(struct work *work, struct deed *deed, bool may_wait)
{
	__u32 flags = workload_flags(deed->label);
	__u64 thread = bpf_get_current_pid_tgid();
	struct subject *subject = &work->subject;
	struct hold *hold = &work->hold;
	__u32 size = sizeof(*hold);
	int result = 0;

	if (take_answer(deed->label, subject, &result))
		return result;
	__u32 index = MAX_CPUS + work->index;
	struct wait *wait = bpf_map_lookup_elem(&waits, &index);
	if (!wait || !judged_here() || !restartable() || traced_by_agent())
		return unjudged(work, deed, flags);
	struct pending *before = bpf_map_lookup_elem(&pendings, &thread);
	if (before && same_subject(&before->subject, subject)) {
		struct hold *open = bpf_map_lookup_elem(&holds, &before->id);
		if (open && open->state != HOLD_DECIDED)
			return stop_again(work, open, wait, deed, flags);
	}

	fill_hold(hold, deed->label, HOLD_CALL);
	hold->cpu = index;
	hold->ino = subject->a;
	hold->peer_ino = subject->b;
	hold->address = subject->c;
	hold->syscall = subject->hook;
	hold->access = subject->acts;
	hold->state = HOLD_PENDING;
	hold->dev = deed->rule;
	hold->fd = deed->detail;
	work->pending.subject = *subject;
	work->pending.id = hold->id;
	if (deed->name) {
		__u32 len = deed->name_len & 0x7f;
		bpf_probe_read_kernel(&work->scratch.bytes[sizeof(*hold)], len, deed->name);
		hold->length = len;
		size += len;
	}
	if (deed->from) {
		hold->length = write_names(&work->scratch, size, deed->from, deed->mnt);
		size += hold->length;
	}
	if (deed->to) {
		hold->iovcnt = write_names(&work->scratch, size, deed->to, deed->mnt);
		size += hold->iovcnt;
	}
	if (bpf_map_update_elem(&holds, &hold->id, hold, BPF_NOEXIST) ||
	    bpf_map_update_elem(&pendings, &thread, &work->pending, BPF_ANY))
		return unjudged(work, deed, flags);
	__sync_lock_test_and_set(&wait->waiting, hold->id);
	announce(hold, &work->scratch, size);
	if (may_wait)
		wait_a_moment(wait, hold->id);
	return stop_for(work, subject, wait, deed, flags);
}

/* The subject of a call on a file that exists. */
static __always_inline void fill_subject(struct work *work, const struct deed *deed)
{
	struct subject *subject = &work->subject;

	subject->a = work->place.inode.ino;
	subject->b = work->place.inode.dev;
	subject->c = 0;
	subject->hook = deed->hook;
	subject->acts = deed->acts;
}
