/* Keeps a labelled server's MCP messages from its client until policy has judged them: its write to
 * a pipe or a Unix stream socket is held at its entry, before a byte is on its way. Where the
 * client is labelled as well its read is held instead (mcp.bpf.c).
 *
 * What is judged lies in the writer's own memory. What a call sends that has no bytes there
 * (io_uring, sendfile to a socket) is refused on a channel that is known to be MCP, or let through,
 * as the workload says. The kernel asks nobody about splice, tee, vmsplice and sendfile into a
 * pipe.
 */
#include "include/channel.h"
#include "include/entry.h"
#include "include/scan.h"
#include "include/written.h"
#include <bpf/bpf_tracing.h>

#define MAY_WRITE   2
#define SOCK_STREAM 1
#define FEW_IOVECS  8
#define MAX_ERRNO   4095

#if defined(__TARGET_ARCH_x86)
#define NR_WRITE    1
#define NR_WRITEV   20
#define NR_SENDFILE 40
#define NR_SENDTO   44
#define NR_SENDMSG  46
#define NR_SPLICE   275
#define NR_PWRITEV2 328
#define TS_COMPAT   2
#else
#define NR_WRITE    64
#define NR_WRITEV   66
#define NR_SENDFILE 71
#define NR_SPLICE   76
#define NR_SENDTO   206
#define NR_SENDMSG  211
#define NR_PWRITEV2 287
#endif

/* Where the first bytes are that a call sends. */
struct sent {
	__u64 address;
	__u64 length;
	bool readable; /* false: they are not in the task's memory, or nobody knows where */
};

static __always_inline struct pt_regs *call_regs(void)
{
	return (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

/* A 32-bit call has other numbers and other structures. */
static __always_inline bool is_compat(void)
{
#if defined(__TARGET_ARCH_x86)
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
#else
	return false;
#endif
}

static __always_inline void use_iovecs(struct sent *sent, __u64 iov)
{
	struct iovec first = {};

	ROLLED for (int i = 0; i < FEW_IOVECS && !first.iov_len; i++)
		bpf_probe_read_user(&first, sizeof(first), (void *)(iov + i * sizeof(first)));
	sent->address = (__u64)first.iov_base;
	sent->length = first.iov_len;
}

/* Fills in the subject of a write: the arguments of its system call. */
static __noinline int find_call(struct work *work, struct deed *deed, struct sent *sent)
{
	struct pt_regs *regs = call_regs();
	struct subject *subject = &work->subject;
	struct user_msghdr header = {};

	deed->detail = PT_REGS_PARM1_CORE_SYSCALL(regs);
	subject->b = PT_REGS_PARM2_CORE_SYSCALL(regs);
	subject->c = PT_REGS_PARM3_CORE_SYSCALL(regs);
	subject->hook = HOOK_WRITE;
	subject->acts = syscall_number(regs);
	sent->readable = !is_compat();
	if (subject->acts == NR_WRITE || subject->acts == NR_SENDTO) {
		sent->address = subject->b;
		sent->length = subject->c;
	} else if (subject->acts == NR_SENDMSG) {
		bpf_probe_read_user(&header, sizeof(header), (void *)subject->b);
		use_iovecs(sent, (__u64)header.msg_iov);
	} else if (subject->acts == NR_WRITEV || subject->acts == NR_PWRITEV2) {
		use_iovecs(sent, subject->b);
	} else {
		sent->readable = false;
	}
	return 0;
}

/* Whether a write to a channel that is not known to be MCP is worth user space's look. One that
 * only begins as JSON does is let through where nobody can look.
 */
static __noinline int may_be_mcp(struct work *work, const struct sent *sent, __u32 role)
{
	struct scratch *scratch = &work->scratch;
	__u32 window = sent->length < WINDOW ? sent->length : WINDOW;

	barrier_var(window);
	if (window > WINDOW)
		window = WINDOW;
	if (bpf_probe_read_user(scratch->bytes, window, (void *)sent->address))
		return true; /* not in memory at this moment; user space can wait for it */
	bool opens = opens_json(scratch->bytes[0]);
	if (scan_bytes(scratch, window, FOUND_JSONRPC) & FOUND_MCP)
		return true;
	/* User space has seen other lines here: then only the first piece of a message in many. */
	if (opens && (!(role & ROLE_OTHER) || window < SHORT_PIECE))
		return judged_here();
	return ends_in_mcp(scratch, sent->address, sent->length);
}

static __noinline int judge_bytes(struct work *work, struct deed *deed, __u64 ino, __u32 role)
{
	struct written *channel = bpf_map_lookup_elem(&written, &ino);
	struct written fresh = {};
	struct sent sent = {};

	find_call(work, deed, &sent);
	work->subject.a = ino;
	if (!sent.readable)
		return role & ROLE_MCP ? unjudged(work, deed, workload_flags(deed->label)) : 0;
	if (!(role & ROLE_MCP) && !(channel && !(role & ROLE_OTHER))) {
		if (!may_be_mcp(work, &sent, role))
			return 0;
		if (role & ROLE_OTHER)
			bpf_map_delete_elem(&roles, &ino);
	}
	if (!channel) {
		bpf_map_update_elem(&written, &ino, &fresh, BPF_NOEXIST);
		channel = bpf_map_lookup_elem(&written, &ino);
	}
	int result = ask(work, deed, true);
	if (!result && channel)
		begin_write(channel, ino);
	return result;
}

/* The hook's result for a write to the channel that is read at `ino`. */
static __noinline int judge_write(struct label *label, __u64 ino)
{
	struct deed deed = {.label = label, .hook = HOOK_WRITE};
	__u32 role = role_of(ino);
	struct written *channel = bpf_map_lookup_elem(&written, &ino);

	if (!label || !ino || role & ROLE_TO_SERVER || (channel && channel->left))
		return 0;
	struct work *work = claim_work();
	if (!work)
		return -EAGAIN;
	int result = judge_bytes(work, &deed, ino, role);
	give_back(work);
	return result;
}

static __always_inline struct label *judged_label(void)
{
	struct label *label = current_label();

	return label && workload_flags(label) & HOLDS_RESULTS ? label : NULL;
}

/* The inode at which the other end of a socket reads, or an address that names it before it has
 * been accepted; 0 unless it is a Unix stream socket. */
static __always_inline __u64 read_at(struct socket *sock)
{
	struct sock *sk = BPF_CORE_READ(sock, sk);

	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX ||
	    BPF_CORE_READ(sock, type) != SOCK_STREAM)
		return 0;
	__u64 ino = peer_inode(sk);
	return ino ? ino : (__u64)BPF_CORE_READ((struct unix_sock *)sk, peer);
}

/* Within the range that the verifier wants to see, of which it has lost sight. */
static __always_inline int hook_result(int result)
{
	barrier_var(result);
	if (!result)
		return 0;
	return result < 0 && result >= -MAX_ERRNO ? result : -EPERM;
}

SEC("lsm/file_permission")
int BPF_PROG(on_write, struct file *file, int mask)
{
	struct label *label = mask & MAY_WRITE ? judged_label() : NULL;
	__u64 ino = 0;

	if (!label)
		return 0;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u32 kind = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	if (kind == S_IFIFO)
		ino = BPF_CORE_READ(inode, i_ino);
	else if (kind == S_IFSOCK)
		ino = read_at(BPF_CORE_READ(file, private_data));
	return ino ? hook_result(judge_write(label, ino)) : 0;
}

/* Writes to a socket as to a file have passed the hook above. */
SEC("lsm/socket_sendmsg")
int BPF_PROG(on_message, struct socket *sock, struct msghdr *msg, int size)
{
	struct label *label = judged_label();

	if (!label)
		return 0;
	__u32 number = syscall_number(call_regs());
	if (number == NR_WRITE || number == NR_WRITEV || number == NR_PWRITEV2 ||
	    number == NR_SENDFILE || number == NR_SPLICE)
		return 0;
	__u64 ino = read_at(sock);
	return ino ? hook_result(judge_write(label, ino)) : 0;
}

char LICENSE[] SEC("license") = "GPL";
