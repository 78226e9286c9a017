//! TCP as the network of the tests has it: connections that delay, stall, break and reset. Nothing
//! is lost or reordered within a connection, as TCP sends again what a link loses.

use crate::network::{Name, Network, link, seconds};
use routemesh_bgp::{ConnId, Input, Time};
use std::time::Duration;

/// How long a SYN that nobody answers is waited for.
pub const SYN_TIMEOUT: Duration = Duration::from_secs(7);
/// What a kernel takes from a process before the other process has read it.
const BUFFER: usize = 64 * 1024;

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub node: Name,
    /// False once the process has closed it, or was killed.
    pub open: bool,
    /// Accepted or connected, as far as the speaker knows.
    pub known: bool,
    /// What was sent on it arrives in order.
    pub last_arrival: Time,
    /// Bytes that the kernel took, and the other process did not yet.
    pub buffered: usize,
    /// The kernel takes more.
    pub writable: bool,
    /// It is about to say so.
    pub telling: bool,
}

#[derive(Debug)]
pub enum Packet {
    Syn {
        from: Name,
        to: Name,
        attempt: u64,
    },
    SynAck {
        conn: u64,
        attempt: u64,
    },
    Ack {
        conn: u64,
    },
    Data {
        conn: u64,
        to: Name,
        bytes: Vec<u8>,
    },
    /// FIN or RST.
    Close {
        conn: u64,
        to: Name,
    },
    SynTimeout {
        from: Name,
        to: Name,
        attempt: u64,
    },
    Writable {
        conn: u64,
        node: Name,
    },
}

impl Network {
    pub fn queue(&mut self, at: Time, packet: Packet) {
        self.serial += 1;
        self.queue.insert((at, self.serial), packet);
    }

    pub fn delay(&self, a: Name, b: Name) -> Duration {
        let delay = self.delays.get(&link(a, b));
        delay.copied().unwrap_or(seconds(0.01))
    }

    pub fn arrive(&mut self, packet: Packet) {
        let now = self.now;
        let [from, to] = self.way(&packet);
        let cut = self.cut.contains(&[from, to]);
        if cut && matches!(packet, Packet::Syn { .. } | Packet::SynAck { .. }) {
            return;
        }
        if cut || self.paused.contains(to) {
            self.stalled.entry([from, to]).or_default().push(packet);
            return;
        }
        match packet {
            Packet::Syn { from, to, attempt } => {
                let delay = self.delay(from, to);
                let listens = self
                    .nodes
                    .get(to)
                    .is_some_and(|node| node.speaker.is_some());
                if !listens {
                    self.queue(now + delay, Packet::SynTimeout { from, to, attempt });
                    return;
                }
                self.serial += 1;
                let conn = self.serial;
                let end = |node| End {
                    node,
                    open: true,
                    known: false,
                    last_arrival: now,
                    buffered: 0,
                    writable: true,
                    telling: false,
                };
                self.conns.insert(conn, [end(from), end(to)]);
                self.of_link.insert((link(from, to), conn));
                self.queue(now + delay, Packet::SynAck { conn, attempt });
            }
            Packet::SynAck { conn, attempt } => {
                let [from, to] = self.conns[&conn].map(|end| end.node);
                let wanted = self.nodes[from].attempts.get(to) == Some(&attempt);
                if !wanted {
                    self.close_end(conn, from, true);
                    return;
                }
                self.nodes.get_mut(from).unwrap().attempts.remove(to);
                let end = &mut self.conns.get_mut(&conn).unwrap()[0];
                if !end.open {
                    // Reset before it was there.
                    self.input(from, Input::ConnectFailed { peer: to.into() });
                    return;
                }
                end.known = true;
                self.send(conn, from, Packet::Ack { conn });
                let input = Input::Connected {
                    peer: to.into(),
                    conn: ConnId(conn * 2),
                    active: true,
                };
                self.input(from, input);
            }
            Packet::Ack { conn } => {
                let [from, to] = self.conns[&conn].map(|end| end.node);
                let end = &mut self.conns.get_mut(&conn).unwrap()[1];
                if !end.open {
                    return;
                }
                end.known = true;
                let input = Input::Connected {
                    peer: from.into(),
                    conn: ConnId(conn * 2 + 1),
                    active: false,
                };
                self.input(to, input);
            }
            Packet::Data { conn, to, bytes } => {
                let side = self.side(conn, to);
                let end = self.conns[&conn][side];
                self.taken(conn, 1 - side, bytes.len());
                if end.open && end.known {
                    let conn = ConnId(conn * 2 + side as u64);
                    self.input(to, Input::Received { conn, bytes });
                } else if self.nodes[to].speaker.is_some() {
                    // The kernel knows no such connection: RST.
                    let from = self.conns[&conn][1 - side].node;
                    let delay = self.delay(from, to);
                    self.queue(now + delay, Packet::Close { conn, to: from });
                }
            }
            Packet::Close { conn, to } => {
                let side = self.side(conn, to);
                let end = &mut self.conns.get_mut(&conn).unwrap()[side];
                if end.open {
                    end.open = false;
                    let conn = ConnId(conn * 2 + side as u64);
                    self.input(to, Input::Closed { conn });
                }
            }
            Packet::SynTimeout { from, to, attempt } => {
                if self.nodes[from].attempts.get(to) == Some(&attempt) {
                    self.nodes.get_mut(from).unwrap().attempts.remove(to);
                    self.input(from, Input::ConnectFailed { peer: to.into() });
                }
            }
            Packet::Writable { conn, node } => {
                let side = self.side(conn, node);
                let end = &mut self.conns.get_mut(&conn).unwrap()[side];
                end.telling = false;
                if end.open && end.writable {
                    let conn = ConnId(conn * 2 + side as u64);
                    self.input(node, Input::Writable { conn });
                }
            }
        }
    }

    /// From whom to whom a packet goes. What a kernel tells its own process goes from and to it.
    fn way(&self, packet: &Packet) -> [Name; 2] {
        let ends = |conn: &u64| self.conns[conn].map(|end| end.node);
        let towards = |conn: &u64, to: Name| match ends(conn) {
            [a, b] if a == to => [b, a],
            ends => ends,
        };
        match packet {
            Packet::Syn { from, to, .. } => [from, to],
            Packet::SynAck { conn, .. } => towards(conn, ends(conn)[0]),
            Packet::Ack { conn } => ends(conn),
            Packet::Data { conn, to, .. } | Packet::Close { conn, to } => towards(conn, to),
            Packet::SynTimeout { from, .. } => [from, from],
            Packet::Writable { node, .. } => [node, node],
        }
    }

    /// A process sends bytes. Its kernel takes them; it says so unless it has too many by now.
    pub fn send_bytes(&mut self, conn: u64, from: Name, bytes: Vec<u8>) {
        let side = self.side(conn, from);
        let ends = self.conns.get_mut(&conn).unwrap();
        let to = ends[1 - side].node;
        ends[side].buffered += bytes.len();
        ends[side].writable = ends[side].buffered < BUFFER;
        if ends[side].writable {
            self.tell(conn, side);
        }
        self.send(conn, from, Packet::Data { conn, to, bytes });
    }

    /// The other process has taken bytes, or its kernel has thrown them away.
    fn taken(&mut self, conn: u64, side: usize, bytes: usize) {
        let end = &mut self.conns.get_mut(&conn).unwrap()[side];
        end.buffered -= bytes;
        if !end.writable && end.buffered < BUFFER {
            end.writable = true;
            self.tell(conn, side);
        }
    }

    /// Tells a process that its kernel takes more.
    fn tell(&mut self, conn: u64, side: usize) {
        let end = &mut self.conns.get_mut(&conn).unwrap()[side];
        if !end.telling {
            end.telling = true;
            let (at, node) = (self.now + self.slowness, end.node);
            self.queue(at, Packet::Writable { conn, node });
        }
    }

    pub fn side(&self, conn: u64, node: Name) -> usize {
        usize::from(self.conns[&conn][1].node == node)
    }

    /// Puts a packet on the way from a node, behind what it sent before.
    pub fn send(&mut self, conn: u64, from: Name, packet: Packet) {
        let side = self.side(conn, from);
        let delay = {
            let ends = &self.conns[&conn];
            self.delay(ends[0].node, ends[1].node)
        };
        let end = &mut self.conns.get_mut(&conn).unwrap()[side];
        end.last_arrival = end.last_arrival.max(self.now + delay);
        let at = end.last_arrival;
        self.queue(at, packet);
    }

    pub fn close_end(&mut self, conn: u64, node: Name, tell: bool) {
        let side = self.side(conn, node);
        let end = &mut self.conns.get_mut(&conn).unwrap()[side];
        if end.node == node && end.open {
            end.open = false;
            if tell {
                let to = self.conns[&conn][1 - side].node;
                self.send(conn, node, Packet::Close { conn, to });
            }
        }
    }
}
