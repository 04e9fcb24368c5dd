/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: every attachment of every collector tried on this kernel, and every program shown to
 * its verifier, not only those that the loader picks. One JSON object a line.
 */
#ifdef KPOD_TESTING
#include <errno.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/log.h"
#include "cgroups/slots.h"
#include "kernel/load.h"
#include "view/events.h"
#include "view/verify.h"
#include "view/view.h"

static void print_text(const char *key, const char *text)
{
	printf("\"%s\":", key);
	kpod_print_text(stdout, text, strlen(text));
	putchar(',');
}

/* instructions: null if the program does not load, 0 if the kernel does not say (before 5.16). */
static void print_program(const char *collector, const char *name, int fd, const char *reason)
{
	struct bpf_prog_info info = {};
	__u32 size = sizeof(info);

	putchar('{');
	print_text("collector", collector);
	print_text("program", name);
	print_text("reason", reason);
	if (fd >= 0 && !bpf_obj_get_info_by_fd(fd, &info, &size))
		printf("\"instructions\":%u}\n", info.verified_insns);
	else
		puts("\"instructions\":null}");
}

static void print_programs(const char *collector, const struct bpf_object *object,
			   const char *reason)
{
	struct bpf_program *program;

	bpf_object__for_each_program (program, object)
		if (bpf_program__autoload(program))
			print_program(collector, bpf_program__name(program),
				      bpf_program__fd(program), reason);
}

static void print_attachment(const struct kpod_loaded *l, const char *name, bool chosen)
{
	putchar('{');
	print_text("collector", l->collector->name);
	print_text("attachment", name);
	print_text("reason", l->reason);
	print_text("lacks", l->attachment && l->attachment->lacks ? l->attachment->lacks : "");
	printf("\"works\":%s,\"chosen\":%s}\n", l->attachment ? "true" : "false",
	       chosen ? "true" : "false");
}

struct trial {
	struct kpod_bpf *bpf;
	struct kpod_slots *slots;
	const struct kpod_options *options;
};

/* The collector with this attachment only; l->collector does not outlive `one`. */
static struct kpod_loaded load_with(const struct trial *t, const struct kpod_attachment *a,
				    struct kpod_collector *one)
{
	struct kpod_loaded l = {.collector = one};

	one->attachments = a;
	one->attachment_count = 1;
	one->source = NULL;	  /* and the attachment must have none */
	one->makes_slots = false; /* the slots are there */
	one->started = NULL;
	kpod_collector_load(t->bpf, &l, t->slots, t->options);
	return l;
}

static void try_attachment(const struct trial *t, const struct kpod_collector *c,
			   const struct kpod_attachment *a)
{
	struct kpod_collector one = *c;
	struct kpod_attachment tried = *a;
	struct kpod_loaded l;

	tried.where = KPOD_NOTHING_PREEMPTS;
	tried.source = NULL;
	l = load_with(t, &tried, &one);
	print_attachment(&l, a->name, false);
	if (l.object)
		print_programs(c->name, l.object, "");
	kpod_collector_unload(&l);
	/* One that is refused leaves the others unseen: each alone. */
	for (size_t i = 0; l.reason[0] && i < a->step_count; i++) {
		struct kpod_step step = {a->steps[i].program, KPOD_LOAD};
		struct kpod_attachment alone = {
			.name = a->name, .steps = &step, .step_count = 1, .omit = a->omit};
		struct kpod_loaded program = load_with(t, &alone, &one);

		if (program.attachment)
			print_programs(c->name, program.object, "");
		else
			print_program(c->name, step.program, -1, program.reason);
		kpod_collector_unload(&program);
	}
}

static bool has_program(const struct kpod_collector *c, const char *name)
{
	for (size_t i = 0; i < c->attachment_count; i++)
		for (size_t s = 0; s < c->attachments[i].step_count; s++)
			if (!strcmp(c->attachments[i].steps[s].program, name))
				return true;
	return false;
}

static void print_unused(const struct kpod_collector *c)
{
	size_t size = (size_t)(c->object_end - c->object);
	struct bpf_object *object = bpf_object__open_mem(c->object, size, NULL);
	struct bpf_program *program;

	if (!object)
		return;
	bpf_object__for_each_program (program, object)
		if (!has_program(c, bpf_program__name(program)))
			print_program(c->name, bpf_program__name(program), -1, "no step has it");
	bpf_object__close(object);
}

static void try_events(size_t set)
{
	struct bpf_object *object = kpod_events_open(set);
	char reason[160] = "";

	if (object && bpf_object__load(object))
		snprintf(reason, sizeof(reason), "needs %s", kpod_events_needs(set));
	if (object)
		print_programs("events", object, reason);
	else
		print_program("events", "", -1, strerror(errno));
	bpf_object__close(object);
}

int kpod_verify(const struct kpod_options *options)
{
	struct kpod_options every = *options;
	struct kpod_slots slots = {};
	struct kpod_bpf bpf;
	struct trial trial = {&bpf, &slots, &every};
	int err;

	every.profile = KPOD_PROFILES;
	err = kpod_bpf_open(&bpf, &every);
	err = err ? err : kpod_slots_open(&slots, &bpf, options);
	if (err) {
		kpod_log("verify: %s", strerror(-err));
		return 1;
	}
	kpod_sources_open(&bpf, &slots, &every);
	for (size_t i = 0; i < bpf.loaded_count; i++) {
		const struct kpod_loaded *l = &bpf.loaded[i];
		const struct kpod_collector *c = l->collector;

		if (c->object)
			print_unused(c);
		if (l->object)
			print_programs(c->name, l->object, "");
		print_attachment(l, l->attachment ? l->attachment->name : "", true);
		for (size_t a = 0; a < c->attachment_count; a++)
			if (c->object && &c->attachments[a] != l->attachment)
				try_attachment(&trial, c, &c->attachments[a]);
		fflush(stdout);
	}
	for (size_t set = 0; kpod_events_needs(set); set++)
		try_events(set);
	kpod_slots_close(&slots);
	kpod_bpf_close(&bpf);
	return 0;
}
#endif
