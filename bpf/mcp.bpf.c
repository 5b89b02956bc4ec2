/* Reads of labelled tasks from pipes and Unix sockets: finds MCP by its content, stops a reader
 * that has received a request which policy must judge, and copies everything else out.
 *
 * The task is stopped after its read returned and before it sees the data, so what is judged is
 * what it will see. A message is let through unjudged only when the bytes prove that it cannot be
 * a request: it is here whole, it has no escape sequence, and it has no "id" or no "method". */
#include "include/hold.h"
#include "include/path.h"
#include "include/scan.h"
#include "include/syscall.h"

#define S_IFMT	 0170000
#define S_IFIFO	 0010000
#define S_IFSOCK 0140000
#define AF_UNIX	 1
#define MSG_PEEK 2

#define SHORT_PIECE 64
#define CHUNK	    8192
#define MAX_CHUNKS  64
#define MAX_IOVECS  8

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct channel);
} channels SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u32);
} roles SEC(".maps");

struct bytes_read {
	__u64 address; /* of the first bytes */
	__u64 total;
	__u64 iov; /* the array, where iovcnt is not 0 */
	__u64 ino;
	__u64 peer_ino;
	__u32 first_len; /* contiguous bytes at `address` */
	__u32 iovcnt;
	__u32 fd;
	__u32 syscall;
};

/* Fills in what file was read; false unless it is a pipe or a Unix socket. */
static __always_inline bool find_file(struct bytes_read *read)
{
	struct file *file = file_of((void *)bpf_get_current_task(), read->fd);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u32 type = BPF_CORE_READ(inode, i_mode) & S_IFMT;

	if (type != S_IFIFO && type != S_IFSOCK)
		return false;
	read->ino = BPF_CORE_READ(inode, i_ino);
	if (type == S_IFIFO)
		return true;

	struct socket *socket = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX)
		return false;
	struct socket *peer = BPF_CORE_READ((struct unix_sock *)sk, peer, sk_socket);
	if (peer) {
		struct socket_alloc *alloc =
			(void *)peer - bpf_core_field_offset(struct socket_alloc, socket);
		read->peer_ino = BPF_CORE_READ(alloc, vfs_inode.i_ino);
	}
	return true;
}

static __always_inline void use_iovecs(struct bytes_read *read, __u64 iov, __u64 count)
{
	struct iovec first = {};

	bpf_probe_read_user(&first, sizeof(first), (void *)iov);
	read->iov = iov;
	read->iovcnt = count < MAX_IOVECS ? count : MAX_IOVECS;
	read->address = (__u64)first.iov_base;
	read->first_len = first.iov_len < read->total ? first.iov_len : read->total;
}

struct copy {
	const struct label *label;
	struct bytes_read *read;
	__u64 address;
	__u64 left;
	__u32 lost;
};

static long copy_chunk(__u32 index, void *data)
{
	struct copy *copy = data;
	struct scratch *scratch = get_scratch();
	struct data_record *record = (void *)scratch;
	__u32 len = copy->left < CHUNK ? copy->left : CHUNK;

	if (!scratch || !len)
		return 1;
	if (len > CHUNK)
		len = CHUNK;
	fill_head(&record->head, REC_DATA, copy->label);
	record->ino = copy->read->ino;
	record->peer_ino = copy->read->peer_ino;
	record->fd = copy->read->fd;
	record->len = len;
	record->flags = 0;
	record->pad = 0;
	if (bpf_probe_read_user(&scratch->bytes[sizeof(*record)], len, (void *)copy->address))
		record->flags = DATA_LOST;
	send_record(scratch, sizeof(*record) + len, copy->label->workload);
	copy->address += len;
	copy->left -= len;
	return 0;
}

static long copy_iovec(__u32 index, void *data)
{
	struct copy *copy = data;
	struct iovec iov = {};
	__u64 left = copy->left;

	bpf_probe_read_user(&iov, sizeof(iov), (void *)(copy->read->iov + index * sizeof(iov)));
	copy->address = (__u64)iov.iov_base;
	copy->left = iov.iov_len < left ? iov.iov_len : left;
	left -= copy->left;
	bpf_loop(MAX_CHUNKS, copy_chunk, copy, 0);
	copy->left = left;
	return left == 0;
}

/* Sends the bytes to user space; what does not fit is counted, and the next record says so. */
static __always_inline void copy_out(const struct label *label, struct bytes_read *read)
{
	struct copy copy = {
		.label = label, .read = read, .address = read->address, .left = read->total};

	if (read->iovcnt)
		bpf_loop(MAX_IOVECS, copy_iovec, &copy, 0);
	else
		bpf_loop(MAX_CHUNKS, copy_chunk, &copy, 0);
	if (copy.left)
		count_in(&losses, label->workload);
}

static __always_inline void hold_read(const struct label *label, const struct bytes_read *read,
				      __u32 flags, bool was_partial)
{
	struct hold *hold = new_hold(label, HOLD_READ);

	if (!hold)
		return;
	hold->ino = read->ino;
	hold->peer_ino = read->peer_ino;
	hold->address = read->iovcnt ? read->iov : read->address;
	hold->iovcnt = read->iovcnt;
	hold->length = read->total;
	hold->fd = read->fd;
	hold->syscall = read->syscall;
	hold->access = was_partial;
	take_hold(hold, flags);
}

static __always_inline bool ends_line(const struct bytes_read *read)
{
	char last = 0;

	if (read->first_len != read->total)
		return false;
	bpf_probe_read_user(&last, 1, (void *)(read->address + read->total - 1));
	return last == '\n';
}

static __always_inline bool opens_object(__u8 first)
{
	return first == '{' || first == '[' || first == ' ' || first == '\t';
}

static __always_inline int judge(const struct label *label, struct bytes_read *read)
{
	struct channel *channel = bpf_map_lookup_elem(&channels, &read->ino);
	__u32 *known = bpf_map_lookup_elem(&roles, &read->ino);
	__u32 role = known ? *known : 0;
	__u32 flags = workload_flags(label);
	struct scratch *scratch = get_scratch();
	__u32 window = read->first_len < WINDOW ? read->first_len : WINDOW;
	bool whole_line = ends_line(read);
	bool was_partial = channel && channel->partial;

	if (!scratch || !window)
		return 0;
	*(__u64 *)(scratch->bytes + window) = 0;
	if (bpf_probe_read_user(scratch->bytes, window, (void *)read->address))
		return 0;
	struct scan scan = {.bytes = scratch->bytes, .enough = FOUND_ID | FOUND_METHOD};
	bool candidate = role & ROLE_MCP || (channel && !(role & ROLE_OTHER));
	if (!candidate)
		scan.enough |= FOUND_JSONRPC;
	bpf_loop(window, scan_step, &scan, 0);

	if (!candidate && !(scan.found & FOUND_JSONRPC)) {
		/* A first piece too short to show what it is may be a request in many small writes.
		 */
		if (role & ROLE_OTHER || whole_line || read->total >= SHORT_PIECE ||
		    !opens_object(scratch->bytes[0]))
			return 0;
	}
	struct channel now = {.partial = !whole_line, .reads = channel ? channel->reads + 1 : 1};
	bpf_map_update_elem(&channels, &read->ino, &now, BPF_ANY);

	bool is_request = (scan.found & (FOUND_ID | FOUND_METHOD)) == (FOUND_ID | FOUND_METHOD);
	bool seen_whole = whole_line && !was_partial && window == read->total;
	bool hold;
	if (role & ROLE_TO_CLIENT)
		hold = flags & HOLDS_CLIENT_REQUESTS && is_request;
	else
		hold = flags & HOLDS_REQUESTS &&
		       (is_request || !seen_whole || scan.found & FOUND_ESCAPE);
	if (hold)
		hold_read(label, read, flags, was_partial);
	else
		copy_out(label, read);
	return 0;
}

static __always_inline int after_bytes(struct bpf_raw_tracepoint_args *ctx, bool vector,
				       bool message)
{
	struct pt_regs *regs = saved_regs(ctx);
	struct label *label = current_label();
	struct bytes_read read = {};
	__u64 second = PT_REGS_PARM2_CORE_SYSCALL(regs);
	long result = result_of(ctx);

	if (!label || result <= 0)
		return 0;
	read.total = result;
	read.fd = PT_REGS_PARM1_CORE_SYSCALL(regs);
	read.syscall = syscall_number(regs);
	if (!find_file(&read))
		return 0;
	if (message) {
		struct user_msghdr header = {};
		bpf_probe_read_user(&header, sizeof(header), (void *)second);
		use_iovecs(&read, (__u64)header.msg_iov, header.msg_iovlen);
	} else if (vector) {
		use_iovecs(&read, second, PT_REGS_PARM3_CORE_SYSCALL(regs));
	} else {
		read.address = second;
		read.first_len = read.total;
	}
	return judge(label, &read);
}

SEC("raw_tp/sys_exit")
int after_read(struct bpf_raw_tracepoint_args *ctx)
{
	return after_bytes(ctx, false, false);
}

SEC("raw_tp/sys_exit")
int after_readv(struct bpf_raw_tracepoint_args *ctx)
{
	return after_bytes(ctx, true, false);
}

/* A peek leaves the data in the socket: the read that takes it will be judged. */
SEC("raw_tp/sys_exit")
int after_recvfrom(struct bpf_raw_tracepoint_args *ctx)
{
	if (PT_REGS_PARM4_CORE_SYSCALL(saved_regs(ctx)) & MSG_PEEK)
		return 0;
	return after_bytes(ctx, false, false);
}

SEC("raw_tp/sys_exit")
int after_recvmsg(struct bpf_raw_tracepoint_args *ctx)
{
	if (PT_REGS_PARM3_CORE_SYSCALL(saved_regs(ctx)) & MSG_PEEK)
		return 0;
	return after_bytes(ctx, false, true);
}

char LICENSE[] SEC("license") = "GPL";
