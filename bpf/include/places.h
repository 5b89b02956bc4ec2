/* Directories that are known by inode: homes, and where agentd keeps what it depends on. Whatever a
 * bind mount calls a file below one of these, it is agentd's own. */
#pragma once

#include "work.h"

#define PLACE_STEPS 64

/* Directories and files, as user space finds them when it writes the rules. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct inode_key);
	__type(value, __u32);
} own_places SEC(".maps");

/* Home directories that lie neither in /home nor are /root, by inode. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct inode_key);
	__type(value, __u32);
} homes SEC(".maps");

/* Whether this is one of the home directories that lie elsewhere than in /home. */
static __noinline bool is_other_home(struct dentry *dentry)
{
	struct inode_key key = key_of(BPF_CORE_READ(dentry, d_inode));

	return bpf_map_lookup_elem(&homes, &key);
}

struct climb {
	struct dentry *dentry;
	__u64 found;
};

static long climb_step(__u32 index, void *data)
{
	struct climb *climb = data;
	struct dentry *dentry = climb->dentry;
	struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
	struct inode_key key = key_of(BPF_CORE_READ(dentry, d_inode));

	if (bpf_map_lookup_elem(&own_places, &key)) {
		climb->found = 1;
		return 1;
	}
	climb->dentry = parent;
	return parent == dentry;
}

/* 1 or 0. Follows the file system's own tree of names, not that of mounts. */
static __always_inline __u64 own_place(struct dentry *dentry)
{
	struct climb climb = {.dentry = dentry};

	bpf_loop(PLACE_STEPS, climb_step, &climb, 0);
	return climb.found;
}
