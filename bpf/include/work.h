/* Working memory for programs that can be preempted: LSM programs run with migration disabled but
 * preemption on, so what lies in a per-CPU map may be overwritten by another task on the same CPU.
 * Here a program claims an entry of its own and gives it back. */
#pragma once

#include "common.h"
#include "decide_wire.h"

#define WORKS (MAX_WAITS - MAX_CPUS)

/* Unrolled loops spill, and calls that nest share 512 bytes of stack. */
#define EDGE_ROOM 32
#define ROLLED	  _Pragma("clang loop unroll(disable)")

/* Rules of globs below `~` whose relative part has just been seen, and those for which that was one
 * component ago: only at the root it shows whether that one was a home directory. */
struct way {
	struct slots below;
	struct slots above;
	struct slots in_home;
	struct slots in_root;
};

/* The state of a match; see glob.h. */
struct match {
	struct positions at;
	struct positions hits;
	struct slots found;
	struct slots except;
	struct way ways[2]; /* of rules, and of their exceptions */
	struct word word;
	struct edge edge;
	__u8 last[EDGE_ROOM]; /* the end of a name */
	__u64 carry;	      /* from word to word of a shift */
	__u64 begins;	      /* all ones at the first component */
	__u64 ends_anywhere;  /* not 0: some glob ends here */
	__u64 ends_home;
	__u32 waiting; /* steps for which those matter */
	__u32 whole;
	__u32 bound; /* a bind mount lies on the path */
	__u32 pad;
};

/* The hold of a thread, by id: one that is woken before its verdict takes up the same one. */
struct pending {
	struct subject subject;
	__u64 id;
};

/* A name of a file, at this epoch of the tree of directories and under these rules: `version` is
 * that of `struct enforcing`, which is never the same again. */
struct place {
	struct inode_key inode;
	__u64 parent;
	__u64 mnt;
	__u64 name;
	__u64 epoch;
	__u32 version;
	__u32 pad;
};

struct work {
	__u32 busy;
	__u32 index;
	struct place place;
	struct slots wanted;
	struct slots bound;
	struct dentry *leaf; /* of the path that is matched */
	struct vfsmount *mnt;
	struct mark mark; /* a new one */
	struct subject subject;
	struct pending pending;
	struct match match;
	struct hold hold;
	struct scratch scratch;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WORKS);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

static __always_inline struct inode_key key_of(struct inode *inode)
{
	struct inode_key key = {
		.ino = BPF_CORE_READ(inode, i_ino),
		.dev = BPF_CORE_READ(inode, i_sb, s_dev),
		.kind = BPF_CORE_READ(inode, i_mode) & S_IFMT,
	};
	return key;
}

struct claim {
	__u32 at;
	__u32 done;
};

static long claim_step(__u32 index, void *data)
{
	struct claim *claim = data;
	__u32 at = (claim->at + index) & (WORKS - 1);
	struct work *work = bpf_map_lookup_elem(&works, &at);

	if (!work || __sync_val_compare_and_swap(&work->busy, 0, 1))
		return 0;
	work->index = at;
	claim->at = at;
	claim->done = 1;
	return 1;
}

/* An entry that nobody else uses until `give_back`; NULL if all are in use. */
static __always_inline struct work *claim_work(void)
{
	struct claim claim = {.at = bpf_get_smp_processor_id()};

	bpf_loop(WORKS, claim_step, &claim, 0);
	return claim.done ? bpf_map_lookup_elem(&works, &claim.at) : NULL;
}

static __always_inline void give_back(struct work *work)
{
	__sync_lock_test_and_set(&work->busy, 0);
}
