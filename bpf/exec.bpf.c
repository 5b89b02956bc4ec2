/* Reports what labelled tasks execute, and stops those that a rule must judge before the first
 * instruction of the new program. For unlabelled tasks it tells only that there was an exec, and
 * only while some workload has selectors. */
#include "include/hold.h"
#include "include/path.h"

#define FILENAME_ROOM 4096
#define ARGS_ROOM     1024

/* Programs that no selector can match, until when (CLOCK_BOOTTIME). User space says so, and only
 * for seconds: a directory above a program may get another name. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct program);
	__type(value, __u64);
} dull_programs SEC(".maps");

struct last_part {
	char *text;
	__u32 start;
};

static long find_last_part(__u32 index, void *data)
{
	struct last_part *part = data;

	if (index >= FILENAME_ROOM || !part->text[index])
		return 1;
	if (part->text[index] == '/')
		part->start = index + 1;
	return 0;
}

/* Whether a rule names the program, or the script that it is to interpret. */
static __always_inline bool exec_named(struct linux_binprm *bprm)
{
	struct scratch *scratch = get_scratch();
	struct name key = {.kind = NAME_EXEC};

	bpf_probe_read_kernel_str(key.text, sizeof(key.text),
				  BPF_CORE_READ(bprm, file, f_path.dentry, d_name.name));
	if (bpf_map_lookup_elem(&names, &key))
		return true;
	struct inode *inode = BPF_CORE_READ(bprm, file, f_inode);
	struct file_id id = {.ino = BPF_CORE_READ(inode, i_ino),
			     .dev = BPF_CORE_READ(inode, i_sb, s_dev)};
	__u32 *known = bpf_map_lookup_elem(&files, &id);
	if (known && *known & NAME_RUN)
		return true;
	if (!scratch)
		return false;
	struct last_part part = {.text = (char *)scratch->bytes};
	bpf_probe_read_kernel_str(scratch->bytes, FILENAME_ROOM, BPF_CORE_READ(bprm, filename));
	bpf_loop(FILENAME_ROOM, find_last_part, &part, 0);
	__builtin_memset(key.text, 0, sizeof(key.text));
	if (part.start <= FILENAME_ROOM)
		bpf_probe_read_kernel_str(key.text, sizeof(key.text), &scratch->bytes[part.start]);
	return bpf_map_lookup_elem(&names, &key);
}

/* Appends the executable, the working directory where the file name is relative, and the file
 * name. Returns how far it wrote. */
static __always_inline __u32 write_program(struct scratch *scratch, __u32 at,
					   struct linux_binprm *bprm, __u32 *exe_len,
					   __u32 *cwd_len, __u32 *filename_len)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const char *filename = BPF_CORE_READ(bprm, filename);
	struct file *file = BPF_CORE_READ(bprm, file);
	char first = 0;

	*cwd_len = 0;
	*exe_len = write_path(scratch, at, &file->f_path);
	at += *exe_len;
	bpf_probe_read_kernel(&first, 1, filename);
	if (first != '/') {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);
		*cwd_len = write_path(scratch, at, &fs->pwd);
		at += *cwd_len;
	}
	if (at > SCRATCH_LEN - FILENAME_ROOM)
		return at;
	long len = bpf_probe_read_kernel_str(&scratch->bytes[at], FILENAME_ROOM, filename);
	*filename_len = len > 0 ? len & (2 * FILENAME_ROOM - 1) : 0;
	return at + *filename_len;
}

/* The hold of the current task if a rule must judge this exec. */
static __always_inline struct hold *hold_exec(const struct label *label, struct linux_binprm *bprm,
					      __u32 flags)
{
	if (!(flags & HOLDS_EXECS))
		return NULL;
	if (!(settings_flags() & MASK_EXEC_ALL) && !exec_named(bprm))
		return NULL;
	struct hold *hold = new_hold(label, HOLD_EXEC);
	if (!hold)
		return NULL;
	hold->ino = BPF_CORE_READ(bprm, file, f_inode, i_ino);
	hold->dev = BPF_CORE_READ(bprm, file, f_inode, i_sb, s_dev);
	return enter_hold(hold, flags) ? hold : NULL;
}

static __always_inline void announce_exec(struct hold *hold, struct linux_binprm *bprm)
{
	struct scratch *scratch = get_scratch();
	__u32 exe_len = 0, cwd_len = 0, filename_len = 0;

	if (!scratch)
		return;
	__u32 size = write_program(scratch, sizeof(*hold), bprm, &exe_len, &cwd_len, &filename_len);
	hold->length = exe_len;
	hold->iovcnt = cwd_len;
	announce(hold, scratch, size);
}

static __always_inline void report_candidate(struct task_struct *task, struct linux_binprm *bprm)
{
	struct scratch *scratch = get_scratch();
	struct candidate_record *record = (void *)scratch;
	struct label none = {.start_ns = leader_start(task)};

	if (!(settings_flags() & MASK_CANDIDATES) || !scratch)
		return;
	struct file *file = BPF_CORE_READ(bprm, file);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct program program = {.ino = BPF_CORE_READ(inode, i_ino),
				  .parent = (__u64)BPF_CORE_READ(dentry, d_parent),
				  .name = BPF_CORE_READ(dentry, d_name.hash_len),
				  .dev = BPF_CORE_READ(inode, i_sb, s_dev),
				  .generation = settings_generation()};
	__u64 *until = bpf_map_lookup_elem(&dull_programs, &program);
	if (until && *until > bpf_ktime_get_boot_ns())
		return;
	fill_head(&record->head, REC_CANDIDATE, &none);
	record->program = program;
	record->path_len = write_path(scratch, sizeof(*record), &file->f_path);
	record->pad = 0;
	__u32 size = sizeof(*record) + record->path_len;
	if (size <= SCRATCH_LEN)
		send_urgent(scratch, size, 0);
}

static __always_inline void report_exec(const struct label *label, struct task_struct *task,
					struct linux_binprm *bprm, bool held)
{
	struct scratch *scratch = get_scratch();
	struct exec_record *record = (void *)scratch;
	__u32 at = sizeof(*record);

	if (!scratch)
		return;
	count_total(label->session, REC_EXEC);
	fill_head(&record->head, REC_EXEC, label);
	record->parent = BPF_CORE_READ(task, real_parent, tgid);
	record->parent_start_ns = BPF_CORE_READ(task, real_parent, group_leader, start_boottime);
	record->cgroup = bpf_get_current_cgroup_id();
	record->gid = bpf_get_current_uid_gid() >> 32;
	record->held = held;
	record->pad = 0;
	record->filename_len = 0;
	at = write_program(scratch, at, bprm, &record->exe_len, &record->cwd_len,
			   &record->filename_len);

	__u64 start = BPF_CORE_READ(task, mm, arg_start);
	__u64 args = BPF_CORE_READ(task, mm, arg_end) - start;
	if (args > ARGS_ROOM)
		args = ARGS_ROOM;
	if (at > SCRATCH_LEN - ARGS_ROOM ||
	    bpf_probe_read_user(&scratch->bytes[at], args, (void *)start))
		args = 0;
	record->args_len = args;
	at += args;
	if (at <= SCRATCH_LEN)
		send_record(scratch, at, label->workload);
}

SEC("raw_tp/sched_process_exec")
int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	struct linux_binprm *bprm = (void *)ctx->args[2];
	struct label *label = label_of(bpf_get_current_pid_tgid() >> 32);

	if (!label) {
		report_candidate(task, bprm);
		return 0;
	}
	/* The exec is told before the hold is, so that whoever judges knows the program. */
	__u32 flags = workload_flags(label);
	struct hold *hold = hold_exec(label, bprm, flags);
	report_exec(label, task, bprm, hold);
	if (hold) {
		announce_exec(hold, bprm);
		await_verdict(hold, flags);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
