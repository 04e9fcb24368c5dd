/* SPDX-License-Identifier: Apache-2.0 */
/* The ring behind the page at /, and what of the page is made per point of it. */
#include "sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What docs/limits.md says of all tracks together. */
_Static_assert(sizeof(struct kpod_track) * KPOD_HISTORY_OWNERS_MAX <= 3600 * 1024,
	       "docs/limits.md: bytes of the history");

/* Below `floor`, a graph is flat: what is next to nothing would else look like a storm. */
static const struct {
	double floor;
	enum { CORES, MILLISECONDS, BYTES, BYTES_A_SECOND, A_SECOND } unit;
} quantities[KPOD_QUANTITIES] = {
	[KPOD_CPU] = {0.01, CORES},
	[KPOD_WAIT] = {0.001, MILLISECONDS},
	[KPOD_THROTTLED] = {0.001, MILLISECONDS},
	[KPOD_MEMORY] = {1 << 20, BYTES},
	[KPOD_BLOCK_IO] = {4096, BYTES_A_SECOND},
	[KPOD_RETRANSMITS] = {0.1, A_SECOND},
	[KPOD_DROPS] = {0.1, A_SECOND},
};

/* Of a table's cell; its viewBox has a unit more above and below, for the width of the line. */
#define GRAPH_WIDTH 80
#define GRAPH_HEIGHT 20

struct kpod_history *kpod_history_new(void)
{
	return calloc(1, sizeof(struct kpod_history));
}

void kpod_history_clear(struct kpod_history *h)
{
	for (uint32_t i = 0; i < h->track_count; i++)
		free(h->tracks[i]);
	free(h->tracks);
	*h = (struct kpod_history){};
}

void kpod_history_free(struct kpod_history *h)
{
	if (!h)
		return;
	kpod_history_clear(h);
	free(h);
}

static bool is_shown(const struct kpod_owner *owner)
{
	return !owner->died_ns && owner->labels[KPOD_OWN][KPOD_AS_TEXT].size;
}

static bool is_of(const struct kpod_track *track, const struct kpod_owner *owner)
{
	return track->slot == owner->slot && track->generation == owner->generation &&
	       track->cgroup_id == owner->cgroup_id;
}

static struct kpod_track *new_track(const struct kpod_history *h, const struct kpod_owner *owner)
{
	struct kpod_track *track = malloc(sizeof(*track));

	if (!track)
		return NULL;
	*track = (struct kpod_track){
		.slot = owner->slot,
		.generation = owner->generation,
		.cgroup_id = owner->cgroup_id,
		.first = h->points,
	};
	for (uint32_t q = 0; q < KPOD_QUANTITIES; q++) {
		/* Totals are absolute: of what is younger than the last point they began at zero.
		 */
		track->totals[q] =
			h->points && owner->born_ns >
						h->at_ns[(h->points - 1) % KPOD_HISTORY_POINTS]
				? 0
				: NAN;
		for (uint32_t p = 0; p < KPOD_HISTORY_POINTS; p++)
			track->values[q][p] = NAN;
	}
	return track;
}

/* By owner: its total or value of each quantity; NaN if no row has it. */
static double *add_up(const struct kpod_snapshot *s, const struct kpod_plan *plan,
		      const struct kpod_history_source *sources, uint32_t source_count)
{
	size_t count = (size_t)s->owner_count * KPOD_QUANTITIES;
	double *sums = malloc(count * sizeof(*sums) + 1);

	if (!sums)
		return NULL;
	for (size_t i = 0; i < count; i++)
		sums[i] = NAN;
	for (uint32_t i = 0; i < source_count; i++) {
		const struct kpod_history_source *source = &sources[i];
		uint32_t word = plan->shapes[source->table].key_words + source->word;

		for (uint32_t r = s->first_row[source->table]; r < s->first_row[source->table + 1];
		     r++) {
			const struct kpod_row_ref *row = &s->rows[r];
			double *sum;

			if (!row->owner || (source->optional && row->words[word] == KPOD_NO_VALUE))
				continue;
			sum = &sums[(size_t)(row->owner - s->owners) * KPOD_QUANTITIES +
				    source->quantity];
			*sum = (isnan(*sum) ? 0 : *sum) + (double)row->words[word] * source->scale;
		}
	}
	return sums;
}

bool kpod_history_add(struct kpod_history *h, const struct kpod_snapshot *s,
		      const struct kpod_plan *plan, const struct kpod_history_source *sources,
		      uint32_t source_count)
{
	uint32_t place = h->points % KPOD_HISTORY_POINTS, old = 0, count = 0, untracked = 0;
	uint64_t before = h->points ? h->at_ns[(h->points - 1) % KPOD_HISTORY_POINTS] : 0;
	double seconds = (double)(s->monotonic_ns - before) / 1e9;
	uint32_t most =
		s->owner_count < KPOD_HISTORY_OWNERS_MAX ? s->owner_count : KPOD_HISTORY_OWNERS_MAX;
	struct kpod_track **tracks = calloc(most ? most : 1, sizeof(*tracks));
	double *sums = add_up(s, plan, sources, source_count);
	bool gauge[KPOD_QUANTITIES] = {};

	if (!tracks || !sums) {
		free(tracks);
		free(sums);
		return false;
	}
	for (uint32_t i = 0; i < source_count; i++)
		gauge[sources[i].quantity] = sources[i].gauge;
	for (uint32_t i = 0; i < s->owner_count; i++) {
		const struct kpod_owner *owner = &s->owners[i];
		const double *now = &sums[(size_t)i * KPOD_QUANTITIES];
		struct kpod_track *track = NULL;

		if (!is_shown(owner))
			continue;
		/* Both lists are in order of their slots. */
		while (old < h->track_count && h->tracks[old]->slot < owner->slot)
			free(h->tracks[old++]);
		if (count == most) {
			untracked++;
			continue;
		}
		if (old < h->track_count && is_of(h->tracks[old], owner))
			track = h->tracks[old++];
		else
			track = new_track(h, owner);
		if (!track) {
			untracked++;
			continue;
		}
		for (uint32_t q = 0; q < KPOD_QUANTITIES; q++) {
			double rate = (now[q] - track->totals[q]) / seconds;

			/* A total that went back began anew: its collector was loaded again. */
			track->values[q][place] = (float)(gauge[q]   ? now[q]
							  : rate < 0 ? now[q] / seconds
								     : rate);
			track->totals[q] = now[q];
		}
		tracks[count++] = track;
	}
	while (old < h->track_count)
		free(h->tracks[old++]);
	free(h->tracks);
	free(sums);
	h->tracks = tracks;
	h->track_count = count;
	h->untracked = untracked;
	h->at_ns[place] = s->monotonic_ns;
	h->points++;
	return true;
}

void kpod_history_find(const struct kpod_history *h, const struct kpod_snapshot *s,
		       uint32_t *tracks)
{
	uint32_t at = 0;

	for (uint32_t i = 0; i < s->owner_count; i++) {
		const struct kpod_owner *owner = &s->owners[i];

		while (at < h->track_count && h->tracks[at]->slot < owner->slot)
			at++;
		tracks[i] = at < h->track_count && is_of(h->tracks[at], owner) ? at : UINT32_MAX;
	}
}

static uint32_t points_of(const struct kpod_history *h)
{
	return h->points < KPOD_HISTORY_POINTS ? (uint32_t)h->points : KPOD_HISTORY_POINTS;
}

void kpod_history_sum(const struct kpod_history *h, const uint32_t *tracks, uint32_t count,
		      enum kpod_quantity quantity, double out[KPOD_HISTORY_POINTS])
{
	uint32_t n = points_of(h);

	for (uint32_t p = 0; p < KPOD_HISTORY_POINTS; p++)
		out[p] = NAN;
	for (uint32_t t = 0; t < count; t++) {
		uint32_t place = (uint32_t)((h->points - n) % KPOD_HISTORY_POINTS);
		const struct kpod_track *track;
		uint64_t skip;

		if (tracks[t] >= h->track_count)
			continue;
		track = h->tracks[tracks[t]];
		skip = track->first > h->points - n ? track->first - (h->points - n) : 0;
		for (uint32_t p = 0; p < n; p++) {
			float value = track->values[quantity][place];

			if (++place == KPOD_HISTORY_POINTS)
				place = 0;
			if (p < skip || isnan(value))
				continue;
			out[p] = (isnan(out[p]) ? 0 : out[p]) + (double)value;
		}
	}
}

static char *put_number(char *out, int32_t number)
{
	char digits[10];
	uint32_t value = (uint32_t)number;
	int n = 0;

	if (number < 0) {
		*out++ = '-';
		value = -value;
	}
	if (value < 10) {
		*out++ = (char)('0' + value);
		return out;
	}
	do
		digits[n++] = (char)('0' + value % 10);
	while (value /= 10);
	while (n)
		*out++ = digits[--n];
	return out;
}

static char *put(char *out, char command, int32_t number)
{
	*out = command;
	return put_number(out + 1, number);
}

/* Where the points are between 0 and width. */
static void place_points(const struct kpod_history *h, uint32_t width,
			 int32_t x[KPOD_HISTORY_POINTS])
{
	uint32_t n = points_of(h);
	uint64_t from = n ? h->at_ns[(h->points - n) % KPOD_HISTORY_POINTS] : 0;
	uint64_t to = n ? h->at_ns[(h->points - 1) % KPOD_HISTORY_POINTS] : 0;

	for (uint32_t p = 0; p < n; p++) {
		uint64_t at = h->at_ns[(h->points - n + p) % KPOD_HISTORY_POINTS];

		x[p] = to > from ? (int32_t)((double)(at - from) * width / (double)(to - from)) : 0;
	}
}

/* Relative steps; those along one flat line are one. */
static char *draw(enum kpod_quantity quantity, const double *values, const int32_t *x, uint32_t n,
		  uint32_t height, char *at)
{
	double most = quantities[quantity].floor, unit;
	int32_t y_was = 0, drawn = 0; /* how far to the right the path is */
	bool open = false;

	for (uint32_t p = 0; p < n; p++)
		if (values[p] > most)
			most = values[p];
	unit = height / most;
	for (uint32_t p = 0; p <= n; p++) {
		bool known = p < n && !isnan(values[p]);
		int32_t y = known ? (int32_t)(height - (int32_t)(values[p] * unit + 0.5)) : 0;

		if (known && open && y == y_was)
			continue;
		if (open && x[p - 1] > drawn) {
			at = put(at, 'h', x[p - 1] - drawn);
			drawn = x[p - 1];
		}
		if (known && open) {
			at = put(at, 'l', x[p] - drawn);
			/* A minus sign tells two numbers apart as well. */
			at = y < y_was ? put_number(at, y - y_was) : put(at, ' ', y - y_was);
		} else if (known) {
			at = put(at, 'M', x[p]);
			at = put(at, ' ', y);
		}
		open = known;
		if (known) {
			drawn = x[p];
			y_was = y;
		}
	}
	return at;
}

size_t kpod_history_path(const struct kpod_history *h, enum kpod_quantity quantity,
			 const double values[KPOD_HISTORY_POINTS], uint32_t width, uint32_t height,
			 char *out)
{
	int32_t x[KPOD_HISTORY_POINTS];

	place_points(h, width, x);
	return (size_t)(draw(quantity, values, x, points_of(h), height, out) - out);
}

static int bytes_text(double value, const char *suffix, char out[32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	uint32_t unit = 0;

	while (value >= 999.5 && unit < 6) {
		value /= 1024;
		unit++;
	}
	return snprintf(out, 32, "%.*f %s%s", value < 9.95 && unit ? 1 : 0, value, units[unit],
			suffix);
}

size_t kpod_history_text(enum kpod_quantity quantity, double value, char *out)
{
	int size = 0;

	if (isnan(value))
		return (size_t)snprintf(out, 32, "-");
	if (value == 0)
		return (size_t)snprintf(out, 32, "0");
	switch (quantities[quantity].unit) {
	case CORES:
		size = value < 0.0095 ? snprintf(out, 32, "%.4f", value)
		       : value < 9.95 ? snprintf(out, 32, "%.2f", value)
				      : snprintf(out, 32, "%.0f", value);
		break;
	case MILLISECONDS:
		value *= 1000;
		size = value < 9.95 ? snprintf(out, 32, "%.*f ms/s", value < 0.095 ? 3 : 1, value)
				    : snprintf(out, 32, "%.0f ms/s", value);
		break;
	case BYTES:
		size = bytes_text(value, "", out);
		break;
	case BYTES_A_SECOND:
		size = bytes_text(value, "/s", out);
		break;
	case A_SECOND:
		size = snprintf(out, 32, value < 9.95 ? "%.2f/s" : "%.0f/s", value);
		break;
	}
	return (size_t)(size < 31 ? size : 31);
}

#define LITERAL(at, text) ((char *)memcpy(at, text, sizeof(text) - 1) + sizeof(text) - 1)

size_t kpod_history_cells(const struct kpod_history *h, const uint32_t *tracks, uint32_t count,
			  double last[KPOD_QUANTITIES], char *out)
{
	uint32_t n = points_of(h);
	int32_t x[KPOD_HISTORY_POINTS];
	char *at = out;

	place_points(h, GRAPH_WIDTH, x);
	for (uint32_t q = 0; q < KPOD_QUANTITIES; q++) {
		double values[KPOD_HISTORY_POINTS];
		bool any = false;

		kpod_history_sum(h, tracks, count, (enum kpod_quantity)q, values);
		last[q] = n ? values[n - 1] : NAN;
		at = LITERAL(at, "<td>");
		at += kpod_history_text((enum kpod_quantity)q, last[q], at);
		for (uint32_t p = 0; p < n; p++)
			any |= values[p] > 0;
		/* Most cells are of what never happened, which the text says alone. */
		if (any) {
			at = LITERAL(at, "<svg viewBox=\"0 -1 80 22\"><path d=\"");
			at = draw((enum kpod_quantity)q, values, x, n, GRAPH_HEIGHT, at);
			at = LITERAL(at, "\"/></svg>");
		}
		at = LITERAL(at, "</td>");
	}
	return (size_t)(at - out);
}
