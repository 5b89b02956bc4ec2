/* What the first bytes of a read prove about the JSON in them. */
#pragma once

#include "common.h"

#define WINDOW	    1024
#define SHORT_PIECE 64
#define STRIDE	    8

#define FOUND_JSONRPC 1
#define FOUND_ID      2
#define FOUND_METHOD  4
#define FOUND_ESCAPE  8
#define FOUND_HIDDEN  16 /* a letter as an escape: who writes so hides a word */
#define FOUND_MCP     (FOUND_JSONRPC | FOUND_HIDDEN)

struct scan {
	struct scratch *scratch;
	__u32 enough; /* stop once all of these are found */
};

/* Quoted words as little-endian integers; the case bit is set, as some parsers fold case. */
#define LOWER	     0x2020202020202020ULL
#define WORD_JSONRPC 0x6370726e6f736a22ULL /* "jsonrpc, without the last quote */
#define WORD_METHOD  0x22646f6874656d22ULL
#define WORD_ID	     0x22646922U
#define WORD_HIDDEN  0x343030755cULL /* \u004 to \u007, with the mask */
#define MASK_HIDDEN  0xfcffffffffULL

#define EVERY	  0x0101010101010101ULL
#define HIGH_BITS 0x8080808080808080ULL

/* Whether one of the eight bytes is `byte`. */
static __always_inline bool has_byte(__u64 word, __u8 byte)
{
	__u64 differs = word ^ EVERY * byte;

	return (differs - EVERY) & ~differs & HIGH_BITS;
}

/* 1 if they are the same, else 0, without a branch: the verifier of Linux 6.1 follows both sides of
 * each, eight times eight bytes. */
static __always_inline __u64 is_same(__u64 one, __u64 other)
{
	__u64 differs = (one ^ other) | -(one ^ other);

	barrier_var(differs);
	return (differs >> 63) ^ 1;
}

static __always_inline __u32 found_at(const __u8 *bytes)
{
	__u64 word = *(const __u64 *)bytes, lower = word | LOWER;

	return is_same((__u8)word, '\\') * FOUND_ESCAPE |
	       is_same(word & MASK_HIDDEN, WORD_HIDDEN) * FOUND_HIDDEN |
	       is_same((__u8)word, '"') * (is_same(lower, WORD_JSONRPC) * FOUND_JSONRPC |
					   is_same(lower, WORD_METHOD) * FOUND_METHOD |
					   is_same((__u32)lower, WORD_ID) * FOUND_ID);
}

/* Eight bytes at a time: most have neither a quote nor a backslash among them. */
static long scan_step(__u32 index, void *data)
{
	struct scan *scan = data;
	struct scratch *scratch = scan->scratch;
	__u32 at = index * STRIDE;

	if (index >= WINDOW / STRIDE)
		return 1;
	__u64 word = *(__u64 *)(scratch->bytes + at);
	if (!has_byte(word, '"') && !has_byte(word, '\\'))
		return 0;
	_Pragma("clang loop unroll(full)") for (__u32 i = 0; i < STRIDE; i++) scratch->found |=
		found_at(scratch->bytes + at + i);
	return (scratch->found & scan->enough) == scan->enough;
}

/* Looks through the first `len` scratch bytes until all of `enough` is found; returns FOUND_ flags.
 * What is behind those bytes is overwritten. Not static: the verifier looks into it once, and not
 * again from wherever it is called. */
__noinline __u32 scan_bytes(struct scratch *scratch, __u32 len, __u32 enough)
{
	struct scan scan = {.scratch = scratch, .enough = enough};

	if (!scratch)
		return 0;
	scratch->found = 0;
	if (len > WINDOW)
		len = WINDOW;
	__builtin_memset(scratch->bytes + len, 0, 2 * STRIDE);
	bpf_loop((len + STRIDE - 1) / STRIDE, scan_step, &scan, 0);
	return scratch->found;
}

/* Whether JSON may begin with this byte: white space and a byte order mark may come before it. */
static __always_inline bool opens_json(__u8 first)
{
	return first == '{' || first == '[' || first == ' ' || first == '\t' || first == '\r' ||
	       first == '\n' || first == 0xef;
}

/* Looks for MCP at the end of `length` bytes, if they are many; the scratch bytes are overwritten.
 */
static __always_inline bool ends_in_mcp(struct scratch *scratch, __u64 address, __u64 length)
{
	if (length <= WINDOW)
		return false;
	if (bpf_probe_read_user(scratch->bytes, WINDOW, (void *)(address + length - WINDOW)))
		return false;
	return scan_bytes(scratch, WINDOW, FOUND_JSONRPC) & FOUND_MCP;
}
