//! A path with a delay: packets go from one TUN device to another after a fixed time, or are dropped.
//!
//! For kernels without netem, and for what netem cannot do: drop one kind of TCP packet in one direction,
//! as a firewall does that eats resets. The caller opens the devices (they stand in two network
//! namespaces) and hands them over. One thread, level-triggered `ppoll` (its timeout counts nanoseconds,
//! epoll's milliseconds); order is kept; nothing is changed in a packet. What a packet is, `packet` says.

mod packet;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys;

pub use self::packet::Flag;

/// The longest wait for a packet: how late a stop is noticed.
const TICK: Duration = Duration::from_millis(100);
/// Packets read from one device before the other has its turn.
const BURST: usize = 256;
/// Packets in flight per direction; what comes then is dropped, as a full router would.
const IN_FLIGHT: usize = 65_536;
/// Larger than any packet of a TUN device without offloads.
const PACKET_MAX: usize = 65_536;

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first device given.
    A,
    /// The second one.
    B,
}

/// Packets to drop.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropRule {
    /// The end they come from.
    pub from: Side,
    /// TCP packets with this flag.
    pub flag: Flag,
    /// How many; null: every one.
    #[serde(default)]
    pub count: Option<u64>,
}

/// What a line does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinePlan {
    /// Microseconds that a packet takes, each way.
    pub delay_us: u64,
    /// Packets to drop, from the start.
    pub drop: Vec<DropRule>,
}

/// Counts of one direction.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Direction {
    /// Packets delivered.
    pub delivered: u64,
    /// Packets dropped because a rule said so.
    pub dropped: u64,
    /// Packets lost: too many in flight, or refused by the far device.
    pub lost: u64,
}

/// What a line has carried so far.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LineReport {
    /// From the first device to the second.
    pub from_a: Direction,
    /// From the second device to the first.
    pub from_b: Direction,
}

#[derive(Debug, Default)]
struct Counters {
    delivered: AtomicU64,
    dropped: AtomicU64,
    lost: AtomicU64,
}

impl Counters {
    fn now(&self) -> Direction {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Direction {
            delivered: get(&self.delivered),
            dropped: get(&self.dropped),
            lost: get(&self.lost),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    counters: [Counters; 2],
    rules: Mutex<Vec<DropRule>>,
}

/// A running line; ends when dropped.
#[derive(Debug)]
pub struct Line {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Duplicates the descriptors of both devices (`IFF_TUN | IFF_NO_PI`) and starts the thread.
pub fn start(a: RawFd, b: RawFd, plan: &LinePlan) -> io::Result<Line> {
    let ends = [End::new(a)?, End::new(b)?];
    let shared = Arc::new(Shared {
        rules: Mutex::new(plan.drop.clone()),
        ..Shared::default()
    });
    let mut worker = Worker {
        ends,
        delay: Duration::from_micros(plan.delay_us),
        shared: Arc::clone(&shared),
        spare: Vec::new(),
    };
    let thread = std::thread::Builder::new()
        .name("line".into())
        .spawn(move || {
            if let Err(error) = worker.run() {
                eprintln!("line: {error}");
            }
        })?;
    Ok(Line {
        shared,
        thread: Some(thread),
    })
}

impl Line {
    /// Counters now.
    pub fn report(&self) -> LineReport {
        let [a, b] = &self.shared.counters;
        LineReport {
            from_a: a.now(),
            from_b: b.now(),
        }
    }

    /// Drops more packets from now on.
    pub fn drop_also(&self, rule: DropRule) {
        let rules = self.shared.rules.lock();
        rules.unwrap_or_else(PoisonError::into_inner).push(rule);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic has been printed
        }
    }
}

/// One device and the packets that came from it.
struct End {
    device: File,
    on_the_way: VecDeque<(Instant, Vec<u8>)>,
}

impl End {
    fn new(device: RawFd) -> io::Result<Self> {
        let device = sys::duplicate(device)?;
        sys::set_nonblocking(device.as_fd())?;
        Ok(Self {
            device: device.into(),
            on_the_way: VecDeque::new(),
        })
    }
}

struct Worker {
    ends: [End; 2],
    delay: Duration,
    shared: Arc<Shared>,
    /// Buffers of delivered packets, to be filled again.
    spare: Vec<Vec<u8>>,
}

impl Worker {
    fn run(&mut self) -> io::Result<()> {
        let mut scratch = vec![0; PACKET_MAX];
        while !self.shared.stop.load(Ordering::Relaxed) {
            let devices = [self.ends[0].device.as_fd(), self.ends[1].device.as_fd()];
            let readable = sys::wait_readable(devices, self.pause(Instant::now()))?;
            for (side, ready) in readable.into_iter().enumerate() {
                if ready {
                    self.take_in(side, &mut scratch)?;
                }
            }
            self.deliver(Instant::now());
        }
        Ok(())
    }

    fn pause(&self, now: Instant) -> Duration {
        let due = self.ends.iter().filter_map(|end| end.on_the_way.front());
        due.map(|(at, _)| at.saturating_duration_since(now))
            .min()
            .map_or(TICK, |next| next.min(TICK))
    }

    fn take_in(&mut self, side: usize, scratch: &mut [u8]) -> io::Result<()> {
        let due = Instant::now() + self.delay;
        for _ in 0..BURST {
            let length = match self.ends[side].device.read(scratch) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error), // EIO, EBADFD: the device is gone
            };
            let packet = &scratch[..length];
            let counters = &self.shared.counters[side];
            if self.is_dropped(side, packet) {
                counters.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let queue = &mut self.ends[side].on_the_way;
            if queue.len() >= IN_FLIGHT {
                counters.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut buffer = self.spare.pop().unwrap_or_default();
            buffer.clear();
            buffer.extend_from_slice(packet);
            queue.push_back((due, buffer));
        }
        Ok(())
    }

    fn is_dropped(&self, side: usize, packet: &[u8]) -> bool {
        let mut rules = self
            .shared
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let hit = rules
            .iter()
            .position(|rule| rule.from as usize == side && packet::has_flag(packet, rule.flag));
        let Some(hit) = hit else { return false };
        if let Some(left) = &mut rules[hit].count {
            *left = left.saturating_sub(1);
            if *left == 0 {
                rules.swap_remove(hit);
            }
        }
        true
    }

    fn deliver(&mut self, now: Instant) {
        for side in 0..2 {
            while self.ends[side]
                .on_the_way
                .front()
                .is_some_and(|(due, _)| *due <= now)
            {
                let Some((_, packet)) = self.ends[side].on_the_way.pop_front() else {
                    break;
                };
                let counters = &self.shared.counters[side];
                // A device that is down or full: the network loses packets too.
                match self.ends[1 - side].device.write(&packet) {
                    Ok(sent) if sent == packet.len() => {
                        counters.delivered.fetch_add(1, Ordering::Relaxed)
                    }
                    _ => counters.lost.fetch_add(1, Ordering::Relaxed),
                };
                if self.spare.len() < BURST {
                    self.spare.push(packet);
                }
            }
        }
    }
}
