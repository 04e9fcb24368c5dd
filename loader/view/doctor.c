/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine offers, what loads here, and why not. */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cgroups/slots.h"
#include "kernel/load.h"
#include "kernel/privileges.h"
#include "view/doctor.h"

static void row(const char *what, bool ok, const char *text)
{
	printf("%-16s %-5s %s\n", what, ok ? "ok" : "NO", text);
}

/* It runs, and nothing comes of it. */
static void empty_row(const char *what, const char *text)
{
	printf("%-16s %-5s %s\n", what, "EMPTY", text);
}

int kpod_doctor(const struct kpod_options *options)
{
	bool btf = !access("/sys/kernel/btf/vmlinux", R_OK);
	const char *missing = kpod_missing_privilege();
	struct kpod_options every = *options;
	struct utsname kernel;
	struct kpod_bpf bpf;
	struct kpod_slots slots;
	char text[320];
	size_t up = 0;
	int err;

	uname(&kernel);
	row("kernel", true, kernel.release);
	row("btf", btf,
	    btf ? "/sys/kernel/btf/vmlinux"
		: "no /sys/kernel/btf/vmlinux: needs a kernel with CONFIG_DEBUG_INFO_BTF=y");
	row("privilege", !*missing, *missing ? missing : "may load BPF programs");
	row("pids", kpod_sees_all_tasks(),
	    kpod_sees_all_tasks() ? "sees all tasks of the node" : KPOD_OWN_PIDS);
	if (*missing)
		return 1;
	every.profile = KPOD_PROFILES;
	err = kpod_bpf_open(&bpf, &every);
	if (err) {
		row("maps", false, strerror(-err));
		return 1;
	}
	err = kpod_slots_open(&slots, &bpf, options);
	row("cgroup2", !err, err ? kpod_slots_error(err) : slots.root);
	if (!err)
		kpod_sources_open(&bpf, &slots, options);
	snprintf(text, sizeof(text), "%u slots, %u rows each for %d CPUs", bpf.max_containers,
		 bpf.config.shards, bpf.cpus);
	row("maps", true, text);
	for (size_t i = 0; i < bpf.loaded_count; i++) {
		const struct kpod_loaded *l = &bpf.loaded[i];

		up += l->attachment != NULL;
		snprintf(text, sizeof(text), "%s%s%s: %s",
			 kpod_profile_names[l->collector->profile], l->attachment ? ", " : "",
			 l->attachment ? l->attachment->name : "",
			 l->reason[0] ? l->reason : l->collector->help);
		if (l->attachment && l->has_nothing)
			empty_row(l->collector->name, text);
		else
			row(l->collector->name, l->attachment, text);
	}
	if (!err)
		kpod_slots_close(&slots);
	err = err || up < bpf.loaded_count || !kpod_sees_all_tasks();
	kpod_bpf_close(&bpf);
	return err;
}
