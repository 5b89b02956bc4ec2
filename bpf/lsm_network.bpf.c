/* Refuses labelled tasks the connects, sends, binds and kinds of sockets that rules deny them,
 * before any packet is sent. Addresses are the kernel's own copies, those of Unix sockets the
 * listener's own. Where a person or the session decides, the call is held. Fails closed where the
 * workload says so. */
#include "include/families.h"
#include "include/netcalls.h"
#include <bpf/bpf_tracing.h>

#define AF_UNSPEC    0
#define SOCK_STREAM  1
#define SOCK_RAW     3
#define IPPROTO_RAW  255
#define MSG_FASTOPEN 0x20000000
#define PATH_AT	     2 /* of sun_path in struct sockaddr_un */

/* Fills in protocol and port. Raw sockets write headers of their own: rules on ports hold for any
 * that carries something else than ICMP. */
static __always_inline void read_protocol(struct target *target, struct sock *sk)
{
	__u16 protocol = BPF_CORE_READ(sk, sk_protocol);
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	target->protocol = plain_protocol(protocol);
	if (family != AF_INET && family != AF_INET6) {
		target->protocol = 0; /* SMC and others, which use addresses of IP */
	} else if (BPF_CORE_READ(sk, sk_type) == SOCK_RAW &&
		   (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP ||
		    protocol == IPPROTO_RAW)) {
		target->protocol = 0;
		target->port = ANY_PORT;
	}
}

/* An address of IPv4 or IPv6; false for any other, and for what is too short to be one. Without a
 * family it is one of the socket's own where something is sent or bound, and none in a connect. */
static __always_inline bool read_address(struct target *target, const void *address, int len,
					 struct sock *sk, __u32 hook)
{
	struct sockaddr_in in = {};
	__u16 family = 0;

	bpf_probe_read_kernel(&family, sizeof(family), address);
	if (family == AF_UNSPEC && hook != HOOK_CONNECT)
		family = BPF_CORE_READ(sk, __sk_common.skc_family);
	target->family = family;
	if (len < sizeof(in) || (family != AF_INET && family != AF_INET6))
		return false;
	bpf_probe_read_kernel(&in, sizeof(in), address);
	target->port = __builtin_bswap16(in.sin_port);
	if (family == AF_INET) {
		set_ipv4(target, in.sin_addr.s_addr);
	} else {
		if (len < offsetof(struct sockaddr_in6, sin6_scope_id))
			return false;
		bpf_probe_read_kernel(target->address, sizeof(target->address),
				      address + offsetof(struct sockaddr_in6, sin6_addr));
	}
	read_protocol(target, sk);
	if (hook != HOOK_BIND)
		name_loopback(target);
	return true;
}

static __noinline int judge_call(struct label *label, struct sock *sk, const void *address, int len,
				 __u32 hook)
{
	struct deed deed = {.label = label, .hook = hook};
	struct target target = {};

	if (!read_address(&target, address, len, sk, hook))
		return 0;
	judge_address(&deed, &target, hook == HOOK_BIND ? RULE_BIND : 0);
	return deed.action ? settle_address(&deed, &target) : 0;
}

static __noinline int fold_name(struct target *target, const void *name, __u32 len)
{
	__u64 words[16] = {}; /* UNIX_PATH_LEN, and what the mask below allows */

	bpf_probe_read_kernel(words, len & 0x7f, name);
	ROLLED for (int i = 0; i < sizeof(words) / 8; i++)
	{
		target->address[0] = target->address[0] * 0x100000001b3 ^ words[i];
		target->address[1] = (target->address[1] + words[i]) * 0x9e3779b97f4a7c15;
	}
	return 0;
}

/* The name that a Unix socket is bound to, as it was given: there is no other yet. */
static __noinline int judge_unix_bind(struct label *label, const void *address, int len)
{
	struct deed deed = {.label = label, .hook = HOOK_BIND};
	struct target target = {.family = AF_UNIX};
	char first = 0;

	if (len <= PATH_AT || len > PATH_AT + UNIX_PATH_LEN)
		return 0;
	deed.name = address + PATH_AT;
	deed.name_len = len - PATH_AT;
	bpf_probe_read_kernel(&first, sizeof(first), deed.name);
	judge_address(&deed, &target, RULE_BIND | (first ? RULE_UNIX : RULE_ABSTRACT));
	if (!deed.action)
		return 0;
	fold_name(&target, deed.name, deed.name_len);
	return settle_address(&deed, &target);
}

SEC("lsm/socket_connect")
int BPF_PROG(on_socket_connect, struct socket *sock, struct sockaddr *address, int addrlen)
{
	struct label *label = current_label();

	if (!label)
		return 0;
	return hook_result(
		judge_call(label, BPF_CORE_READ(sock, sk), address, addrlen, HOOK_CONNECT));
}

SEC("lsm/socket_bind")
int BPF_PROG(on_socket_bind, struct socket *sock, struct sockaddr *address, int addrlen)
{
	struct label *label = current_label();

	if (!label)
		return 0;
	struct sock *sk = BPF_CORE_READ(sock, sk);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_UNIX)
		return hook_result(judge_unix_bind(label, address, addrlen));
	return hook_result(judge_call(label, sk, address, addrlen, HOOK_BIND));
}

/* A send that names its destination. TCP looks at the name only for the first bytes of a fast open.
 */
SEC("lsm/socket_sendmsg")
int BPF_PROG(on_socket_sendmsg, struct socket *sock, struct msghdr *msg, int size)
{
	struct sock *sk;

	if (!msg->msg_name || !msg->msg_namelen)
		return 0;
	struct label *label = current_label();
	if (!label)
		return 0;
	sk = BPF_CORE_READ(sock, sk);
	if (BPF_CORE_READ(sk, sk_type) == SOCK_STREAM &&
	    plain_protocol(BPF_CORE_READ(sk, sk_protocol)) == IPPROTO_TCP &&
	    !(msg->msg_flags & MSG_FASTOPEN))
		return 0;
	return hook_result(judge_call(label, sk, msg->msg_name, msg->msg_namelen, HOOK_SEND));
}

SEC("lsm/socket_create")
int BPF_PROG(on_socket_create, int family, int type, int protocol, int kern)
{
	struct deed deed = {.label = current_label(), .hook = HOOK_SOCKET};
	struct target target = {.family = family, .protocol = family, .port = type};

	if (!deed.label || kern)
		return 0;
	if ((family == AF_INET || family == AF_INET6) && type == SOCK_RAW)
		target.protocol = FAMILY_RAW;
	target.port = 0;
	judge_address(&deed, &target, RULE_SOCKET);
	if (!deed.action)
		return 0;
	target.port = type;
	target.protocol = protocol;
	return hook_result(settle_address(&deed, &target));
}

/* The path that a Unix socket is bound to, if it is one; what the rules on paths say. */
static __always_inline int judge_path(struct work *work, struct deed *deed, struct unix_sock *end)
{
	struct enforcing *now = get_enforcing();
	struct dentry *dentry = BPF_CORE_READ(end, path.dentry);

	if (!dentry)
		return 0;
	deed->from = deed->dentry = dentry;
	deed->mnt = BPF_CORE_READ(end, path.mnt);
	deed->inode = BPF_CORE_READ(dentry, d_inode);
	deed->acts = 1 << ACT_CONNECT;
	if (!now || !now->armed)
		return 0;
	deed->version = now->version & 1;
	return decide(work, deed);
}

/* What the other rules say of it; the verdict of both is carried out. */
static __noinline int settle_peer(struct work *work, struct deed *deed, struct sock *other,
				  bool connected)
{
	struct unix_sock *end = (struct unix_sock *)other;
	struct unix_address *address = BPF_CORE_READ(end, addr);
	struct target target = {.family = AF_UNIX};

	if (!deed->from) {
		deed->name = (const void *)address +
			     bpf_core_field_offset(struct unix_address, name) + PATH_AT;
		deed->name_len = BPF_CORE_READ(address, len) - PATH_AT;
	}
	judge_address(deed, &target, deed->from ? RULE_UNIX : RULE_ABSTRACT);
	if (!deed->action || (connected && deed->action == ACTION_ASK))
		return 0;
	target.address[0] = (__u64)BPF_CORE_READ(other, sk_socket);
	target.address[1] = BPF_CORE_READ(other, sk_socket, file, f_inode, i_ino);
	pack_subject(&work->subject, deed, &target);
	return settle(work, deed, &target, false);
}

/* Judges who is at the other end, by the name that it was bound to: a pair of sockets has none. */
static __always_inline int judge_peer(struct deed *deed, struct sock *other, bool connected)
{
	struct unix_sock *end = (struct unix_sock *)other;

	if (!BPF_CORE_READ(end, addr))
		return 0;
	struct work *work = claim_work();
	if (!work)
		return -EAGAIN;
	int result = judge_path(work, deed, end);
	if (!result)
		result = settle_peer(work, deed, other, connected);
	give_back(work);
	return result;
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(on_unix_stream_connect, struct sock *sock, struct sock *other, struct sock *newsk)
{
	struct deed deed = {.label = current_label(), .hook = HOOK_CONNECT};

	return deed.label ? hook_result(judge_peer(&deed, other, false)) : 0;
}

/* Called for each message. Whoever is connected has been asked about by then; what is denied
 * without a question stays denied. */
SEC("lsm/unix_may_send")
int BPF_PROG(on_unix_may_send, struct socket *sock, struct socket *other)
{
	struct deed deed = {.label = current_label(), .hook = HOOK_SEND};

	if (!deed.label)
		return 0;
	struct sock *end = BPF_CORE_READ(other, sk);
	struct unix_sock *from = (struct unix_sock *)BPF_CORE_READ(sock, sk);

	return hook_result(judge_peer(&deed, end, BPF_CORE_READ(from, peer) == end));
}

char LICENSE[] SEC("license") = "GPL";
