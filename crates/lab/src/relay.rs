//! A relay without any feature: the floor under every comparison of proxies.
//!
//! Accepts, connects to the one target, copies bytes both ways, passes half-closes on, closes. No
//! checks, no limits, no log, no close order: what remains is the price of the system calls.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;
use socket2::Socket;

use crate::address::Address;
use crate::socket;

const LISTENER: Token = Token(0);
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// A running relay; ends when dropped or stopped.
#[derive(Debug)]
pub struct Relay {
    stop: Arc<AtomicBool>,
    sessions: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens and starts the thread. Errors are those of bind.
    pub fn start(listen: &Address, target: &Address) -> io::Result<Self> {
        let listener = socket::listen(listen)?;
        let stop = Arc::new(AtomicBool::new(false));
        let sessions = Arc::new(AtomicU64::new(0));
        let mut worker = Worker::new(listener, target.clone(), Arc::clone(&sessions))?;
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || worker.run(&told))?;
        Ok(Self {
            stop,
            sessions,
            thread: Some(thread),
        })
    }

    /// Sessions accepted so far.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic has been printed already
        }
    }
}

/// Two sockets and, per socket, what could not be written to it yet.
struct Pair {
    sockets: [Socket; 2],
    tails: [Vec<u8>; 2],
    ended: [bool; 2],
}

struct Worker {
    poll: Poll,
    listener: Socket,
    target: Address,
    pairs: Slab<Pair>,
    scratch: Vec<u8>,
    sessions: Arc<AtomicU64>,
}

impl Worker {
    fn new(listener: Socket, target: Address, sessions: Arc<AtomicU64>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let fd = listener.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&fd), LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            target,
            pairs: Slab::new(),
            scratch: vec![0; 64 * 1024],
            sessions,
        })
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut events = Events::with_capacity(1024);
        while !stop.load(Ordering::Relaxed) {
            // The timeout is how fast a stop is noticed; a busy relay never reaches it.
            let _ = self
                .poll
                .poll(&mut events, Some(Duration::from_millis(100)));
            for event in &events {
                if event.token() == LISTENER {
                    self.accept();
                    continue;
                }
                let (key, side) = ((event.token().0 - 1) / 2, (event.token().0 - 1) % 2);
                let Some(pair) = self.pairs.get_mut(key) else {
                    continue;
                };
                let had_tail = pair.has_tail();
                if !step(pair, side, event, &mut self.scratch) {
                    self.pairs.remove(key);
                } else if pair.has_tail() && !had_tail {
                    watch_writable(self.poll.registry(), pair, key);
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(client) = socket::accept(&self.listener) {
            self.sessions.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = self.open(client) {
                eprintln!("relay: {}: {error}", self.target.text);
            }
        }
    }

    fn open(&mut self, client: Socket) -> io::Result<()> {
        let server = socket::connect(&self.target, None)?;
        let entry = self.pairs.vacant_entry();
        let base = 1 + 2 * entry.key();
        for (side, fd) in [(CLIENT, client.as_raw_fd()), (SERVER, server.as_raw_fd())] {
            self.poll.registry().register(
                &mut SourceFd(&fd),
                Token(base + side),
                Interest::READABLE,
            )?;
        }
        entry.insert(Pair {
            sockets: [client, server],
            tails: [Vec::new(), Vec::new()],
            ended: [false, false],
        });
        Ok(())
    }
}

impl Pair {
    fn has_tail(&self) -> bool {
        self.tails.iter().any(|tail| !tail.is_empty())
    }
}

/// From the first full buffer on, both sides are watched for room as well: few sessions need it.
fn watch_writable(registry: &Registry, pair: &Pair, key: usize) {
    for (side, socket) in pair.sockets.iter().enumerate() {
        let (fd, token) = (socket.as_raw_fd(), Token(1 + 2 * key + side));
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = registry.reregister(&mut SourceFd(&fd), token, both) {
            eprintln!("relay: epoll_ctl: {error}");
        }
    }
}

/// Handles one event of one side; false when the pair is over.
fn step(pair: &mut Pair, side: usize, event: &mio::event::Event, scratch: &mut [u8]) -> bool {
    if event.is_writable() && !pair.tails[side].is_empty() {
        if !flush(pair, side) {
            return false;
        }
        if pair.tails[side].is_empty() && !copy(pair, 1 - side, scratch, true) {
            return false;
        }
    }
    if event.is_readable() && !copy(pair, side, scratch, event.is_read_closed()) {
        return false;
    }
    !(pair.ended[CLIENT] && pair.ended[SERVER])
}

/// Copies what `from` has to the other side until it is empty or the other side is full.
fn copy(pair: &mut Pair, from: usize, scratch: &mut [u8], to_the_end: bool) -> bool {
    let to = 1 - from;
    while pair.tails[to].is_empty() && !pair.ended[from] {
        let got = match (&pair.sockets[from]).read(scratch) {
            Ok(0) => {
                pair.ended[from] = true;
                // When both have ended the pair is closed at once: nothing to pass on.
                if pair.tails[to].is_empty() && !pair.ended[to] {
                    let _ = pair.sockets[to].shutdown(Shutdown::Write); // gone: nothing to pass on
                }
                break;
            }
            Ok(got) => got,
            Err(error) => return socket::is_later(&error),
        };
        let sent = match (&pair.sockets[to]).write(&scratch[..got]) {
            Ok(sent) => sent,
            Err(error) if socket::is_later(&error) => 0,
            Err(_) => return false,
        };
        pair.tails[to].extend_from_slice(&scratch[sent..got]);
        if got < scratch.len() && !to_the_end {
            break; // a short read means empty: epoll(7), question 9
        }
    }
    true
}

fn flush(pair: &mut Pair, side: usize) -> bool {
    match (&pair.sockets[side]).write(&pair.tails[side]) {
        Ok(sent) => {
            pair.tails[side].drain(..sent);
            if pair.tails[side].is_empty() && pair.ended[1 - side] {
                let _ = pair.sockets[side].shutdown(Shutdown::Write); // as in copy()
            }
            true
        }
        Err(error) => socket::is_later(&error),
    }
}
