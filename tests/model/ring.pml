/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol of shared/README.md, for spin. Steps have the names they have in shared/writer.c,
 * shared/reader.c and shared/barrier.h.
 *
 * Memory is weak: a store of the writer waits in `pending` and reaches the reader at any later
 * time, in any order but that of one word's own stores; what drains it is a release. The reader
 * copies words in any order between two fences. There is no CRC: the protocol must do without.
 *
 * One ring word is 8 bytes. BEGIN and ROW are one word long, END is two: so it may need a PAD.
 * Each word says which attempt at a snapshot wrote it.
 *
 * A mutant is the same with one mistake, for which test_ring.py wants to see an error:
 *   writer: NO_INTENT INTENT_UNFENCED INTENT_BACK PUBLISH_EARLY PUBLISH_RELAXED BEGIN_AT_TAIL
 *           WHOLE_RING
 *   reader: NO_RECHECK COPY_UNFENCED LOAD_UNFENCED LAPPED_EARLY
 *
 * Without KEEPS_UP a writer of any speed makes ATTEMPTS attempts. With it, it never stops, but
 * publishes one snapshot at most while the reader copies one.
 */
#define CAPACITY 8
#ifdef KEEPS_UP
#define POSITIONS 16 /* enough to tell by how much one is behind */
#define IDS 1
#else
#define POSITIONS 256 /* never wraps */
#define IDS 256
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 5
#endif
#ifdef WHOLE_RING
#define LIMIT CAPACITY
#else
#define LIMIT (CAPACITY / 2)
#endif
#ifdef LAPPED_EARLY
#define LAPPED (CAPACITY / 2)
#else
#define LAPPED CAPACITY
#endif

#define AFTER(a, b) (((a) + POSITIONS - (b)) % POSITIONS) /* a - b, as unsigned */

mtype:type = { NOTHING, PAD, BEGIN, ROW, END, END_BEGIN };

/* Words of the file: the ring, then the two hot words of the header. */
#define INTENT CAPACITY
#define PUBLISHED (CAPACITY + 1)
#define WORDS (CAPACITY + 2)
byte value[WORDS];	   /* of INTENT, PUBLISHED and END_BEGIN: a position */
mtype:type type[CAPACITY];
byte id[CAPACITY];

/* What the writer has stored and nobody else sees yet. */
bit pending[WORDS];
byte pending_value[WORDS];
mtype:type pending_type[CAPACITY];
byte pending_id[CAPACITY];
byte pending_count;

byte published_meanwhile; /* snapshots, since the reader began to copy; at most 1 is counted */
bool fresh;		  /* the reader has just accepted a snapshot it did not hold before */

#ifdef KEEPS_UP
/* Sooner or later all is visible, and order is not what this is about. */
inline kpod_store(w, v)
{
	value[w] = v
}

inline store_word(w, t, v)
{
	d_step { value[w] = v; type[w] = t }
}

#define release_fence() true
#else
inline drain(w)
{
	d_step {
		value[w] = pending_value[w];
		if
		:: w < CAPACITY ->
			type[w] = pending_type[w];
			id[w] = pending_id[w];
			pending_type[w] = NOTHING;
			pending_id[w] = 0
		:: else
		fi;
		pending_value[w] = 0;
		pending[w] = 0;
		pending_count--
	}
}

inline kpod_store(w, v)
{
	d_step {
		pending_count = pending_count + 1 - pending[w];
		pending[w] = 1;
		pending_value[w] = v
	}
}

inline store_word(w, t, v)
{
	d_step {
		pending_count = pending_count + 1 - pending[w];
		pending[w] = 1;
		pending_value[w] = v;
		pending_type[w] = t;
		pending_id[w] = attempt
	}
}

#define release_fence() pending_count == 0

/* The caches: they make visible what is pending, in any order. */
active proctype memory()
{
end:	do
	:: atomic { pending[0] -> drain(0) }
	:: atomic { pending[1] -> drain(1) }
	:: atomic { pending[2] -> drain(2) }
	:: atomic { pending[3] -> drain(3) }
	:: atomic { pending[4] -> drain(4) }
	:: atomic { pending[5] -> drain(5) }
	:: atomic { pending[6] -> drain(6) }
	:: atomic { pending[7] -> drain(7) }
	:: atomic { pending[INTENT] -> drain(INTENT) }
	:: atomic { pending[PUBLISHED] -> drain(PUBLISHED) }
	od
}
#endif

/* ---- writer.c ------------------------------------------------------------------------------- */

inline kpod_intend(position)
{
	kpod_store(INTENT, position);
#ifndef INTENT_UNFENCED
	release_fence(); /* [intent] */
#endif
}

/* at: where the record goes; ok: it fits. */
inline reserve(size)
{
	d_step {
		room = CAPACITY - tail % CAPACITY;
		if
		:: size > room -> need = room + size
		:: else -> need = size
		fi;
		ok = AFTER(tail, begin) + need <= LIMIT;
		at = 0
	};
	if
	:: ok ->
#ifdef INTENT_BACK
		if
		:: true ->
#else
		if
		:: AFTER(tail + need, begin) > AFTER(intent, begin) ->
#endif
			intent = (tail + need) % POSITIONS;
#ifndef NO_INTENT
			kpod_intend(intent)
#endif
		:: else
		fi;
		if
		:: size > room ->
			store_word(tail % CAPACITY, PAD, 0);
			tail = (tail + room) % POSITIONS
		:: else
		fi;
		at = tail % CAPACITY
	:: else
	fi;
	d_step { room = 0; need = 0 }
}

inline put(t)
{
	reserve(1);
	if
	:: ok ->
		store_word(at, t, 0);
		tail = (tail + 1) % POSITIONS
	:: else
	fi
}

inline kpod_publish()
{
#ifndef PUBLISH_RELAXED
	release_fence(); /* [publish] */
#endif
	atomic {
		kpod_store(PUBLISHED, tail);
		published = tail;
		published_meanwhile = 1
	}
}

inline kpod_writer_begin()
{
	atomic {
#ifdef KEEPS_UP
		published_meanwhile == 0;
#endif
		attempt = (attempt + 1) % IDS;
#ifndef BEGIN_AT_TAIL
		tail = published;
#endif
		begin = tail
	};
	put(BEGIN)
}

inline kpod_writer_end()
{
	reserve(2);
	if
	:: ok ->
#ifdef PUBLISH_EARLY
		tail = (tail + 2) % POSITIONS;
		kpod_publish();
		store_word(at, END, 0);
		store_word(at + 1, END_BEGIN, begin)
#else
		store_word(at, END, 0);
		store_word(at + 1, END_BEGIN, begin);
		tail = (tail + 2) % POSITIONS;
		kpod_publish()
#endif
	:: else /* -ENOSPC: given up */
	fi
}

active proctype writer()
{
	byte tail, begin, intent, published, attempt;
	byte room, need, at;
	bool ok;

	do
#ifdef KEEPS_UP
	:: true ->
#else
	:: attempt < ATTEMPTS ->
#endif
		kpod_writer_begin();
		do
		:: ok ->
			put(ROW)
		:: break /* also in the middle of a snapshot that does not fit, or is given up */
		od;
		if
		:: ok ->
			kpod_writer_end()
		:: true /* given up: a table could not be read */
		fi
#ifndef KEEPS_UP
	:: else -> break
#endif
	od
}

/* ---- reader.c ------------------------------------------------------------------------------- */

#ifdef LOAD_UNFENCED
/* Words may be loaded before `published` is. */
#define LOOK_EARLIER								\
	copied = 0;								\
	do									\
	:: copied < CAPACITY ->							\
		early_type[copied] = type[copied];				\
		early_id[copied] = id[copied];					\
		early_value[copied] = value[copied];				\
		copied++							\
	:: else -> break							\
	od;
#define LOAD(w, t, i, v) t = early_type[w]; i = early_id[w]; v = early_value[w]
#else
#define LOOK_EARLIER
#define LOAD(w, t, i, v) t = type[w]; i = id[w]; v = value[w]
#endif

/* `copied` has a bit for each word; END has been copied before. */
#define COPY(n)									\
	:: n < size - 2 && !(copied & (1 << n)) ->				\
		atomic {							\
			LOAD((begin + n) % CAPACITY, got_type[n], got_id[n], ignored);	\
			copied = copied | (1 << n)				\
		}

inline copy_words()
{
	copied = 0;
	do
	COPY(0) COPY(1)
#ifdef WHOLE_RING
	COPY(2) COPY(3) COPY(4) COPY(5)
#endif
	:: copied == (1 << (size - 2)) - 1 -> break
	od
}

/* The copy is of one attempt, whole and in order: what the CRC would find is asserted instead. */
inline check_snapshot()
{
	d_step {
		assert(got_type[0] == BEGIN || got_type[0] == PAD);
		i = 0;
		do
		:: i < size - 2 ->
			assert(got_id[i] == end_id);
			assert(got_type[i] == BEGIN || got_type[i] == ROW || got_type[i] == PAD);
			assert(got_type[i] != BEGIN || i == 0 || got_type[i - 1] == PAD);
			i++
		:: else -> break
		od;
		/* Not older than what is held already. */
		assert(AFTER(end_id, held_id) <= AFTER(0, 1) / 2);
		i = 0
	}
}

/* What is not needed any more, so that spin sees equal states as equal. */
inline forget()
{
	d_step {
		i = 0;
		do
		:: i < LIMIT ->
			got_type[i] = NOTHING;
			got_id[i] = 0;
			i++
		:: else -> break
		od;
		published = 0; begin = 0; size = 0; intent = 0; looked = false;
		end_id = 0; end_type = NOTHING; begin_type = NOTHING;
		copied = 0; i = 0; ignored = 0
	}
}

active proctype reader()
{
	byte published, begin, size, intent, held, held_id;
	byte end_id, copied, i, ignored;
	mtype:type end_type, begin_type;
	mtype:type got_type[CAPACITY];
	byte got_id[CAPACITY];
	bool looked;
#ifdef LOAD_UNFENCED
	mtype:type early_type[CAPACITY];
	byte early_id[CAPACITY], early_value[CAPACITY];
#endif

end:	do
	:: value[PUBLISHED] != held ->
		fresh = false;
		LOOK_EARLIER
		atomic {
			published = value[PUBLISHED];
			published_meanwhile = 0
		};
		/* kpod_fence_loads() [publish] */
		LOAD((published + POSITIONS - 2) % CAPACITY, end_type, end_id, ignored);
		LOAD((published + POSITIONS - 1) % CAPACITY, begin_type, ignored, begin);
		looked = false;
#ifdef COPY_UNFENCED
		/* The intent may be loaded before the words are. */
		if
		:: intent = value[INTENT]; looked = true
		:: true
		fi;
#endif
		size = AFTER(published, begin);
		if
		:: end_type != END || begin_type != END_BEGIN || size < 3 || size > LIMIT ->
			end_type = NOTHING;
			begin = (published + POSITIONS - 2) % POSITIONS
		:: else ->
			copy_words()
		fi;
		/* kpod_fence_loads() [intent] */
		if
		:: !looked -> intent = value[INTENT]
		:: else
		fi;
		if
#ifndef NO_RECHECK
		:: AFTER(intent, begin) > LAPPED ->
			skip /* lapped */
#endif
		:: else ->
			assert(end_type == END);
#ifndef KEEPS_UP
			check_snapshot();
#endif
			held = published;
			held_id = end_id;
			fresh = true
		fi;
		forget()
	od
}

#ifdef KEEPS_UP
/* If the writer publishes for ever, the reader begins to copy and accepts what it copied for ever. */
ltl never_starved { []<> (published_meanwhile == 1) -> ([]<> !fresh && []<> fresh) }
#endif
