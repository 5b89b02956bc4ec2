/* Opens of labelled tasks: writes to regular files become records, reads only where a name or an
 * inode is watched. An open that a rule must judge stops the task before it can use the file. */
#include "include/hold.h"
#include "include/path.h"
#include "include/syscall.h"

#define S_IFMT	    0170000
#define S_IFREG	    0100000
#define FMODE_READ  1
#define FMODE_WRITE 2
#define PREFIX_MIN  3
#define PREFIX_MAX  8
#define OPEN_BURST  1
#define MAX_ALIASES 16

/* Flags that count only for writers are kept apart until the access is looked at. */
#define FOR_WRITERS 8

static __always_inline __u32 apart(__u32 flags)
{
	return flags & NAME_WRITE_ONLY ? (flags & ~NAME_WRITE_ONLY) << FOR_WRITERS : flags;
}

static __always_inline __u32 flags_for(__u32 flags, __u32 access)
{
	return access & ACCESS_WRITE ? flags | flags >> FOR_WRITERS : flags;
}

static __always_inline __u32 flags_of_name(struct name *key, __u32 kind)
{
	key->kind = kind;
	__u32 *flags = bpf_map_lookup_elem(&names, key);
	return flags ? apart(*flags) : 0;
}

struct base_name {
	struct name whole;
	struct name part;
	__u32 len;
	__u32 flags;
};

static long match_suffix(__u32 index, void *data)
{
	struct base_name *base = data;
	__u32 at = base->len - 1 - index;

	if (index >= base->len || at >= NAME_LEN)
		return 1;
	if (base->whole.text[at] != '.')
		return 0;
	__builtin_memset(&base->part, 0, sizeof(base->part));
	for (__u32 i = 0; i < 16; i++) {
		if (at + i >= NAME_LEN || !base->whole.text[at + i])
			break;
		base->part.text[i] = base->whole.text[at + i];
	}
	base->flags |= flags_of_name(&base->part, NAME_SUFFIX);
	return 1;
}

/* What the rules say of the last component of a path. */
static __always_inline __u32 flags_of_base(struct dentry *dentry)
{
	struct base_name base = {};
	long len = bpf_probe_read_kernel_str(base.whole.text, NAME_LEN,
					     BPF_CORE_READ(dentry, d_name.name));

	if (len <= 1)
		return 0;
	base.len = len - 1;
	base.flags = flags_of_name(&base.whole, NAME_BASE);
	bpf_loop(NAME_LEN, match_suffix, &base, 0);
	__builtin_memset(&base.part, 0, sizeof(base.part));
	for (__u32 i = 0; i < PREFIX_MAX; i++) {
		base.part.text[i] = base.whole.text[i];
		if (i + 1 >= PREFIX_MIN && i < base.len)
			base.flags |= flags_of_name(&base.part, NAME_PREFIX);
	}
	return base.flags;
}

struct climb {
	struct walk walk;
	struct name name;
	__u32 flags;
};

static long climb_step(__u32 index, void *data)
{
	struct climb *climb = data;

	int step = cross_mount(&climb->walk);

	if (step <= 0)
		return step < 0;
	struct dentry *dentry = climb->walk.dentry;
	__builtin_memset(&climb->name, 0, sizeof(climb->name));
	bpf_probe_read_kernel_str(climb->name.text, NAME_LEN, BPF_CORE_READ(dentry, d_name.name));
	climb->flags |= flags_of_name(&climb->name, NAME_DIR);
	climb->walk.dentry = BPF_CORE_READ(dentry, d_parent);
	return 0;
}

/* What the rules say of a name: of its last component, and of the directories above it. A function
 * with a frame of its own: inlined into both of its callers, one of which calls the other through
 * bpf_loop, it takes their stacks to 640 bytes, and before 6.13 the kernel allows 512. */
static __noinline __u32 flags_of_dentry(struct dentry *dentry, struct vfsmount *mnt)
{
	struct climb climb = {.walk = {BPF_CORE_READ(dentry, d_parent), mount_of(mnt)}};
	__u32 flags = flags_of_base(dentry);

	bpf_loop(PATH_STEPS, climb_step, &climb, 0);
	return flags | climb.flags;
}

/* Since 7.2 the union `d_u` of a dentry has no name. */
struct dentry___7_2 {
	union {
		struct hlist_node d_alias;
	};
} __attribute__((preserve_access_index));

static __always_inline struct dentry *dentry_of_alias(struct hlist_node *node)
{
	if (bpf_core_field_exists(struct dentry___7_2, d_alias))
		return (void *)node - bpf_core_field_offset(struct dentry___7_2, d_alias);
	return (void *)node - bpf_core_field_offset(struct dentry, d_u.d_alias);
}

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

static __always_inline void report_open(const struct label *label, struct file *file,
					const struct file_id *id, __u32 access)
{
	struct seen_key key = {label->session, REC_OPEN | access << 16, id->ino, id->dev,
			       label->start_ns};
	struct scratch *scratch = get_scratch();
	struct open_record *record = (void *)scratch;
	__u32 count;

	if (access & ACCESS_WRITE)
		key.c = 0; /* writers of one session count together */
	count = worth_telling(&key, OPEN_BURST);
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

SEC("raw_tp/sys_exit")
int after_open(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct label *label = current_label();
	long fd = result_of(ctx);

	if (!label || fd < 0)
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
	if (flags & NAME_HOLD && holds_flags & HOLDS_OPENS)
		hold_open(label, file, alias, &id, access, fd, syscall_number(saved_regs(ctx)),
			  holds_flags);
	else if (flags || access & ACCESS_WRITE)
		report_open(label, file, &id, access);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
