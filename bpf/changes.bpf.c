/* Deletes, renames, hard links and truncations by labelled tasks, after the fact: the paths are
 * the strings of the call with the directory they start from. Attempts that failed are told too,
 * but not those that found nothing there. */
#include "include/moves.h"
#include "include/path.h"
#include "include/syscall.h"

#define CHANGE_BURST 64
#define PATH_GIVEN   4096
#define AT_FDCWD     -100
#define ENOENT	     2

struct place {
	int dirfd;
	const char *path;
};

static __always_inline const struct path *base_of(struct task_struct *task, int dirfd)
{
	if (dirfd == AT_FDCWD) {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);
		return &fs->pwd;
	}
	struct file *file = file_of(task, dirfd);
	return file ? &file->f_path : NULL;
}

/* Appends base components and the given path at `at`; returns how far it wrote. */
static __always_inline __u32 write_place(struct scratch *scratch, __u32 at,
					 const struct place *place, __u32 *base_len,
					 __u32 *path_len)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	char first = 0;
	long len;

	*base_len = 0;
	*path_len = 0;
	bpf_probe_read_user(&first, 1, place->path);
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	const struct path *base = first == '/' ? &fs->root : base_of(task, place->dirfd);
	if (base)
		*base_len = write_path(scratch, at, base);
	at += *base_len;
	if (at > SCRATCH_LEN - PATH_GIVEN)
		return at;
	len = bpf_probe_read_user_str(&scratch->bytes[at], PATH_GIVEN, place->path);
	*path_len = len > 0 ? len & (2 * PATH_GIVEN - 1) : 0;
	return at + *path_len;
}

static __always_inline int report(struct bpf_raw_tracepoint_args *ctx, const struct place *from,
				  const struct place *to)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *scratch = get_scratch();
	struct change_record *record = (void *)scratch;
	struct label *label = current_label();
	long result = result_of(ctx);

	if (!label || !scratch || result == -ENOENT)
		return 0;
	fill_head(&record->head, REC_CHANGE, label);
	record->op = syscall_number(saved_regs(ctx));
	record->result = result;

	const struct path *base = base_of(task, from->dirfd);
	struct seen_key key = {label->session, REC_CHANGE, record->op,
			       base ? (__u64)BPF_CORE_READ(base, dentry) : 0, (__u64)result};
	record->head.count = worth_telling(&key, CHANGE_BURST);
	__u32 flags = workload_flags(label);
	bool moves_watched = to && !result && flags & HOLDS_OPENS;
	if (flags & TELLS_CHANGES || moves_watched)
		record->head.count = 1;
	if (!record->head.count)
		return 0;

	__u32 at =
		write_place(scratch, sizeof(*record), from, &record->base_len, &record->path_len);
	record->to_base_len = 0;
	record->to_path_len = 0;
	if (to && at < SCRATCH_LEN)
		at = write_place(scratch, at, to, &record->to_base_len, &record->to_path_len);
	if (at > SCRATCH_LEN)
		return 0;
	if (!moves_watched) {
		send_record(scratch, at, label->workload);
		return 0;
	}
	__u64 now = record->head.time_ns;
	bpf_map_update_elem(&moves, &label->session, &now, BPF_ANY);
	send_urgent(scratch, at, label->workload);
	return 0;
}

#define PARM(n) PT_REGS_PARM##n##_CORE_SYSCALL(saved_regs(ctx))

/* unlink, rmdir, truncate: (path) */
HANDLER(after_change)
{
	struct place place = {AT_FDCWD, (const char *)PARM(1)};
	return report(ctx, &place, NULL);
}

HANDLES(after_change, unlink)
HANDLES(after_change, rmdir)
HANDLES(after_change, truncate)

/* unlinkat: (dirfd, path) */
HANDLER(after_change_at)
{
	struct place place = {(int)PARM(1), (const char *)PARM(2)};
	return report(ctx, &place, NULL);
}

HANDLES(after_change_at, unlinkat)

/* rename, link: (old, new) */
HANDLER(after_move)
{
	struct place from = {AT_FDCWD, (const char *)PARM(1)};
	struct place to = {AT_FDCWD, (const char *)PARM(2)};
	return report(ctx, &from, &to);
}

HANDLES(after_move, rename)
HANDLES(after_move, link)

/* renameat, renameat2, linkat: (olddirfd, old, newdirfd, new) */
HANDLER(after_move_at)
{
	struct place from = {(int)PARM(1), (const char *)PARM(2)};
	struct place to = {(int)PARM(3), (const char *)PARM(4)};
	return report(ctx, &from, &to);
}

HANDLES(after_move_at, renameat)
HANDLES(after_move_at, renameat2)
HANDLES(after_move_at, linkat)

char LICENSE[] SEC("license") = "GPL";
