//! Listening sockets: they belong to the process and are lent to workers.
//!
//! TCP: one socket per worker with SO_REUSEPORT, but only after a plain bind proved that nobody else
//! listens there (with the flag alone a second process silently takes half of the clients). Unix: one
//! socket, the first worker accepts and hands out. A listener that goes away first drops new SYNs, so
//! that its accept queue can be emptied before it closes.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use socket2::SockAddr;

use crate::error::EngineError;
use crate::plan::parse_address;
use crate::snapshot::ListenSpec;
use crate::sys;

/// One listening address with its sockets. Closed when the last borrower lets go.
#[derive(Debug)]
pub struct Listener {
    /// As in the configuration.
    pub address: String,
    /// Unix sockets have one socket for all workers.
    pub is_unix: bool,
    sockets: Vec<OwnedFd>,
    /// What holds for it now.
    spec: Mutex<ListenSpec>,
    inode: Option<(u64, u64)>,
    /// The file of a unix socket was removed, so that nobody new finds it.
    is_hidden: AtomicBool,
}

impl Listener {
    /// The socket that worker `index` accepts from.
    pub fn socket(&self, index: usize) -> Option<RawFd> {
        if self.is_unix && index > 0 {
            return None;
        }
        self.sockets.get(index).map(AsRawFd::as_raw_fd)
    }

    /// Every worker's socket.
    pub fn queues(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.sockets.iter().map(AsRawFd::as_raw_fd)
    }

    /// New connections go elsewhere (are dropped); those under way can still be accepted.
    pub fn steer_away(&self) {
        for socket in self.sockets.iter().filter(|_| !self.is_unix) {
            // Without the filter the close may reset a few clients; nothing better can be done.
            let _ = sys::drop_new_syns(socket.as_raw_fd());
        }
        self.hide();
    }

    /// Removes a unix socket's file, if it is still ours: a successor may have put its own there.
    fn hide(&self) {
        if let (Some(path), Some(inode)) = (self.address.strip_prefix("unix:"), self.inode) {
            if !self.is_hidden.swap(true, Relaxed) && file_id(path) == Some(inode) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn spec(&self) -> MutexGuard<'_, ListenSpec> {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes another backlog, mode or owner without a new socket.
    fn adjust(&self, spec: &ListenSpec) -> Result<(), EngineError> {
        let mut present = self.spec();
        if *present == *spec {
            return Ok(());
        }
        // listen(2) again only changes the backlog. Source: net/ipv4/af_inet.c, __inet_listen_sk().
        self.queues()
            .try_for_each(|fd| sys::listen(fd, spec.backlog))
            .and_then(|()| set_owner(spec))
            .map_err(|e| EngineError::listen("listen on", &spec.address, &e))?;
        *present = spec.clone();
        Ok(())
    }

    /// New connections come here again.
    pub fn take_back(&self) {
        for socket in self.sockets.iter().filter(|_| !self.is_unix) {
            let _ = sys::accept_new_syns(socket.as_raw_fd());
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hide();
        if !self.spec().fds.is_empty() {
            // The service manager keeps the socket: its next clients wait for the next process.
            self.take_back();
        }
    }
}

/// Every listener of the process by address; the same one is lent again as long as anybody holds it.
#[derive(Debug, Default)]
pub struct Listeners {
    known: HashMap<String, Weak<Listener>>,
}

impl Listeners {
    /// The listener of an address: the one in use, one that is just retiring, or a new one.
    pub fn lend(
        &mut self,
        spec: &ListenSpec,
        workers: usize,
    ) -> Result<Arc<Listener>, EngineError> {
        if let Some(listener) = self.known.get(&spec.address).and_then(Weak::upgrade) {
            if listener.spec().fds == spec.fds && !listener.is_hidden.load(Relaxed) {
                listener.adjust(spec)?;
                listener.take_back();
                return Ok(listener);
            }
        }
        let listener = Arc::new(open(spec, workers)?);
        self.known.retain(|_, weak| weak.strong_count() > 0);
        self.known
            .insert(spec.address.clone(), Arc::downgrade(&listener));
        Ok(listener)
    }
}

fn open(spec: &ListenSpec, workers: usize) -> Result<Listener, EngineError> {
    let addr = parse_address(&spec.address)?;
    let is_unix = addr.is_unix();
    let fail = |what: &str, e: &io::Error| EngineError::listen(what, &spec.address, e);
    let sockets = if spec.fds.is_empty() {
        if is_unix {
            vec![open_unix(spec, &addr).map_err(|e| fail("listen on", &e))?]
        } else {
            let proof = bound(&addr, false).map_err(|e| fail("listen on", &e))?;
            drop(proof);
            (0..workers)
                .map(|_| listening(&addr, spec.backlog))
                .collect::<io::Result<_>>()
                .map_err(|e| fail("listen on", &e))?
        }
    } else {
        inherited(spec, workers).map_err(|e| fail("use the inherited sockets for", &e))?
    };
    Ok(Listener {
        address: spec.address.clone(),
        is_unix,
        inode: spec
            .address
            .strip_prefix("unix:")
            .filter(|_| spec.fds.is_empty())
            .and_then(file_id),
        sockets,
        spec: Mutex::new(spec.clone()),
        is_hidden: AtomicBool::new(false),
    })
}

/// Duplicates of inherited descriptors (LISTEN_FDS): every worker accepts from one of them.
fn inherited(spec: &ListenSpec, workers: usize) -> io::Result<Vec<OwnedFd>> {
    (0..workers)
        .map(|i| {
            let fd = spec.fds[i % spec.fds.len()];
            let fd = sys::borrow(fd)?;
            let own = BorrowedFd::try_clone_to_owned(&fd)?;
            sys::set_nonblocking(own.as_raw_fd())?;
            // A predecessor that was killed while it drained has left its filter on the socket.
            let _ = sys::accept_new_syns(own.as_raw_fd());
            Ok(own)
        })
        .collect()
}

fn bound(addr: &SockAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let socket = sys::stream_socket(libc::c_int::from(addr.family()))?;
    let fd = socket.as_raw_fd();
    sys::reuse_address(fd)?;
    if reuse_port {
        sys::reuse_port(fd)?;
    }
    if addr.is_ipv6() {
        sys::both_families(fd)?;
    }
    sys::bind(fd, addr)?;
    Ok(socket)
}

/// A listening socket whose options the accepted ones inherit: no syscall per connection.
fn listening(addr: &SockAddr, backlog: i32) -> io::Result<OwnedFd> {
    let socket = bound(addr, true)?;
    let fd = socket.as_raw_fd();
    sys::nodelay(fd)?;
    // A web server that vanished is noticed after 60 s of silence and 60 s of probes.
    sys::keepalive(fd, 60)?;
    sys::user_timeout(fd, 60_000)?;
    sys::listen(fd, backlog)?;
    Ok(socket)
}

fn open_unix(spec: &ListenSpec, addr: &SockAddr) -> io::Result<OwnedFd> {
    let path = spec.address.strip_prefix("unix:").unwrap_or_default();
    let socket = sys::stream_socket(libc::AF_UNIX)?;
    let fd = socket.as_raw_fd();
    if let Err(e) = sys::bind(fd, addr) {
        if e.raw_os_error() != Some(libc::EADDRINUSE) {
            return Err(e);
        }
        // connect() to a plain file is refused as to a socket without a listener: never remove what is no socket.
        if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
            let text = "a file that is no socket stands there; it was left alone. Remove it, or listen elsewhere";
            return Err(io::Error::other(text));
        }
        if !is_stale(addr) {
            return Err(e);
        }
        std::fs::remove_file(path)?;
        sys::bind(fd, addr)?;
    }
    set_owner(spec)?;
    sys::listen(fd, spec.backlog)?;
    Ok(socket)
}

/// Mode and owner of a unix socket that we made.
fn set_owner(spec: &ListenSpec) -> io::Result<()> {
    let Some(path) = spec.address.strip_prefix("unix:") else {
        return Ok(());
    };
    if !spec.fds.is_empty() {
        return Ok(());
    }
    let mode = spec.mode.unwrap_or(0o666);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if spec.uid.is_some() || spec.gid.is_some() {
        std::os::unix::fs::chown(path, spec.uid, spec.gid)?;
    }
    Ok(())
}

/// Whether nobody listens behind a unix socket file.
fn is_stale(addr: &SockAddr) -> bool {
    sys::stream_socket(libc::AF_UNIX)
        .and_then(|probe| sys::connect(probe.as_raw_fd(), addr))
        .is_err_and(|e| e.raw_os_error() == Some(libc::ECONNREFUSED))
}

fn file_id(path: &str) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}
