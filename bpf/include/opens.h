/* Opens that have been let go: what the rules that user space judges say of the file, and the
 * record of it. Either the hook that decides on opens tells of them (lsm_files.bpf.c), or what is
 * done when the call returns (files.bpf.c).
 *
 * A session that writes many files (an installation, a compilation) is told of file by file at
 * first, and then by directory. What a rule watches or may judge is always told. */
#pragma once

#include "names.h"

#define S_IFREG	    0100000
#define FMODE_READ  1
#define FMODE_WRITE 2
#define OPEN_BURST  1
#define PLAIN_OPENS 256 /* of a session: so many are told before they are folded by directory */
#define MANY_IN_DIR 16
#define IN_DIR	    (1 << 24)
#define MAX_ALIASES 16

struct opened {
	struct file *file;
	struct dentry *alias; /* another name of the file, which a rule is about */
	struct file_id id;
	__u32 access;
	__u32 flags; /* NAME_ of the rules that are about it */
};

/* Looks at what has been opened; false if that is no regular file whose content can be had. */
static __always_inline bool look_at(struct opened *opened, struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u32 mode = (__u32)BPF_CORE_READ(file, f_mode);

	if (!inode || (BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return false;
	opened->file = file;
	opened->access =
		(mode & FMODE_READ ? ACCESS_READ : 0) | (mode & FMODE_WRITE ? ACCESS_WRITE : 0);
	opened->id.ino = BPF_CORE_READ(inode, i_ino);
	opened->id.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	return opened->access;
}

struct aliases {
	struct scratch *scratch;
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
	__u32 flags = flags_of_dentry(aliases->scratch, dentry, aliases->mnt);
	if (!(flags_for(flags, aliases->access) & NAME_HOLD))
		return 0;
	aliases->flags = flags;
	aliases->found = dentry;
	return 1;
}

/* What the rules say of the other names of a file with hard links, as far as the kernel has them in
 * its cache: a link that was made a moment ago has its first name there. */
static __always_inline __u32 flags_of_aliases(struct opened *opened, struct scratch *scratch)
{
	struct file *file = opened->file;
	struct aliases aliases = {
		.scratch = scratch,
		.self = BPF_CORE_READ(file, f_path.dentry),
		.mnt = BPF_CORE_READ(file, f_path.mnt),
		.next = BPF_CORE_READ(file, f_inode, i_dentry.first),
		.access = opened->access,
	};

	if (BPF_CORE_READ(file, f_inode, i_nlink) < 2)
		return 0;
	bpf_loop(MAX_ALIASES, check_alias, &aliases, 0);
	opened->alias = aliases.found;
	return aliases.flags;
}

/* What the rules say of a file: by inode, by its name, by the directories above it. */
static __always_inline __u32 flags_of_file(const struct opened *opened, struct scratch *scratch)
{
	struct file *file = opened->file;
	__u32 *known = bpf_map_lookup_elem(&files, &opened->id);

	return (known ? apart(*known) : 0) |
	       flags_of_dentry(scratch, BPF_CORE_READ(file, f_path.dentry),
			       BPF_CORE_READ(file, f_path.mnt));
}

/* Most opens are of files that no rule names: those are remembered, by place and policy. */
static __always_inline void fill_cold(struct seen_key *cold, const struct opened *opened)
{
	struct file *file = opened->file;
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);

	cold->session = settings_generation();
	cold->kind = opened->id.dev;
	cold->a = opened->id.ino ^ (__u64)BPF_CORE_READ(file, f_inode, i_nlink) << 48;
	cold->b = (__u64)BPF_CORE_READ(dentry, d_parent);
	cold->c = BPF_CORE_READ(dentry, d_name.hash_len);
}

/* Fills in what the rules say of it, of which some count only for writers. */
static __always_inline void find_rules(struct opened *opened, const struct seen_key *cold,
				       struct scratch *scratch)
{
	__u32 one = 1, flags = flags_of_file(opened, scratch);

	if (!(flags & (NAME_HOLD | NAME_HOLD << FOR_WRITERS)))
		flags |= flags_of_aliases(opened, scratch);
	if (!flags)
		bpf_map_update_elem(&cold_files, cold, &one, BPF_ANY);
	opened->flags = flags_for(flags, opened->access) & (NAME_WATCH | NAME_HOLD);
}

/* A name in its directory. The number of a file that is gone is soon that of another. */
static __always_inline __u64 name_of_file(struct file *file)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);

	return BPF_CORE_READ(dentry, d_name.hash_len) ^ (__u64)BPF_CORE_READ(dentry, d_parent);
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

/* Tells of it, unless there is nothing new to say. `flags`: of the workload. */
static __always_inline void report_open(const struct label *label, const struct opened *opened,
					struct scratch *scratch, __u32 flags)
{
	bool plain = !opened->flags && !(flags & TELLS_OPENS); /* no rule has anything to say */
	struct seen_key key = {label->session, REC_OPEN | opened->access << 16, opened->id.ino,
			       opened->id.dev, label->start_ns};
	struct open_record *record = (void *)scratch;
	__u32 count;

	if (opened->access & ACCESS_WRITE)
		key.c = 0; /* writers of one session count together */
	key.c ^= name_of_file(opened->file);
	__u64 opens = count_total(label->session, REC_OPEN);
	count = fold(&key, OPEN_BURST);
	if (count == 1 && plain && opens > PLAIN_OPENS)
		count = fold_by_directory(&key, opened->file);
	if (!count)
		return;
	fill_head(&record->head, REC_OPEN, label);
	record->head.count = count;
	record->ino = opened->id.ino;
	record->dev = opened->id.dev;
	record->access = opened->access;
	record->pad = 0;
	record->path_len = write_path(scratch, sizeof(*record), &opened->file->f_path);
	__u32 size = sizeof(*record) + record->path_len;
	if (size <= SCRATCH_LEN)
		send_record(scratch, size, label->workload);
}
