/* connect, bind and accept of labelled tasks, and sends that name their destination, over IPv4,
 * IPv6 and Unix sockets; the making of any other kind of socket. */
#include "include/address.h"
#include "include/path.h"
#include "include/syscall.h"
#include "include/written.h"

#define EINPROGRESS  115
#define IPPROTO_UDP  17
#define EPERM	     1
#define SOCK_RAW     3
#define SOCK_TYPE    0xf
#define MSG_FASTOPEN 0x20000000
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

static __always_inline __u64 sum_of(const char *bytes)
{
	__u64 sum = 0;

	for (int i = 0; i < UNIX_PATH_LEN / 4; i++)
		sum = sum * 31 + ((const __u32 *)bytes)[i];
	return sum;
}

/* Appends where in the file system the socket is that this one is bound to or talks to. */
static __always_inline void add_socket_path(struct scratch *scratch, struct socket_record *record,
					    struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct unix_sock *end = (struct unix_sock *)sk;
	__u32 at = sizeof(*record);

	if (record->op == SOCKET_CONNECT)
		end = (struct unix_sock *)BPF_CORE_READ(end, peer);
	struct dentry *dentry = end && !record->result ? BPF_CORE_READ(end, path.dentry) : NULL;
	if (dentry) {
		record->real_len = write_names(scratch, at, dentry, BPF_CORE_READ(end, path.mnt));
	} else if (record->path[0] != '/') {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);
		record->relative = 1;
		record->real_len = write_path(scratch, at, &fs->pwd);
	}
}

/* What a relative name means: it is another file in each. */
static __always_inline __u64 working_directory(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return (__u64)BPF_CORE_READ(task, fs, pwd.dentry);
}

static __always_inline void report(struct scratch *scratch, const struct label *label,
				   struct sock *sk)
{
	struct socket_record *record = (void *)scratch;
	const __u64 *address = (const __u64 *)record->address;
	struct seen_key key = {label->session,
			       REC_SOCKET | record->op << 16 | (!!record->result) << 24, address[0],
			       address[1], 0};

	key.c = record->family == AF_UNIX ? sum_of(record->path)
					  : record->port | (__u64)record->protocol << 16;
	if (record->op == SOCKET_ACCEPT && record->family != AF_UNIX)
		key.c = record->protocol; /* a client's port is new every time */
	if (record->family == AF_UNIX && record->path_len && record->path[0] != '/')
		key.a = working_directory();
	__u32 count = worth_telling(&key, SOCKET_BURST);
	if (workload_flags(label) & TELLS_SOCKETS && record->op != SOCKET_ACCEPT)
		count = 1;
	if (!count)
		return;
	fill_head(&record->head, REC_SOCKET, label);
	record->head.count = count;
	if (record->family == AF_UNIX && record->path_len && record->path[0])
		add_socket_path(scratch, record, sk);
	__u32 size = sizeof(*record) + record->real_len;
	if (size <= SCRATCH_LEN)
		send_record(scratch, size, label->workload);
}

/* Whether a rule has refused this call, which has been told then. */
static __always_inline bool told_before(__s32 result)
{
	__u64 thread = bpf_get_current_pid_tgid();

	return result == -EPERM && !bpf_map_delete_elem(&refused, &thread);
}

static __always_inline int tell(struct label *label, __u16 op, __s32 result, __u32 fd,
				const void *address, __u32 len)
{
	struct scratch *scratch = get_scratch();
	struct socket_record *record = (void *)scratch;
	bool known;

	struct sock *sk = sock_of(fd);
	if (!sk || !scratch || told_before(result))
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->op = op;
	record->result = result == -EINPROGRESS || result > 0 ? 0 : result;
	if (op == SOCKET_ACCEPT)
		known = read_peer_address(record, sk);
	else
		known = read_user_address(record, address, len);
	if (!known)
		return 0;
	record->protocol = BPF_CORE_READ(sk, sk_protocol);
	if (op == SOCKET_BIND && !record->port && record->family != AF_UNIX)
		record->port = BPF_CORE_READ(sk, __sk_common.skc_num); /* chosen by the kernel */
	report(scratch, label, sk);
	return 0;
}

#if defined(PT_REGS_PARM6_CORE_SYSCALL) /* libbpf before 1.2 has five */
#elif defined(__TARGET_ARCH_x86)
#define PT_REGS_PARM6_CORE_SYSCALL(regs) BPF_CORE_READ(regs, r9)
#elif defined(__TARGET_ARCH_arm64)
#define PT_REGS_PARM6_CORE_SYSCALL(regs) BPF_CORE_READ(regs, regs[5])
#endif
#define PARM(n) PT_REGS_PARM##n##_CORE_SYSCALL(saved_regs(ctx))

/* connect, bind: (fd, address, length) */
static __always_inline int after_call(struct bpf_raw_tracepoint_args *ctx, __u16 op)
{
	struct label *label = current_label();

	if (!label)
		return 0;
	return tell(label, op, result_of(ctx), PARM(1), (const void *)PARM(2), PARM(3));
}

HANDLER(after_connect)
{
	return after_call(ctx, SOCKET_CONNECT);
}

HANDLES(after_connect, connect)

HANDLER(after_bind)
{
	return after_call(ctx, SOCKET_BIND);
}

HANDLES(after_bind, bind)

HANDLER(after_accept)
{
	struct label *label = current_label();
	long fd = result_of(ctx);

	if (!label || fd < 0)
		return 0;
	return tell(label, SOCKET_ACCEPT, 0, fd, NULL, 0);
}

HANDLES(after_accept, accept)
HANDLES(after_accept, accept4)

/* A send that names its destination is a connect of its own. TCP looks at the name only for the
 * first bytes of a fast open. */
static __always_inline int after_send(struct bpf_raw_tracepoint_args *ctx, const void *address,
				      __u32 len, __u32 flags)
{
	struct label *label = current_label();
	__u32 fd = PARM(1);

	if (!label || !address || !len)
		return 0;
	struct sock *sk = sock_of(fd);
	if (!sk)
		return 0;
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_UNIX && BPF_CORE_READ(sk, sk_protocol) != IPPROTO_UDP &&
	    !(flags & MSG_FASTOPEN))
		return 0;
	return tell(label, SOCKET_CONNECT, result_of(ctx), fd, address, len);
}

/* sendto: (fd, bytes, count, flags, address, length) */
HANDLER(after_sendto)
{
	end_write(result_of(ctx));
	return after_send(ctx, (const void *)PARM(5), PARM(6), PARM(4));
}

HANDLES(after_sendto, sendto)

/* sendmsg: (fd, message, flags); sendmmsg: (fd, messages, count, flags), of which the first tells
 */
HANDLER(after_sendmsg)
{
	struct user_msghdr header = {};

	end_write(result_of(ctx));
	bpf_probe_read_user(&header, sizeof(header), (const void *)PARM(2));
	return after_send(ctx, header.msg_name, header.msg_namelen, PARM(3) | PARM(4));
}

HANDLES(after_sendmsg, sendmsg)
HANDLES(after_sendmsg, sendmmsg)

/* socket: (family, type, protocol) */
HANDLER(after_socket)
{
	struct scratch *scratch = get_scratch();
	struct socket_record *record = (void *)scratch;
	struct label *label = current_label();
	__u32 family = PARM(1), type = PARM(2) & SOCK_TYPE;
	bool plain = family == AF_UNIX ||
		     ((family == AF_INET || family == AF_INET6) && type != SOCK_RAW);

	if (!label || !scratch || plain || told_before(result_of(ctx)))
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->op = SOCKET_CREATE;
	record->family = family;
	record->port = type;
	record->protocol = PARM(3);
	record->result = result_of(ctx) < 0 ? result_of(ctx) : 0;
	record->address[0] = family; /* what is counted as the same */
	report(scratch, label, NULL);
	return 0;
}

HANDLES(after_socket, socket)

char LICENSE[] SEC("license") = "GPL";
