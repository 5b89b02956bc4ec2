/* Where a socket talks to, as `struct socket_record` says it: from the address that a program gave,
 * or from what the kernel knows of the other end. */
#pragma once

#include "common.h"
#include "families.h"

static __always_inline void set_mapped(struct socket_record *record, __u32 address)
{
	record->address[10] = 0xff;
	record->address[11] = 0xff;
	__builtin_memcpy(&record->address[12], &address, sizeof(address));
}

/* The address that the program gave; the kernel clears its own copy when a connect fails. */
static __always_inline bool read_user_address(struct socket_record *record, const void *user,
					      __u32 len)
{
	__u16 family = 0;

	bpf_probe_read_user(&family, sizeof(family), user);
	record->family = family;
	if (family == AF_INET) {
		struct sockaddr_in in = {};
		bpf_probe_read_user(&in, sizeof(in), user);
		record->port = __builtin_bswap16(in.sin_port);
		set_mapped(record, in.sin_addr.s_addr);
		return true;
	}
	if (family == AF_INET6) {
		struct sockaddr_in6 in6 = {};
		bpf_probe_read_user(&in6, sizeof(in6), user);
		record->port = __builtin_bswap16(in6.sin6_port);
		__builtin_memcpy(record->address, &in6.sin6_addr, sizeof(record->address));
		return true;
	}
	if (family == AF_UNIX && len > 2) {
		__u32 room = len - 2 < UNIX_PATH_LEN ? len - 2 : UNIX_PATH_LEN;
		bpf_probe_read_user(record->path, room & 0x7f, user + 2);
		record->path_len = room;
		return true;
	}
	return false;
}

static __always_inline bool read_peer_address(struct socket_record *record, struct sock *sk)
{
	record->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	record->port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (record->family == AF_INET) {
		set_mapped(record, BPF_CORE_READ(sk, __sk_common.skc_daddr));
		return true;
	}
	if (record->family == AF_INET6) {
		BPF_CORE_READ_INTO(&record->address, sk, __sk_common.skc_v6_daddr);
		return true;
	}
	if (record->family != AF_UNIX)
		return false;
	struct unix_address *address = BPF_CORE_READ((struct unix_sock *)sk, addr);
	if (address) { /* the name that the listener was bound to */
		__u32 len = BPF_CORE_READ(address, len) - 2;
		record->path_len = len < UNIX_PATH_LEN ? len : UNIX_PATH_LEN;
		bpf_probe_read_kernel(record->path, record->path_len & 0x7f,
				      &address->name[0].sun_path);
	}
	return true;
}
