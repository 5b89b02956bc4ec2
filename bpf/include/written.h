/* How much of what is judged at its write a channel has taken: a write may be accepted in part, or
 * not at all, and its rest comes again. */
#pragma once

#include "common.h"

/* Key: inode of the pipe or socket that is read. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct written);
} written SEC(".maps");

/* Threads whose judged write is under way: to which channel. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} writing SEC(".maps");

static __always_inline void begin_write(struct written *channel, __u64 ino)
{
	__u64 thread = bpf_get_current_pid_tgid();

	if (!bpf_map_update_elem(&writing, &thread, &ino, BPF_NOEXIST))
		__sync_fetch_and_add(&channel->under_way, 1);
}

/* The current thread's system call returns. */
static __always_inline void end_write(long result)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 *found = bpf_map_lookup_elem(&writing, &thread);

	if (!found)
		return;
	__u64 ino = *found;
	struct written *channel = bpf_map_lookup_elem(&written, &ino);
	if (channel) {
		if (result > 0)
			__sync_fetch_and_add(&channel->bytes, result);
		__sync_fetch_and_add(&channel->under_way, -1);
	}
	bpf_map_delete_elem(&writing, &thread);
}
