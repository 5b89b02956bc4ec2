/* Path globs, matched in the kernel: all of them at once, component by component, from the leaf up
 * to the root (Baeza-Yates and Gonnet's shift-and, over components instead of characters). What is
 * compared are the names of dentries, never a string that a program gave. */
#pragma once

#include "path.h"
#include "places.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct word);
	__type(value, struct positions);
} words SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2048);
	__type(key, struct edge);
	__type(value, struct positions);
} starts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2048);
	__type(key, struct edge);
	__type(value, struct positions);
} ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VERSIONS);
	__type(key, __u32);
	__type(value, struct match_table);
} match_tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VERSIONS *POSITIONS);
	__type(key, __u32);
	__type(value, struct accept);
} accepts SEC(".maps");

#define JUST_BELOW 3		 /* `match->waiting` when the next component may be a home */
#define WORD_HOME  0x656d6f68ULL /* "home", and what follows is NUL */
#define WORD_ROOT  0x746f6f72ULL /* "root" */

struct matcher {
	struct walk walk;
	struct match *match;
	struct match_table *table;
	__u32 version;
	__u32 steps; /* components seen */
	__u32 flags;
};

#define BELOW 1 /* match_path: what may lie below this directory, not the directory itself */
#define WHOLE 2 /* match_path: bind mounts do not count */

/* Adds the rules of all globs that are at an end. There is rarely any, and then it may take its
 * time: a loop in a loop costs the verifier more. */
struct collector {
	struct match *match;
	const struct positions *which;
	__u32 version;
	__u32 below; /* 1: of globs that lie in a home directory */
};

static long collect_end(__u32 index, void *data)
{
	struct collector *collector = data;
	struct match *match = collector->match;
	__u32 at = collector->version * POSITIONS + index;
	__u32 word = index / 64;

	barrier_var(word); /* so that the mask stays, which the verifier needs to see */
	word &= MATCH_WORDS - 1;
	if (!((match->at.w[word] & collector->which->w[word]) >> (index & 63) & 1))
		return 0;
	struct accept *accept = bpf_map_lookup_elem(&accepts, &at);
	if (!accept)
		return 1;
	struct slots *into = accept->except ? &match->except : &match->found;
	if (collector->below)
		into = &match->ways[accept->except & 1].below;
	into->w[accept->slot / 64 & (SLOT_WORDS - 1)] |= 1ULL << (accept->slot & 63);
	return 0;
}

struct ending {
	struct match *match;
	__u32 len;
};

static long read_backwards(__u32 index, void *data)
{
	struct ending *ending = data;

	barrier_var(index);
	index &= EDGE_ROOM - 1;
	if (index >= ending->len || index >= EDGE_LEN)
		return 1;
	ending->match->edge.text[index] = ending->match->last[EDGE_ROOM - 1 - index];
	return 0;
}

/* Fills in `edge` with the last bytes of a name, backwards. What lies before a short name in memory
 * is read too, and left out. */
static __always_inline void read_end(struct match *match, const unsigned char *name, __u32 len)
{
	struct ending ending = {match, len};

	__builtin_memset(match->edge.text, 0, EDGE_LEN);
	bpf_probe_read_kernel(match->last, EDGE_ROOM, name + len - EDGE_ROOM);
	bpf_loop(EDGE_LEN, read_backwards, &ending, 0);
}

/* What a component fits: literally, at its beginning, at its end. */
struct fitting {
	struct match *match;
	const struct match_table *table;
	const struct positions *exact;
	const struct positions *start;
	const struct positions *end;
};

static long advance_word(__u32 index, void *data)
{
	struct fitting *fitting = data;
	const struct match_table *table = fitting->table;
	struct match *match = fitting->match;

	barrier_var(index);
	index &= MATCH_WORDS - 1;
	__u64 at = match->at.w[index], first = table->first.w[index];
	__u64 next = (((at << 1) | match->carry) & ~first) | (first & match->begins);
	__u64 fits = table->any.w[index];

	if (fitting->exact)
		fits |= fitting->exact->w[index];
	if (fitting->end)
		fits |= fitting->start->w[index] & fitting->end->w[index];
	match->carry = at >> 63;
	at = (next & fits) | (at & table->repeat.w[index]);
	match->ends_anywhere |= at & table->anywhere.w[index];
	match->ends_home |= at & table->home.w[index];
	match->at.w[index] = at;
	return 0;
}

/* One component: every glob that has come so far and fits it goes on. */
static __always_inline void advance(struct matcher *matcher, struct dentry *dentry)
{
	struct match *match = matcher->match;
	struct fitting fitting = {.match = match, .table = matcher->table};

	fitting.exact = bpf_map_lookup_elem(&words, &match->word);
	match->begins = matcher->steps ? 0 : ~0ULL;
	match->carry = match->ends_anywhere = match->ends_home = 0;
	__builtin_memcpy(match->edge.text, match->word.text, EDGE_LEN);
	fitting.start = bpf_map_lookup_elem(&starts, &match->edge);
	if (fitting.start) {
		read_end(match, BPF_CORE_READ(dentry, d_name.name),
			 BPF_CORE_READ(dentry, d_name.len));
		fitting.end = bpf_map_lookup_elem(&ends, &match->edge);
	}
	bpf_loop(MATCH_WORDS, advance_word, &fitting, 0);
	struct collector collector = {match, &matcher->table->anywhere, matcher->version, 0};
	if (match->ends_anywhere)
		bpf_loop(POSITIONS, collect_end, &collector, 0);
	if (match->ends_home) {
		collector.which = &matcher->table->home;
		collector.below = 1;
		bpf_loop(POSITIONS, collect_end, &collector, 0);
		match->waiting = JUST_BELOW;
	}
}

static __always_inline void pass_on(struct match *match, struct way *way, int i, __u64 text)
{
	way->in_home.w[i] = text == WORD_HOME ? way->above.w[i] : 0;
	way->in_root.w[i] = text == WORD_ROOT ? way->below.w[i] : 0;
	way->above.w[i] = way->below.w[i];
	way->below.w[i] = 0;
}

/* Follows the globs below `~` that wait to see whether what is above is a home directory. */
static __always_inline void look_for_home(struct match *match)
{
	__u64 text = *(const __u64 *)match->word.text;

	ROLLED for (int i = 0; i < SLOT_WORDS; i++)
	{
		pass_on(match, &match->ways[0], i, text);
		pass_on(match, &match->ways[1], i, text);
	}
	match->waiting--;
}

static long match_step(__u32 index, void *data)
{
	struct matcher *matcher = data;
	struct match *match = matcher->match;

	/* The root of a mount, too, can be a home, so this comes before its mount point. */
	if (match->waiting == JUST_BELOW && is_other_home(matcher->walk.dentry)) {
		ROLLED for (int i = 0; i < SLOT_WORDS; i++)
		{
			match->found.w[i] |= match->ways[0].below.w[i];
			match->except.w[i] |= match->ways[1].below.w[i];
		}
	}
	int step;
	if (matcher->flags & WHOLE) {
		step = cross_whole(&matcher->walk);
	} else {
		match->bound |= on_bind_mount(&matcher->walk);
		step = cross_mount(&matcher->walk);
	}

	if (step < 0) {
		match->whole = 1;
		return 1;
	}
	if (!step)
		return 0;
	struct dentry *dentry = matcher->walk.dentry;
	__builtin_memset(match->word.text, 0, NAME_LEN);
	bpf_probe_read_kernel_str(match->word.text, NAME_LEN, BPF_CORE_READ(dentry, d_name.name));
	if (match->waiting)
		look_for_home(match);
	advance(matcher, dentry);
	matcher->steps++;
	go_up(&matcher->walk);
	return 0;
}

/* Not static: the verifier looks into it once, and not again from wherever it is called. It would
 * not take a pointer that came as an argument for the key of a map. */
__noinline int match_leaf(__u32 index, __u32 version, __u32 flags)
{
	struct work *work = bpf_map_lookup_elem(&works, &index);

	if (!work)
		return 0;
	struct match *match = &work->match;
	struct matcher matcher = {.walk = {work->leaf, mount_of(work->mnt)},
				  .match = match,
				  .version = version & 1,
				  .flags = flags};

	matcher.table = bpf_map_lookup_elem(&match_tables, &matcher.version);
	if (!matcher.table)
		return 0;
	__builtin_memset(match, 0, sizeof(*match));
	match->word.version = matcher.version;
	match->edge.version = matcher.version;
	match->edge.prefixlen = 8 * (1 + EDGE_LEN);
	if (flags & BELOW) { /* as if every component of every glob had been seen below */
		__builtin_memset(&match->at, 0xff, sizeof(match->at));
		matcher.steps = 1;
	}
	bpf_loop(PATH_STEPS, match_step, &matcher, 0);
	if (!match->whole)
		return 0;
	struct collector collector = {match, &matcher.table->root, matcher.version, 0};
	bpf_loop(POSITIONS, collect_end, &collector, 0);
	ROLLED for (int i = 0; i < SLOT_WORDS; i++)
	{
		match->found.w[i] |= match->ways[0].in_home.w[i] | match->ways[0].in_root.w[i];
		match->except.w[i] |= match->ways[1].in_home.w[i] | match->ways[1].in_root.w[i];
		match->found.w[i] &= ~match->except.w[i];
	}
	return 1;
}

/* The rules of this version whose globs the path fits, in `work->match.found`. False if the path
 * could not be followed to its root. */
static __always_inline bool match_path(struct work *work, __u32 version, struct dentry *dentry,
				       struct vfsmount *mnt, __u32 flags)
{
	work->leaf = dentry;
	work->mnt = mnt;
	return match_leaf(work->index, version, flags);
}
