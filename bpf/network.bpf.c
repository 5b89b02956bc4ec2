/* Refuses connects and sends that a rule denies, for sessions that live in a cgroup of agentd's.
 * Static rules only; the refusal (EPERM) does not wait for user space and does not need it. */
#include "include/netrules.h"

#define BLOCKED_BURST 4

static __always_inline int verdict(const struct target *target)
{
	struct label *label = label_of(current_tgid());
	struct judge judge = {.target = target, .minor = 1};

	if (!label || !judge_target(label, &judge))
		return 1;

	struct seen_key key = {label->session, REC_SOCKET | SOCKET_BLOCKED << 16,
			       target->address[0], target->address[1],
			       target->port | (__u64)target->protocol << 16};
	__u32 count = worth_telling(&key, BLOCKED_BURST);
	if (!count)
		return 0;
	struct socket_record record = {.op = SOCKET_BLOCKED, .result = -1, .rule = judge.found - 1};
	record.family = target->family;
	record.protocol = target->protocol;
	record.port = target->port;
	__builtin_memcpy(record.address, target->address, sizeof(record.address));
	record.head.kind = REC_SOCKET;
	record.head.workload = label->workload;
	record.head.session = label->session;
	record.head.time_ns = bpf_ktime_get_boot_ns();
	record.head.start_ns = label->start_ns;
	record.head.tgid = record.head.tid = current_tgid();
	record.head.uid = (__u32)bpf_get_current_uid_gid();
	record.head.count = count;
	struct task_struct *task = (void *)bpf_get_current_task();
	BPF_CORE_READ_STR_INTO(&record.head.comm, task, comm);
	send_record(&record, sizeof(record), label->workload);
	return 0;
}

static __always_inline int verdict4(struct bpf_sock_addr *ctx)
{
	struct target target = {.family = AF_INET, .protocol = plain_protocol(ctx->protocol)};

	target.port = __builtin_bswap16((__u16)ctx->user_port);
	set_ipv4(&target, ctx->user_ip4);
	name_loopback(&target);
	return verdict(&target);
}

static __always_inline int verdict6(struct bpf_sock_addr *ctx)
{
	struct target target = {.family = AF_INET6, .protocol = plain_protocol(ctx->protocol)};

	target.port = __builtin_bswap16((__u16)ctx->user_port);
	target.address[0] = ctx->user_ip6[0] | (__u64)ctx->user_ip6[1] << 32;
	target.address[1] = ctx->user_ip6[2] | (__u64)ctx->user_ip6[3] << 32;
	name_loopback(&target);
	return verdict(&target);
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	return verdict4(ctx);
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	return verdict6(ctx);
}

SEC("cgroup/sendmsg4")
int on_sendmsg4(struct bpf_sock_addr *ctx)
{
	return verdict4(ctx);
}

SEC("cgroup/sendmsg6")
int on_sendmsg6(struct bpf_sock_addr *ctx)
{
	return verdict6(ctx);
}

char LICENSE[] SEC("license") = "GPL";
