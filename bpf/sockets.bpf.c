/* connect, bind and accept of labelled tasks, over IPv4, IPv6 and Unix sockets. */
#include "include/path.h"
#include "include/syscall.h"

#define AF_UNIX	     1
#define AF_INET	     2
#define AF_INET6     10
#define EINPROGRESS  115
#define SOCKET_BURST 1

static __always_inline struct sock *sock_of(__u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct file *file = file_of(task, fd);
	struct socket *socket;

	/* The caller has just had a socket call succeed, or fail, on this descriptor. */
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & 0170000) != 0140000)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

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

static __always_inline __u64 fold(const char *bytes)
{
	__u64 sum = 0;

	for (int i = 0; i < UNIX_PATH_LEN / 4; i++)
		sum = sum * 31 + ((const __u32 *)bytes)[i];
	return sum;
}

static __always_inline void report(struct socket_record *record, const struct label *label)
{
	const __u64 *address = (const __u64 *)record->address;
	struct seen_key key = {label->session,
			       REC_SOCKET | record->op << 16 | (!!record->result) << 24, address[0],
			       address[1], 0};

	key.c = record->family == AF_UNIX ? fold(record->path)
					  : record->port | (__u64)record->protocol << 16;
	if (record->op == SOCKET_ACCEPT && record->family != AF_UNIX)
		key.c = record->protocol; /* a client's port is new every time */
	__u32 count = worth_telling(&key, SOCKET_BURST);
	if (!count)
		return;
	fill_head(&record->head, REC_SOCKET, label);
	record->head.count = count;
	send_record(record, sizeof(*record), label->workload);
}

static __always_inline int after_call(struct bpf_raw_tracepoint_args *ctx, __u16 op)
{
	struct pt_regs *regs = saved_regs(ctx);
	struct socket_record record = {.op = op, .result = (__s32)result_of(ctx)};
	struct label *label = current_label();
	bool known;

	if (!label || (op == SOCKET_ACCEPT && record.result < 0))
		return 0;
	struct sock *sk = sock_of(op == SOCKET_ACCEPT ? record.result
						      : (__u32)PT_REGS_PARM1_CORE_SYSCALL(regs));
	if (!sk)
		return 0;
	if (op == SOCKET_ACCEPT)
		known = read_peer_address(&record, sk);
	else
		known = read_user_address(&record, (const void *)PT_REGS_PARM2_CORE_SYSCALL(regs),
					  (__u32)PT_REGS_PARM3_CORE_SYSCALL(regs));
	if (!known)
		return 0;
	record.protocol = BPF_CORE_READ(sk, sk_protocol);
	if (record.result == -EINPROGRESS || record.result > 0)
		record.result = 0;
	report(&record, label);
	return 0;
}

SEC("raw_tp/sys_exit")
int after_connect(struct bpf_raw_tracepoint_args *ctx)
{
	return after_call(ctx, SOCKET_CONNECT);
}

SEC("raw_tp/sys_exit")
int after_bind(struct bpf_raw_tracepoint_args *ctx)
{
	return after_call(ctx, SOCKET_BIND);
}

SEC("raw_tp/sys_exit")
int after_accept(struct bpf_raw_tracepoint_args *ctx)
{
	return after_call(ctx, SOCKET_ACCEPT);
}

char LICENSE[] SEC("license") = "GPL";
