/* Copies what a task has read to user space, in pieces that fit a record. */
#pragma once

#include "common.h"

#define CHUNK	   8192
#define MAX_CHUNKS 1280

struct bytes_read {
	__u64 address; /* of the first bytes */
	__u64 total;
	__u64 iov; /* the array, where iovcnt is not 0 */
	__u64 ino;
	__u64 peer_ino;
	__u32 first_len; /* contiguous bytes at `address` */
	__u32 iovcnt;
	__u32 fd;
	__u32 syscall;
};

/* A copy under way. It lies in a map, as the verifier would follow its every value on the stack. */
struct copy {
	struct label label;
	struct bytes_read read;
	__u64 address;
	__u64 here;   /* bytes left at `address` */
	__u64 left;   /* in all */
	__u64 next;   /* the iovec after this one */
	__u32 flags;  /* of the next record */
	__u32 urgent; /* a channel that is new to user space: who writes to it may soon be gone */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct copy);
} copies SEC(".maps");

static __always_inline struct copy *get_copy(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&copies, &zero);
}

static __always_inline bool send_chunk(const struct copy *copy, __u32 len)
{
	struct scratch *scratch = get_scratch();
	struct data_record *record = (void *)scratch;
	__u64 wakeup = copy->urgent ? BPF_RB_FORCE_WAKEUP : wakeup_flags();

	if (!scratch || len > CHUNK)
		return false;
	fill_head(&record->head, REC_DATA, &copy->label);
	record->ino = copy->read.ino;
	record->peer_ino = copy->read.peer_ino;
	record->fd = copy->read.fd;
	record->len = len;
	record->flags = copy->flags;
	record->pad = 0;
	return !bpf_probe_read_user(&scratch->bytes[sizeof(*record)], len, (void *)copy->address) &&
	       !bpf_ringbuf_output(&events, scratch, sizeof(*record) + len, wakeup);
}

/* Sends up to CHUNK bytes. What cannot be sent is counted, and the record after it says so. */
static long copy_chunk(__u32 index, void *data)
{
	struct copy *copy = get_copy();
	struct iovec iov = {};
	__u32 len;

	if (!copy || !copy->left)
		return 1;
	if (!copy->here) {
		bpf_probe_read_user(&iov, sizeof(iov), (void *)copy->next);
		copy->next += sizeof(iov);
		copy->address = (__u64)iov.iov_base;
		copy->here = iov.iov_len < copy->left ? iov.iov_len : copy->left;
	}
	len = copy->here < CHUNK ? copy->here : CHUNK;
	if (!len)
		return 0;
	if (send_chunk(copy, len)) {
		copy->flags = 0;
	} else {
		count_in(&losses, copy->label.workload);
		copy->flags = DATA_LOST | DATA_INSIDE;
	}
	copy->address += len;
	copy->here -= len;
	copy->left -= len;
	return 0;
}

/* Sends the bytes to user space; false if the last of them were lost. */
static __always_inline bool copy_out(const struct label *label, const struct bytes_read *read,
				     __u32 flags, bool urgent)
{
	struct copy *copy = get_copy();

	if (!copy)
		return false;
	copy->label = *label;
	copy->read = *read;
	copy->address = read->address;
	copy->here = read->iovcnt ? 0 : read->total;
	copy->left = read->total;
	copy->next = read->iov;
	copy->flags = flags;
	copy->urgent = urgent;
	bpf_loop(MAX_CHUNKS, copy_chunk, NULL, 0);
	if (copy->left)
		count_in(&losses, label->workload);
	return !copy->left && !(copy->flags & DATA_LOST);
}
