/* The verdict of the static rules on an act of a labelled task: by the path of the object, and by
 * what its inode has been called before. Nothing here depends on a ring or on user space. */
#pragma once

#include "glob.h"

#define EPERM	1
#define EAGAIN	11
#define ENOSPC	28
#define SIGKILL 9

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VERSIONS *MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, struct act_rules);
} act_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VERSIONS *MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct path_rule);
} path_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct inode_key);
	__type(value, struct mark);
} marks SEC(".maps");

/* Where no rule has matched. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct place);
	__type(value, __u32);
} cold_places SEC(".maps");

/* An act under judgement. */
struct deed {
	const struct label *label;
	struct dentry *dentry; /* the name that is judged */
	struct inode *inode;   /* what it names; NULL for a name that is new */
	struct dentry *from;   /* the name that the call gives first */
	struct dentry *to;     /* and the other one: link, rename */
	struct vfsmount *mnt;
	const struct slots *only; /* NULL, or: no other rules are about it */
	__u32 hook;
	__u32 acts; /* bit n: it is an ACT_ n */
	__u32 version;
	__u32 action; /* the verdict: 0 or ACTION_ */
	__u32 rule;
	__u32 slot;	/* where that is; the higher, the more severe */
	__u32 target;	/* tgid of the process that it is done to */
	__u32 detail;	/* of the call: a signal, flags, a command */
	__u32 observed; /* 1: the workload is only observed */
	__u32 whole;	/* 1: of `dentry` only its place in its own file system is known */
	__u32 name_len;
	const void *name; /* in kernel memory, where what is judged has a name that is no path */
};

static __always_inline bool none_in(const struct slots *slots)
{
	return !(slots->w[0] | slots->w[1] | slots->w[2] | slots->w[3]);
}

static __always_inline void add_slots(struct slots *into, const struct slots *from)
{
	ROLLED for (int i = 0; i < SLOT_WORDS; i++) into->w[i] |= from->w[i];
}

static __always_inline bool intersect(struct slots *into, const struct slots *with)
{
	__u64 any = 0;

	ROLLED for (int i = 0; i < SLOT_WORDS; i++) any |= into->w[i] &= with->w[i];
	return any;
}

static __always_inline struct act_rules *rules_of(const struct deed *deed)
{
	__u32 index = deed->version * MAX_WORKLOADS + deed->label->workload;

	return bpf_map_lookup_elem(&act_rules, &index);
}

/* Whether any rule of the workload is about these acts: one that is only observed has few. */
static __always_inline bool has_rules(const struct deed *deed)
{
	struct act_rules *rules = rules_of(deed);

	return rules && rules->some & deed->acts;
}

struct adding {
	const struct act_rules *rules;
	struct slots *wanted;
	__u32 acts;
};

static long add_act(__u32 act, void *data)
{
	struct adding *adding = data;

	if (act < ACTS && adding->acts & 1 << act)
		add_slots(adding->wanted, &adding->rules->acts[act]);
	return 0;
}

/* The rules of the task's workload: those for these acts in `wanted`. NULL if it has none at all.
 */
static __always_inline struct act_rules *rules_for(struct deed *deed, struct slots *wanted)
{
	struct act_rules *rules = rules_of(deed);

	if (!rules || !rules->some)
		return NULL;
	struct adding adding = {rules, wanted, deed->acts};
	deed->observed = rules->observed & 1;
	bpf_loop(ACTS, add_act, &adding, 0);
	if (deed->only)
		intersect(wanted, deed->only);
	return rules;
}

/* Without branches, each of which the verifier would follow. */
static __always_inline __u32 highest_bit(__u64 word)
{
	__u32 at = 0;

	for (__u32 half = 32; half; half /= 2) {
		__u64 upper = word >> half;
		__u32 shift = ((upper | -upper) >> 63) * half;
		word >>= shift;
		at += shift;
	}
	return at;
}

/* The most severe of the rules: its slot. */
static __always_inline __u32 top_slot(const struct slots *slots)
{
	for (int i = SLOT_WORDS - 1; i > 0; i--) {
		if (slots->w[i])
			return i * 64 + highest_bit(slots->w[i]);
	}
	return highest_bit(slots->w[0]);
}

/* Remembers that an inode has had a name that rules match; false if there is no room. */
static __always_inline bool set_mark(struct work *work, const struct inode_key *key, __u32 version)
{
	struct mark *fresh = &work->mark, *mark = bpf_map_lookup_elem(&marks, key);

	if (mark) {
		add_slots(&mark->slots[version & 1], &work->match.found);
		return true;
	}
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->valid = 1 << version;
	fresh->slots[version & 1] = work->match.found;
	return !bpf_map_update_elem(&marks, key, fresh, BPF_NOEXIST);
}

static __always_inline void use_mark(struct slots *found, const struct inode_key *key,
				     __u32 version, const struct slots *wanted)
{
	struct mark *mark = bpf_map_lookup_elem(&marks, key);

	if (!mark)
		return;
	/* Made while the rules were changed: until user space has looked, all of them apply. */
	add_slots(found, mark->valid & 1 << version ? &mark->slots[version & 1] : wanted);
}

static __always_inline void settle_on(struct deed *deed, const struct slots *matched)
{
	__u32 slot = top_slot(matched);
	__u32 index = deed->version * MAX_SLOTS + slot;
	struct path_rule *rule = bpf_map_lookup_elem(&path_rules, &index);

	deed->action = ACTION_DENY;
	deed->rule = 0;
	deed->slot = slot;
	if (!rule)
		return;
	/* Without a branch, as above. */
	__u32 told = deed->observed & ~rule->always;
	deed->action = told * ACTION_TELL + (1 - told) * rule->action;
	deed->rule = rule->number;
}

/* Adds agentd's own rules to those of a file that is its own; also without a branch. */
static __noinline int add_own(struct slots *found, const struct slots *self, struct dentry *dentry)
{
	__u64 mask = -own_place(dentry);

	ROLLED for (int i = 0; i < SLOT_WORDS; i++) found->w[i] |= self->w[i] & mask;
	return 0;
}

/* Whether the deed is one of those that no rule of this policy had matched here before. */
static __always_inline bool is_cold(const struct deed *deed, struct place *place)
{
	struct enforcing *now = get_enforcing();
	struct dentry *dentry = deed->dentry;

	place->inode = key_of(deed->inode);
	place->parent = (__u64)BPF_CORE_READ(dentry, d_parent);
	place->mnt = (__u64)deed->mnt;
	place->name = BPF_CORE_READ(dentry, d_name.hash_len);
	place->epoch = now ? now->epoch : 0;
	place->version = now ? now->version : 0;
	/* Its inode may have been marked since, under another name. */
	return bpf_map_lookup_elem(&cold_places, place) &&
	       !bpf_map_lookup_elem(&marks, &place->inode);
}

/* Fills in the verdict: what the static rules say of the deed's path and inode. Leaves the rules
 * that these match in `work->match.found`, and the inode marked with those of the path. Returns 0,
 * or an errno where that cannot be done. */
static __noinline __attribute__((unused)) int decide(struct work *work, struct deed *deed)
{
	struct slots *found = &work->match.found;
	struct slots *wanted = &work->wanted;
	struct place *place = &work->place;
	struct act_rules *rules;
	bool named, kept = true;
	__u32 one = 1;

	deed->action = 0;
	__builtin_memset(wanted, 0, sizeof(*wanted));
	rules = rules_for(deed, wanted);
	if (!rules)
		return 0;
	bool moves = deed->acts & 1 << ACT_RENAME;
	if (none_in(wanted) && !moves)
		return 0;
	if (deed->inode && is_cold(deed, place))
		return 0;
	if (!match_path(work, deed->version, deed->dentry, deed->mnt, deed->whole ? WHOLE : 0))
		return -EAGAIN;
	if (work->match.bound) {
		work->bound = *found;
		if (!match_path(work, deed->version, deed->dentry, deed->mnt, WHOLE))
			return -EAGAIN;
		add_slots(found, &work->bound);
	}
	add_own(found, &rules->self, deed->dentry);
	named = !none_in(found);
	if (deed->inode) {
		if (named)
			kept = set_mark(work, &place->inode, deed->version) | deed->observed;
		use_mark(found, &place->inode, deed->version, wanted);
		if (none_in(found))
			bpf_map_update_elem(&cold_places, place, &one, BPF_ANY);
	}
	if (intersect(wanted, found))
		settle_on(deed, wanted);
	else if (moves && !kept)
		return -ENOSPC; /* under its new name it would not be known */
	return 0;
}
