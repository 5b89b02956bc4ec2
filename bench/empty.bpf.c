/* Programs that do nothing, on the hooks that decide on opens, execs and connects: what no agentd
 * can be below. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

SEC("lsm/file_open")
int BPF_PROG(on_open, struct file *file)
{
	return 0;
}

SEC("lsm/bprm_check_security")
int BPF_PROG(on_program, struct linux_binprm *bprm)
{
	return 0;
}

SEC("lsm/socket_connect")
int BPF_PROG(on_connect, struct socket *sock, struct sockaddr *address, int addrlen)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
