/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine offers, what loads here, why not, and what to do about it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cgroups/slots.h"
#include "kernel/clocks.h"
#include "kernel/load.h"
#include "kernel/privileges.h"
#include "view/doctor.h"
#include "view/view.h"

#define WIDTH 80  /* of a terminal */
#define INDENT 23 /* of a check's text */

enum outcome { WELL, NOTE, EMPTY, FAILED, OUTCOMES }; /* EMPTY: it runs, and makes no series */
static const char *const words[OUTCOMES] = {"ok", "note", "EMPTY", "NO"};
static const char *const states[OUTCOMES] = {"ok", "note", "empty", "no"};

struct report {
	bool json;
	size_t counts[OUTCOMES];
};

/* After `at` columns of the line, on as many lines as it takes, broken between words. */
static void print_wrapped(const char *text, size_t at)
{
	bool first = true;

	while (*text) {
		size_t size = strcspn(text, " ");

		if (!first && at + 1 + size > WIDTH) {
			printf("\n%*s", INDENT, "");
			at = INDENT;
			first = true;
		}
		printf("%s%.*s", first ? "" : " ", (int)size, text);
		at += size + !first;
		first = false;
		text += size + strspn(text + size, " ");
	}
	putchar('\n');
}

static size_t checks(const struct report *r)
{
	return r->counts[WELL] + r->counts[NOTE] + r->counts[EMPTY] + r->counts[FAILED];
}

/* todo: "" if there is nothing to do. */
__attribute__((format(printf, 5, 6))) static void check(struct report *r, const char *name,
							enum outcome outcome, const char *todo,
							const char *format, ...)
{
	bool first = !checks(r);
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	r->counts[outcome]++;
	if (r->json) {
		printf("%s{\"name\":\"%s\",\"state\":\"%s\",\"text\":", first ? "" : ",\n", name,
		       states[outcome]);
		kpod_print_text(stdout, text, strlen(text));
		fputs(",\"do\":", stdout);
		kpod_print_text(stdout, todo, strlen(todo));
		putchar('}');
		return;
	}
	printf("%-16s %-5s ", name, words[outcome]);
	print_wrapped(text, INDENT);
	if (*todo) {
		printf("%*s-> ", INDENT, "");
		print_wrapped(todo, INDENT + 3);
	}
}

/* What is wrong and, after the last colon, what to do about it. */
static void check_told(struct report *r, const char *name, enum outcome outcome, const char *told)
{
	const char *colon = strrchr(told, ':');
	size_t size = colon ? (size_t)(colon - told) : strlen(told);

	check(r, name, outcome, colon ? colon + 2 : "", "%.*s", (int)size, told);
}

/* Returns the exit status. */
static int summarize(struct report *r)
{
	char text[160];

	if (r->counts[FAILED])
		snprintf(text, sizeof(text), "%zu of %zu checks failed: see NO above",
			 r->counts[FAILED], checks(r));
	else
		snprintf(text, sizeof(text), "all %zu checks are well%s%s", checks(r),
			 r->counts[NOTE] ? ", some with a note" : "",
			 r->counts[EMPTY] ? ", some with nothing to read" : "");
	if (r->json) {
		printf("],\n\"summary\":\"%s\",\"ok\":%s}\n", text,
		       r->counts[FAILED] ? "false" : "true");
	} else {
		printf("%-16s %-5s ", "summary", words[r->counts[FAILED] ? FAILED : WELL]);
		print_wrapped(text, INDENT);
	}
	return r->counts[FAILED] ? 1 : 0;
}

static void check_collector(struct report *r, const struct kpod_loaded *l)
{
	const struct kpod_collector *c = l->collector;
	const char *profile = kpod_profile_names[c->profile];
	char todo[160], told[512];

	if (l->attachment && !l->reason[0]) {
		check(r, c->name, WELL, "", "%s, %s: %s", profile, l->attachment->name, c->help);
	} else if (l->attachment && l->has_nothing) {
		snprintf(told, sizeof(told), "%s, %s: %s", profile, l->attachment->name, l->reason);
		check_told(r, c->name, EMPTY, told);
	} else if (l->attachment) {
		check(r, c->name, NOTE, "docs/kernels.md says what is complete on which kernel",
		      "%s, %s: %s", profile, l->attachment->name, l->reason);
	} else {
		snprintf(todo, sizeof(todo),
			 "the other collectors run without it; it is complete since Linux %s "
			 "(docs/kernels.md)",
			 c->since);
		check(r, c->name, FAILED, todo, "%s: %s", profile,
		      l->reason[0] ? l->reason : c->help);
	}
}

static void check_loading(struct report *r, const struct kpod_options *options)
{
	struct kpod_options every = *options;
	struct kpod_bpf bpf;
	struct kpod_slots slots;
	int err;

	every.profile = KPOD_PROFILES;
	err = kpod_bpf_open(&bpf, &every);
	if (err) {
		check(r, "maps", FAILED, "give it memory, or lower --max-containers",
		      "cannot make the BPF maps: %s", strerror(-err));
		return;
	}
	err = kpod_slots_open(&slots, &bpf, options);
	if (err) {
		check_told(r, "cgroup2", FAILED, kpod_slots_error(err));
	} else {
		check(r, "cgroup2", WELL, "", "%s", slots.root);
		kpod_sources_open(&bpf, &slots, options);
	}
	check(r, "maps", WELL, "", "%u slots, %u rows each for %d CPUs", bpf.max_containers,
	      bpf.config.shards, bpf.cpus);
	for (size_t i = 0; i < bpf.loaded_count; i++)
		check_collector(r, &bpf.loaded[i]);
	if (!err)
		kpod_slots_close(&slots);
	kpod_bpf_close(&bpf);
}

int kpod_doctor(const struct kpod_options *options)
{
	bool btf = !access("/sys/kernel/btf/vmlinux", R_OK);
	const char *missing = kpod_missing_privilege();
	struct report report = {.json = options->json}, *r = &report;
	struct utsname kernel;
	int err;

	uname(&kernel);
	if (r->json)
		fputs("{\"checks\":[\n", stdout);
	check(r, "kernel", WELL, "", "%s", kernel.release);
	if (btf)
		check(r, "btf", WELL, "", "/sys/kernel/btf/vmlinux");
	else
		check(r, "btf", FAILED, "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
		      "there is no /sys/kernel/btf/vmlinux");
	check(r, "privilege", *missing ? FAILED : WELL,
	      *missing ? "run it as root: sudo kpod-loader doctor; docs/privileges.md" : "", "%s",
	      *missing ? missing : "may load BPF programs");
	if (kpod_sees_all_tasks())
		check(r, "pids", WELL, "", "sees all tasks of the node");
	else
		check(r, "pids", FAILED, "run it in the host's PID namespace", KPOD_OWN_PIDS);
	err = kpod_clocks_join(options->proc);
	if (err)
		check(r, "clocks", FAILED, KPOD_OWN_CLOCKS_TODO, "%s: %s", KPOD_OWN_CLOCKS,
		      strerror(-err));
	else
		check(r, "clocks", WELL, "", "the kernel's");
	if (!*missing)
		check_loading(r, options);
	return summarize(r);
}
