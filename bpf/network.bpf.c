/* Refuses connects and sends that a rule denies, for sessions that live in a cgroup of agentd's.
 * Static rules only; the refusal (EPERM) does not wait for user space and does not need it. */
#include "include/common.h"

#define AF_INET	 2
#define AF_INET6 10

#define BLOCKED_BURST 4

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WORKLOADS *MAX_SOCKET_RULES);
	__type(key, __u32);
	__type(value, struct socket_rule);
} socket_rules SEC(".maps");

struct target {
	__u8 address[16];
	__u16 family;
	__u16 protocol;
	__u16 port;
	__u16 pad;
};

struct judge {
	const struct target *target;
	__u32 base;
	__u32 skip;   /* the rule that an exception has switched off, plus one */
	__u32 denied; /* the rule that denies, plus one */
};

static __always_inline bool in_prefix(const __u8 *address, const __u8 *net, __u32 prefix)
{
	for (__u32 i = 0; i < 16; i++) {
		__u32 bits = prefix > i * 8 ? prefix - i * 8 : 0;
		__u8 mask = bits >= 8 ? 0xff : (__u8)(0xff00 >> bits);
		if ((address[i] ^ net[i]) & mask)
			return false;
	}
	return true;
}

static long judge_rule(__u32 index, void *data)
{
	struct judge *judge = data;
	const struct target *target = judge->target;
	__u32 slot = judge->base + index;
	struct socket_rule *rule = bpf_map_lookup_elem(&socket_rules, &slot);

	if (!rule)
		return 1;
	if (rule->rule + 1 == judge->skip)
		return 0;
	if (rule->protocol && rule->protocol != target->protocol)
		return 0;
	if (target->port < rule->port_low || target->port > rule->port_high)
		return 0;
	if (!in_prefix(target->address, rule->address, rule->prefix))
		return 0;
	if (rule->flags & RULE_EXCEPT) {
		judge->skip = rule->rule + 1;
		return 0;
	}
	judge->denied = rule->rule + 1;
	return 1;
}

static __always_inline int verdict(const struct target *target)
{
	struct label *label = label_of(current_tgid());
	struct judge judge = {.target = target};

	if (!label)
		return 1;
	__u32 index = label->workload;
	struct workload *workload = bpf_map_lookup_elem(&workloads, &index);
	if (!workload || !workload->socket_rules)
		return 1;
	judge.base = index * MAX_SOCKET_RULES;
	bpf_loop(workload->socket_rules, judge_rule, &judge, 0);
	if (!judge.denied)
		return 1;

	const __u64 *address = (const __u64 *)target->address;
	struct seen_key key = {label->session, REC_SOCKET | SOCKET_BLOCKED << 16, address[0],
			       address[1], target->port | (__u64)target->protocol << 16};
	__u32 count = worth_telling(&key, BLOCKED_BURST);
	if (!count)
		return 0;
	struct socket_record record = {
		.op = SOCKET_BLOCKED, .result = -1, .rule = judge.denied - 1};
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
	struct target target = {.family = AF_INET, .protocol = ctx->protocol};
	__u32 address = ctx->user_ip4;

	target.port = __builtin_bswap16((__u16)ctx->user_port);
	target.address[10] = 0xff;
	target.address[11] = 0xff;
	__builtin_memcpy(&target.address[12], &address, sizeof(address));
	return verdict(&target);
}

static __always_inline int verdict6(struct bpf_sock_addr *ctx)
{
	struct target target = {.family = AF_INET6, .protocol = ctx->protocol};
	__u32 words[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};

	target.port = __builtin_bswap16((__u16)ctx->user_port);
	__builtin_memcpy(target.address, words, sizeof(words));
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
