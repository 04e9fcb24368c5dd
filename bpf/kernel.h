/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel types our programs touch, with only the fields they touch: CO-RE finds the offsets on
 * the running kernel. By hand, so that a diff shows what we depend on.
 */
#ifndef KPOD_KERNEL_H
#define KPOD_KERNEL_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define false 0

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_STACK = 23,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
	BPF_F_NO_PREALLOC = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
	BPF_F_MMAPABLE = 1024,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	u64 id; /* of a cgroup2 directory: its inode number, the cgroup id */
	const char *name;
};

struct cgroup_root {
	int hierarchy_id; /* 0: the default (v2) hierarchy */
	unsigned int flags;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	u64 serial_nr; /* grows by one with each that is made */
	struct cgroup_subsys_state *parent;
};

struct task_cputime {
	u64 stime, utime; /* as the tick sampled them */
	unsigned long long sum_exec_runtime;
};

struct cgroup_base_stat {
	struct task_cputime cputime;
};

/* What each CPU has counted, of this all that is in cgroup.bstat already. */
struct cgroup_rstat_cpu {
	struct cgroup_base_stat bstat, last_bstat;
};

struct cgroup_rstat_base_cpu { /* its name since 6.16 */
	struct cgroup_base_stat bstat, last_bstat;
};

struct prev_cputime {
	u64 utime, stime; /* as they were shown last */
};

typedef struct {
	s64 counter;
} atomic64_t;

typedef struct {
	long counter;
} atomic_long_t;

enum psi_states {
	PSI_IO_SOME,
	PSI_IO_FULL,
	PSI_MEM_SOME,
	PSI_MEM_FULL,
	PSI_CPU_SOME,
	PSI_CPU_FULL,
	PSI_NONIDLE, /* comes later where there is PSI_IRQ_FULL */
};

struct psi_group_cpu {
	u32 state_mask;	   /* a bit for each state that the CPU is in, … */
	u32 times[1];	   /* ns, by state, … */
	u64 state_start;   /* … since then, by the scheduler's clock */
	u32 times_prev[1]; /* likewise, when they were last added to the totals */
};

struct work_struct {
	atomic_long_t data; /* bit 0: it is pending */
};

struct delayed_work {
	struct work_struct work;
};

struct psi_group {
	bool enabled;		       /* 6.1 */
	struct delayed_work avgs_work; /* psi_avgs_work(), which ends samples */
	struct psi_group_cpu *pcpu;
	u64 total[1]; /* ns, by state */
};

/* In newer BTF an array of arrays is that. */
struct psi_group_cpu___nested {
	u32 times_prev[1][1];
};

struct psi_group___nested {
	u64 total[1][1];
};

struct cgroup {
	struct cgroup_subsys_state self;
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	struct cgroup_subsys_state *subsys[1]; /* by enum cgroup_subsys_id */
	struct cgroup_base_stat bstat;
	struct prev_cputime prev_cputime;
	struct psi_group *psi;		    /* 6.1 */
	struct cgroup_rstat_cpu *rstat_cpu; /* to 6.15; each is __percpu */
	struct cgroup_rstat_base_cpu *rstat_base_cpu;
};

enum cgroup_subsys_id {
	cpu_cgrp_id = 1,
	io_cgrp_id,
	memory_cgrp_id,
	pids_cgrp_id,
};

/* since 6.16 */
struct css_rstat_cpu {
	struct cgroup_subsys_state *owner;
};

enum pidcg_event { PIDCG_MAX, PIDCG_FORKFAIL };

struct pids_cgroup {
	struct cgroup_subsys_state css;
	atomic64_t counter;
	atomic64_t limit;
	atomic64_t events[2], events_local[2]; /* 6.12 */
};

struct pids_cgroup___before_6_12 {
	atomic64_t events_limit;
};

enum node_stat_item {
	NR_INACTIVE_FILE,
	NR_SLAB_RECLAIMABLE_B,
	NR_SLAB_UNRECLAIMABLE_B,
	WORKINGSET_REFAULT_ANON,
	WORKINGSET_REFAULT_FILE,
	NR_ANON_MAPPED,
	NR_FILE_PAGES,
};

enum memcg_stat_item {
	MEMCG_KMEM, /* 5.18 */
	MEMCG_NR_STAT,
};

enum memcg_memory_event {
	MEMCG_LOW,
	MEMCG_HIGH,
	MEMCG_MAX,
	MEMCG_OOM,
	MEMCG_OOM_KILL,
	MEMCG_OOM_GROUP_KILL, /* 5.17 */
};

/* In pages. */
struct page_counter {
	atomic_long_t usage;
	unsigned long watermark;
	unsigned long max;
};

struct memcg_vmstats {
	long state[1];
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	struct page_counter swap;
	struct memcg_vmstats *vmstats; /* a pointer since 6.1 */
	atomic_long_t memory_events[1];
};

struct cfs_bandwidth {
	s64 period;
	u64 quota;
	int nr_periods;
	int nr_throttled;
	u64 throttled_time;
};

struct task_group {
	struct cgroup_subsys_state css;
	unsigned long shares;
	struct cfs_bandwidth cfs_bandwidth;
};

struct cgroup___since_6_1 {
	struct cgroup *ancestors[1]; /* by level, itself the last */
};

struct cgroup___before_6_1 {
	u64 ancestor_ids[1];
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct rq {
	u64 clock; /* sched_clock_cpu(), as of update_rq_clock() */
};

struct cfs_rq {
	struct rq *rq;
};

struct sched_entity {
	struct cfs_rq *cfs_rq;
	u64 sum_exec_runtime; /* ns on a CPU, kept up to date by update_curr() */
};

struct sched_info {
	u64 run_delay; /* ns runnable but not running, added up by sched_info_arrive() */
};

/* The number of a system call. */
struct pt_regs___number {
	unsigned long orig_ax; /* x86 */
	int syscallno;	       /* arm64 */
};

struct thread_info {
	unsigned long flags;
	u32 status; /* x86 */
};

struct task_io_accounting {
	u64 syscr; /* reads that ended */
};

struct list_head {
	struct list_head *next, *prev;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	u32 hash_mix; /* random */
	struct ns_common ns;
	u64 net_cookie; /* since 5.12 */
};

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};

struct pid_namespace {
	struct task_struct *child_reaper; /* a thread of its process 1 */
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;	/* of the innermost namespace it has a number in */
	struct upid numbers[1]; /* level + 1 of them */
};

struct mm_struct {
	unsigned long total_vm; /* pages of address space */
	unsigned long arg_start, arg_end;
};

struct linux_binprm {
	const char *filename;
};

typedef struct {
	unsigned int val;
} kuid_t;

struct cred {
	kuid_t uid;
};

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live; /* threads that have not come to their end */
	unsigned int flags;
	int group_exit_code;
	struct list_head thread_head;
	short oom_score_adj;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int pid;
	int tgid;
	int exit_code;
	unsigned int in_memstall : 1; /* waits for memory, as PSI counts it */
	struct task_struct *real_parent;
	struct mm_struct *mm;
	const struct cred *cred;
	char comm[16];
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct nsproxy *nsproxy;
	struct pid *thread_pid;
	struct task_struct *group_leader;
	struct list_head tasks; /* of thread group leaders, circular */
	struct list_head thread_node;
	u64 start_boottime; /* ns, CLOCK_BOOTTIME */
	struct sched_entity se;
	struct sched_info sched_info;
	struct task_io_accounting ioac;
	unsigned long nvcsw; /* voluntary context switches */
	unsigned long min_flt, maj_flt;
};

struct super_block {
	unsigned int s_dev;
};

struct inode {
	u64 i_size;
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct address_space {
	struct inode *host;
};

enum pageflags { PG_head = 6 };

struct folio {
	unsigned long _flags_1; /* of a large one: the order, since 6.6, in the lowest byte */
};

struct folio___before_6_6 {
	unsigned char _folio_order;
};

struct irqaction {
	const char *name; /* as in /proc/interrupts */
};

enum { REQ_OP_FLUSH = 2, REQ_OP_DISCARD = 3 }; /* of cmd_flags, the lowest byte */

struct blkcg {
	struct cgroup_subsys_state css;
};

struct blkcg_gq {
	struct blkcg *blkcg;
};

struct bio {
	struct blkcg_gq *bi_blkg; /* whose I/O it is; NULL: not set up */
};

struct gendisk {
	int major;
	int first_minor;
	char disk_name[32];
	__u64 diskseq; /* 5.15 */
};

struct request_queue {
	struct gendisk *disk; /* 5.15 */
};

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
	struct bio *bio;
	u64 start_time_ns;    /* CLOCK_MONOTONIC: when it was made; 0: nobody wants to know */
	u64 io_start_time_ns; /* likewise, when the device was given it */
};

struct request___before_5_17 {
	struct gendisk *rq_disk;
};

struct bpf_iter__task {
	struct task_struct *task;
};

/* ---- sockets ------------------------------------------------------------------------------- */

struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	u16 skc_num; /* the local port */
	unsigned short skc_family;
	unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
	unsigned long skc_flags;
	atomic64_t skc_cookie;
};

struct qspinlock {
	atomic_t val;
};

struct raw_spinlock {
	struct qspinlock raw_lock;
};

struct spinlock {
	struct raw_spinlock rlock;
};

typedef struct {
	struct spinlock slock;
	int owned;
} socket_lock_t;

struct sock_cgroup_data {
	struct cgroup *cgroup; /* 5.15 */
};

struct sock_cgroup_data___before_5_15 {
	u64 val; /* a struct cgroup *, or with bit 0 something of cgroup v1 */
};

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	u16 sk_type;
	u16 sk_protocol;
	u8 sk_shutdown;
	struct sock_cgroup_data sk_cgrp_data;
};

struct inet_bind_bucket {
	signed char fastreuse; /* -1: connect() has chosen the port (__inet_hash_connect()) */
};

struct inet_connection_sock {
	struct inet_bind_bucket *icsk_bind_hash;
};

enum sock_flags {
	SOCK_DONE = 1,
};

/* Of TCP_ESTATS (RFC 4898) what we use; "segments" are those of the wire. */
struct tcp_sock {
	u32 segs_in;
	u32 segs_out;
	u32 total_retrans; /* segments, SYNs too */
	u32 rcv_ooopack;
	u32 srtt_us;	/* eighths of a microsecond */
	u32 snd_una;	/* first sequence number that is not acknowledged, … */
	u32 snd_nxt;	/* … to be sent next, … */
	u32 write_seq;	/* … after all that is queued */
	u64 bytes_sent; /* payload, with what was sent again or could not be sent */
	u64 bytes_retrans;
	u64 bytes_acked;    /* SYN and FIN count as one each */
	u64 bytes_received; /* in order; the FIN counts as one */
};

enum skb_drop_reason {
	SKB_DROP_REASON_NOT_SPECIFIED = 1,
	SKB_DROP_REASON_MAX = 2,
};

/* since 6.4 */
enum skb_drop_reason_subsys {
	SKB_DROP_REASON_SUBSYS_NUM = 1,
};

struct sk_buff {
	struct sk_buff *next; /* of the queue that it is in; NULL: it is in none */
	struct sock *sk;
	unsigned int len; /* bytes from data on */
	__be16 protocol;
	u16 network_header;   /* from head */
	u16 transport_header; /* likewise */
	unsigned char *head;
	unsigned char *data;
};

struct trace_event_raw_kfree_skb {
	const void *skbaddr;
	enum skb_drop_reason reason; /* 5.17 */
	const void *rx_sk;	     /* 6.11: whose queue it did not get into, or NULL */
};

struct udp_sock {
	int pending; /* address family of what is corked; 0: nothing is */
};

struct socket {
	struct sock *sk;
};

struct file;

struct bpf_iter__task_file {
	struct task_struct *task;
	struct file *file;
};

struct bpf_array {
	void *pptrs[1]; /* of a per-CPU map: by element */
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	u64 seq_num;
};

struct bpf_iter__cgroup {
	struct bpf_iter_meta *meta;
	struct cgroup *cgroup; /* NULL: the end */
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *key; /* NULL: the end */
	void *value;
};

/* ---- what classic tracepoints are given: records, from which they are printed --------------- */

/* since 6.4 */
struct trace_event_raw_sock_msg_length {
	const void *sk;
	u16 protocol;
	int ret;
	int flags;
};

struct trace_event_raw_mm_filemap_op_page_cache {
	unsigned char order; /* since 6.7 */
};

/* since 6.12 */
struct trace_event_raw_mm_filemap_op_page_cache_range {
	unsigned long i_ino;
	unsigned int s_dev;
	unsigned long index, last_index;
};

/* likewise */
struct trace_event_raw_mm_filemap_fault {
	unsigned long i_ino;
	unsigned int s_dev;
	unsigned long index;
};

struct trace_event_raw_inet_sock_set_state {
	const void *skaddr;
	int oldstate;
	int newstate;
	u16 protocol;
};

struct trace_event_raw_tcp_event_sk {
	const void *skaddr;
};

/* since 6.10 */
struct trace_event_raw_tcp_send_reset {
	const void *skaddr;
};

/* ---- contexts of programs, and what they may read of sockets ------------------------------- */

struct bpf_sock {
	u32 state;
};

struct bpf_tcp_sock {
	u32 rcv_nxt;
	u64 bytes_received;
	u64 bytes_acked;
};

struct __sk_buff {
	u32 len;
	u32 data; /* the network header's beginning, in programs of cgroups */
	u32 data_end;
	struct bpf_sock *sk;
};

#pragma clang attribute pop

/* Registers at a kprobe: asm/ptrace.h of each architecture, which user space has, too. */
#ifdef __TARGET_ARCH_x86
struct pt_regs {
	unsigned long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
	unsigned long orig_rax, rip, cs, eflags, rsp, ss;
};
#else
struct user_pt_regs {
	u64 regs[31], sp, pc, pstate;
};
#endif

struct udphdr { /* RFC 768 */
	__be16 source, dest;
	__be16 len; /* with this header */
	__u16 check;
};

#endif
