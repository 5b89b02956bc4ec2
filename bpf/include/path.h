/* Paths of kernel objects as strings: names from the leaf up to the root of the mount namespace,
 * each ended by NUL, across mounts. User space turns them round. */
#pragma once

#include "common.h"

#define PATH_STEPS     512
#define PATH_ROOM      4096
#define COMPONENT_ROOM 256

/* A place in the tree of mounts and dentries, on its way up. */
struct walk {
	struct dentry *dentry;
	struct mount *mount;
};

static __always_inline struct mount *mount_of(struct vfsmount *vfsmount)
{
	return (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
}

/* Whether this is a file that no directory has, as memfd_create makes them: it has a name all the
 * same. */
static __always_inline bool is_unlisted(struct dentry *dentry)
{
	return dentry == BPF_CORE_READ(dentry, d_parent) &&
	       dentry != BPF_CORE_READ(dentry, d_sb, s_root);
}

static __always_inline void go_up(struct walk *walk)
{
	struct dentry *dentry = walk->dentry, *parent = BPF_CORE_READ(dentry, d_parent);
	struct mount *mount = walk->mount;

	walk->dentry = parent == dentry ? BPF_CORE_READ(mount, mnt.mnt_root) : parent;
}

/* If the walk stands on the root of a mount, moves it to the mount point above. Returns 1 if it
 * stands on a name, 0 if it moved, -1 at the root of everything. */
static __always_inline int cross_mount(struct walk *walk)
{
	struct dentry *dentry = walk->dentry;
	struct mount *mount = walk->mount;
	struct mount *above;

	if (dentry != BPF_CORE_READ(mount, mnt.mnt_root))
		return dentry != BPF_CORE_READ(dentry, d_parent) || is_unlisted(dentry) ? 1 : -1;
	above = BPF_CORE_READ(mount, mnt_parent);
	if (!above || above == mount)
		return -1;
	walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
	walk->mount = above;
	return 0;
}

/* Linux up to 6.16 keeps the mounts of a file system in a list. */
struct mount___listed {
	struct list_head mnt_instance;
} __attribute__((preserve_access_index));

struct super_block___listed {
	struct list_head s_mounts;
} __attribute__((preserve_access_index));

#define MOUNTS_LOOKED_AT 8

/* The first mount of a whole file system, by its root; NULL if it has none. */
static __noinline struct mount *whole_mount(struct dentry *root)
{
	struct super_block *sb = BPF_CORE_READ(root, d_sb);
	struct mount *mount;

	if (bpf_core_field_exists(struct mount, mnt_next_for_sb)) {
		mount = BPF_CORE_READ(sb, s_mounts);
		for (int i = 0; i < MOUNTS_LOOKED_AT && mount; i++) {
			if (BPF_CORE_READ(mount, mnt.mnt_root) == root)
				return mount;
			mount = BPF_CORE_READ(mount, mnt_next_for_sb);
		}
		return NULL;
	}
	struct list_head *at = BPF_CORE_READ((struct super_block___listed *)sb, s_mounts.next);
	for (int i = 0; i < MOUNTS_LOOKED_AT; i++) {
		mount = (void *)at - bpf_core_field_offset(struct mount___listed, mnt_instance);
		if (BPF_CORE_READ(mount, mnt.mnt_root) == root)
			return mount;
		at = BPF_CORE_READ(at, next);
	}
	return NULL;
}

/* As `cross_mount`, but a directory that is mounted somewhere keeps the place that it has in its
 * own file system: a bind mount does not rename what it shows. */
static __always_inline int cross_whole(struct walk *walk)
{
	struct dentry *dentry = walk->dentry;
	struct mount *mount;

	if (dentry != BPF_CORE_READ(dentry, d_parent))
		return 1;
	mount = whole_mount(dentry);
	if (!mount || BPF_CORE_READ(mount, mnt_parent) == mount)
		return -1;
	walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
	walk->mount = BPF_CORE_READ(mount, mnt_parent);
	return 0;
}

/* Whether the walk stands on a directory that is mounted, but is not the root of its file system.
 */
static __always_inline bool on_bind_mount(const struct walk *walk)
{
	struct dentry *dentry = walk->dentry;
	struct mount *mount = walk->mount;

	return dentry == BPF_CORE_READ(mount, mnt.mnt_root) &&
	       dentry != BPF_CORE_READ(dentry, d_parent);
}

struct path_writer {
	struct walk walk;
	struct scratch *scratch;
};

static long write_component(__u32 index, void *data)
{
	struct path_writer *writer = data;
	struct scratch *scratch = writer->scratch;
	int step = cross_mount(&writer->walk);
	__u32 at = scratch->at;

	scratch->whole = step < 0;
	if (step < 0 || at > scratch->end || at > SCRATCH_LEN - COMPONENT_ROOM)
		return 1;
	if (!step)
		return 0;
	struct dentry *dentry = writer->walk.dentry;
	const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
	long len = bpf_probe_read_kernel_str(&scratch->bytes[at], COMPONENT_ROOM, name);
	if (len > 0)
		scratch->at = at + len;
	go_up(&writer->walk);
	return 0;
}

/* Writes the components from `dentry` up into the scratch bytes from `start` on. Returns their
 * length. Of a path that is too long the upper end is missing, with "..." in its place. */
static __always_inline __u32 write_names(struct scratch *scratch, __u32 start,
					 struct dentry *dentry, struct vfsmount *mnt)
{
	struct path_writer writer = {.walk = {dentry, mount_of(mnt)}, .scratch = scratch};

	scratch->at = start;
	scratch->end = start + PATH_ROOM - COMPONENT_ROOM - 4;
	bpf_loop(PATH_STEPS, write_component, &writer, 0);
	__u32 at = scratch->at;
	if (!scratch->whole && at <= SCRATCH_LEN - COMPONENT_ROOM) {
		__builtin_memcpy(&scratch->bytes[at], "...", 4);
		at += 4;
	}
	__u32 used = at - start;
	return used <= PATH_ROOM ? used : PATH_ROOM;
}

static __always_inline __u32 write_path(struct scratch *scratch, __u32 start,
					const struct path *path)
{
	return write_names(scratch, start, BPF_CORE_READ(path, dentry), BPF_CORE_READ(path, mnt));
}

static __always_inline struct file *file_of(struct task_struct *task, __u32 fd)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **slots = BPF_CORE_READ(table, fd);
	struct file *file = NULL;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), &slots[fd]);
	return file;
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
