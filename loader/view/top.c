/* SPDX-License-Identifier: Apache-2.0 */
/* `kpod-loader top`: a reader of a segment like any other; it needs no privilege. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "bpf/classify.h"
#include "shared/reader.h"
#include "view/top.h"
#include "view/view.h"

#define EVERY_MS 2000
#define PATIENCE_MS 3000 /* for another snapshot, with --once */
#define PATH_SHOWN 513
#define FILTER_MAX 64
#define SOURCES 2

enum unit { PERCENT_OF_CPU, MILLISECONDS, BYTES, BYTES_A_SECOND, A_SECOND, COUNT };

/* In the order of their weight: what does not fit to the right of the name is left out. */
static const struct column {
	const char *key, *title;
	enum unit unit;
	const char *json_unit;
	bool gauge;
	const char *sources[SOURCES]; /* of metrics, added up */
} columns[] = {
	{"cpu", "CPU%", PERCENT_OF_CPU, "cores", false, {"kpod_cpu_oncpu_seconds_total"}},
	{"wait",
	 "WAIT",
	 MILLISECONDS,
	 "seconds per second",
	 false,
	 {"kpod_cpu_runqueue_wait_seconds_total"}},
	{"throttled",
	 "THROT",
	 MILLISECONDS,
	 "seconds per second",
	 false,
	 {"kpod_cgroup_cpu_throttled_seconds_total"}},
	{"memory", "MEM", BYTES, "bytes", true, {"kpod_cgroup_memory_working_set_bytes"}},
	{"io", "IO/s", BYTES_A_SECOND, "bytes per second", false, {"kpod_block_io_bytes_total"}},
	{"retransmits",
	 "RETR",
	 A_SECOND,
	 "segments per second",
	 false,
	 {"kpod_tcp_retransmitted_segments_total"}},
	{"drops",
	 "DROP",
	 A_SECOND,
	 "packets per second",
	 false,
	 {"kpod_tcp_dropped_packets_total", "kpod_udp_receive_drops_total"}},
	{"tcp", "TCP/s", BYTES_A_SECOND, "bytes per second", false, {"kpod_tcp_bytes_total"}},
	{"conns", "CONNS", COUNT, "connections", true, {"kpod_tcp_connections"}},
	{"pids", "PIDS", COUNT, "tasks", true, {"kpod_cgroup_pids"}},
	{"limit", "LIMIT", BYTES, "bytes", true, {"kpod_cgroup_memory_limit_bytes"}},
	{"rss", "RSS", BYTES, "bytes", true, {"kpod_cgroup_memory_rss_bytes"}},
	{"switches",
	 "CSW/s",
	 A_SECOND,
	 "switches per second",
	 false,
	 {"kpod_cpu_context_switches_total"}},
	{"execs", "EXEC/s", A_SECOND, "programs per second", false, {"kpod_process_execs_total"}},
	{"faults",
	 "FLT/s",
	 A_SECOND,
	 "faults per second",
	 false,
	 {"kpod_memory_page_faults_total"}},
	{"oom", "OOM", COUNT, "kills", true, {"kpod_memory_oom_kills_total"}}, /* since its birth */
};

#define COLUMNS KPOD_COUNT(columns)
#define CELL 8 /* width of a column, a space included */
#define NAME_LEAST 24

struct row {
	uint32_t slot, generation;
	uint64_t born_ns;
	bool ended;
	char path[PATH_SHOWN]; /* printable */
	char name[PATH_SHOWN];
	double total[COLUMNS]; /* NAN: none */
	double value[COLUMNS];
};

struct top {
	struct kpod_view *view;
	struct row *rows, *before;
	size_t count, before_count;
	uint64_t at_ns, before_ns, generation;
	bool out_of_memory;
	size_t sort; /* COLUMNS: by name */
	bool ascending, paused, typing;
	char filter[FILTER_MAX];
	size_t scroll;
};

#define ID_SIZE 64  /* hex digits of a container's id */
#define ID_SHOWN 12 /* as docker ps shows it */
#define UID_SHOWN 8

/* The id in a cgroup's name (docker-ID.scope, cri-containerd-ID.scope, ID), or NULL. */
static const char *id_in(const char *name)
{
	for (; *name; name++)
		if (strspn(name, "0123456789abcdef") >= ID_SIZE)
			return name;
	return NULL;
}

/* The part of a path that a person knows: a unit's name, or short forms of ids. */
static void set_name(struct row *row, const struct kpod_slot *slot)
{
	const char *last = strrchr(row->path, '/'), *id, *uid = NULL;

	last = last && last[1] ? last + 1 : row->path;
	id = id_in(last);
	if (slot->kind == KPOD_CGROUP_HOST) {
		snprintf(row->name, sizeof(row->name), "host");
		return;
	}
	/* kubepods-burstable-podUID.slice/…, and pod's own cgroup is that directory. */
	if (slot->kind == KPOD_CGROUP_POD_CONTAINER || slot->kind == KPOD_CGROUP_POD) {
		for (const char *at = row->path; (at = strstr(at, "pod")); at += 3)
			if (at > row->path && (at[-1] == '/' || at[-1] == '-'))
				uid = at + 3;
	}
	if (uid && slot->kind == KPOD_CGROUP_POD)
		snprintf(row->name, sizeof(row->name), "%.*s/(pod)", UID_SHOWN, uid);
	else if (uid && id)
		snprintf(row->name, sizeof(row->name), "%.*s/%.*s", UID_SHOWN, uid, ID_SHOWN, id);
	else if (id)
		snprintf(row->name, sizeof(row->name), "%.*s", ID_SHOWN, id);
	else
		snprintf(row->name, sizeof(row->name), "%s", last);
}

/* Whoever may make cgroups chooses their names, and this goes to root's terminal. */
static void set_path(struct row *row, const struct kpod_slot *slot, const char *path)
{
	size_t size = slot->path_size < PATH_SHOWN - 1 ? slot->path_size : PATH_SHOWN - 1;

	for (size_t i = 0; i < size; i++)
		row->path[i] = (char)(path[i] >= 0x20 && path[i] < 0x7f ? path[i] : '?');
	row->path[size] = '\0';
}

/* The loader writes slots in their order; whoever else wrote this file may not have. */
static void see_slot(void *context, const struct kpod_slot *slot, const char *path)
{
	struct top *t = context;
	struct row *more;

	if (t->count && t->rows[t->count - 1].slot >= slot->slot)
		return;
	more = realloc(t->rows, (t->count + 1) * sizeof(*more));
	if (!more) {
		t->out_of_memory = true;
		return;
	}
	t->rows = more;
	t->rows[t->count] = (struct row){
		.slot = slot->slot,
		.generation = slot->generation,
		.born_ns = slot->born_ns,
		.ended = slot->died_ns,
	};
	for (size_t c = 0; c < COLUMNS; c++)
		t->rows[t->count].total[c] = NAN;
	set_path(&t->rows[t->count], slot, path);
	set_name(&t->rows[t->count++], slot);
}

static int by_slot(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	return (x->slot > y->slot) - (x->slot < y->slot);
}

static struct row *find(struct row *rows, size_t count, uint32_t slot, uint32_t generation)
{
	struct row like = {.slot = slot};
	struct row *found = count ? bsearch(&like, rows, count, sizeof(*rows), by_slot) : NULL;

	return found && found->generation == generation ? found : NULL;
}

static void see_value(void *context, uint32_t slot, uint32_t generation, size_t name, double value)
{
	struct top *t = context;
	struct row *row = find(t->rows, t->count, slot, generation);
	double *total = row ? &row->total[name / SOURCES] : NULL;

	if (total)
		*total = (isnan(*total) ? 0 : *total) + value;
}

static void rate(struct top *t)
{
	double seconds = (double)(t->at_ns - t->before_ns) / 1e9;

	for (size_t i = 0; i < t->count; i++) {
		struct row *row = &t->rows[i];
		const struct row *old =
			find(t->before, t->before_count, row->slot, row->generation);

		for (size_t c = 0; c < COLUMNS; c++) {
			double was = old					? old->total[c]
				     : t->before && row->born_ns > t->before_ns ? 0
										: NAN;

			/* A first row of a table comes with its first event. */
			if (old && isnan(was))
				was = 0;
			row->value[c] =
				columns[c].gauge ? row->total[c] : (row->total[c] - was) / seconds;
			if (!columns[c].gauge && row->total[c] < was)
				row->value[c] = NAN; /* its collector was loaded anew */
		}
	}
}

/* Takes the last snapshot; the one it had is what rates are taken from. */
static int take(struct top *t)
{
	const char *names[COLUMNS * SOURCES];
	const struct kpod_view_visitor visitor = {see_slot, see_value, t};
	struct kpod_view_head head;
	int err = kpod_view_refresh(t->view);

	if (err)
		return err;
	head = kpod_view_head(t->view);
	if (t->rows && head.generation == t->generation && head.monotonic_ns == t->at_ns)
		return 0;
	free(t->before);
	t->before = head.generation == t->generation ? t->rows : NULL;
	t->before_count = t->before ? t->count : 0;
	if (!t->before)
		free(t->rows);
	t->before_ns = t->at_ns;
	t->at_ns = head.monotonic_ns;
	t->generation = head.generation;
	t->rows = NULL;
	t->count = 0;
	for (size_t c = 0; c < COLUMNS; c++)
		for (size_t s = 0; s < SOURCES; s++)
			names[c * SOURCES + s] = columns[c].sources[s] ? columns[c].sources[s] : "";
	kpod_view_visit(t->view, names, KPOD_COUNT(names), &visitor);
	if (t->out_of_memory)
		return -ENOMEM;
	rate(t);
	return 0;
}

static const struct top *sorting; /* qsort() has no context */

static int by_column(const void *a, const void *b)
{
	const struct row *const *x = a, *const *y = b;
	size_t c = sorting->sort;
	double u, v;
	int order;

	if (c == COLUMNS) {
		order = strcmp((*x)->name, (*y)->name);
	} else {
		u = (*x)->value[c];
		v = (*y)->value[c];
		if (isnan(u) || isnan(v)) /* last, whichever the order */
			return isnan(u) - isnan(v);
		order = (u < v) - (u > v);
	}
	if (!order)
		return by_slot(*x, *y);
	return sorting->ascending ? -order : order;
}

/* Returns how many of shown[] there are: those that live and match. */
static size_t choose(const struct top *t, const struct row **shown)
{
	size_t n = 0;

	for (size_t i = 0; i < t->count; i++)
		if (!t->rows[i].ended && (!*t->filter || strcasestr(t->rows[i].path, t->filter)))
			shown[n++] = &t->rows[i];
	sorting = t;
	if (n)
		qsort(shown, n, sizeof(*shown), by_column);
	return n;
}

static void print_bytes(char out[16], double value)
{
	static const char units[] = "BKMGTPE";
	int unit = 0;

	while (value >= 999.5 && units[unit + 1]) {
		value /= 1024;
		unit++;
	}
	snprintf(out, 16, "%.*f%c", value < 9.95 && unit ? 1 : 0, value, units[unit]);
}

static void print_value(char out[16], enum unit unit, double value)
{
	if (isnan(value))
		snprintf(out, 16, "-");
	else if (value == 0)
		snprintf(out, 16, "0");
	else if (unit == BYTES || unit == BYTES_A_SECOND)
		print_bytes(out, value);
	else if (unit == COUNT)
		snprintf(out, 16, "%.0f", value);
	else if (unit == PERCENT_OF_CPU)
		snprintf(out, 16, "%.1f", 100 * value);
	else if (unit == MILLISECONDS)
		snprintf(out, 16, value < 0.0995 ? "%.1fms" : "%.0fms", 1000 * value);
	else
		snprintf(out, 16, value < 99.5 ? "%.1f" : "%.0f", value);
}

static size_t columns_in(size_t width)
{
	size_t fit = width > NAME_LEAST ? (width - NAME_LEAST) / CELL : 0;

	return fit < COLUMNS ? fit : COLUMNS;
}

/* The end of a name tells more than its beginning. */
static const char *shorten(const char *name, size_t width, char out[PATH_SHOWN])
{
	size_t size = strlen(name);

	if (size <= width)
		return name;
	snprintf(out, PATH_SHOWN, "..%s", name + size - (width > 2 ? width - 2 : 0));
	return out;
}

static void print_table(const struct top *t, FILE *out, size_t width, size_t height,
			const char *reverse, const char *plain)
{
	const struct row **shown = calloc(t->count + 1, sizeof(*shown));
	size_t n = shown ? choose(t, shown) : 0, fit = columns_in(width);
	size_t first = t->scroll < n ? t->scroll : n ? n - 1 : 0;
	size_t room = width - fit * CELL - 1;

	fputs(reverse, out);
	for (size_t c = 0; c < fit; c++)
		fprintf(out, "%*s%c", CELL - 1, columns[c].title,
			c == t->sort ? t->ascending ? '^' : 'v' : ' ');
	fprintf(out, " %-*s%s\n", (int)room, t->sort == COLUMNS ? "NAME v" : "NAME", plain);
	for (size_t i = first; i < n && i - first < height; i++) {
		char cell[16], name[PATH_SHOWN];

		for (size_t c = 0; c < fit; c++) {
			print_value(cell, columns[c].unit, shown[i]->value[c]);
			fprintf(out, "%*s ", CELL - 1, cell);
		}
		fprintf(out, " %s\n", shorten(shown[i]->name, room, name));
	}
	free(shown);
}

static void print_json(const struct top *t, FILE *out)
{
	const struct row **shown = calloc(t->count + 1, sizeof(*shown));
	size_t n = shown ? choose(t, shown) : 0;

	fprintf(out, "{\"seconds\":%.3f,\"units\":{",
		t->before_ns ? (double)(t->at_ns - t->before_ns) / 1e9 : 0);
	for (size_t c = 0; c < COLUMNS; c++)
		fprintf(out, "%s\"%s\":\"%s\"", c ? "," : "", columns[c].key, columns[c].json_unit);
	fputs("},\"rows\":[", out);
	for (size_t i = 0; i < n; i++) {
		fprintf(out, "%s\n{\"name\":", i ? "," : "");
		kpod_print_text(out, shown[i]->name, strlen(shown[i]->name));
		fputs(",\"path\":", out);
		kpod_print_text(out, shown[i]->path, strlen(shown[i]->path));
		for (size_t c = 0; c < COLUMNS; c++) {
			fprintf(out, ",\"%s\":", columns[c].key);
			if (isnan(shown[i]->value[c]))
				fputs("null", out);
			else
				fprintf(out, "%.9g", shown[i]->value[c]);
		}
		fputc('}', out);
	}
	fputs("]}\n", out);
	free(shown);
}

static void sleep_ms(long ms)
{
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&time, NULL);
}

static int once(struct top *t, bool json)
{
	int err = take(t);

	/* The loader takes no two within its --min-interval. */
	for (int waited = 0; !err && !t->before && waited < PATIENCE_MS; waited += 100) {
		kpod_view_ring(t->view);
		sleep_ms(100);
		if (kpod_view_has_news(t->view))
			err = take(t);
	}
	if (err)
		return err;
	if (json)
		print_json(t, stdout);
	else
		print_table(t, stdout, isatty(STDOUT_FILENO) ? 80 : 200, SIZE_MAX, "", "");
	return 0;
}

static void size_of_terminal(size_t *width, size_t *height)
{
	struct winsize size = {};

	ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
	*width = size.ws_col >= 40 ? size.ws_col : 80;
	*height = size.ws_row >= 6 ? size.ws_row : 24;
}

static void draw(const struct top *t)
{
	size_t width, height, live = 0;
	char *frame = NULL, line[128];
	size_t size = 0;
	FILE *out = open_memstream(&frame, &size);

	if (!out)
		return;
	size_of_terminal(&width, &height);
	for (size_t i = 0; i < t->count; i++)
		live += !t->rows[i].ended;
	snprintf(line, sizeof(line), "kpod-loader top: %zu live, %zu ended, %.1f s%s", live,
		 t->count - live, t->before_ns ? (double)(t->at_ns - t->before_ns) / 1e9 : 0.0,
		 t->paused ? ", paused" : "");
	fprintf(out, "%.*s\n", (int)width, line);
	print_table(t, out, width, height - 3, "\033[7m", "\033[0m");
	if (t->typing || *t->filter)
		snprintf(line, sizeof(line), "filter: %s%s", t->filter,
			 t->typing ? "_  (Enter: done, Esc: none)" : "  (/ changes it)");
	else
		snprintf(line, sizeof(line),
			 "q quit  <> sort by  r reverse  / filter  arrows scroll  space pause");
	fclose(out);
	if (!frame)
		return;
	/* Each line clears what was to its right before; the screen is cleared below the last. */
	fputs("\033[H", stdout);
	for (char *at = frame, *end; (end = strchr(at, '\n')); at = end + 1)
		printf("%.*s\033[K\r\n", (int)(end - at), at);
	printf("\033[J\033[%zu;1H%.*s\033[K", height, (int)width - 1, line);
	fflush(stdout);
	free(frame);
}

static void type(struct top *t, char key)
{
	size_t size = strlen(t->filter);

	if (key == '\r' || key == '\n') {
		t->typing = false;
	} else if (key == 27) {
		t->typing = false;
		t->filter[0] = '\0';
	} else if (key == 127 || key == 8) {
		if (size)
			t->filter[size - 1] = '\0';
	} else if (isprint((unsigned char)key) && size + 1 < FILTER_MAX) {
		t->filter[size] = key;
		t->filter[size + 1] = '\0';
	}
}

/* False: the user wants to end. */
static bool act(struct top *t, const char *keys, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char key = keys[i];

		if (key == 27 && i + 2 < count && keys[i + 1] == '[') { /* an arrow */
			key = keys[i += 2];
			t->scroll += key == 'B';
			t->scroll -= key == 'A' && t->scroll;
			key = (char)(key == 'C' ? '>' : key == 'D' ? '<' : 0);
		} else if (t->typing) {
			type(t, key);
			continue;
		}
		if (key == 'q' || key == 3)
			return false;
		if (key == '>')
			t->sort = (t->sort + 1) % (COLUMNS + 1);
		if (key == '<')
			t->sort = (t->sort + COLUMNS) % (COLUMNS + 1);
		if (key == 'r')
			t->ascending = !t->ascending;
		if (key == ' ')
			t->paused = !t->paused;
		if (key == '/')
			t->typing = true;
	}
	return true;
}

static int loop(struct top *t, int signals)
{
	uint64_t due = 0;
	int err = 0;

	for (;;) {
		struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {signals, POLLIN, 0}};
		uint64_t now = kpod_clock(CLOCK_MONOTONIC);
		char keys[64];
		ssize_t n;

		if (now >= due && !t->paused) {
			kpod_view_ring(t->view);
			for (int i = 0; i < 25 && !kpod_view_has_news(t->view); i++)
				sleep_ms(10);
			err = take(t);
			if (err)
				return err;
			due = now + EVERY_MS * 1000000ULL;
		}
		draw(t);
		now = kpod_clock(CLOCK_MONOTONIC);
		if (poll(fds, 2,
			 t->paused || now >= due ? EVERY_MS : (int)((due - now) / 1000000) + 1) <=
		    0)
			continue;
		if (fds[1].revents) {
			struct signalfd_siginfo info;

			n = read(signals, &info, sizeof(info));
			if (n == sizeof(info) && info.ssi_signo == SIGWINCH)
				continue;
			return 0;
		}
		n = read(STDIN_FILENO, keys, sizeof(keys));
		if (n <= 0 || !act(t, keys, (size_t)n))
			return 0;
	}
}

static int live(struct top *t)
{
	struct termios old, raw;
	sigset_t set;
	int signals, err = take(t);

	if (err)
		return err;
	if (!isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &old)) {
		kpod_log("top needs a terminal: use --once, or --json");
		return -ENOTTY;
	}
	sigemptyset(&set);
	for (size_t i = 0; i < 4; i++)
		sigaddset(&set, ((int[]){SIGINT, SIGTERM, SIGHUP, SIGWINCH})[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	raw = old;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	fputs("\033[?1049h\033[?25l", stdout); /* another screen, no cursor */
	err = loop(t, signals);
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &old);
	close(signals);
	if (err == -ENODATA)
		/* Says why again: the first time was on the other screen. */
		kpod_view_refresh(t->view);
	return err;
}

int kpod_top(const struct kpod_options *o)
{
	struct top t = {.sort = COLUMNS + 1};
	int err;

	for (size_t c = 0; c < COLUMNS; c++)
		if (!strcmp(o->sort, columns[c].key))
			t.sort = c;
	if (!strcmp(o->sort, "name"))
		t.sort = COLUMNS;
	if (t.sort > COLUMNS) {
		char known[256] = "name";

		for (size_t c = 0; c < COLUMNS; c++) {
			strcat(known, ", ");
			strcat(known, columns[c].key);
		}
		kpod_log("--sort: '%s' is none of %s", o->sort, known);
		return 2;
	}
	if (o->filter)
		snprintf(t.filter, sizeof(t.filter), "%s", o->filter);
	t.view = kpod_view_open(o->segment);
	err = !t.view ? -ENOMEM : o->once || o->json ? once(&t, o->json) : live(&t);
	if (err == -ENOMEM)
		kpod_log("top: %s", strerror(ENOMEM));
	if (t.view)
		kpod_view_close(t.view);
	free(t.rows);
	free(t.before);
	return err ? 1 : 0;
}
