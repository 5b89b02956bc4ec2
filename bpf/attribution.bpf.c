/* Labels follow fork in the kernel, so that a child is labelled before it can run, and end with
 * the process. A new process never keeps what an earlier one left under its number. */
#include "include/common.h"

#define FORK_BURST 64

/* Whatever was known under the number of a process that is gone. */
static __always_inline void forget(__u32 tgid)
{
	volatile __u8 *byte = labelled_byte(tgid);

	if (byte && !*byte)
		return;
	bpf_map_delete_elem(&labels, &tgid);
	if (byte)
		*byte = 0;
}

SEC("raw_tp/sched_process_fork")
int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *child = (void *)ctx->args[1];
	__u32 child_tgid = BPF_CORE_READ(child, tgid);
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct label *label;

	if (child_tgid == tgid)
		return 0; /* a thread */
	label = label_of(tgid);
	if (!label) {
		forget(child_tgid);
		return 0;
	}
	struct label inherited = *label;
	inherited.start_ns = BPF_CORE_READ(child, start_boottime);
	__u32 reserved = reservation();
	volatile __u8 *byte = labelled_byte(child_tgid);
	if (byte)
		*byte = 1;
	/* The place that on_task_alloc has kept is used when there is no other. */
	if (bpf_map_update_elem(&labels, &child_tgid, &inherited, BPF_ANY) &&
	    (bpf_map_delete_elem(&labels, &reserved) ||
	     bpf_map_update_elem(&labels, &child_tgid, &inherited, BPF_ANY)))
		count_in(&losses, inherited.workload);
	bpf_map_delete_elem(&labels, &reserved);

	struct seen_key key = {label->session, REC_FORK, tgid, label->start_ns, 0};
	struct fork_record record = {};
	fill_head(&record.head, REC_FORK, label);
	record.head.count = worth_telling(&key, FORK_BURST);
	if (!record.head.count)
		return 0;
	record.child = child_tgid;
	record.child_start_ns = inherited.start_ns;
	send_record(&record, sizeof(record), label->workload);
	return 0;
}

/* From here on nothing is held that nobody would judge. */
static __always_inline void judge_ends(__u32 tgid)
{
	struct enforcing *now = get_enforcing();

	if (!now || (now->judges[0] != tgid && now->judges[1] != tgid))
		return;
	now->judges[now->judges[0] != tgid] = 0;
	if (!now->judges[0] && !now->judges[1])
		now->alive_ns = 0;
}

SEC("raw_tp/sched_process_exit")
int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	__u32 tgid = BPF_CORE_READ(task, tgid);
	struct label *label = label_of(tgid);
	struct exit_record record = {};
	__u32 reserved = reservation();

	if (label) /* of a fork that has failed */
		bpf_map_delete_elem(&labels, &reserved);
	if (BPF_CORE_READ(task, signal, live.counter) > 0)
		return 0;
	judge_ends(tgid);
	if (!label) {
		forget(tgid);
		return 0;
	}
	count_total(label->session, REC_EXIT);
	fill_head(&record.head, REC_EXIT, label);
	record.code = BPF_CORE_READ(task, exit_code);
	if (BPF_CORE_READ(task, signal, flags) & 4) /* SIGNAL_GROUP_EXIT */
		record.code = BPF_CORE_READ(task, signal, group_exit_code);
	send_record(&record, sizeof(record), label->workload);
	forget(tgid);
	return 0;
}

/* The compiler describes in BTF only what maps and globals are made of. With this the records are
 * there too, for the test that compares them with user space; libbpf leaves the section out. */
struct {
	struct fork_record fork;
	struct candidate_record candidate;
	struct exec_record exec;
	struct exit_record exit;
	struct open_record open;
	struct change_record change;
	struct socket_record socket;
	struct data_record data;
	struct channel channel;
} wire_types SEC("types") __attribute__((used)) = {};

char LICENSE[] SEC("license") = "GPL";
