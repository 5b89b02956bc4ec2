/* Rules on sockets, as user space writes them. agentd/kernel/net_wire.py mirrors what is here. */
#pragma once

#include "wire.h"

#define MAX_SOCKET_RULES 128

#define RULE_EXCEPT   1
#define RULE_ASK      2 /* user space decides, before the call has any effect */
#define RULE_KILL     4
#define RULE_BIND     8	  /* about the address that a socket is bound to */
#define RULE_SOCKET   16  /* about what kind of socket is made: its family is in `protocol` */
#define RULE_UNIX     32  /* about Unix sockets that have a path */
#define RULE_ABSTRACT 64  /* about Unix sockets that have a name only */
#define RULE_IPV6     128 /* a network of IPv6, to which no IPv4 address belongs */

/* What a rule is about: a call asks the rules that have the same of these flags. */
#define RULE_USE (RULE_BIND | RULE_SOCKET | RULE_UNIX | RULE_ABSTRACT)

#define FAMILY_RAW 256 /* with RULE_SOCKET: raw sockets of IPv4 and IPv6 */

/* A workload's rules are written to the bank that is not in use. */
#define SOCKET_RULE_BANKS 2
#define SOCKET_RULES_BANK 0x10000 /* in `workload.socket_rules`: they are in the second bank */

/* Value of the array `socket_rules`, index: (bank * MAX_WORKLOADS + workload) * MAX_SOCKET_RULES
 * + n. The address is compared over `prefix` bits; IPv4 is in its mapped form. protocol 0 is any.
 * Exceptions come before the other entries of the same rule, and the more severe rule first. */
struct socket_rule {
	__u8 address[16];
	__u16 prefix;
	__u16 protocol;
	__u16 port_low;
	__u16 port_high;
	__u32 rule;
	__u32 flags;
};
