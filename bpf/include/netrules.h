/* The verdict of the static rules on addresses and kinds of sockets. */
#pragma once

#include "common.h"
#include "families.h"
#include "net_wire.h"

#define IPPROTO_TCP	6
#define IPPROTO_UDP	17
#define IPPROTO_UDPLITE 136
#define IPPROTO_SMC	256
#define IPPROTO_MPTCP	262

#define ANY_PORT 0x10000

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SOCKET_RULE_BANKS *MAX_WORKLOADS *MAX_SOCKET_RULES);
	__type(key, __u32);
	__type(value, struct socket_rule);
} socket_rules SEC(".maps");

/* What a call is about. The address as in `struct socket_rule`; protocol 0 may be any. */
struct target {
	__u64 address[2];
	__u32 port; /* or ANY_PORT, where the port is not known here */
	__u16 family;
	__u16 protocol;
};

/* The first rule that fits decides: user space writes the most severe first. */
struct judge {
	const struct target *target;
	__u32 base;
	__u32 use;   /* the RULE_USE of the rules that are asked */
	__u32 minor; /* 1: rules that need user space are left out */
	__u32 skip;  /* the rule that an exception has switched off, plus one */
	__u32 flags; /* of the rule that fits */
	__u32 found; /* that rule, plus one */
};

/* Protocols that reach the same service are the same to a rule. */
static __always_inline __u16 plain_protocol(__u16 protocol)
{
	if (protocol == IPPROTO_MPTCP || protocol == IPPROTO_SMC)
		return IPPROTO_TCP;
	return protocol == IPPROTO_UDPLITE ? IPPROTO_UDP : protocol;
}

static __always_inline void set_ipv4(struct target *target, __u32 address)
{
	target->address[0] = 0;
	target->address[1] = (__u64)address << 32 | 0xffff0000;
}

static __always_inline bool is_ipv4(const struct target *target)
{
	return !target->address[0] && (__u32)target->address[1] == 0xffff0000;
}

/* Who connects to no address in particular gets this host's own. */
static __always_inline void name_loopback(struct target *target)
{
	if (!target->address[0] && target->address[1] == 0xffff0000)
		set_ipv4(target, __builtin_bswap32(0x7f000001));
	else if (!target->address[0] && !target->address[1])
		target->address[1] = __builtin_bswap64(1);
}

static __always_inline bool in_prefix(const struct target *target, const struct socket_rule *rule)
{
	const __u64 *net = (const __u64 *)rule->address;
	__u64 high = __builtin_bswap64(target->address[0] ^ net[0]);
	__u64 low = __builtin_bswap64(target->address[1] ^ net[1]);

	if (rule->prefix <= 64)
		return !rule->prefix || !(high >> ((64 - rule->prefix) & 63));
	return !high && !(low >> ((128 - rule->prefix) & 63));
}

static long judge_rule(__u32 index, void *data)
{
	struct judge *judge = data;
	const struct target *target = judge->target;
	__u32 slot = judge->base + index;
	struct socket_rule *rule = bpf_map_lookup_elem(&socket_rules, &slot);

	if (!rule)
		return 1;
	if ((rule->flags & RULE_USE) != judge->use || rule->rule + 1 == judge->skip)
		return 0;
	if (judge->minor && rule->flags & RULE_ASK)
		return 0;
	if (rule->protocol && target->protocol && rule->protocol != target->protocol)
		return 0;
	if (target->port != ANY_PORT &&
	    (target->port < rule->port_low || target->port > rule->port_high))
		return 0;
	if (rule->flags & RULE_IPV6 && is_ipv4(target))
		return 0;
	if (!in_prefix(target, rule))
		return 0;
	if (rule->flags & RULE_EXCEPT) {
		judge->skip = rule->rule + 1;
		return 0;
	}
	judge->flags = rule->flags;
	judge->found = rule->rule + 1;
	return 1;
}

/* Asks the rules of the task's workload; the verdict is in `judge`. False if none of them fits. */
static __always_inline bool judge_target(const struct label *label, struct judge *judge)
{
	__u32 index = label->workload;
	struct workload *workload = bpf_map_lookup_elem(&workloads, &index);

	if (!workload)
		return false;
	__u32 known = *(volatile __u32 *)&workload->socket_rules;
	__u32 bank = known & SOCKET_RULES_BANK ? MAX_WORKLOADS : 0;
	__u32 count = known & ~SOCKET_RULES_BANK;

	if (!count)
		return false;
	judge->base = (bank + index) * MAX_SOCKET_RULES;
	bpf_loop(count, judge_rule, judge, 0);
	return judge->found;
}
