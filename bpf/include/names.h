/* What the name filter says of a file: by its last component and by the directories above it. */
#pragma once

#include "path.h"

#define PREFIX_MIN 3
#define PREFIX_MAX 8

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

/* A name under look-up. It lies in the bytes of a scratch: nested calls share 512 bytes of stack.
 */
struct base_name {
	struct name whole;
	struct name part;
	__u32 len;
	__u32 flags;
};

static long match_suffix(__u32 index, void *data)
{
	struct base_name *base = *(struct base_name **)data;

	if (index >= base->len)
		return 1;
	__u32 at = base->len - 1 - index;
	if (at >= NAME_LEN)
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
static __always_inline __u32 flags_of_base(struct scratch *scratch, struct dentry *dentry)
{
	struct base_name *base = (void *)scratch->bytes;

	__builtin_memset(base, 0, sizeof(*base));
	long len = bpf_probe_read_kernel_str(base->whole.text, NAME_LEN,
					     BPF_CORE_READ(dentry, d_name.name));
	if (len <= 1)
		return 0;
	base->len = len - 1;
	base->flags = flags_of_name(&base->whole, NAME_BASE);
	bpf_loop(NAME_LEN, match_suffix, &base, 0);
	__builtin_memset(&base->part, 0, sizeof(base->part));
	for (__u32 i = 0; i < PREFIX_MAX; i++) {
		base->part.text[i] = base->whole.text[i];
		if (i + 1 >= PREFIX_MIN && i < base->len)
			base->flags |= flags_of_name(&base->part, NAME_PREFIX);
	}
	return base->flags;
}

struct name_climb {
	struct walk walk;
	struct name name;
	__u32 flags;
};

static long name_step(__u32 index, void *data)
{
	struct name_climb *climb = data;

	int step = cross_mount(&climb->walk);

	if (step <= 0)
		return step < 0;
	struct dentry *dentry = climb->walk.dentry;
	__builtin_memset(&climb->name, 0, sizeof(climb->name));
	bpf_probe_read_kernel_str(climb->name.text, NAME_LEN, BPF_CORE_READ(dentry, d_name.name));
	climb->flags |= flags_of_name(&climb->name, NAME_DIR);
	go_up(&climb->walk);
	return 0;
}

/* What the rules say of a name: of its last component, and of the directories above it, with the
 * scratch to work in. A function
 * with a frame of its own: inlined into both of its callers, one of which calls the other through
 * bpf_loop, it takes their stacks to 640 bytes, and before 6.13 the kernel allows 512. */
static __noinline __u32 flags_of_dentry(struct scratch *scratch, struct dentry *dentry,
					struct vfsmount *mnt)
{
	struct name_climb climb = {.walk = {BPF_CORE_READ(dentry, d_parent), mount_of(mnt)}};
	__u32 flags = flags_of_base(scratch, dentry);

	bpf_loop(PATH_STEPS, name_step, &climb, 0);
	return flags | climb.flags;
}
