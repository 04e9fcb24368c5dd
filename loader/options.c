/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "bpf/slots.h"
#include "shared/abi.h"

static const char usage[] =
	"kpod-loader: eBPF metrics of every container, into a shared-memory segment\n"
	"\n"
	"  kpod-loader run [options]          attach, and write snapshots until stopped\n"
	"  kpod-loader dump SEGMENT [--json] [--raw]\n"
	"                                     print the last snapshot of a segment; --raw: words "
	"as\n"
	"                                     they are there, not in base units\n"
	"  kpod-loader check SEGMENT          end with 0 if a loader is writing the segment\n"
	"  kpod-loader events exec|oom|drop [--container TEXT] [--json]\n"
	"                                     print programs started and processes ended, OOM\n"
	"                                     kills, or TCP packets dropped, as they happen; only "
	"of\n"
	"                                     cgroups with this text in their path\n"
	"  kpod-loader schema                 print the schema as JSON\n"
	"  kpod-loader doctor [--json]        print what works on this machine, and why not\n"
	"  kpod-loader top [--once] [--json]  show who does what, as long as it runs\n"
	"  kpod-loader options                print the page docs/options.md\n"
#ifdef KPOD_TESTING
	"  kpod-loader verify                 try every program and attachment, print JSON\n"
#endif
	"\n"
	"Options of run (doctor and schema take those of collectors too). Each can also be set by\n"
	"the environment variable KPOD_NAME, with _ for -; the command line wins.\n";

#define TEXT_OF(macro) TEXT_OF_TOKEN(macro)
#define TEXT_OF_TOKEN(token) #token

enum type { TEXT, FLAG, SECONDS, NUMBER, PERCENT, PROFILE };

struct option_row {
	const char *name;
	enum type type;
	size_t field;	      /* offset in struct kpod_options */
	size_t size;	      /* of the field */
	const char *fallback; /* as on the command line; NULL: the field stays zero */
	double low, high;
	const char *value; /* what --help calls the argument; NULL: there is none */
	const char *help;
	bool testing; /* only in test builds */
};

#define TO(name)                                                                                   \
	.field = offsetof(struct kpod_options, name),                                              \
	.size = sizeof(((struct kpod_options *)0)->name)

static const struct option_row rows[] = {
	{"segment", TEXT, TO(segment), "/run/kpod/segment", .value = "PATH",
	 .help = "the file to write, on tmpfs; run --print alone has a private one"},
	{"interval", SECONDS, TO(interval_ns), "30", 0.01, 3600, "SECONDS",
	 "between snapshots that nobody has asked for (2 with --print)"},
	{"min-interval", SECONDS, TO(min_interval_ns), "1", 0.01, 3600, "SECONDS",
	 "at least so long between two snapshots that scrapes have asked for"},
	{"tombstone", SECONDS, TO(tombstone_ns), "300", 0, 86400, "SECONDS",
	 "how long the last totals of an ended container are shown"},
	{"max-containers", NUMBER, TO(max_containers), "2048", 1, 65536, "N",
	 "containers, units and the host that can be told apart at once"},
	{"max-sockets", NUMBER, TO(max_sockets), NULL, 1024, 1048576, "N",
	 "TCP sockets whose traffic is counted at once; a container may have as many of these as "
	 "nobody has (default: one for each 64 KiB of memory, from 65536 to 262144)"},
	{"cpu-culprits", NUMBER, TO(culprits), "16", 0, 128, "N",
	 "containers that are named for each container as those that held the CPU while it waited; "
	 "all others together are one more (0, and with profile minimal the default: none is "
	 "named)"},
	{"tcp-peers", NUMBER, TO(tcp_peers), "8", 0, 128, "N",
	 "remote addresses and server's ports that are told apart for each container's TCP "
	 "connections; all others together are one more (0, and but for profile comprehensive the "
	 "default: none is)"},
	{"ring-size", NUMBER, TO(ring_size), "1048576", KPOD_RING_MIN, KPOD_RING_MAX, "BYTES",
	 "of the segment's ring at the start, a power of two"},
	{"ring-max", NUMBER, TO(ring_max), "268435456", KPOD_RING_MIN, KPOD_RING_MAX, "BYTES",
	 "to which the ring may grow"},
	{"profile", PROFILE, TO(profile), "standard", .value = "NAME",
	 .help = "minimal, standard or comprehensive: which collectors run"},
	{"collectors", TEXT, TO(collectors), .value = "LIST",
	 .help = "these instead of a profile, separated by commas"},
	{"syscalls", TEXT, TO(syscalls), .value = "LIST",
	 .help = "the system calls that collector syscall measures by name"},
	{"proc", TEXT, TO(proc), "/proc", .value = "PATH", .help = "the host's procfs"},
	{"max-overhead", PERCENT, TO(max_overhead), "1", 0, 100, "PERCENT",
	 "of the node's CPU: the costliest collectors are shed while BPF programs take more, and "
	 "more than 50 ms of CPU time a second (0: not measured, and no privilege is kept for "
	 "it)"},
	{"cgroup-root", TEXT, TO(cgroup_roots), .value = "PATHS",
	 .help = "cgroups below which a kubelet has its kubepods, separated by commas, beside "
		 "those "
		 "that are found: the hierarchy's root, services such as k3s.service, and the node "
		 "that the loader's own pod is on"},
	{"others", TEXT, TO(others), .value = "WHAT",
	 .help = "what is told apart beside pods: all (default), services (default in a cluster) "
		 "or "
		 "none; the rest is the host"},
	{"others-share", PERCENT, TO(others_share), NULL, 1, 100, "PERCENT",
	 "of --max-containers that all but pods may have together (default 75; in a cluster 25)"},
	{"instances", TEXT, TO(instances), .value = "LIST",
	 .help = "units that are shown one by one and not summed, by what their names begin with: "
		 "postgresql@,run-,session-"},
	{"pods-only", FLAG, TO(pods_only),
	 .help = "only Kubernetes pods are told apart; all else is the host"},
	{"allow-degraded-privileges", FLAG, TO(allow_degraded_privileges),
	 .help = "run also if privileges that are not needed any more cannot be dropped"},
	{"print", FLAG, TO(print), .help = "also print a live table"},
	{"json", FLAG, TO(json), .help = "doctor and top: print JSON"},
	{"once", FLAG, TO(once), .help = "top: print one table and end"},
	{"sort", TEXT, TO(sort), "cpu", .value = "COLUMN",
	 .help = "top: by this column, the highest first"},
	{"filter", TEXT, TO(filter), .value = "TEXT",
	 .help = "top: only those with this text in their cgroup's path"},
	{"log-format", TEXT, TO(log_format), "text", .value = "FORMAT",
	 .help = "text or json: of the lines on stderr once run has begun"},
	{"verbose", FLAG, TO(verbose), .help = "also print what libbpf says"},
	{"inject-load-failure", TEXT, TO(inject_failure), .value = "NAME",
	 .help = "this collector does not load; with :NAME, no attachment of that name; with "
		 "::NAME, "
		 "none of that name that was shed",
	 .testing = true},
	{"inject-preemption", FLAG, TO(inject_preemption),
	 .help = "attach as on a kernel that preempts programs", .testing = true},
	{"governor-tick", SECONDS, TO(governor_tick_ns), "1", 0.01, 3600, "SECONDS",
	 "of the governor of overhead", .testing = true},
	{"governor-floor", NUMBER, TO(governor_floor_ms), TEXT_OF(KPOD_OVERHEAD_FLOOR_MS), 0, 1000,
	 "MS", "of CPU time in each second, below which nothing is shed", .testing = true},
	{"culprits-renew", SECONDS, TO(renew_ns), "60", 0.01, 3600, "SECONDS",
	 "between two culprits, or peers, of a container that make room for others",
	 .testing = true},
};

#define ROWS KPOD_COUNT(rows)

#ifdef KPOD_TESTING
#define IS_OFFERED(row) true
#else
#define IS_OFFERED(row) (!(row)->testing)
#endif

#define ENVIRONMENT_MAX 64

static void environment_name(const struct option_row *row, char name[ENVIRONMENT_MAX])
{
	size_t size = (size_t)snprintf(name, ENVIRONMENT_MAX, "KPOD_%s", row->name);

	for (size_t i = 0; i < size; i++)
		name[i] = (char)(name[i] == '-' ? '_' : toupper(name[i]));
}

static bool set_number(const struct option_row *row, const char *where, const char *text,
		       char *field)
{
	double number;
	char *end;

	errno = 0;
	number = strtod(text, &end);
	if (errno || end == text || *end || !(number >= row->low && number <= row->high)) {
		kpod_log("%s: '%s' is not a number from %g to %g", where, text, row->low,
			 row->high);
		return false;
	}
	if (row->type == PERCENT)
		*(double *)field = number;
	else if (row->type == SECONDS)
		*(uint64_t *)field = (uint64_t)(number * KPOD_SECOND);
	else if (row->size == sizeof(uint32_t))
		*(uint32_t *)field = (uint32_t)number;
	else
		*(uint64_t *)field = (uint64_t)number;
	return true;
}

static bool set_profile(const char *where, const char *text, enum kpod_profile *profile)
{
	for (size_t i = 0; i < KPOD_PROFILES; i++) {
		if (!strcmp(text, kpod_profile_names[i])) {
			*profile = (enum kpod_profile)i;
			return true;
		}
	}
	kpod_log("%s: '%s' is not minimal, standard or comprehensive", where, text);
	return false;
}

/* Of the environment: "0" and "false" are no. */
static bool set_flag(const char *where, const char *text, bool *flag)
{
	bool yes = !strcmp(text, "1") || !strcmp(text, "true");

	if (!yes && strcmp(text, "0") && strcmp(text, "false")) {
		kpod_log("%s: '%s' is not true or false", where, text);
		return false;
	}
	*flag = yes;
	return true;
}

static bool set(const struct option_row *row, const char *where, const char *text,
		struct kpod_options *o)
{
	char *field = (char *)o + row->field;

	switch (row->type) {
	case TEXT:
		*(const char **)field = text;
		return true;
	case FLAG:
		return set_flag(where, text, (bool *)field);
	case PROFILE:
		return set_profile(where, text, (enum kpod_profile *)field);
	default:
		return set_number(row, where, text, field);
	}
}

static void print_help(FILE *out)
{
	fputs(usage, out);
	for (size_t i = 0; i < ROWS; i++) {
		const struct option_row *row = &rows[i];
		char head[64];

		if (!IS_OFFERED(row))
			continue;
		snprintf(head, sizeof(head), "--%s%s%s", row->name, row->value ? " " : "",
			 row->value ? row->value : "");
		fprintf(out, "  %-23s %s%s%s%s\n", head, row->help,
			row->fallback ? " (default " : "", row->fallback ? row->fallback : "",
			row->fallback ? ")" : "");
	}
	fputs("  -h, --help, --version\n"
	      "\n"
	      "Exit status: 0 if all is well; 1 if it cannot do its work, or doctor or check found "
	      "something;\n2 if the command line or a variable is wrong.\n",
	      out);
}

void kpod_options_page(FILE *out)
{
	char name[ENVIRONMENT_MAX];

	fputs("# Options of the loader\n\n"
	      "Made by `make docs` from the table in `loader/options.c`. An option on the command "
	      "line wins over its\nenvironment variable. Of a flag, the variable is `true` or "
	      "`false`.\n\n"
	      "| option | environment | default | bounds | |\n|---|---|---|---|---|\n",
	      out);
	for (size_t i = 0; i < ROWS; i++) {
		const struct option_row *row = &rows[i];

		if (row->testing)
			continue;
		environment_name(row, name);
		fprintf(out, "| `--%s%s%s` | `%s` | %s | ", row->name, row->value ? " " : "",
			row->value ? row->value : "", name, row->fallback ? row->fallback : "");
		if (row->high > 0)
			fprintf(out, "%.10g to %.10g", row->low, row->high);
		fprintf(out, " | %s |\n", row->help);
	}
}

enum { OPT_HELP = ROWS + 1, OPT_VERSION, OPT_COUNT };

static int parse_arguments(int argc, char **argv, struct kpod_options *o, bool *given)
{
	struct option known[OPT_COUNT + 1] = {};
	size_t count = 0;
	char where[64];
	int option;

	for (size_t i = 0; i < ROWS; i++)
		if (IS_OFFERED(&rows[i]))
			known[count++] = (struct option){
				rows[i].name, rows[i].value ? required_argument : no_argument, NULL,
				(int)i};
	known[count++] = (struct option){"help", no_argument, NULL, OPT_HELP};
	known[count] = (struct option){"version", no_argument, NULL, OPT_VERSION};
	while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		if (option == OPT_VERSION) {
			puts("kpod-loader " KPOD_VERSION);
			return -1;
		}
		if (option == OPT_HELP || option == 'h') {
			print_help(stdout);
			return -1;
		}
		if (option < 0 || option >= (int)ROWS) {
			fputs("kpod-loader: see kpod-loader --help\n", stderr);
			return 2;
		}
		snprintf(where, sizeof(where), "--%s", rows[option].name);
		if (!set(&rows[option], where, optarg ? optarg : "true", o))
			return 2;
		given[option] = true;
	}
	return 0;
}

/* What the kernel keeps for an account is 192 bytes; for a TCP socket itself, about 4 KiB. */
static uint32_t default_sockets(void)
{
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t count = memory / KPOD_SOCKETS_MEMORY;

	return count < KPOD_SOCKETS_LOW	   ? KPOD_SOCKETS_LOW
	       : count > KPOD_SOCKETS_HIGH ? KPOD_SOCKETS_HIGH
					   : (uint32_t)count;
}

static bool is_given(const bool *given, const char *name)
{
	for (size_t i = 0; i < ROWS; i++)
		if (!strcmp(rows[i].name, name))
			return given[i];
	return false;
}

static int choose_others(struct kpod_options *o)
{
	static const char *const names[] = {"none", "services", "all"};
	const bool cluster = getenv("KUBERNETES_SERVICE_HOST");
	const char *wanted = o->pods_only ? "none"
			     : o->others  ? o->others
			     : cluster	  ? "services"
					  : "all";

	if (o->others_share == 0)
		o->others_share = cluster ? 25 : 75;
	for (size_t i = 0; i < KPOD_COUNT(names); i++) {
		if (!strcmp(wanted, names[i])) {
			o->wanted = (enum kpod_others)i;
			return 0;
		}
	}
	kpod_log("--others: '%s' is not all, services or none", wanted);
	return 2;
}

/* Each of the list: absolute, and not longer than the kernel program compares. */
static int check_roots(const char *list)
{
	while (list && *list) {
		size_t size = strcspn(list, ",");

		if (list[0] != '/' || size >= KPOD_ROOT_PATH) {
			kpod_log(
				"--cgroup-root: '%.*s' is not a path below the cgroup2 root that "
				"begins with / and has at most %d bytes",
				(int)size, list, KPOD_ROOT_PATH - 1);
			return 2;
		}
		list += size + (list[size] == ',');
	}
	return 0;
}

int kpod_options_parse(int argc, char **argv, struct kpod_options *o)
{
	bool given[ROWS] = {};
	int status;

	memset(o, 0, sizeof(*o));
	for (size_t i = 0; i < ROWS; i++) {
		char name[ENVIRONMENT_MAX];
		const char *text;

		if (rows[i].fallback && !set(&rows[i], rows[i].name, rows[i].fallback, o))
			return 2;
		environment_name(&rows[i], name);
		text = IS_OFFERED(&rows[i]) ? getenv(name) : NULL;
		given[i] = text && *text;
		if (given[i] && !set(&rows[i], name, text, o))
			return 2;
	}
	status = parse_arguments(argc, argv, o, given);
	if (status)
		return status;
	/* For people: a table that moves, and no file that others look for. */
	if (o->print && !is_given(given, "interval"))
		o->interval_ns = 2 * KPOD_SECOND;
	if (o->print && !is_given(given, "segment"))
		o->segment = NULL;
	if (o->profile == KPOD_MINIMAL && !is_given(given, "cpu-culprits"))
		o->culprits = 0;
	/* Addresses of a server's clients are many: who wants a label with them says so. */
	if (o->profile != KPOD_COMPREHENSIVE && !is_given(given, "tcp-peers"))
		o->tcp_peers = 0;
	if (!o->max_sockets)
		o->max_sockets = default_sockets();
	if (o->min_interval_ns > o->interval_ns)
		o->min_interval_ns = o->interval_ns;
	if (o->ring_size & (o->ring_size - 1) || o->ring_size > o->ring_max) {
		kpod_log("--ring-size: a power of two, at most --ring-max");
		return 2;
	}
	o->log_json = !strcmp(o->log_format, "json");
	if (!o->log_json && strcmp(o->log_format, "text")) {
		kpod_log("--log-format: '%s' is not text or json", o->log_format);
		return 2;
	}
	status = choose_others(o);
	return status ? status : check_roots(o->cgroup_roots);
}
