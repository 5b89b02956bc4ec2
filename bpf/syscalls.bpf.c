/* The one program on the system call path, where calls are not hooked one by one. Attached only
 * while a session exists, because it puts every system call of every task on the slow path; an
 * unlabelled task leaves it after a look at one byte. */
#include "include/syscall.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u32);
} syscall_handlers SEC(".maps");

SEC("raw_tp/sys_exit")
int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	if (!may_have_label(bpf_get_current_pid_tgid() >> 32))
		return 0;
	bpf_tail_call(ctx, &syscall_handlers, syscall_number(saved_regs(ctx)));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
