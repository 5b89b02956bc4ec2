/* Maps that several hook families share: user space makes each once and reuses it by name. */
#pragma once

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "wire.h"

#define EVENTS_LEN (4 * 1024 * 1024)

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_LEN);
} events SEC(".maps");

/* When the last record was sent; see send_record. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} last_sent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} hold_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct hold);
} holds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct label);
} labels SEC(".maps");

#define LABELLED_ROW  64
#define LABELLED_ROWS 65536 /* a byte for every number up to PID_MAX_LIMIT */

struct labelled_row {
	__u8 of[LABELLED_ROW];
};

/* Which processes may have a label: looked at before `labels`, at a quarter of the price. User
 * space only sets these bytes, after the label; they are cleared in attribution.bpf.c, where it is
 * certain that the process is gone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LABELLED_ROWS);
	__type(key, __u32);
	__type(value, struct labelled_row);
} labelled SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, struct workload);
} workloads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct enforcing);
} enforcing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct name);
	__type(value, __u32);
} names SEC(".maps");

/* Records that found their ring full, by workload. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

/* Holds that could not be taken (map or ring full, signal refused), by workload. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, __u64);
} failed_holds SEC(".maps");

/* How often an event was seen; the least recently used falls out. */
struct seen_key {
	__u32 session;
	__u32 kind;
	__u64 a;
	__u64 b;
	__u64 c;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct seen_key);
	__type(value, __u32);
} seen SEC(".maps");

/* How many events of each kind a session has made, those that were folded into a count included.
 * User space reads and deletes a session's entries when it ends. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct total_key);
	__type(value, __u64);
} totals SEC(".maps");

/* Inodes that a rule watches; the value holds NAME_ flags. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct file_id);
	__type(value, __u32);
} files SEC(".maps");

/* Files (by inode and name) that no rule of this policy generation watches. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct seen_key);
	__type(value, __u32);
} cold_files SEC(".maps");

/* Threads whose last socket call was refused by rule: it has been told, and is not told again when
 * it returns. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u32);
} refused SEC(".maps");

#define SCRATCH_LEN 20480

/* `at`, `end` and `whole` are the state of the loop that writes a path, `found` of the one that
 * scans a message. They are kept in the map because the verifier does not follow values there: on
 * the stack it would try every length. */
struct scratch {
	__u8 bytes[SCRATCH_LEN];
	__u32 at;
	__u32 end;
	__u32 whole;
	__u32 found;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");
