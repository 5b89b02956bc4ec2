/* System call handlers: programs that the dispatcher tail-calls at sys_exit by number. The
 * arguments are still in the saved registers then, so nothing has to be kept from sys_enter. */
#pragma once

#include "common.h"
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u32);
} syscall_handlers SEC(".maps");

static __always_inline struct pt_regs *saved_regs(struct bpf_raw_tracepoint_args *ctx)
{
	return (struct pt_regs *)ctx->args[0];
}

static __always_inline long result_of(struct bpf_raw_tracepoint_args *ctx)
{
	return (long)ctx->args[1];
}
