//! TCP for BGP, in the overlay.

use super::options::{self, TTL};
use super::setup::Transport;
use crate::netns::{self, Netns};
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// The port of BGP.
const PORT: u16 = 179;
/// Internetwork control, as every routing daemon marks its packets (RFC 4594).
const CS6: u32 = 0xc0;
const CONNECT: Duration = Duration::from_secs(5);
/// Sent data that nobody acknowledges for so long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
const BACKLOG: i32 = 16;

fn socket(netns: &Netns, address: IpAddr) -> io::Result<Socket> {
    let domain = match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    let make = || Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP));
    let socket = netns.run(make).map_err(outside)??;
    // First: whether an address is a local one depends on it.
    netns.bind(&socket)?;
    match address {
        IpAddr::V4(_) => {
            socket.set_tos_v4(CS6)?;
            socket.set_ttl_v4(u32::from(TTL))?;
        }
        IpAddr::V6(_) => {
            socket.set_tclass_v6(CS6)?;
            socket.set_unicast_hops_v6(u32::from(TTL))?;
            socket.set_only_v6(true)?;
        }
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED))?;
    Ok(socket)
}

fn outside(error: netns::Error) -> io::Error {
    io::Error::other(error)
}

/// `scope`: the index of the interface, for a link-local address; else 0.
fn address(ip: IpAddr, scope: u32, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    }
}

/// A socket to listen with on one local address, which need not exist yet. An address of its own,
/// not any, leaves port 179 of all others to whatever BGP daemon the host runs besides.
pub fn bind(netns: &Netns, local: IpAddr, scope: u32) -> io::Result<Socket> {
    let socket = socket(netns, local)?;
    socket.set_reuse_address(true)?;
    match local {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&SockAddr::from(address(local, scope, PORT)))?;
    Ok(socket)
}

/// Listens. Connections inherit what was set on the socket.
pub fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects from `local` to the BGP port of `remote`.
pub async fn connect(
    netns: Netns,
    local: IpAddr,
    remote: IpAddr,
    transport: Transport,
) -> io::Result<TcpStream> {
    let socket = socket(&netns, local)?;
    options::set_minimum_ttl(&socket, remote, transport.minimum_ttl())?;
    if let Some(password) = &transport.password {
        options::set_md5(&socket, IpNet::from(remote), Some(password))?;
    }
    socket.bind(&SockAddr::from(address(local, transport.scope, 0)))?;
    let socket = TcpSocket::from_std_stream(socket.into());
    timeout(
        CONNECT,
        socket.connect(address(remote, transport.scope, PORT)),
    )
    .await
    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
