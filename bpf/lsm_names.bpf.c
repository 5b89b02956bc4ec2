/* Refuses labelled tasks to delete, rename, link, truncate and change what rules deny them, and
 * keeps a file known under a name that it loses: its inode is marked before it gets another one. */
#include "include/entry.h"
#include <bpf/bpf_tracing.h>

#define S_IFDIR 0040000

static __always_inline bool is_directory(struct dentry *dentry)
{
	return (BPF_CORE_READ(dentry, d_inode, i_mode) & S_IFMT) == S_IFDIR;
}

/* The same call has the same inode and the same names. */
static __noinline int fill_names(struct work *work, const struct deed *deed)
{
	struct dentry *from = deed->from, *to = deed->to;
	struct subject *subject = &work->subject;

	subject->a = BPF_CORE_READ(from, d_inode, i_ino);
	subject->b = (__u64)BPF_CORE_READ(from, d_parent, d_inode);
	subject->c = BPF_CORE_READ(from, d_name.hash_len);
	if (to)
		subject->c ^= BPF_CORE_READ(to, d_name.hash_len) * 31 +
			      (__u64)BPF_CORE_READ(to, d_parent, d_inode);
	subject->hook = deed->hook;
	subject->acts = deed->acts;
	return 0;
}

static __always_inline int judge_name(struct work *work, struct deed *deed)
{
	int result = decide(work, deed);

	if (result || !deed->action)
		return result;
	if (deed->action != ACTION_ASK)
		return refuse(work, deed);
	fill_names(work, deed);
	return ask(work, deed, true);
}

/* What lies below a directory loses its names with it. If rules may name some of that, user space
 * has to mark it first. */
static __noinline int judge_below(struct work *work, struct deed *deed)
{
	if (!match_path(work, deed->version, deed->from, deed->mnt, BELOW) ||
	    none_in(&work->match.found))
		return 0;
	deed->action = ACTION_ASK;
	deed->rule = NO_RULE;
	fill_names(work, deed);
	return ask(work, deed, true);
}

/* Judges the old name for `deed->acts`, and the new one for `to_acts`. */
static __always_inline int judge_names(struct deed *deed, __u32 to_acts)
{
	struct enforcing *now = get_enforcing();
	struct dentry *from = deed->from, *to = deed->to;
	__u32 acts = deed->acts;

	if (!now || !now->armed)
		return 0;
	deed->version = now->version & 1;
	struct work *work = claim_work();
	if (!work)
		return -EAGAIN;
	deed->dentry = from;
	deed->inode = BPF_CORE_READ(from, d_inode);
	int result = judge_name(work, deed);
	if (!result && to) {
		deed->dentry = to;
		deed->inode = BPF_CORE_READ(to, d_inode);
		deed->acts = to_acts;
		result = judge_name(work, deed);
	}
	if (!result && deed->hook == HOOK_RENAME && is_directory(from)) {
		deed->acts = acts;
		result = judge_below(work, deed);
	}
	give_back(work);
	return result;
}

static __always_inline int judge_one(struct dentry *dentry, const struct path *dir, __u32 hook,
				     __u32 act)
{
	struct deed deed = {
		.label = current_label(), .from = dentry, .hook = hook, .acts = 1 << act};

	if (!deed.label)
		return 0;
	deed.mnt = BPF_CORE_READ(dir, mnt);
	return judge_names(&deed, 0);
}

static __always_inline int judge_two(struct dentry *from, struct dentry *to, const struct path *dir,
				     __u32 hook)
{
	struct deed deed = {.label = current_label(),
			    .from = from,
			    .to = to,
			    .hook = hook,
			    .acts = 1 << ACT_RENAME};

	if (!deed.label)
		return 0;
	deed.mnt = BPF_CORE_READ(dir, mnt);
	return judge_names(&deed, 1 << ACT_RENAME | 1 << ACT_WRITE);
}

SEC("lsm/path_unlink")
int BPF_PROG(on_path_unlink, const struct path *dir, struct dentry *dentry)
{
	return judge_one(dentry, dir, HOOK_DELETE, ACT_DELETE);
}

SEC("lsm/path_rmdir")
int BPF_PROG(on_path_rmdir, const struct path *dir, struct dentry *dentry)
{
	return judge_one(dentry, dir, HOOK_DELETE, ACT_DELETE);
}

SEC("lsm/path_truncate")
int BPF_PROG(on_path_truncate, const struct path *path)
{
	return judge_one(path->dentry, path, HOOK_TRUNCATE, ACT_WRITE);
}

SEC("lsm/path_chmod")
int BPF_PROG(on_path_chmod, const struct path *path)
{
	return judge_one(path->dentry, path, HOOK_ATTRIBUTES, ACT_WRITE);
}

SEC("lsm/path_chown")
int BPF_PROG(on_path_chown, const struct path *path)
{
	return judge_one(path->dentry, path, HOOK_ATTRIBUTES, ACT_WRITE);
}

SEC("lsm/path_symlink")
int BPF_PROG(on_path_symlink, const struct path *dir, struct dentry *dentry)
{
	return judge_one(dentry, dir, HOOK_LINK, ACT_WRITE);
}

SEC("lsm/path_mknod")
int BPF_PROG(on_path_mknod, const struct path *dir, struct dentry *dentry)
{
	return judge_one(dentry, dir, HOOK_OPEN, ACT_WRITE);
}

SEC("lsm/path_link")
int BPF_PROG(on_path_link, struct dentry *from, const struct path *dir, struct dentry *to)
{
	return judge_two(from, to, dir, HOOK_LINK);
}

SEC("lsm/path_rename")
int BPF_PROG(on_path_rename, const struct path *from_dir, struct dentry *from,
	     const struct path *dir, struct dentry *to)
{
	int result = judge_two(from, to, dir, HOOK_RENAME);
	struct enforcing *now = get_enforcing();

	if (!result && now && (is_directory(from) || is_directory(to)))
		__sync_fetch_and_add(&now->epoch, 1); /* paths below are others from here on */
	return result;
}

/* The inode of a deleted file may come again as another file. */
SEC("fentry/security_inode_free")
int BPF_PROG(on_inode_free, struct inode *inode)
{
	if (!inode->i_nlink) {
		struct inode_key key = key_of(inode);
		bpf_map_delete_elem(&marks, &key);
		bpf_map_delete_elem(&own_places, &key);
		bpf_map_delete_elem(&homes, &key);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
