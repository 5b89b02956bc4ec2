/* What the kernel decides alone on the enforce tiers, as user space writes it, and what it tells
 * of its decisions. agentd/kernel/decide_wire.py mirrors every struct here.
 *
 * Two versions of the policy lie side by side: user space writes the one that is not in force,
 * then `struct enforcing` names it. Every key begins with its version, every index is offset by it.
 *
 * A path glob is a row of positions, one for each component, from the last component to the first.
 * Bit n of a `struct positions` is position n of all globs together. */
#pragma once

#include "wire.h"

#define VERSIONS    2
#define POSITIONS   1024
#define MATCH_WORDS 16
#define MAX_SLOTS   256
#define SLOT_WORDS  4
#define EDGE_LEN    23

struct positions {
	__u64 w[MATCH_WORDS];
};

/* A set of rules: bit n is slot n. The higher the slot, the more severe its rule. */
struct slots {
	__u64 w[SLOT_WORDS];
};

/* Key of `words`: a component that globs name literally; the value is where. */
struct word {
	__u32 version;
	char text[NAME_LEN];
};

/* Key of `starts` and `ends`: how a component with one wildcard begins, and how it ends, read
 * backwards. `prefixlen` counts the bits of version and text. */
struct edge {
	__u32 prefixlen;
	__u8 version;
	__u8 text[EDGE_LEN];
};

/* Value of `match_tables`, index: version. */
struct match_table {
	struct positions any;	   /* positions that every component fits */
	struct positions repeat;   /* that may be followed by any number of components */
	struct positions first;	   /* where a glob begins */
	struct positions anywhere; /* where a glob ends that may lie in any directory */
	struct positions home;	   /* that lies in a home directory */
	struct positions root;	   /* that is absolute */
};

/* Value of `accepts`, index: version * POSITIONS + position: whose rule ends here. */
struct accept {
	__u16 slot;
	__u16 except; /* 1: the rule does not apply to what fits */
};

enum act {
	ACT_READ,
	ACT_WRITE,
	ACT_DELETE,
	ACT_RENAME,
	ACT_EXEC,
	ACT_CONNECT,
	ACT_TRACE_READ, /* of a task outside the session */
	ACT_TRACE_ATTACH,
	ACT_SIGNAL,
	ACT_NS_USER,
	ACT_NS_CREATE,
	ACT_NS_JOIN,
	ACT_MOUNT,
	ACT_BIND,
	ACT_MOVE,
	ACT_UMOUNT,
	ACT_BPF,
	ACTS,
};

/* Value of `act_rules`, index: version * MAX_WORKLOADS + workload. */
struct act_rules {
	struct slots acts[ACTS];
	struct slots self; /* agentd's own, for whatever lies below one of the map `own_places` */
	struct slots unnamed; /* those that apply whatever the path is */
	__u64 some;	/* bit n: there are rules for ACT_ n; 0: the workload has none at all */
	__u64 observed; /* 1: what rules say is told and not carried out */
};

enum action {
	ACTION_ASK = 1, /* user space decides: hold */
	ACTION_DENY,
	ACTION_KILL,
	ACTION_TELL, /* it goes on, and user space is told */
};

/* Value of `path_rules`, index: version * MAX_SLOTS + slot. */
struct path_rule {
	__u32 action;
	__u32 number; /* by which user space knows the rule */
	__u32 always; /* 1: also for a workload that is only observed */
	__u32 pad;
};

/* Key of `marks`: an inode. With its type, because an overlay of several file systems numbers its
 * directories itself and takes the numbers of other files from below. */
struct inode_key {
	__u64 ino;
	__u32 dev;
	__u32 kind; /* S_IFMT bits */
};

#define SELF_RULE 0xfffe /* agentd's protection of itself, where no rule was looked up */
#define NO_RULE	  0xffff /* of a hold: something below the directory may be named by rules */

/* What an inode has been called: the rules that apply to it under whatever name. */
struct mark {
	struct slots slots[VERSIONS];
	__u32 valid; /* bit n: slots[n] is filled in */
	__u32 pad;
};

enum hook {
	HOOK_OPEN = 1,
	HOOK_MAP,
	HOOK_RECEIVE, /* a descriptor that came otherwise than by opening */
	HOOK_LINK,
	HOOK_RENAME,
	HOOK_DELETE,
	HOOK_TRUNCATE,
	HOOK_ATTRIBUTES,
	HOOK_EXEC,
	HOOK_INTERPRETER,
	HOOK_CONNECT,
	HOOK_SEND,
	HOOK_BIND,
	HOOK_SOCKET,
	HOOK_WRITE,
	HOOK_TRACE = 32,
	HOOK_SIGNAL,
	HOOK_NAMESPACE,
	HOOK_MOUNT,
	HOOK_BPF,
	HOOK_CONTROL, /* scheduling and limits of another process */
};

/* The numbers of rules on sockets that are no path rules begin here. */
#define SOCKET_RULE_BASE 0x10000

/* The subject of a call on a socket: the address, in network byte order, in `a` and `b`; `c` is
 * family << 48 | type << 32 | protocol << 16 | port. That of a Unix socket's peer is the peer.
 *
 * That of a write: the inode that is read at the other end, the second and third argument of the
 * system call, and as `acts` its number. */

/* A refusal, or an ACTION_TELL. Followed by the components of the path (of the target's executable,
 * of the mount point), and of the other one (link, rename). `target` is a tgid, `detail` the
 * signal, the flags or the command that the call gave. */
struct refusal_record {
	struct record head;
	__u64 ino;
	__u32 dev;
	__u32 hook;
	__u32 acts; /* bit n: an ACT_ n */
	__u32 action;
	__u32 rule;
	__u32 version;
	__u32 path_len;
	__u32 to_len;
	__u32 target;
	__u32 detail;
};

/* What one hold is about; the same call of the same thread gives the same subject. */
struct subject {
	__u64 a;
	__u64 b;
	__u64 c;
	__u32 hook;
	__u32 acts;
};

/* Key of `answers`: whose call, as tgid << 32 | tid. */
struct answer_key {
	__u64 thread;
	__u32 hook;
	__u32 pad;
};

/* Value of `answers`: the verdict on a held call. */
struct answer {
	struct subject subject;
	__u64 start_ns;
	__u64 until_ns; /* CLOCK_BOOTTIME */
	__s32 result;	/* 0 or a negative errno */
	__u32 version;
};

#define SIGNALS 65

/* Value of `signal_rules`, index: version * SIGNALS + signal: the rules that are about it. */
struct signal_rule {
	struct slots slots;
};

/* Value of the map `guarded`, key: tgid of a process of agentd's own. */
struct guarded {
	__u64 start_ns; /* exact to 10 ms, as /proc has it */
};
