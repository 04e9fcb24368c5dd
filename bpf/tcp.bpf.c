// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * TCP per container without a hook per send, receive or segment: the kernel counts all of these for
 * each socket itself (struct tcp_sock). A socket gets an account when it starts to connect or is
 * made by a listener; what its counters have grown by is booked by a walk before each snapshot,
 * when it closes, and for the last time when it is destroyed. So it does not matter how it is used
 * (write, sendfile, splice, io_uring), nor how long it lives.
 */
#include "socket.bpf.h"
#include "units.bpf.h"

#include "tcp.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tcp_row);
} tcp_rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tcp_peer_row);
} tcp_peer_rows SEC(".maps");

KPOD_UNITS(tcp_peers);

/*
 * Two may book an account at once: who holds the socket's lock (the hooks), and the walk. The walk
 * gives way: it books what it has read only if nothing was booked since it looked. A word holds,
 * beside the counter, the account's generation, which the walk must have read before it read the
 * socket. So it can neither book for an account whose memory another socket has got meanwhile, nor
 * after the last booking, which leaves a generation that no account has.
 */
#define VALUE_BITS 48
#define FIRST_KNOWN (1ULL << 32)
#define SLOT_MASK ((1ULL << 17) - 1) /* --max-containers is at most 65536 */

struct account {
	__u64 generation;
	__u64 cookie;	  /* of the socket whose account it is */
	__u64 connect_ns; /* when it began to connect; 0: it was made by a listener, or is older */
	__u64 first;	  /* FIRST_KNOWN and the sequence number of its first byte; 0: not known */
	__u8 finished;	  /* 1: its last byte is followed by a FIN */
	__u8 idle;	  /* the walk's: 1: it had moved nothing since the walk before */
	__u16 side;	  /* enum kpod_tcp_side */
	__u32 slot;	  /* that it is counted with in tcp_held */
	__u64 peer;	  /* the unit of its peer, as peer_tag() has it; 0: not known */
	__u64 owner;	  /* the walk's: slot of the socket's cgroup, below a tag */
	__u64 state;	  /* that it entered last; only where programs may be preempted */
	__u64 booked[KPOD_TCP_COUNTERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64); /* address of the struct sock */
	__type(value, struct account);
} tcp_accounts SEC(".maps");

/*
 * How many accounts each slot has. Whoever gets a slot after another has what is left of the
 * other's too, until these sockets end: an account keeps the slot that it was counted with.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} tcp_held SEC(".maps");

static __u64 all_held;

/*
 * A program that is running on a CPU is not run there again (6.1), so what a softirq does while it
 * interrupts a process in kpod_tcp_state would be lost. Each such hook has two programs, one after
 * the other; the second stands in for the first where that has left no word of the event. Processes
 * own the socket meanwhile and softirqs do not, so the one does not overwrite the word of the
 * other.
 *
 * Where programs may be preempted (7.0), one is left out for other tasks of that CPU meanwhile. A
 * process that changes a socket's state may be, so the first program of that hook is a classic
 * tracepoint's there, in which nothing is preempted; a softirq that interrupts it has the second.
 * Between the two a process may be preempted, too: the word of what it has done is in the account.
 * A socket is destroyed without softirqs, and so without being preempted.
 */
enum hook { HOOK_STATE, HOOK_DESTROY, HOOKS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * HOOKS);
	__type(key, __u32);
	__type(value, __u64); /* the socket that the first program was run for last */
} tcp_done SEC(".maps");

/* By a process. */
static __always_inline bool is_owned(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_lock.owned) != 0;
}

static __always_inline __u64 *last_done(enum hook hook, const struct sock *sk)
{
	__u32 key = 2 * hook + is_owned(sk);

	return bpf_map_lookup_elem(&tcp_done, &key);
}

static __always_inline void set_done(enum hook hook, const struct sock *sk)
{
	__u64 *done = last_done(hook, sk);

	if (done)
		*done = (__u64)sk;
}

static __always_inline bool is_done(enum hook hook, const struct sock *sk)
{
	__u64 *done = last_done(hook, sk);

	if (!done || *done != (__u64)sk)
		return false;
	*done = 0;
	return true;
}

static __u64 generations;

static __always_inline __u64 new_generation(void)
{
	return __sync_fetch_and_add(&generations, 1) << VALUE_BITS;
}

static __always_inline __u64 word_of(__u64 generation, __u64 value)
{
	return generation | (value & ((1ULL << VALUE_BITS) - 1));
}

static __always_inline __u64 cookie_of(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
}

static __always_inline __u32 slot_of(const struct sock *sk)
{
	struct kpod_cgroup *owner = kpod_socket_owner(sk);

	return owner ? owner->slot : 0;
}

static __always_inline struct tcp_row *row_of(const struct sock *sk)
{
	return kpod_shared_row(tcp_rows, slot_of(sk));
}

/*
 * A slot may have as many accounts as nobody has: one slot gets half of all at most, two a third
 * each, and so on. However many take what they can, there is room for another's first sockets.
 */
static __always_inline bool has_room(__u32 slot)
{
	__u64 *own = bpf_map_lookup_elem(&tcp_held, &slot);

	return own && *own + *(volatile __u64 *)&all_held < kpod_config.max_sockets;
}

static __always_inline void add_held(__u32 slot, __s64 n)
{
	__u64 *own = bpf_map_lookup_elem(&tcp_held, &slot);

	if (!own)
		return;
	__sync_fetch_and_add(own, n);
	__sync_fetch_and_add(&all_held, n);
}

/* Whether somebody is working on it, so that its counters need not fit together. */
static __always_inline bool is_busy(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_lock.owned) ||
	       !bpf_core_field_exists(sk->sk_lock.slock.rlock.raw_lock.val.counter) ||
	       BPF_CORE_READ(sk, sk_lock.slock.rlock.raw_lock.val.counter);
}

/*
 * Payload that has left, each byte once. Not bytes_sent - bytes_retrans: what a queueing discipline
 * did not take is in bytes_sent, and again when it is tried again.
 */
static __always_inline __u64 read_sent(const struct tcp_sock *tp, const struct account *account)
{
	__u64 acked = BPF_CORE_READ(tp, bytes_acked);
	__u32 next = BPF_CORE_READ(tp, snd_nxt);
	__u64 fin = account->finished && next == BPF_CORE_READ(tp, write_seq);

	/* tcp_disconnect() sets bytes_sent to 0, but not all of the others. */
	if (!account->first || !BPF_CORE_READ(tp, bytes_sent))
		return 0;
	/* What is under way is less than a window, which is less than 2^31. */
	return acked + (__s32)(next - (__u32)account->first - (__u32)acked) - fin;
}

/* A FIN is counted as a byte, and then tcp_fin() sets the flag. */
static __always_inline __u64 read_received(const struct sock *sk, bool locked)
{
	__u64 received = BPF_CORE_READ((const struct tcp_sock *)sk, bytes_received);
	bool busy = !locked && is_busy(sk);
	__u64 done = 1UL << bpf_core_enum_value(enum sock_flags, SOCK_DONE);

	return received && (busy || BPF_CORE_READ(sk, __sk_common.skc_flags) & done) ? received - 1
										     : received;
}

/* Of a socket that is not locked by us, no more than is sure: the order of reads matters. */
static __always_inline void read_counters(const struct sock *sk, const struct account *account,
					  bool locked, __u64 now[KPOD_TCP_COUNTERS])
{
	const struct tcp_sock *tp = (const struct tcp_sock *)sk;

	now[KPOD_TCP_BYTES_SENT] = read_sent(tp, account);
	now[KPOD_TCP_BYTES_RECEIVED] = read_received(sk, locked);
	now[KPOD_TCP_BYTES_RETRANSMITTED] = BPF_CORE_READ(tp, bytes_retrans);
	now[KPOD_TCP_SEGMENTS_SENT] = BPF_CORE_READ(tp, segs_out);
	now[KPOD_TCP_SEGMENTS_RECEIVED] = BPF_CORE_READ(tp, segs_in);
	now[KPOD_TCP_SEGMENTS_RETRANSMITTED] = BPF_CORE_READ(tp, total_retrans);
	now[KPOD_TCP_OUT_OF_ORDER] = BPF_CORE_READ(tp, rcv_ooopack);
}

/* bytes_acked has the SYN of a socket that connected, but not that of one a listener made. */
static __always_inline __u64 first_byte(const struct sock *sk, bool active)
{
	const struct tcp_sock *tp = (const struct tcp_sock *)sk;
	__u32 base = BPF_CORE_READ(tp, snd_una) - (__u32)BPF_CORE_READ(tp, bytes_acked);

	return FIRST_KNOWN | (__u32)(base + active);
}

/* 0 for what did not grow: a socket that is disconnected starts at zero again. They wrap. */
static __always_inline __u64 growth(int counter, __u64 before, __u64 now)
{
	int bits = counter < KPOD_TCP_SEGMENTS_SENT ? VALUE_BITS : 32;
	__u64 grown = (now - before) & ((1ULL << bits) - 1);

	return grown >> (bits - 1) ? 0 : grown;
}

static __always_inline void sample_rtt(struct tcp_row *row, const struct sock *sk)
{
	/* Eighths of a microsecond. */
	__u64 ns = (__u64)BPF_CORE_READ((const struct tcp_sock *)sk, srtt_us) * 125;

	if (!ns)
		return;
	kpod_add_shared(row->rtt_ns, ns);
	kpod_add_shared(row->rtt[kpod_bucket(ns)], 1);
}

/* Of a socket whose beginning was not seen. */
static __always_inline enum kpod_tcp_side guess_side(const struct sock *sk)
{
	struct inet_bind_bucket *bucket =
		BPF_CORE_READ((const struct inet_connection_sock *)sk, icsk_bind_hash);

	/* What a listener made shares its port, which somebody has given to bind() or listen(). */
	return bucket && BPF_CORE_READ(bucket, fastreuse) >= 0 ? KPOD_TCP_SERVER : KPOD_TCP_CLIENT;
}

/* The remote address, as the words of a unit have it. */
static __always_inline void read_address(const struct sock *sk, __u64 address[2])
{
	address[0] = address[1] = 0;
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6 &&
	    bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		BPF_CORE_READ_INTO((struct in6_addr *)address, sk, __sk_common.skc_v6_daddr);
	else
		address[1] = 0xffff0000 | (__u64)BPF_CORE_READ(sk, __sk_common.skc_daddr) << 32;
}

/* Whether the unit is of this address, and not of one with the same digest. */
static __always_inline __u32 if_its_unit(__u32 number, const struct kpod_unit *peer)
{
	struct kpod_unit *unit = number ? bpf_map_lookup_elem(&tcp_peers_units, &number) : NULL;

	return unit && unit->words[KPOD_TCP_PEER_ADDRESS] == peer->words[KPOD_TCP_PEER_ADDRESS] &&
			       unit->words[KPOD_TCP_PEER_ADDRESS + 1] ==
				       peer->words[KPOD_TCP_PEER_ADDRESS + 1]
		       ? number
		       : 0;
}

#define add_peer(peer)                                                                             \
	kpod_unit_add_to(&tcp_peers_index, &tcp_peers_free, &tcp_peers_reserved, &tcp_peers_units, \
			 peer)

/*
 * A row for a peer that has none, if its slot and all together have fewer than they may: there is
 * always to be room for each slot's others. CPUs that do this at once may count one too often; the
 * loader counts them anew.
 */
static __always_inline __u32 name_peer(const struct kpod_unit *peer)
{
	struct tcp_row *row = kpod_shared_row(tcp_rows, peer->key.slot);
	struct tcp_peer_row *all = kpod_shared_row(tcp_peer_rows, 0);
	__u32 number;

	if (!row || !all || row->peers >= kpod_config.tcp_peers)
		return 0;
	if (__sync_fetch_and_add(&all->named, 1) >= KPOD_TCP_PEERS_A_SLOT * kpod_config.slots) {
		__sync_fetch_and_add(&all->named, -1);
		kpod_unit_count_lost(&tcp_peers_units, false);
		return 0;
	}
	number = add_peer(peer);
	if (number)
		__sync_fetch_and_add(&row->peers, 1);
	else
		__sync_fetch_and_add(&all->named, -1);
	return number;
}

static __always_inline __u32 find_named(struct kpod_unit *peer, const struct sock *sk, __u32 slot,
					__u32 side, bool add)
{
	__u32 port = side == KPOD_TCP_SERVER
			     ? BPF_CORE_READ(sk, __sk_common.skc_num)
			     : __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	__u32 number;

	read_address(sk, &peer->words[KPOD_TCP_PEER_ADDRESS]);
	peer->words[KPOD_TCP_PEER_SIDE] = side;
	peer->words[KPOD_TCP_PEER_PORT] = port;
	peer->key.slot = slot;
	peer->key.minor = KPOD_TCP_PEER_MINOR(KPOD_TCP_NAMED, side, port);
	peer->key.major = peer->words[KPOD_TCP_PEER_ADDRESS] * 0x9e3779b97f4a7c15 ^
			  peer->words[KPOD_TCP_PEER_ADDRESS + 1];
	number = kpod_unit_find(tcp_peers, &peer->key);
	if (!number && add)
		number = name_peer(peer);
	return if_its_unit(number, peer);
}

static __always_inline __u32 find_other(struct kpod_unit *peer, __u32 slot, __u32 side)
{
	__u32 number;

	peer->words[KPOD_TCP_PEER_SIDE] = side;
	peer->words[KPOD_TCP_PEER_ADDRESS] = KPOD_TCP_NO_ADDRESS(KPOD_TCP_OTHER);
	peer->words[KPOD_TCP_PEER_ADDRESS + 1] = 0;
	peer->words[KPOD_TCP_PEER_PORT] = 0;
	peer->key.slot = slot;
	peer->key.minor = KPOD_TCP_PEER_MINOR(KPOD_TCP_OTHER, side, 0);
	peer->key.major = KPOD_TCP_NO_ADDRESS(KPOD_TCP_OTHER);
	number = kpod_unit_find(tcp_peers, &peer->key);
	if (!number)
		number = add_peer(peer);
	if (!number)
		kpod_unit_count_lost(&tcp_peers_units, true);
	return number;
}

/*
 * A unit's number, whether it is a named one's, and when it was born: given to another, it is not
 * the same. A table has fewer than 2^19 units: --max-containers is at most 65536.
 */
#define PEER_NAMED (1 << 19)
#define PEER_BITS 20

static __always_inline __u64 peer_tag(__u32 number, const struct kpod_unit *unit)
{
	__u64 born = unit->born_ns >> KPOD_TCP_BORN_SHIFT;

	if (!born)
		return 0;
	if (KPOD_TCP_KIND_OF(unit->key.minor) == KPOD_TCP_NAMED)
		number |= PEER_NAMED;
	return born << PEER_BITS | number;
}

/* What is counted of a socket's peer. */
struct talk {
	__u64 sk;
	__u64 known; /* what was returned for the same socket before, or 0 */
	__u64 sent, received;
	__u32 slot;
	__u16 side;
	__u8 opened, live;
	__u32 unsure; /* the socket may be another by now: its address is not read */
	__u32 add;    /* a row may be handed out */
};

/*
 * A global function: verified once, and not in all that call it. Finds the socket's peer if it is
 * not the one that is known, and returns it as peer_tag() has it.
 */
__noinline __u64 kpod_tcp_count_peer(const struct talk *talk)
{
	struct kpod_unit peer = {}, *unit;
	struct tcp_peer_row *row;
	__u32 number;

	if (!talk)
		return 0;
	number = talk->known & (PEER_NAMED - 1);
	unit = bpf_map_lookup_elem(&tcp_peers_units, &number);
	if (!talk->known || !unit || peer_tag(number, unit) != talk->known ||
	    unit->key.slot != talk->slot || KPOD_TCP_SIDE_OF(unit->key.minor) != talk->side) {
		number = talk->unsure ? 0
				      : find_named(&peer, (const struct sock *)talk->sk, talk->slot,
						   talk->side, talk->add);
		if (!number)
			number = find_other(&peer, talk->slot, talk->side);
		unit = bpf_map_lookup_elem(&tcp_peers_units, &number);
	}
	row = number ? kpod_shared_row(tcp_peer_rows, number) : NULL;
	if (!row || !unit)
		return 0;
	if (talk->sent)
		kpod_add_shared(row->bytes[KPOD_SENT], talk->sent);
	if (talk->received)
		kpod_add_shared(row->bytes[KPOD_RECEIVED], talk->received);
	if (talk->opened)
		kpod_add_shared(row->opened, 1);
	if (talk->live)
		kpod_add_shared(row->live, 1);
	return peer_tag(number, unit);
}

/*
 * By who has the socket's lock, beside what is added to the slot's row: the same, with whom it was.
 * `account` may be NULL. One of the others may get a row of its own, so that is not kept.
 */
static __always_inline void count_peer(const struct sock *sk, struct account *account, __u32 slot,
				       enum kpod_tcp_side side, bool opened, __u64 sent,
				       __u64 received)
{
	struct talk talk = {
		.sk = (__u64)sk,
		.known = account ? account->peer : 0,
		.sent = sent,
		.received = received,
		.slot = slot,
		.side = side,
		.opened = opened,
		.add = 1,
	};
	__u64 tag;

	if (!kpod_config.tcp_peers)
		return;
	tag = kpod_tcp_count_peer(&talk);
	if (account)
		account->peer = tag & PEER_NAMED ? tag : 0;
}

/* By who has the socket's lock. */
static __always_inline void book(const struct sock *sk, struct account *account, __u32 slot,
				 struct tcp_row *row, __u64 generation)
{
	__u64 now[KPOD_TCP_COUNTERS], grown = 0, sent = 0, received = 0;

	read_counters(sk, account, true, now);
#pragma unroll
	for (int i = 0; i < KPOD_TCP_COUNTERS; i++) {
		grown = growth(
			i,
			__sync_lock_test_and_set(&account->booked[i], word_of(generation, now[i])),
			now[i]);
		if (grown)
			kpod_add_shared(row->counters[i], grown);
		if (grown && i == KPOD_TCP_SEGMENTS_RECEIVED)
			sample_rtt(row, sk);
		if (i == KPOD_TCP_BYTES_SENT)
			sent = grown;
		if (i == KPOD_TCP_BYTES_RECEIVED)
			received = grown;
	}
	if (sent || received)
		count_peer(sk, account, slot, account->side, false, sent, received);
}

/* By the walk. What was booked is told in `sent` and `received`. */
static __always_inline void try_book(const struct sock *sk, struct account *account,
				     struct tcp_row *row, __u64 generation, __u64 *sent,
				     __u64 *received)
{
	__u64 now[KPOD_TCP_COUNTERS];

	read_counters(sk, account, false, now);
#pragma unroll
	for (int i = 0; i < KPOD_TCP_COUNTERS; i++) {
		__u64 before = *(volatile __u64 *)&account->booked[i];
		__u64 grown = growth(i, before, now[i]);

		if (!grown || before >> VALUE_BITS != generation >> VALUE_BITS ||
		    __sync_val_compare_and_swap(&account->booked[i], before,
						word_of(generation, now[i])) != before)
			continue;
		kpod_add_shared(row->counters[i], grown);
		if (i == KPOD_TCP_SEGMENTS_RECEIVED)
			sample_rtt(row, sk);
		if (i == KPOD_TCP_BYTES_SENT)
			*sent = grown;
		if (i == KPOD_TCP_BYTES_RECEIVED)
			*received = grown;
	}
}

/*
 * Not of one that was at this address before. A program of a classic tracepoint cannot give a
 * socket its cookie: it is known as soon as it has one.
 */
static __always_inline bool is_its_account(struct account *account, const struct sock *sk)
{
	__u64 cookie = cookie_of(sk);

	if (kpod_config.preemptible && !account->cookie)
		account->cookie = cookie;
	return account->cookie == cookie;
}

/* NULL too if it is that of a socket that was here before, and whose end we have missed. */
static __always_inline struct account *find_account(const struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct account *account = bpf_map_lookup_elem(&tcp_accounts, &key);

	return account && is_its_account(account, sk) ? account : NULL;
}

static __always_inline bool is_opening(int state)
{
	return state == TCP_SYN_SENT || state == TCP_SYN_RECV;
}

static __always_inline bool sends_fin(int state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING ||
	       state == TCP_LAST_ACK;
}

/*
 * All that was before now is not ours, or has been booked. Takes the place of an older account of
 * this address. NULL: there is no room.
 */
static __always_inline struct account *open_account(struct sock *sk, bool traced, __u32 slot,
						    struct account *fresh)
{
	__u64 key = (__u64)sk;
	struct account *old = bpf_map_lookup_elem(&tcp_accounts, &key);
	__u32 old_slot = old ? old->slot : 0;
	bool is_counted = old && old_slot == slot;

	if (!is_counted && !has_room(slot))
		return NULL;
	fresh->slot = slot;
	fresh->generation = new_generation();
	fresh->cookie = traced ? bpf_get_socket_cookie(sk) : cookie_of(sk);
	read_counters(sk, fresh, true, fresh->booked);
#pragma unroll
	for (int i = 0; i < KPOD_TCP_COUNTERS; i++)
		fresh->booked[i] = word_of(fresh->generation, fresh->booked[i]);
	if (bpf_map_update_elem(&tcp_accounts, &key, fresh, old ? BPF_EXIST : BPF_NOEXIST))
		/* At the start another may have come first; or the kernel has no memory. */
		return find_account(sk);
	if (!is_counted) {
		add_held(slot, 1);
		if (old)
			add_held(old_slot, -1);
	}
	return bpf_map_lookup_elem(&tcp_accounts, &key);
}

/* Of a socket whose beginning we have not seen. `fresh` is zero. */
static __always_inline struct account *adopt(struct sock *sk, bool traced, __u32 slot, int state,
					     struct account *fresh)
{
	struct account *account;

	fresh->finished = sends_fin(state);
	fresh->side = state == TCP_SYN_SENT ? KPOD_TCP_CLIENT : guess_side(sk);
	if (!is_opening(state))
		fresh->first = first_byte(sk, false);
	account = open_account(sk, traced, slot, fresh);
	if (account)
		count_peer(sk, account, slot, account->side, false, 0, 0);
	return account;
}

/*
 * An attempt to connect has ended, one way or the other. The kernel has been seen to leave out
 * hooks when softirqs interrupt processes, so this may come later than it should.
 */
static __always_inline void on_opened(struct sock *sk, __u32 slot, struct tcp_row *row,
				      struct account *account, int before, int after)
{
	bool active = before == TCP_SYN_SENT || (account && account->connect_ns);
	enum kpod_tcp_side side = active ? KPOD_TCP_CLIENT : KPOD_TCP_SERVER;
	__u64 ns;

	if (account) {
		account->first = first_byte(sk, active);
		account->side = side;
	}
	/* Of a socket that a listener made, all until now are SYN-ACKs: kpod_tcp_synack. */
	if (account && before == TCP_SYN_RECV && !active)
		account->booked[KPOD_TCP_SEGMENTS_RETRANSMITTED] = word_of(
			account->generation, BPF_CORE_READ((struct tcp_sock *)sk, total_retrans));
	if (is_opening(before) && after == TCP_CLOSE) {
		if (active)
			kpod_add_shared(row->failed, 1);
		return;
	}
	kpod_add_shared(row->opened[active ? KPOD_ACTIVE : KPOD_PASSIVE], 1);
	count_peer(sk, account, slot, side, true, 0, 0);
	if (!account)
		kpod_add_shared(row->no_room, 1);
	if (is_opening(before) && account && account->connect_ns) {
		ns = bpf_ktime_get_ns() - account->connect_ns;
		kpod_add_shared(row->connect_ns, ns);
		kpod_add_shared(row->connect[kpod_bucket(ns)], 1);
	}
}

/* What the hook says of TCP's connections, and not of listeners. */
static __always_inline bool is_connection(int protocol, int before, int after)
{
	return protocol == IPPROTO_TCP && after != TCP_LISTEN &&
	       (before != TCP_LISTEN || after == TCP_SYN_RECV);
}

/* The state with which a socket's account begins. */
static __always_inline bool is_beginning(int before, int after)
{
	return after == TCP_SYN_SENT || before == TCP_LISTEN;
}

/* `traced`: the verifier knows the socket as one, so it may be given a cookie. */
static __always_inline void on_state(struct sock *sk, bool traced, int before, int after)
{
	struct account *account, fresh = {};
	struct tcp_row *row;
	__u64 key = (__u64)sk;
	__u32 slot;

	slot = slot_of(sk);
	row = kpod_shared_row(tcp_rows, slot);
	if (!row)
		return;
	account = find_account(sk);
	if (is_beginning(before, after)) {
		if (!account && bpf_map_lookup_elem(&tcp_accounts, &key))
			kpod_add_shared(row->unseen, 1); /* its last owner's end was missed */
		fresh.connect_ns = after == TCP_SYN_SENT ? bpf_ktime_get_ns() : 0;
		fresh.side = after == TCP_SYN_SENT ? KPOD_TCP_CLIENT : KPOD_TCP_SERVER;
		fresh.state = after;
		open_account(sk, traced, slot, &fresh);
		return;
	}
	/*
	 * While there is no room, one that is open was refused, which on_opened() has counted. What
	 * a listener made has an account, though not by its cookie, which the kernel gives it anew
	 * after it told of SYN_RECV (inet_csk_clone_lock()).
	 */
	if (!account && (bpf_map_lookup_elem(&tcp_accounts, &key) || has_room(slot))) {
		if (!is_opening(before))
			kpod_add_shared(row->unseen, 1);
		if (after != TCP_CLOSE)
			account = adopt(sk, traced, slot, before, &fresh);
	}
	/* Two that connect to each other go from SYN_SENT to SYN_RECV. */
	if (after != TCP_SYN_RECV && (account ? !account->first : is_opening(before)))
		on_opened(sk, slot, row, account, before, after);
	if (!account)
		return;
	if (kpod_config.preemptible)
		account->state = after;
	if (sends_fin(before) || sends_fin(after))
		account->finished = 1;
	if (after == TCP_CLOSE)
		book(sk, account, slot, row, account->generation);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(kpod_tcp_state, struct sock *sk, int before, int after)
{
	if (!is_connection(sk->sk_protocol, before, after))
		return 0;
	on_state(sk, true, before, after);
	set_done(HOOK_STATE, sk);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(kpod_tcp_state2, struct sock *sk, int before, int after)
{
	if (is_connection(sk->sk_protocol, before, after) && !is_done(HOOK_STATE, sk))
		on_state(sk, true, before, after);
	return 0;
}

/* The first program where programs may be preempted, … */
SEC("tp/sock/inet_sock_set_state")
int kpod_tcp_state_tp(const struct trace_event_raw_inet_sock_set_state *event)
{
	int before = event->oldstate, after = event->newstate;
	struct sock *sk = (struct sock *)event->skaddr;

	if (!is_connection(event->protocol, before, after))
		return 0;
	on_state(sk, false, before, after);
	if (!is_owned(sk))
		set_done(HOOK_STATE, sk);
	return 0;
}

/* … and the second, which gives each socket its cookie. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(kpod_tcp_state2_tp, struct sock *sk, int before, int after)
{
	struct account *account;

	if (!is_connection(sk->sk_protocol, before, after))
		return 0;
	bpf_get_socket_cookie(sk);
	account = find_account(sk);
	/* Without an account only softirqs leave a word. */
	if (account ? account->state == (__u64)after : is_owned(sk) && !is_beginning(before, after))
		return 0;
	if (!is_owned(sk) && is_done(HOOK_STATE, sk))
		return 0;
	on_state(sk, true, before, after);
	return 0;
}

/* A SYN-ACK that is sent again: there is no socket yet but the listener. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(kpod_tcp_synack, const struct sock *sk)
{
	struct tcp_row *row = row_of(sk);

	if (row)
		kpod_add_shared(row->counters[KPOD_TCP_SEGMENTS_RETRANSMITTED], 1);
	return 0;
}

static __always_inline void on_destroy(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct account *account = bpf_map_lookup_elem(&tcp_accounts, &key);
	struct tcp_row *row;
	__u32 held, slot;

	if (!account)
		return;
	held = account->slot;
	slot = slot_of(sk);
	row = is_its_account(account, sk) ? kpod_shared_row(tcp_rows, slot) : NULL;
	if (row)
		book(sk, account, slot, row, new_generation());
	if (!bpf_map_delete_elem(&tcp_accounts, &key))
		add_held(held, -1);
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(kpod_tcp_destroy, struct sock *sk)
{
	on_destroy(sk);
	set_done(HOOK_DESTROY, sk);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(kpod_tcp_destroy2, struct sock *sk)
{
	if (!is_done(HOOK_DESTROY, sk))
		on_destroy(sk);
	return 0;
}

static __always_inline int on_reset_sent(const struct sock *sk)
{
	struct account *account;
	struct tcp_row *row;
	__u32 slot;

	/* NULL since 6.10. Verifiers before 6.14 drop the question, and the owner is the host's. */
	slot = sk ? slot_of(sk) : 0;
	row = kpod_shared_row(tcp_rows, slot);
	if (!row)
		return 0;
	kpod_add_shared(row->resets[KPOD_SENT], 1);
	/* tcp_disconnect() sends it after the state has changed, and then sets all to zero. */
	account = sk ? find_account(sk) : NULL;
	if (account && BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
		book(sk, account, slot, row, account->generation);
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(kpod_tcp_reset_sent, const struct sock *sk)
{
	return on_reset_sent(sk);
}

SEC("tp/tcp/tcp_send_reset")
int kpod_tcp_reset_sent_tp(const struct trace_event_raw_tcp_send_reset *event)
{
	return on_reset_sent(event->skaddr);
}

static __always_inline int on_reset_received(const struct sock *sk)
{
	struct tcp_row *row = row_of(sk);

	if (row)
		kpod_add_shared(row->resets[KPOD_RECEIVED], 1);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(kpod_tcp_reset_received, struct sock *sk)
{
	return on_reset_received(sk);
}

SEC("tp/tcp/tcp_receive_reset")
int kpod_tcp_reset_received_tp(const struct trace_event_raw_tcp_event_sk *event)
{
	return on_reset_received(event->skaddr);
}

/*
 * To look up a socket's slot costs a third of what the walk does, so it is kept. The tag says of
 * which socket and when it is right: the account's memory may be another's by now.
 */
static __always_inline __u32 walked_slot(const struct sock *sk, struct account *account,
					 __u64 cookie)
{
	struct kpod_control *ctl = kpod_control();
	__u64 epoch = ctl ? ctl->epoch + 1 : 0;
	__u64 tag = (cookie * 0x9e3779b97f4a7c15 + epoch * 0xc2b2ae3d27d4eb4f) & ~SLOT_MASK;
	__u64 owner = *(volatile __u64 *)&account->owner;

	if (!epoch || (owner & ~SLOT_MASK) != tag) {
		owner = tag | slot_of(sk);
		*(volatile __u64 *)&account->owner = owner;
	}
	return owner & SLOT_MASK;
}

/*
 * Before each snapshot, for every account. The byte is for the loader: a read ends when its buffer
 * is full, and the next one goes on from there, so the walk is in slices that let others run.
 * The kernel keeps the place as a bucket and a number in it. If a socket comes into or leaves just
 * that bucket meanwhile, another may be passed by or met again in this walk, which
 * shows in its slot's connections until the next walk, and in no total.
 */
SEC("iter/bpf_map_elem")
int kpod_tcp_walk(struct bpf_iter__bpf_map_elem *ctx)
{
	struct account *account = ctx->value;
	const __u64 *key = ctx->key;
	const struct sock *sk;
	unsigned char state;
	struct tcp_row *row;
	__u64 generation, cookie;
	struct talk talk = {};
	__u8 idle;
	char byte = 0;
	__u32 slot;

	if (!account || !key)
		return 0;
	bpf_seq_write(ctx->meta->seq, &byte, sizeof(byte));
	generation = *(volatile __u64 *)&account->generation;
	sk = (const struct sock *)*key;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	/* Its address may be another socket's by now. */
	cookie = cookie_of(sk);
	if (!is_its_account(account, sk) || state == TCP_SYN_RECV)
		return 0;
	slot = walked_slot(sk, account, cookie);
	row = kpod_shared_row(tcp_rows, slot);
	if (!row)
		return 0;
	talk.sk = (__u64)sk;
	talk.slot = slot;
	talk.side = *(volatile __u16 *)&account->side;
	talk.known = *(volatile __u64 *)&account->peer;
	/* A row that has become free is not for those that only stay open. */
	talk.add = !*(volatile __u8 *)&account->idle;
	/* While the address is sure to be this socket's, if anything is booked then. */
	if (kpod_config.tcp_peers)
		talk.known = kpod_tcp_count_peer(&talk);
	talk.unsure = 1;
	try_book(sk, account, row, generation, &talk.sent, &talk.received);
	if (state != TCP_CLOSE && state != TCP_SYN_SENT && state != TCP_LISTEN) {
		kpod_add_shared(row->live, 1);
		talk.live = 1;
	}
	if (!kpod_config.tcp_peers)
		return 0;
	if (talk.sent || talk.received || talk.live)
		kpod_tcp_count_peer(&talk);
	idle = !(talk.sent || talk.received);
	if (idle != account->idle)
		account->idle = idle;
	return 0;
}

/* Run once at the start: sockets older than the loader, in every network namespace. */
SEC("iter/task_file")
int kpod_tcp_adopt(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct account fresh = {};
	struct socket *socket;
	struct tcp_row *row;
	struct sock *sk;
	__u32 slot;

	if (!file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP || sk->__sk_common.skc_state == TCP_CLOSE ||
	    sk->__sk_common.skc_state == TCP_LISTEN)
		return 0;
	slot = slot_of(sk);
	row = kpod_shared_row(tcp_rows, slot);
	if (row && !find_account(sk) && !adopt(sk, true, slot, sk->__sk_common.skc_state, &fresh))
		kpod_add_shared(row->no_room, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
