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

/* If the walk stands on the root of a mount, moves it to the mount point above. Returns 1 if it
 * stands on a name, 0 if it moved, -1 at the root of everything. */
static __always_inline int cross_mount(struct walk *walk)
{
	struct dentry *dentry = walk->dentry;
	struct mount *mount = walk->mount;
	struct mount *above;

	if (dentry != BPF_CORE_READ(mount, mnt.mnt_root))
		return dentry == BPF_CORE_READ(dentry, d_parent) ? -1 : 1;
	above = BPF_CORE_READ(mount, mnt_parent);
	if (!above || above == mount)
		return -1;
	walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
	walk->mount = above;
	return 0;
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
	writer->walk.dentry = BPF_CORE_READ(dentry, d_parent);
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
