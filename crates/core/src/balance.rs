//! Which member of a service takes the next session.
//!
//! Pure: no clock, no randomness, no atomics. A worker owns one [`Balancer`] per service and shows it
//! the members of the present snapshot plus a closure that reads what changes between two picks (load,
//! full, excluded). Nothing here knows sockets, servers or health; `crates/engine` reports and obeys.
//!
//! The rules that hold for every algorithm:
//! - A member can be chosen when it is eligible, has a weight, is not excluded and is not full.
//! - Backups count only while no other member is eligible, weighted and not excluded.
//!   *Full is not down*: a full primary keeps the backups out and the session queues ([`Choice::Full`]),
//!   else a burst would write to the replica that stands by. *Excluded is down for this attempt*
//!   (a connect failure in this session, an open breaker): other primaries first, then backups.
//! - A weight of 0 counts as not eligible, so a service whose primaries all have weight 0 uses its backups.
//! - A pick costs O(members) and no allocation.

use std::net::IpAddr;

mod hash;
#[cfg(test)]
mod tests;

use hash::{client_key, mix, name_key, rendezvous_cost};

/// Weights are effective weights times 100, so that slow start can scale them; this is the largest.
///
/// 2^24 keeps every product here in 64 bits: (load + 1) < 2^33 times a weight, and a total over members.
pub const MAX_WEIGHT: u32 = 1 << 24;

/// How a service spreads its sessions. The names in the configuration are the ones in backquotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `roundrobin`: smooth weighted round robin; exact shares over every round of the weights.
    RoundRobin,
    /// `leastconn`: the lowest (load + 1) / weight; ties rotate.
    LeastConn,
    /// `random2`: two different members drawn by weight, then the one with the lower (load + 1) / weight.
    Random2,
    /// `first`: the first member in the order of the configuration that is not full.
    First,
    /// `client-hash`: weighted rendezvous hashing of the client address; a change of one member
    /// moves only the clients it wins or loses. A client without an address is drawn by weight.
    ClientHash,
}

impl Algorithm {
    /// The algorithm with this name in the configuration.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "roundrobin" => Self::RoundRobin,
            "leastconn" => Self::LeastConn,
            "random2" => Self::Random2,
            "first" => Self::First,
            "client-hash" => Self::ClientHash,
            _ => return None,
        })
    }
}

/// What a snapshot says about one member of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// From the server's name: carries round-robin state and client hashes over a reload.
    key: u64,
    /// Effective weight times 100, at most [`MAX_WEIGHT`]; 0 takes no new session.
    weight: u32,
    /// Used only while no other member is eligible.
    pub backup: bool,
    /// Health says yes.
    pub eligible: bool,
}

impl Member {
    /// A member; a weight above [`MAX_WEIGHT`] counts as that.
    pub fn new(server_name: &str, weight: u32, backup: bool, eligible: bool) -> Self {
        Self {
            key: name_key(server_name),
            weight: weight.min(MAX_WEIGHT),
            backup,
            eligible,
        }
    }

    /// Effective weight times 100.
    pub fn weight(&self) -> u32 {
        self.weight
    }
}

/// What changes about a member between two picks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Sessions on the server now, in the whole process.
    pub load: u32,
    /// No slot left (`max_connections`).
    pub full: bool,
    /// Not in this attempt: already tried, or its breaker refuses.
    pub excluded: bool,
}

/// What a session brings to the pick.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// The client's address; `None` on a unix socket. IPv4-mapped IPv6 counts as IPv4.
    pub client: Option<IpAddr>,
    /// Fresh random bits; read by `random2`, and by `client-hash` without a client address.
    pub random: u64,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Index into the members given.
    Member(usize),
    /// There are members for this session and all are full: queue, and ask again when a slot comes free.
    Full,
    /// Nobody is eligible (or everybody is excluded in this attempt).
    Nobody,
}

impl Choice {
    /// The index, if a member was chosen.
    pub fn member(self) -> Option<usize> {
        match self {
            Self::Member(index) => Some(index),
            Self::Full | Self::Nobody => None,
        }
    }
}

/// The state of one service in one worker.
#[derive(Clone, Debug)]
pub struct Balancer {
    algorithm: Algorithm,
    /// Smooth round robin: credit per member, in the order of the member list.
    credits: Vec<Credit>,
    /// Where the next tie is resolved from (`leastconn`).
    start: usize,
}

#[derive(Clone, Copy, Debug)]
struct Credit {
    key: u64,
    value: i64,
}

/// The members this pick is made from.
#[derive(Clone, Copy)]
struct Tier {
    backup: bool,
    /// Sum of weights of those that are not full; never 0.
    total: u64,
}

impl Tier {
    fn has(self, member: &Member, live: Live) -> bool {
        member.backup == self.backup && usable(member, live) && !live.full
    }
}

fn usable(member: &Member, live: Live) -> bool {
    member.eligible && member.weight > 0 && !live.excluded
}

impl Balancer {
    /// A balancer for these members.
    ///
    /// `phase` is where in the round it begins: give each worker its number, else the first session of
    /// every worker lands on the same server.
    pub fn new(algorithm: Algorithm, members: &[Member], phase: usize) -> Self {
        let mut balancer = Self {
            algorithm,
            credits: Vec::new(),
            start: if members.is_empty() {
                0
            } else {
                phase % members.len()
            },
        };
        balancer.rebuild(algorithm, members);
        // A round of equal weights is members.len() long; no need to walk further than one.
        let idle = |_| Live::default();
        if let Ok(tier) = choose_tier(members, &idle) {
            for _ in 0..balancer.start {
                balancer.round_robin(members, &idle, tier);
            }
        }
        balancer
    }

    /// Takes a new member list (a reload, a new eligibility); members known by name keep their credit.
    pub fn rebuild(&mut self, algorithm: Algorithm, members: &[Member]) {
        self.algorithm = algorithm;
        let same = self.credits.len() == members.len()
            && self
                .credits
                .iter()
                .zip(members)
                .all(|(c, m)| c.key == m.key);
        if same {
            return;
        }
        let old = std::mem::take(&mut self.credits);
        self.credits = members
            .iter()
            .map(|member| Credit {
                key: member.key,
                value: old
                    .iter()
                    .find(|c| c.key == member.key)
                    .map_or(0, |c| c.value),
            })
            .collect();
    }

    /// Chooses a member. O(members), no allocation.
    ///
    /// `members` must be the list of the last [`Balancer::rebuild`]; `live` is asked at most twice per
    /// member and may read atomics that change in between.
    pub fn pick(
        &mut self,
        members: &[Member],
        live: impl Fn(usize) -> Live,
        request: Request,
    ) -> Choice {
        debug_assert_eq!(members.len(), self.credits.len(), "rebuild() was forgotten");
        let tier = match choose_tier(members, &live) {
            Ok(tier) => tier,
            Err(choice) => return choice,
        };
        let index = match self.algorithm {
            Algorithm::RoundRobin => self.round_robin(members, &live, tier),
            Algorithm::LeastConn => self.least_conn(members, &live, tier),
            Algorithm::Random2 => random2(members, &live, tier, request.random),
            Algorithm::First => candidates(members, &live, tier).map(|(i, ..)| i).next(),
            Algorithm::ClientHash => client_hash(members, &live, tier, request),
        };
        // None: the last free slot went away between the two looks.
        index.map_or(Choice::Full, Choice::Member)
    }

    /// Everybody gains its weight, the richest is chosen and pays the total.
    ///
    /// With a fixed set credits stay within one total of zero. The clamp keeps that true when members
    /// come and go or weights shrink, so nobody spends minutes paying back an old credit.
    /// Source: nginx `ngx_http_upstream_round_robin.c`.
    fn round_robin(
        &mut self,
        members: &[Member],
        live: &impl Fn(usize) -> Live,
        tier: Tier,
    ) -> Option<usize> {
        let total = tier.total as i64;
        let mut best: Option<(usize, i64)> = None;
        for (index, member, _) in candidates(members, live, tier) {
            let credit = self.credits.get_mut(index)?;
            credit.value = credit.value.clamp(-total, total) + i64::from(member.weight);
            if best.is_none_or(|(_, value)| credit.value > value) {
                best = Some((index, credit.value));
            }
        }
        let (index, _) = best?;
        self.credits[index].value -= total;
        Some(index)
    }

    fn least_conn(
        &mut self,
        members: &[Member],
        live: &impl Fn(usize) -> Live,
        tier: Tier,
    ) -> Option<usize> {
        let start = if self.start < members.len() {
            self.start
        } else {
            0
        };
        // Rank: how far behind `start`, so that equals take turns.
        let rank = |index: usize| (index + members.len() - start) % members.len();
        let best = candidates(members, live, tier).min_by(|a, b| {
            compare_load(a.1, a.2, b.1, b.2).then_with(|| rank(a.0).cmp(&rank(b.0)))
        });
        let (index, ..) = best?;
        self.start = index + 1;
        Some(index)
    }
}

fn choose_tier(members: &[Member], live: &impl Fn(usize) -> Live) -> Result<Tier, Choice> {
    // Per tier (primary, backup): is anybody there, and the weight of those with a free slot.
    let mut present = [false; 2];
    let mut total = [0_u64; 2];
    for (index, member) in members.iter().enumerate() {
        let now = live(index);
        if usable(member, now) {
            let tier = usize::from(member.backup);
            present[tier] = true;
            total[tier] += if now.full {
                0
            } else {
                u64::from(member.weight)
            };
        }
    }
    let tier = usize::from(!present[0]);
    if !present[tier] {
        return Err(Choice::Nobody);
    }
    if total[tier] == 0 {
        return Err(Choice::Full);
    }
    Ok(Tier {
        backup: tier == 1,
        total: total[tier],
    })
}

fn candidates<'a>(
    members: &'a [Member],
    live: &'a impl Fn(usize) -> Live,
    tier: Tier,
) -> impl Iterator<Item = (usize, &'a Member, u32)> {
    members
        .iter()
        .enumerate()
        .filter_map(move |(index, member)| {
            let now = live(index);
            tier.has(member, now).then_some((index, member, now.load))
        })
}

/// Orders by (load + 1) / weight, by cross multiplication: no division, no rounding.
fn compare_load(a: &Member, a_load: u32, b: &Member, b_load: u32) -> std::cmp::Ordering {
    let left = (u64::from(a_load) + 1) * u64::from(b.weight);
    let right = (u64::from(b_load) + 1) * u64::from(a.weight);
    left.cmp(&right)
}

/// The member that owns the point `random / 2^32` of the line on which each has its weight, without `skip`.
fn draw(
    members: &[Member],
    live: &impl Fn(usize) -> Live,
    tier: Tier,
    random: u32,
    skip: Option<usize>,
) -> Option<(usize, u32)> {
    let without = skip.map_or(0, |index| u64::from(members[index].weight));
    let mut point = (u64::from(random) * (tier.total.saturating_sub(without))) >> 32;
    let mut last = None;
    for (index, member, load) in candidates(members, live, tier) {
        if Some(index) == skip {
            continue;
        }
        last = Some((index, load));
        match point.checked_sub(u64::from(member.weight)) {
            Some(rest) => point = rest,
            None => break,
        }
    }
    last
}

fn random2(
    members: &[Member],
    live: &impl Fn(usize) -> Live,
    tier: Tier,
    random: u64,
) -> Option<usize> {
    let first = draw(members, live, tier, (random >> 32) as u32, None)?;
    let Some(second) = draw(members, live, tier, random as u32, Some(first.0)) else {
        return Some(first.0);
    };
    let order = compare_load(&members[second.0], second.1, &members[first.0], first.1);
    Some(if order.is_lt() { second.0 } else { first.0 })
}

fn client_hash(
    members: &[Member],
    live: &impl Fn(usize) -> Live,
    tier: Tier,
    request: Request,
) -> Option<usize> {
    let Some(client) = request.client else {
        return draw(members, live, tier, (request.random >> 32) as u32, None)
            .map(|(index, _)| index);
    };
    let client = client_key(client);
    candidates(members, live, tier)
        .map(|(index, member, _)| (index, member, rendezvous_cost(mix(client ^ member.key))))
        .min_by(|a, b| {
            // cost / weight, by cross multiplication; equal costs go to the lower key, not the lower
            // index, so that the order in the file does not matter.
            let left = a.2 * u128::from(b.1.weight);
            let right = b.2 * u128::from(a.1.weight);
            left.cmp(&right).then_with(|| a.1.key.cmp(&b.1.key))
        })
        .map(|(index, ..)| index)
}
