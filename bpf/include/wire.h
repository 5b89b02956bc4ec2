/* Records that cross from the kernel to user space, and the values of the maps that both sides
 * write. agentd/kernel/wire.py mirrors every struct here; a test compares the two through BTF. */
#pragma once

#define COMM_LEN      16
#define NAME_LEN      64
#define UNIX_PATH_LEN 108

enum record_kind {
	REC_FORK = 1,
	REC_EXEC,
	REC_EXIT,
	REC_CANDIDATE, /* an exec of an unlabelled process, while some workload has selectors */
	REC_OPEN,
	REC_CHANGE,  /* unlink, rmdir, rename, truncate */
	REC_SOCKET,  /* connect, bind, accept */
	REC_DATA,    /* bytes that a labelled task read from a pipe or a Unix socket */
	REC_REFUSAL, /* the kernel has refused by rule; see decide_wire.h */
};

/* First member of every record in the events ring. `tgid` and `start_ns` are the identity of
 * the process; `count` is how often the kernel has seen this very event, this one included. */
struct record {
	__u16 kind;
	__u16 workload;
	__u32 session;
	__u64 time_ns;	/* CLOCK_BOOTTIME */
	__u64 start_ns; /* start_boottime of the thread group leader */
	__u32 tgid;
	__u32 tid;
	__u32 uid;
	__u32 count;
	char comm[COMM_LEN];
};

struct fork_record {
	struct record head; /* the parent */
	__u64 child_start_ns;
	__u32 child;
	__u32 pad;
};

/* Names a program by its file and its place in the tree of names, for one policy: key of the map
 * `dull_programs`. User space only hands it back. */
struct program {
	__u64 ino;
	__u64 parent; /* address of the directory's dentry */
	__u64 name;   /* hash and length of the last component */
	__u32 dev;
	__u32 generation;
};

/* Followed by the path components of the executable. */
struct candidate_record {
	struct record head;
	struct program program;
	__u32 path_len;
	__u32 pad;
};

/* Followed by four strings of the given lengths: the path components of the executable (leaf
 * first, each ended by NUL), those of the working directory if the file name is relative, the file
 * name as given to execve, the argument block. */
struct exec_record {
	struct record head;
	__u64 parent_start_ns;
	__u64 cgroup;
	__u32 parent;
	__u32 gid;
	__u32 exe_len;
	__u32 filename_len;
	__u32 args_len;
	__u32 cwd_len;
	__u32 held; /* 1: the process is stopped, a hold for the same exec follows */
	__u32 pad;
};

struct exit_record {
	struct record head;
	__s32 code; /* wait status */
	__u32 pad;
};

#define ACCESS_READ  1
#define ACCESS_WRITE 2

/* Followed by the path components of the file, leaf first. */
struct open_record {
	struct record head;
	__u64 ino;
	__u32 dev;
	__u32 access;
	__u32 path_len;
	__u32 pad;
};

/* Followed by: components of the base directory, the path as given, and for a rename the same
 * two for the new name. The base of an absolute path is the root directory of the process. */
struct change_record {
	struct record head;
	__u32 op; /* system call number */
	__u32 base_len;
	__u32 path_len;
	__u32 to_base_len;
	__u32 to_path_len;
	__s32 result;
};

enum socket_op {
	SOCKET_CONNECT = 1,
	SOCKET_BIND,
	SOCKET_ACCEPT,
	SOCKET_BLOCKED, /* a connect or send that the kernel refused by rule */
	SOCKET_CREATE,	/* `family`, `protocol`, and the type in `port`; neither IP nor Unix, or raw
			 */
	SOCKET_BIND_BLOCKED,
	SOCKET_CREATE_BLOCKED,
};

struct socket_record {
	struct record head;
	__u16 op;
	__u16 family;
	__u16 protocol;
	__u16 port; /* host byte order */
	__s32 result;
	__u32 rule; /* number of the rule that blocked, of the BLOCKED ones only */
	__u8 address[16];
	__u32 path_len;
	char path[UNIX_PATH_LEN];
	/* For Unix sockets with a path, components follow: of the true path where the kernel knows
	 * it, else, if `relative`, of the directory that `path` starts from. */
	__u32 real_len;
	__u32 relative;
};

#define DATA_LOST   1 /* user space was not told of the bytes before these */
#define DATA_INSIDE 2 /* these begin inside a line */
#define DATA_WHOLE  4 /* these are whole lines: others of the channel may wait in the holds ring */

/* Followed by `len` bytes. */
struct data_record {
	struct record head;
	__u64 ino;	/* the pipe or socket that was read */
	__u64 peer_ino; /* the socket at the other end; 0 for a pipe */
	__u32 fd;
	__u32 len;
	__u32 flags;
	__u32 pad;
};

enum hold_kind { HOLD_READ = 1, HOLD_OPEN, HOLD_EXEC, HOLD_CALL };
enum hold_state { HOLD_PENDING = 1, HOLD_STOPPED, HOLD_DECIDED };

/* A task that is stopped until its verdict; the value of the map `holds`, and the record of
 * the holds ring. There it is followed, for HOLD_READ, by what was read if that is short and lies
 * in one buffer; for HOLD_OPEN, by `length` bytes of path components and then those of another name
 * that the inode has; for HOLD_EXEC, by `length` bytes of components of the executable, `iovcnt` of
 * the working directory if the file name is relative, and the file name as given to execve; for
 * HOLD_CALL, by `length` bytes of components of the file and `iovcnt` of the other name. A
 * HOLD_CALL has its subject (see decide_wire.h) in `ino`, `peer_ino`, `address`, `syscall` and
 * `access`; if it is a write, its descriptor in `fd`. */
struct hold {
	__u64 id;
	__u64 time_ns;
	__u64 start_ns;
	__u32 tgid;
	__u32 tid;
	__u32 session;
	__u16 workload;
	__u16 kind;
	__u32 state;
	__u32 syscall;
	__u64 ino;
	__u64 peer_ino;
	__u64 address; /* HOLD_READ: buffer, or the iovec array where iovcnt is not 0 */
	__u64 length;  /* HOLD_READ: bytes that were read */
	__u32 iovcnt;
	__u32 fd;
	__u32 dev;
	__u32 access; /* HOLD_OPEN; for HOLD_READ: DATA_ flags */
	__u32 cpu;    /* its slot in `waits` */
	__u32 pad;
};

#define MAX_CPUS 1024

#define MAX_WAITS 1088 /* one a CPU, and one for each HOLD_CALL that can wait at a time */

/* Value of the array `waits`. Holds are named by id, 0 is none. */
struct wait {
	__u64 waiting;	/* kernel: this one is here, and may not be stopped yet */
	__u64 stopping; /* kernel: waited long enough for this one; its complement: has seen the
			 * verdict on it, and goes on */
	__u64 decided;	/* user space: this one may go on */
};

#define LABEL_RESERVED 0x80000000 /* beside a tid: a place for a child, no process */

/* Value of the map `labels`, key: tgid. */
struct label {
	__u64 start_ns;
	__u32 session;
	__u16 workload;
	__u16 pad;
};

#define HOLDS_REQUESTS	      1 /* requests to servers wait for a verdict */
#define HOLDS_CLIENT_REQUESTS 2 /* requests from servers to clients, too */
#define HOLDS_OPENS	      4
#define HOLDS_EXECS	      8
#define HOLDS_FAIL_CLOSED     16  /* kill the task when a hold cannot be taken */
#define TELLS_CHANGES	      32  /* rules judge deletes and renames: none is folded into a count */
#define TELLS_SOCKETS	      64  /* the same for connects, binds and sends */
#define TELLS_OPENS	      128 /* the same for opens for writing, whatever their names */
#define HOLDS_RESULTS	      256 /* what servers send waits for a verdict */

/* Value of the array `workloads`. */
struct workload {
	__u32 flags;
	__u32 socket_rules; /* how many entries of `socket_rules` it has; SOCKET_RULES_BANK: where
			     */
};

#define ROLE_MCP       1
#define ROLE_TO_SERVER 2
#define ROLE_TO_CLIENT 4
#define ROLE_OTHER     8 /* user space has looked: not MCP */

/* Value of the map `channels`, key: inode of the pipe or socket that is read. Written by the
 * kernel alone; what user space has learnt of the channel is in the map `roles`. */
struct channel {
	__u32 partial; /* the last read ended inside a line */
	__u32 reads;   /* 0: user space was not told of the last read, or not of all of it */
};

/* Value of the map `written`, key as above: a channel on which writes are judged. */
struct written {
	__u64 bytes;	 /* that it has taken of those */
	__u32 under_way; /* so many judged writes have not returned yet */
	__u32 left;	 /* 1: to the hold of its reader, who is labelled as well */
};

#define NAME_WATCH	1
#define NAME_HOLD	2
#define NAME_WRITE_ONLY 4
#define NAME_RUN	8 /* stop the task that executes it */

enum name_kind { NAME_BASE = 1, NAME_SUFFIX, NAME_DIR, NAME_PREFIX, NAME_EXEC };

/* Key of the map `names`; the value holds NAME_ flags. */
struct name {
	__u32 kind;
	char text[NAME_LEN];
};

/* Key of the map `totals`; the value is how often, a __u64. */
struct total_key {
	__u32 session;
	__u32 kind;
};

/* Key of the map `files`: an inode that a rule watches under whatever name. */
struct file_id {
	__u64 ino;
	__u32 dev;
	__u32 pad;
};

#define MAX_WORKLOADS 256

#define MASK_CANDIDATES 1 /* report execs of unlabelled tasks */
#define MASK_EXEC_ALL	2 /* hold every exec of a workload with HOLDS_EXECS */
#define MASK_OPENS_AT_ENTRY                                                                        \
	4 /* the hook that decides on opens tells of them, not the end of the call */

/* Value of the array `settings`, one entry. */
struct settings {
	__u32 flags;
	__u32 generation;  /* of the policy: what was cold for one is not for the next */
	__u32 patience_us; /* how long a task waits on its CPU for a verdict before it is stopped */
	__u32 quiet_us;	   /* after how long without records one wakes the engine at once */
};

/* Value of the array `enforcing`, one entry. */
struct enforcing {
	__u32 version;	 /* how often the policy was changed; bit 0 is the version in force */
	__u32 armed;	 /* 0: nothing is decided yet */
	__u64 alive_ns;	 /* CLOCK_BOOTTIME at which whoever judges holds was last seen */
	__u64 epoch;	 /* kernel: how often a directory was renamed */
	__u32 judges[2]; /* who may judge holds; when both have ended, `alive_ns` becomes 0 */
	__u64 awake;	 /* not 0: the engine looks at the ring of holds before it sleeps */
};
