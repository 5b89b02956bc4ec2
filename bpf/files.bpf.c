/* Opens of labelled tasks, when the call returns: writes to regular files become records, reads
 * only where a name or an inode is watched. An open that a rule must judge stops the task before
 * it can use the file. Where a hook decides on opens, it does all this before, and no call that
 * opens is looked at here. */
#include "include/hold.h"
#include "include/moves.h"
#include "include/opens.h"
#include "include/syscall.h"

static __always_inline void hold_open(const struct label *label, const struct opened *opened,
				      struct scratch *scratch, __u32 fd, __u32 syscall, __u32 flags)
{
	struct hold *hold = new_hold(label, HOLD_OPEN);
	struct file *file = opened->file;
	__u32 size = sizeof(*hold);

	if (!hold)
		return;
	hold->length = write_path(scratch, size, &file->f_path);
	size += hold->length;
	if (opened->alias)
		size += write_names(scratch, size, opened->alias, BPF_CORE_READ(file, f_path.mnt));
	count_total(label->session, REC_OPEN);
	hold->ino = opened->id.ino;
	hold->dev = opened->id.dev;
	hold->access = opened->access;
	hold->fd = fd;
	hold->syscall = syscall;
	if (enter_hold(hold, flags)) {
		announce(hold, scratch, size);
		await_verdict(hold, flags);
	}
}

/* A descriptor of a file, which the task has not got yet. */
static __always_inline int judge(struct bpf_raw_tracepoint_args *ctx, long fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *scratch = get_scratch();
	struct label *label = current_label();
	struct opened opened = {};
	struct seen_key cold = {};

	if (!label || !scratch || !look_at(&opened, file_of(task, fd)))
		return 0;
	fill_cold(&cold, &opened);
	if (!bpf_map_lookup_elem(&cold_files, &cold))
		find_rules(&opened, &cold, scratch);
	__u32 flags = workload_flags(label);
	if (flags & HOLDS_OPENS && (opened.flags & NAME_HOLD || moves_unsettled(label->session)))
		hold_open(label, &opened, scratch, fd, syscall_number(saved_regs(ctx)), flags);
	else if (opened.flags || opened.access & ACCESS_WRITE)
		report_open(label, &opened, scratch, flags);
	return 0;
}

HANDLER(after_open)
{
	long fd = result_of(ctx);

	return fd < 0 || settings_flags() & MASK_OPENS_AT_ENTRY ? 0 : judge(ctx, fd);
}

HANDLES(after_open, open)
HANDLES(after_open, openat)
HANDLES(after_open, openat2)
HANDLES(after_open, creat)
HANDLES(after_open, open_by_handle_at)

/* From another process. */
HANDLER(after_getfd)
{
	long fd = result_of(ctx);

	return fd < 0 ? 0 : judge(ctx, fd);
}

HANDLES(after_getfd, pidfd_getfd)

char LICENSE[] SEC("license") = "GPL";
