/* System call handlers: what is done when a call returns. The arguments are still in the saved
 * registers then, so nothing has to be kept from its entry.
 *
 * There are two ways to them (agentd/kernel/syscalls.py): fexit programs of the calls' own
 * functions, or raw tracepoint programs of sys_exit, tail-called by number. Both have the same two
 * words. */
#pragma once

#include "common.h"
#include <bpf/bpf_tracing.h>

#if defined(__TARGET_ARCH_x86)
#define CALL_FUNCTION "__x64_sys_"
#elif defined(__TARGET_ARCH_arm64)
#define CALL_FUNCTION "__arm64_sys_"
#endif

/* Not 0: the kernel would take the CPU from an fexit program. What lies in per-CPU maps, and the
 * CPU's slot in `waits`, must not be another task's before it is done. */
const volatile __u32 preemptible SEC(".rodata.preemptible") = 0;

extern void bpf_preempt_disable(void) __weak __ksym;
extern void bpf_preempt_enable(void) __weak __ksym;

/* Begins the definition of a handler. */
#define HANDLER(name)                                                                              \
	static __always_inline int name##_call(struct bpf_raw_tracepoint_args *ctx);               \
                                                                                                   \
	SEC("raw_tp/sys_exit")                                                                     \
	int name(struct bpf_raw_tracepoint_args *ctx)                                              \
	{                                                                                          \
		return name##_call(ctx);                                                           \
	}                                                                                          \
                                                                                                   \
	static __always_inline int name##_call(struct bpf_raw_tracepoint_args *ctx)

/* The call that is handled so. That of the 32-bit table has another function, and is not seen. */
#define HANDLES(name, call)                                                                        \
	SEC("fexit/" CALL_FUNCTION #call)                                                          \
	int on_##call##_return(struct bpf_raw_tracepoint_args *ctx)                                \
	{                                                                                          \
		if (!may_have_label(bpf_get_current_pid_tgid() >> 32))                             \
			return 0;                                                                  \
		if (preemptible)                                                                   \
			bpf_preempt_disable();                                                     \
		name##_call(ctx);                                                                  \
		if (preemptible)                                                                   \
			bpf_preempt_enable();                                                      \
		return 0;                                                                          \
	}

static __always_inline struct pt_regs *saved_regs(struct bpf_raw_tracepoint_args *ctx)
{
	return (struct pt_regs *)ctx->args[0];
}

static __always_inline long result_of(struct bpf_raw_tracepoint_args *ctx)
{
	return (long)ctx->args[1];
}
