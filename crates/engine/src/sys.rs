//! Every system call that the standard library and mio do not offer, and the only `unsafe` of this crate.
//!
//! Knows file descriptors, addresses and socket options; knows nothing of sessions, services or MySQL.
//! Every function is one system call unless it says otherwise, and returns the system's own error.

use std::io;
use std::mem::{size_of, MaybeUninit};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use socket2::{SockAddr, SockAddrStorage};

/// `IP_LOCAL_PORT_RANGE`, Linux 6.3. Source: include/uapi/linux/in.h.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

fn set<T>(fd: RawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a live T and the length passed is its size; the kernel only reads it.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Accepts one connection, non-blocking and close-on-exec. One syscall (accept4).
pub fn accept(listener: RawFd) -> io::Result<(OwnedFd, SockAddr)> {
    let mut storage = SockAddrStorage::zeroed();
    let mut len = storage.size_of();
    // SAFETY: storage is large enough for every family and `len` says so.
    let fd = check(unsafe {
        libc::accept4(
            listener,
            std::ptr::from_mut(&mut storage).cast(),
            &raw mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: accept4 returned a new descriptor that nobody else owns; the kernel filled `len` bytes.
    Ok(unsafe { (OwnedFd::from_raw_fd(fd), SockAddr::new(storage, len)) })
}

/// A non-blocking, close-on-exec stream socket of a family (`AF_INET`, `AF_INET6`, `AF_UNIX`).
pub fn stream_socket(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a returned descriptor is new and ours.
    unsafe {
        let fd = check(libc::socket(
            family,
            libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Binds to an address.
pub fn bind(fd: RawFd, addr: &SockAddr) -> io::Result<()> {
    // SAFETY: addr is a valid address of the length it states.
    check(unsafe { libc::bind(fd, addr.as_ptr().cast(), addr.len()) }).map(drop)
}

/// Starts a connect; `EINPROGRESS` comes back as `Ok(false)`, an immediate success as `Ok(true)`.
pub fn connect(fd: RawFd, addr: &SockAddr) -> io::Result<bool> {
    // SAFETY: addr is a valid address of the length it states.
    match check(unsafe { libc::connect(fd, addr.as_ptr().cast(), addr.len()) }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Receives into `buf`; 0 is the peer's FIN.
pub fn recv(fd: RawFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: buf is writable for its whole length.
    let n = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), 0) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Sends without SIGPIPE; returns the bytes the kernel took.
pub fn send(fd: RawFd, buf: &[u8]) -> io::Result<usize> {
    // SAFETY: buf is readable for its whole length.
    let n = unsafe { libc::send(fd, buf.as_ptr().cast(), buf.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// `SO_LINGER {1, 0}`: the close that follows is an RST.
pub fn linger_reset(fd: RawFd) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// `TCP_LINGER2 = -1`: the close that follows delivers data and FIN and keeps nothing afterwards,
/// neither FIN_WAIT2 nor TIME_WAIT. Source: tcp_close() and tcp_rcv_state_process() (`linger2 < 0`).
pub fn linger2_none(fd: RawFd) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_LINGER2, &-1_i32)
}

/// `TCP_NODELAY`.
pub fn nodelay(fd: RawFd) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)
}

/// `SO_REUSEADDR`.
pub fn reuse_address(fd: RawFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)
}

/// `SO_REUSEPORT`.
pub fn reuse_port(fd: RawFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1_i32)
}

/// `IPV6_V6ONLY` off, so that `[::]` serves both families.
pub fn both_families(fd: RawFd) -> io::Result<()> {
    set(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &0_i32)
}

/// Keepalive probes after `idle_s` seconds of silence, every 10 s, six of them.
pub fn keepalive(fd: RawFd, idle_s: i32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1_i32)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &idle_s)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &10_i32)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &6_i32)
}

/// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged, in milliseconds.
pub fn user_timeout(fd: RawFd, ms: u32) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &ms)
}

/// `IP_BIND_ADDRESS_NO_PORT` (Linux 4.2): bind the address, choose the port at connect().
pub fn bind_address_no_port(fd: RawFd) -> io::Result<()> {
    set(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1_i32)
}

/// `IP_LOCAL_PORT_RANGE` (Linux 6.3): narrows `ip_local_port_range` for this socket; no cliff at 50 %.
pub fn local_port_range(fd: RawFd, low: u16, high: u16) -> io::Result<()> {
    set(
        fd,
        libc::IPPROTO_IP,
        IP_LOCAL_PORT_RANGE,
        &(u32::from(high) << 16 | u32::from(low)),
    )
}

/// A classic BPF filter on a listener that drops new SYNs but lets handshakes under way finish.
/// The byte tested is the TCP flags byte: socket filters of TCP start at the TCP header.
pub fn drop_new_syns(fd: RawFd) -> io::Result<()> {
    // ldb [13]; jset #ACK -> accept; jset #SYN -> drop; accept. Source: linux/filter.h, RFC 793.
    let filter = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        filter(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        filter(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 2, 0, 0x10),
        filter(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, 0x02),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let fprog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &fprog)
}

/// Takes the filter of [`drop_new_syns`] away again.
pub fn accept_new_syns(fd: RawFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0_i32)
}

/// Starts listening.
pub fn listen(fd: RawFd, backlog: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, backlog) }).map(drop)
}

/// The pending error of a socket, cleared by reading (SO_ERROR).
pub fn take_error(fd: RawFd) -> io::Result<()> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and len are live and sized as stated.
    check(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    })?;
    if value == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(value))
    }
}

fn tcp_info(fd: RawFd) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: info is writable for `len` bytes; an all-zero tcp_info is a valid value.
    unsafe {
        check(libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        ))
        .ok()?;
        Some(info.assume_init())
    }
}

/// Smoothed round-trip time of a TCP connection in milliseconds, rounded up; 0 where there is none.
pub fn rtt_ms(fd: RawFd) -> u64 {
    tcp_info(fd).map_or(0, |info| u64::from(info.tcpi_rtt).div_ceil(1000))
}

/// Whether both ends use TCP timestamps. Source: include/uapi/linux/tcp.h, `TCPI_OPT_TIMESTAMPS`.
pub fn has_timestamps(fd: RawFd) -> bool {
    tcp_info(fd).is_some_and(|info| info.tcpi_options & 1 != 0)
}

/// Whether connect() succeeded only after an old connection of this tuple had answered it (a second segment came in).
/// A SYN that was merely lost is not that.
pub fn old_connection_answered(fd: RawFd) -> bool {
    tcp_info(fd).is_some_and(|info| info.tcpi_total_retrans > 0 && info.tcpi_segs_in > 1)
}

/// Whether the peer has answered a connect() under way with something that is no answer to it: it still has an old
/// connection of this tuple open. Normally our reset to that answer clears the way within two more round trips; where
/// this lasts, resets are lost. Measured on Linux 6.18: a host that is down leaves `tcpi_segs_in` at 0 (docs/ports.md).
pub fn old_connection_answers(fd: RawFd) -> bool {
    const SYN_SENT: u8 = 2; // include/net/tcp_states.h
    tcp_info(fd).is_some_and(|info| info.tcpi_state == SYN_SENT && info.tcpi_segs_in > 0)
}

/// Bytes that the peer has not acknowledged yet (SIOCOUTQ); an unreadable socket counts as one byte.
pub fn unacknowledged(fd: RawFd) -> usize {
    let mut value: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (= SIOCOUTQ) writes one int.
    let ret = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut value) };
    if ret < 0 {
        1
    } else {
        value.max(0) as usize
    }
}

/// Our own address of a socket.
pub fn local_address(fd: RawFd) -> Option<SocketAddr> {
    let mut storage = SockAddrStorage::zeroed();
    let mut len = storage.size_of();
    // SAFETY: storage is large enough and `len` says so.
    let addr = unsafe {
        check(libc::getsockname(
            fd,
            std::ptr::from_mut(&mut storage).cast(),
            &raw mut len,
        ))
        .ok()?;
        SockAddr::new(storage, len)
    };
    addr.as_socket()
}

/// Blocks every signal in the calling thread, so that the interpreter's main thread gets them all.
pub fn block_all_signals() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set before it is used.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Whether this kernel knows `IP_LOCAL_PORT_RANGE` (6.3 and later). Three syscalls; asked once at start.
pub fn has_local_port_range() -> bool {
    stream_socket(libc::AF_INET)
        .and_then(|fd| local_port_range(fd.as_raw_fd(), 0, 0))
        .is_ok()
}

/// An IPv4 address that came in mapped into IPv6 (`::ffff:a.b.c.d`, from a `[::]` listener), unmapped.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), addr.port()),
            None => addr,
        },
        IpAddr::V4(_) => addr,
    }
}

/// Borrows a descriptor that was inherited, or that the caller keeps open, after checking that it is open.
pub fn borrow(fd: RawFd) -> io::Result<std::os::fd::BorrowedFd<'static>> {
    // SAFETY: no pointers; only asks whether the descriptor is open.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open; inherited descriptors (LISTEN_FDS) stay so for the life of the process, others are duplicated
    // at once.
    Ok(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) })
}

/// Sets O_NONBLOCK. Two syscalls; only for inherited descriptors.
pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)).map(drop)
    }
}
