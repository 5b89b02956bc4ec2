/* Reads of labelled tasks from pipes and Unix sockets: finds MCP by its content, stops a reader
 * that has received a message which policy must judge, and copies everything else out.
 *
 * The task is stopped after its read returned and before it sees the data, so what is judged is
 * what it will see. A message is let through unjudged only when the bytes prove that it cannot be
 * a request: it is here whole, it has no escape sequence, and it has no "id" or no "method". */
#include "include/channel.h"
#include "include/copy.h"
#include "include/hold.h"
#include "include/path.h"
#include "include/scan.h"
#include "include/syscall.h"
#include "include/written.h"

#define MSG_PEEK   2
#define MAX_IOVECS 1024 /* UIO_MAXIOV */
#define SHORT_READ 1024

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct channel);
} channels SEC(".maps");

/* Fills in which file was read; false unless it is a pipe or a Unix socket. */
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
	read->peer_ino = peer_inode(sk);
	return true;
}

/* Where a byte of what was read lies. */
struct place {
	__u64 iov; /* the next to look at */
	__u64 skip;
	__u64 address; /* 0: in none of them */
	__u64 room;    /* from there to the end of its iovec */
};

static long find_place(__u32 index, void *data)
{
	struct place *place = data;
	struct iovec iov = {};

	if (bpf_probe_read_user(&iov, sizeof(iov), (void *)place->iov))
		return 1;
	if (place->skip < iov.iov_len) {
		place->address = (__u64)iov.iov_base + place->skip;
		place->room = iov.iov_len - place->skip;
		return 1;
	}
	place->skip -= iov.iov_len;
	place->iov += sizeof(iov);
	return 0;
}

/* Takes the first bytes from the first iovec that is not empty. */
static __always_inline void use_iovecs(struct bytes_read *read, __u64 iov, __u64 count)
{
	struct place first = {.iov = iov};

	read->iov = iov;
	read->iovcnt = count < MAX_IOVECS ? count : MAX_IOVECS;
	bpf_loop(read->iovcnt, find_place, &first, 0);
	read->address = first.address;
	read->first_len = first.room < read->total ? first.room : read->total;
}

static __always_inline void hold_read(const struct label *label, const struct bytes_read *read,
				      __u32 workload, __u32 flags)
{
	struct hold *hold = new_hold(label, HOLD_READ);
	struct scratch *scratch = get_scratch();
	__u32 len = read->total <= SHORT_READ && !read->iovcnt ? read->total : 0;

	barrier_var(len);
	if (!hold || !scratch || len > SHORT_READ)
		return;
	/* What is only read from its memory costs the engine a fifth of the time to a verdict. */
	if (bpf_probe_read_user(scratch->bytes + sizeof(*hold), len, (void *)read->address))
		len = 0;
	hold->ino = read->ino;
	hold->peer_ino = read->peer_ino;
	hold->address = read->iovcnt ? read->iov : read->address;
	hold->iovcnt = read->iovcnt;
	hold->length = read->total;
	hold->fd = read->fd;
	hold->syscall = read->syscall;
	hold->access = flags;
	if (enter_hold(hold, workload)) {
		announce(hold, scratch, sizeof(*hold) + len);
		await_verdict(hold, workload);
	}
}

static __always_inline __u64 last_byte(const struct bytes_read *read)
{
	struct place last = {.iov = read->iov, .skip = read->total - 1};

	if (!read->iovcnt)
		return read->address + read->total - 1;
	bpf_loop(read->iovcnt, find_place, &last, 0);
	return last.address;
}

static __always_inline bool ends_line(const struct bytes_read *read)
{
	char last = 0;

	bpf_probe_read_user(&last, 1, (void *)last_byte(read));
	return last == '\n';
}

/* Whether a read from a channel that is not known to be MCP is worth user space's look. */
static __always_inline bool may_be_mcp(struct scratch *scratch, const struct bytes_read *read,
				       const struct channel *channel, __u32 role, bool whole_line)
{
	bool opens = opens_json(scratch->bytes[0]) && !(channel && channel->partial);

	if (!(role & ROLE_OTHER))
		return opens || ends_in_mcp(scratch, read->address, read->first_len);
	/* User space has seen other lines here. A piece too short to show what it is may still be
	 * the first of a request in many small writes. */
	return (opens && !whole_line && read->total < SHORT_PIECE) ||
	       ends_in_mcp(scratch, read->address, read->first_len);
}

static __always_inline int judge(const struct label *label, struct bytes_read *read)
{
	struct channel *channel = bpf_map_lookup_elem(&channels, &read->ino);
	__u32 role = role_of(read->ino);
	__u32 workload = workload_flags(label);
	struct scratch *scratch = get_scratch();
	__u32 window = read->first_len < WINDOW ? read->first_len : WINDOW;
	bool whole_line = ends_line(read);
	bool inside = channel && channel->partial;
	bool told = channel && channel->reads;
	struct channel now = {.partial = !whole_line};

	/* The bound once more, where it counts: the verifier of 6.1 has lost it on the way here. */
	barrier_var(window);
	if (!scratch || window > WINDOW)
		return 0;
	if (bpf_probe_read_user(scratch->bytes, window, (void *)read->address))
		window = 0; /* user space will not be able to read it either */
	bool candidate = role & ROLE_MCP || (told && !(role & ROLE_OTHER));
	__u32 enough = FOUND_ID | FOUND_METHOD | (candidate ? 0 : FOUND_JSONRPC);
	__u32 found = scan_bytes(scratch, window, enough);

	if (!candidate && !(found & FOUND_MCP) &&
	    !may_be_mcp(scratch, read, channel, role, whole_line)) {
		if (channel)
			*channel = now;
		else
			bpf_map_update_elem(&channels, &read->ino, &now, BPF_ANY);
		return 0;
	}
	if (role & ROLE_OTHER)
		bpf_map_delete_elem(&roles, &read->ino);

	bool is_request = (found & (FOUND_ID | FOUND_METHOD)) == (FOUND_ID | FOUND_METHOD);
	bool seen_whole = whole_line && !inside && window == read->total;
	__u32 flags = (inside ? DATA_INSIDE : 0) | (channel && !told ? DATA_LOST : 0);
	/* To a server everything has one of the two, unless its keys are not quoted. */
	bool garbled = role & ROLE_TO_SERVER && !(found & (FOUND_ID | FOUND_METHOD));
	bool unclear = !seen_whole || garbled || found & FOUND_ESCAPE;
	bool hold = false;
	if (!(role & ROLE_TO_SERVER)) /* an answer has an id, and a method has only a request */
		hold = workload & HOLDS_RESULTS && (found & FOUND_ID || unclear);
	/* What asks a client is rare; and a server may have been taken for one. */
	if (role & ROLE_TO_CLIENT)
		hold |= workload & (HOLDS_CLIENT_REQUESTS | HOLDS_REQUESTS) && is_request;
	else
		hold |= workload & HOLDS_REQUESTS && (is_request || unclear);
	/* What only looks as if it might be MCP is let through while there is nobody to look. */
	if (hold && !(role & ROLE_MCP) && !(found & FOUND_JSONRPC))
		hold = judged_here();
	now.reads = 1;
	if (!hold && seen_whole)
		flags |= DATA_WHOLE;
	if (!hold)
		now.reads = copy_out(label, read, flags, !told);
	bpf_map_update_elem(&channels, &read->ino, &now, BPF_ANY);
	if (hold)
		hold_read(label, read, workload, flags);
	return 0;
}

static __always_inline int after_bytes(struct bpf_raw_tracepoint_args *ctx, bool vector,
				       bool message)
{
	struct pt_regs *regs = saved_regs(ctx);
	struct bytes_read read = {};
	long result = result_of(ctx);

	if (result <= 0)
		return 0;
	read.total = result;
	read.fd = PT_REGS_PARM1_CORE_SYSCALL(regs);
	read.syscall = syscall_number(regs);
	if (!find_file(&read)) /* most reads are of files */
		return 0;
	struct label *label = current_label();
	if (!label)
		return 0;
	__u64 second = PT_REGS_PARM2_CORE_SYSCALL(regs);
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

HANDLER(after_read)
{
	return after_bytes(ctx, false, false);
}

HANDLES(after_read, read)

HANDLER(after_readv)
{
	return after_bytes(ctx, true, false);
}

HANDLES(after_readv, readv)
/* With the position -1 it reads from a pipe. */
HANDLES(after_readv, preadv2)

/* A peek leaves the data in the socket: the read that takes it will be judged. */
HANDLER(after_recvfrom)
{
	if (PT_REGS_PARM4_CORE_SYSCALL(saved_regs(ctx)) & MSG_PEEK)
		return 0;
	return after_bytes(ctx, false, false);
}

HANDLES(after_recvfrom, recvfrom)

HANDLER(after_recvmsg)
{
	if (PT_REGS_PARM3_CORE_SYSCALL(saved_regs(ctx)) & MSG_PEEK)
		return 0;
	return after_bytes(ctx, false, true);
}

HANDLES(after_recvmsg, recvmsg)

HANDLER(after_write)
{
	end_write(result_of(ctx));
	return 0;
}

HANDLES(after_write, write)
HANDLES(after_write, writev)
HANDLES(after_write, pwritev2)

char LICENSE[] SEC("license") = "GPL";
