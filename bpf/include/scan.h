/* What the first bytes of a read prove about the JSON in them. */
#pragma once

#include "common.h"

#define WINDOW 1024

#define FOUND_JSONRPC 1
#define FOUND_ID      2
#define FOUND_METHOD  4
#define FOUND_ESCAPE  8

struct scan {
	__u8 *bytes;
	__u32 found;
	__u32 enough; /* stop once all of these are found */
};

/* Quoted words as little-endian integers; the case bit is set, as some parsers fold case. */
#define LOWER	     0x2020202020202020ULL
#define WORD_JSONRPC 0x6370726e6f736a22ULL /* "jsonrpc, without the last quote */
#define WORD_METHOD  0x22646f6874656d22ULL
#define WORD_ID	     0x22646922U

static long scan_step(__u32 index, void *data)
{
	struct scan *scan = data;
	__u64 word;

	if (index >= WINDOW)
		return 1;
	word = *(__u64 *)(scan->bytes + index);
	if ((__u8)word == '\\')
		scan->found |= FOUND_ESCAPE;
	if ((__u8)word != '"')
		return 0;
	word |= LOWER;
	if (word == WORD_JSONRPC)
		scan->found |= FOUND_JSONRPC;
	else if (word == WORD_METHOD)
		scan->found |= FOUND_METHOD;
	else if ((__u32)word == WORD_ID)
		scan->found |= FOUND_ID;
	return (scan->found & scan->enough) == scan->enough;
}
