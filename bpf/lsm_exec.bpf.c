/* Refuses labelled tasks to execute what rules deny them, by the path and the inode of the program,
 * of a script and of its interpreter. What depends on arguments is judged elsewhere, when these lie
 * in the new program's own memory (exec.bpf.c). */
#include "include/entry.h"
#include <bpf/bpf_tracing.h>

static __always_inline int judge_program(struct label *label, struct linux_binprm *bprm, __u32 hook)
{
	struct enforcing *now = get_enforcing();
	struct file *file = BPF_CORE_READ(bprm, file);
	struct deed deed = {
		.label = label,
		.dentry = BPF_CORE_READ(file, f_path.dentry),
		.mnt = BPF_CORE_READ(file, f_path.mnt),
		.inode = BPF_CORE_READ(file, f_inode),
		.hook = hook,
		.acts = 1 << ACT_EXEC,
	};

	if (!now || !now->armed)
		return 0;
	deed.from = deed.dentry;
	deed.version = now->version & 1;
	if (!has_rules(&deed))
		return 0;
	struct work *work = claim_work();
	if (!work)
		return -EAGAIN;
	int result = decide(work, &deed);
	if (!result && deed.action == ACTION_ASK) {
		fill_subject(work, &deed);
		result = ask(work, &deed, true);
	} else if (!result && deed.action) {
		result = refuse(work, &deed);
	}
	give_back(work);
	return result;
}

SEC("lsm/bprm_creds_for_exec")
int BPF_PROG(on_program, struct linux_binprm *bprm)
{
	struct label *label = current_label();

	return label ? judge_program(label, bprm, HOOK_EXEC) : 0;
}

/* Called for the program itself, too, which has been judged by then. */
SEC("lsm/bprm_check_security")
int BPF_PROG(on_interpreter, struct linux_binprm *bprm)
{
	struct label *label = current_label();

	if (!label || BPF_CORE_READ(bprm, interp) == BPF_CORE_READ(bprm, filename))
		return 0;
	return judge_program(label, bprm, HOOK_INTERPRETER);
}

char LICENSE[] SEC("license") = "GPL";
