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
typedef __u32 u32;
typedef __u64 u64;
typedef _Bool bool;
#define true 1
#define false 0

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_STACK = 23,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
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
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct sched_entity {
	u64 sum_exec_runtime; /* ns on a CPU, kept up to date by update_curr() */
};

struct sched_info {
	u64 run_delay; /* ns runnable but not running, added up by sched_info_arrive() */
};

struct task_struct;

struct signal_struct {
	unsigned int flags;
	int group_exit_code;
	struct task_struct *group_exec_task; /* 5.17; a thread of the process is in execve() */
};

struct signal_struct___before_5_17 {
	struct task_struct *group_exit_task;
};

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct sched_entity se;
	struct sched_info sched_info;
	unsigned long nvcsw; /* voluntary context switches */
	u64 start_time;	     /* CLOCK_MONOTONIC */
	unsigned long min_flt;
	unsigned long maj_flt;
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
};

struct request_queue {
	struct gendisk *disk; /* 5.15 */
};

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
	struct bio *bio;
};

struct request___before_5_17 {
	struct gendisk *rq_disk;
};

struct bpf_iter__task {
	struct task_struct *task;
};

#pragma clang attribute pop

#endif
