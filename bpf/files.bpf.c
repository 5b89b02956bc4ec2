/* Opens of labelled tasks: writes to regular files become records, reads only where a name or an
 * inode is watched. An open that a rule must judge stops the task before it can use the file.
 *
 * A session that writes many files (an installation, a compilation) is told of file by file at
 * first, and then by directory. What a rule watches or may judge is always told. */
#include "include/hold.h"
#include "include/moves.h"
#include "include/names.h"
#include "include/syscall.h"

#define S_IFMT	    0170000
#define S_IFREG	    0100000
#define FMODE_READ  1
#define FMODE_WRITE 2
#define OPEN_BURST  1
#define PLAIN_OPENS 256 /* of a session: so many are told before they are folded by directory */
#define MANY_IN_DIR 16
#define IN_DIR	    (1 << 24)
#define MAX_ALIASES 16

struct aliases {
	struct dentry *self;
	struct vfsmount *mnt;
	struct hlist_node *next;
	struct dentry *found;
	__u32 access;
	__u32 flags;
};

static long check_alias(__u32 index, void *data)
{
	struct aliases *aliases = data;
	struct hlist_node *node = aliases->next;

	if (!node)
		return 1;
	struct dentry *dentry = dentry_of_alias(node);
	aliases->next = BPF_CORE_READ(node, next);
	if (dentry == aliases->self)
		return 0;
	__u32 flags = flags_of_dentry(dentry, aliases->mnt);
	if (!(flags_for(flags, aliases->access) & NAME_HOLD))
		return 0;
	aliases->flags = flags;
	aliases->found = dentry;
	return 1;
}

/* What the rules say of the other names of a file with hard links, as far as the kernel has them in
 * its cache: a link that was made a moment ago has its first name there. */
static __always_inline __u32 flags_of_aliases(struct file *file, __u32 access,
					      struct dentry **alias)
{
	struct aliases aliases = {
		.self = BPF_CORE_READ(file, f_path.dentry),
		.mnt = BPF_CORE_READ(file, f_path.mnt),
		.next = BPF_CORE_READ(file, f_inode, i_dentry.first),
		.access = access,
	};

	if (BPF_CORE_READ(file, f_inode, i_nlink) < 2)
		return 0;
	bpf_loop(MAX_ALIASES, check_alias, &aliases, 0);
	*alias = aliases.found;
	return aliases.flags;
}

/* What the rules say of a file: by inode, by its name, by the directories above it. */
static __always_inline __u32 flags_of_file(struct file *file, const struct file_id *id)
{
	__u32 *known = bpf_map_lookup_elem(&files, id);

	return (known ? apart(*known) : 0) |
	       flags_of_dentry(BPF_CORE_READ(file, f_path.dentry), BPF_CORE_READ(file, f_path.mnt));
}

/* How many files the session has opened in this one's directory; 0 if it need not be told. Every
 * directory is told, and those with many files a few times more. The key is overwritten: there is
 * no stack left for another. */
static __always_inline __u32 fold_by_directory(struct seen_key *key, struct file *file)
{
	key->kind = REC_OPEN | IN_DIR;
	key->a = BPF_CORE_READ(file, f_path.dentry, d_parent, d_inode, i_ino);
	key->c = 0;
	__u32 count = fold(key, OPEN_BURST);
	return count == 1 || count >= MANY_IN_DIR ? count : 0;
}

/* `plain`: no rule can have anything to say of it. */
static __always_inline void report_open(const struct label *label, struct file *file,
					const struct file_id *id, __u32 access, bool plain)
{
	struct seen_key key = {label->session, REC_OPEN | access << 16, id->ino, id->dev,
			       label->start_ns};
	struct scratch *scratch = get_scratch();
	struct open_record *record = (void *)scratch;
	__u32 count;

	if (access & ACCESS_WRITE)
		key.c = 0; /* writers of one session count together */
	__u64 opens = count_total(label->session, REC_OPEN);
	count = fold(&key, OPEN_BURST);
	if (count == 1 && plain && opens > PLAIN_OPENS)
		count = fold_by_directory(&key, file);
	if (!scratch || !count)
		return;
	fill_head(&record->head, REC_OPEN, label);
	record->head.count = count;
	record->ino = id->ino;
	record->dev = id->dev;
	record->access = access;
	record->flags = BPF_CORE_READ(file, f_flags);
	record->path_len = write_path(scratch, sizeof(*record), &file->f_path);
	__u32 size = sizeof(*record) + record->path_len;
	if (size <= SCRATCH_LEN)
		send_record(scratch, size, label->workload);
}

static __always_inline void hold_open(const struct label *label, struct file *file,
				      struct dentry *alias, const struct file_id *id, __u32 access,
				      __u32 fd, __u32 syscall, __u32 flags)
{
	struct hold *hold = new_hold(label, HOLD_OPEN);
	struct scratch *scratch = get_scratch();
	__u32 size = sizeof(*hold);

	if (!hold || !scratch)
		return;
	hold->length = write_path(scratch, size, &file->f_path);
	size += hold->length;
	if (alias)
		size += write_names(scratch, size, alias, BPF_CORE_READ(file, f_path.mnt));
	count_total(label->session, REC_OPEN);
	hold->ino = id->ino;
	hold->dev = id->dev;
	hold->access = access;
	hold->fd = fd;
	hold->syscall = syscall;
	if (enter_hold(hold, flags)) {
		announce(hold, scratch, size);
		await_verdict(hold, flags);
	}
}

HANDLER(after_open)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	long fd = result_of(ctx);

	if (fd < 0)
		return 0;
	struct label *label = current_label();
	if (!label)
		return 0;
	struct file *file = file_of(task, fd);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	if (!inode || (BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;

	__u32 mode = (__u32)BPF_CORE_READ(file, f_mode);
	__u32 access =
		(mode & FMODE_READ ? ACCESS_READ : 0) | (mode & FMODE_WRITE ? ACCESS_WRITE : 0);
	struct file_id id = {.ino = BPF_CORE_READ(inode, i_ino),
			     .dev = BPF_CORE_READ(inode, i_sb, s_dev)};
	if (!access)
		return 0;

	/* Most opens are of files that no rule names: remember those, by place and policy. */
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct seen_key cold = {
		settings_generation(), id.dev, id.ino ^ (__u64)BPF_CORE_READ(inode, i_nlink) << 48,
		(__u64)BPF_CORE_READ(dentry, d_parent), BPF_CORE_READ(dentry, d_name.hash_len)};
	struct dentry *alias = NULL;
	__u32 flags = 0;
	if (!bpf_map_lookup_elem(&cold_files, &cold)) {
		__u32 one = 1;
		flags = flags_of_file(file, &id);
		if (!(flags & (NAME_HOLD | NAME_HOLD << FOR_WRITERS)))
			flags |= flags_of_aliases(file, access, &alias);
		if (!flags)
			bpf_map_update_elem(&cold_files, &cold, &one, BPF_ANY);
	}
	flags = flags_for(flags, access) & (NAME_WATCH | NAME_HOLD);
	__u32 holds_flags = workload_flags(label);
	if (holds_flags & HOLDS_OPENS && (flags & NAME_HOLD || moves_unsettled(label->session)))
		hold_open(label, file, alias, &id, access, fd, syscall_number(saved_regs(ctx)),
			  holds_flags);
	else if (flags || access & ACCESS_WRITE)
		report_open(label, file, &id, access, !flags && !(holds_flags & TELLS_OPENS));
	return 0;
}

HANDLES(after_open, open)
HANDLES(after_open, openat)
HANDLES(after_open, openat2)
HANDLES(after_open, creat)
HANDLES(after_open, open_by_handle_at)
HANDLES(after_open, pidfd_getfd)

char LICENSE[] SEC("license") = "GPL";
