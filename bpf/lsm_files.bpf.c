/* Refuses labelled tasks the files that rules deny them, however the file is called by now and
 * however the descriptor came: open, map, receive. Where a person or the session decides, an open
 * is held before it has happened. Fails closed where the workload says so. */
#include "include/entry.h"
#include "include/opens.h"
#include <bpf/bpf_tracing.h>

#define S_IFBLK		  0060000
#define S_IFCHR		  0020000
#define OPENED_TO_EXECUTE 0x20	     /* __FMODE_EXEC: the hooks of exec judge that */
#define NOT_COUNTED	  0x20000000 /* FMODE_NOACCOUNT: a file of the kernel's own */
#define O_TRUNC		  01000
#define PROT_READ	  1
#define PROT_WRITE	  2
#define PROT_EXEC	  4
#define MAP_SHARED	  1
#define READ_IMPLIES_EXEC 0x0400000

static __always_inline bool judged_kind(struct inode *inode)
{
	__u32 kind = BPF_CORE_READ(inode, i_mode) & S_IFMT;

	return kind == S_IFREG || kind == S_IFBLK || kind == S_IFCHR;
}

/* Whether a file system opens this on the task's behalf, as overlayfs does with the file below:
 * the task's own open has been judged by then. */
static __always_inline bool opened_by_kernel(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, cred) != BPF_CORE_READ(task, real_cred);
}

static __always_inline int judge_file(struct label *label, struct file *file, __u32 hook,
				      __u32 acts)
{
	struct enforcing *now = get_enforcing();
	struct deed deed = {
		.label = label,
		.dentry = BPF_CORE_READ(file, f_path.dentry),
		.mnt = BPF_CORE_READ(file, f_path.mnt),
		.inode = BPF_CORE_READ(file, f_inode),
		.hook = hook,
		.acts = acts,
	};

	if (!now || !now->armed || !acts || !judged_kind(deed.inode))
		return 0;
	if (deed.inode != BPF_CORE_READ(file, f_path.dentry, d_inode)) {
		/* Overlayfs up to Linux 6.7 opens the file below under the path of its own. */
		struct hlist_node *alias = BPF_CORE_READ(file, f_inode, i_dentry.first);
		if (alias) {
			deed.dentry = dentry_of_alias(alias);
			deed.whole = 1;
		}
	}
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
		if (hook == HOOK_MAP && !(acts & 1 << ACT_EXEC))
			result = 0; /* whoever opened it has been judged */
		else if (hook != HOOK_OPEN)
			result = unjudged(work, &deed, workload_flags(label));
		else if (!opened_by_kernel() || !restartable())
			result = ask(work, &deed, true);
	} else if (!result && deed.action) {
		result = refuse(work, &deed);
	}
	give_back(work);
	return result;
}

static __always_inline __u32 acts_of(struct file *file)
{
	__u32 mode = (__u32)BPF_CORE_READ(file, f_mode);

	return (mode & FMODE_READ ? 1 << ACT_READ : 0) |
	       (mode & FMODE_WRITE || BPF_CORE_READ(file, f_flags) & O_TRUNC ? 1 << ACT_WRITE : 0);
}

/* Tells of an open that is let go. */
static __noinline int tell_open(const struct label *label, struct file *file)
{
	struct opened opened = {};
	struct seen_key cold = {};

	if (!(settings_flags() & MASK_OPENS_AT_ENTRY) || !look_at(&opened, file))
		return 0;
	if (BPF_CORE_READ(file, f_mode) & NOT_COUNTED)
		return 0;
	fill_cold(&cold, &opened);
	bool known = bpf_map_lookup_elem(&cold_files, &cold);
	if (known && !(opened.access & ACCESS_WRITE))
		return 0;
	struct work *work = claim_work();
	if (!work) {
		count_in(&losses, label->workload);
		return 0;
	}
	if (!known)
		find_rules(&opened, &cold, &work->scratch);
	if (opened.flags || opened.access & ACCESS_WRITE)
		report_open(label, &opened, &work->scratch, workload_flags(label));
	give_back(work);
	return 0;
}

static __noinline int judge_open(struct label *label, struct file *file)
{
	return judge_file(label, file, HOOK_OPEN, acts_of(file));
}

SEC("lsm/file_open")
int BPF_PROG(on_file_open, struct file *file)
{
	struct label *label = current_label();

	if (!label || BPF_CORE_READ(file, f_flags) & OPENED_TO_EXECUTE)
		return 0;
	int result = judge_open(label, file);
	if (!result)
		tell_open(label, file);
	return result;
}

/* Whether this is the program that runs here, which has been judged when it was executed. */
static __always_inline bool is_own_program(struct file *file)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, mm, exe_file, f_inode) == BPF_CORE_READ(file, f_inode);
}

static __always_inline int judge_map(struct file *file, unsigned long prot, unsigned long flags)
{
	struct label *label = current_label();
	__u32 acts = 1 << ACT_READ;

	if (!label || !file)
		return 0;
	if (prot & PROT_WRITE && flags & MAP_SHARED)
		acts |= 1 << ACT_WRITE;
	if (prot & PROT_EXEC && !is_own_program(file))
		acts |= 1
			<< ACT_EXEC; /* as a loader does that is given a program as its argument */
	return judge_file(label, file, HOOK_MAP, acts);
}

SEC("lsm/mmap_file")
int BPF_PROG(on_mmap_file, struct file *file, unsigned long reqprot, unsigned long prot,
	     unsigned long flags)
{
	return judge_map(file, prot, flags);
}

/* In the place of the one above where functions are overridden: this one is called with what the
 * program has asked for, before a personality adds to it. */
SEC("fmod_ret/security_mmap_file")
int BPF_PROG(on_security_mmap_file, struct file *file, unsigned long prot, unsigned long flags)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (prot & PROT_READ && BPF_CORE_READ(task, personality) & READ_IMPLIES_EXEC)
		prot |= PROT_EXEC;
	return judge_map(file, prot, flags);
}

/* A descriptor from another process: SCM_RIGHTS, pidfd_getfd. */
SEC("lsm/file_receive")
int BPF_PROG(on_file_receive, struct file *file)
{
	struct label *label = current_label();

	return label ? judge_file(label, file, HOOK_RECEIVE, acts_of(file)) : 0;
}

/* As in attribution.bpf.c: for the test that compares the records with user space. */
struct {
	struct refusal_record refusal;
} decide_types SEC("types") __attribute__((used)) = {};

char LICENSE[] SEC("license") = "GPL";
