/* Renames and links whose file user space may not have enrolled under its new name yet. An open
 * that follows one in its session waits until it has: each side holds the time of the last move,
 * here the one that was made, there the one that was taken in. */
#pragma once

#include "common.h"

struct moved {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* session */
	__type(value, __u64);
};

struct moved moves SEC(".maps");
struct moved settled SEC(".maps");

static __always_inline bool moves_unsettled(__u32 session)
{
	__u64 *made = bpf_map_lookup_elem(&moves, &session);
	__u64 *taken_in = made ? bpf_map_lookup_elem(&settled, &session) : NULL;

	return made && (!taken_in || *taken_in < *made);
}
