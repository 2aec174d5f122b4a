//! Non-blocking sockets as the load, the sink and the relay need them.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Protocol, Socket, Type};

use crate::address::Address;
use crate::sys;

/// A listening socket. A unix path left behind by a dead process is replaced.
pub fn listen(address: &Address) -> io::Result<Socket> {
    let socket = Socket::new(address.sockaddr.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(path) = address.sockaddr.as_pathname() {
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            let _ = std::fs::remove_file(path); // absent is what we want
        }
    } else {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.sockaddr)?;
    socket.listen(4096)?;
    Ok(socket)
}

/// Starts a connection; it is established or failed when the socket becomes writable.
pub fn connect(address: &Address, source: Option<IpAddr>) -> io::Result<Socket> {
    let protocol = (!address.is_unix()).then_some(Protocol::TCP);
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(address.sockaddr.domain(), kind, protocol)?;
    if let Some(ip) = source {
        sys::set_bind_address_no_port(socket.as_fd())?;
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    match socket.connect(&address.sockaddr) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Accepts one connection, non-blocking.
pub fn accept(listener: &Socket) -> io::Result<Socket> {
    sys::accept(listener.as_fd())
}

/// Closes with a reset: no TIME_WAIT on either side, unread data of the peer survives.
pub fn reset(socket: Socket) {
    // Fails only on a socket that is closed already; the plain close below is right then.
    let _ = socket.set_linger(Some(Duration::ZERO));
    drop(socket);
}

/// Closes as libmysql does: `shutdown(RDWR)`, then `close`. Source: vio/viosocket.c, `vio_shutdown`.
pub fn close_like_libmysql(socket: Socket) {
    let _ = socket.shutdown(Shutdown::Both); // ENOTCONN when the peer was faster: libmysql ignores it
    drop(socket);
}

/// True for the parts of the system that mean "later".
pub fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
