/* The one program on the system call path. Attached only while a session exists, because it
 * puts every system call of every task on the slow path; an unlabelled task leaves it after one
 * failed lookup. */
#include "include/syscall.h"

SEC("raw_tp/sys_exit")
int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	if (!current_label())
		return 0;
	bpf_tail_call(ctx, &syscall_handlers, syscall_number(saved_regs(ctx)));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
