/* Byte channels between processes: pipes and Unix sockets, known by the inode that is read. */
#pragma once

#include "common.h"
#include "families.h"

#define S_IFIFO	 0010000
#define S_IFSOCK 0140000

/* What user space has learnt of a channel: ROLE_ flags. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u32);
} roles SEC(".maps");

static __always_inline __u32 role_of(__u64 ino)
{
	__u32 *known = bpf_map_lookup_elem(&roles, &ino);

	return known ? *known : 0;
}

/* The inode of the socket at the other end of a Unix socket; 0 if there is none. */
static __always_inline __u64 peer_inode(struct sock *sk)
{
	struct socket *peer = BPF_CORE_READ((struct unix_sock *)sk, peer, sk_socket);
	struct socket_alloc *alloc =
		(void *)peer - bpf_core_field_offset(struct socket_alloc, socket);

	return peer ? BPF_CORE_READ(alloc, vfs_inode.i_ino) : 0;
}
