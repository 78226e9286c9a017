//! The control packet (RFC 5880 section 4.1).

use std::fmt;
use std::num::NonZeroU32;

/// A control packet without an authentication section is so long, in bytes.
pub const LENGTH: usize = 24;
const VERSION: u8 = 1;

const POLL: u8 = 1 << 5;
const FINAL: u8 = 1 << 4;
const CONTROL_PLANE_INDEPENDENT: u8 = 1 << 3;
const AUTHENTICATED: u8 = 1 << 2;
const DEMAND: u8 = 1 << 1;
const MULTIPOINT: u8 = 1;

/// A session's state (RFC 5880 section 6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Held down by an operator.
    AdminDown,
    /// Nothing is known of the other end, or it does not hear us.
    #[default]
    Down,
    /// The other end is heard and is not known to hear us.
    Init,
    /// Both hear each other.
    Up,
}

/// Why a session went down (RFC 5880 section 4.1, RFC 6428). Others are kept as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// It never went down.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const TIME_EXPIRED: Self = Self(1);
    /// The other end said that it is down.
    pub const NEIGHBOR_DOWN: Self = Self(3);
    /// What forwards was reset.
    pub const FORWARDING_PLANE_RESET: Self = Self(4);
    /// Something else found the way to be dead.
    pub const PATH_DOWN: Self = Self(5);
    /// A way that this one is made of is dead.
    pub const CONCATENATED_PATH_DOWN: Self = Self(6);
    /// An operator wants it so.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);
}

/// What one end tells the other. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last went down.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// An answer with `is_final` is wanted.
    pub poll: bool,
    /// Answers a packet with `poll`.
    pub is_final: bool,
    /// The sender's BFD does not share the fate of its control plane: it goes on while that restarts.
    pub control_plane_independent: bool,
    /// The sender wants to be left alone while all is well.
    pub demand: bool,
    /// The sender is down when so many packets in a row are lost; not 0.
    pub multiplier: u8,
    /// The sender's name for the session.
    pub my_discriminator: NonZeroU32,
    /// The receiver's name for the session; 0 while the sender does not know it.
    pub your_discriminator: u32,
    /// The sender would like to send this often, at most.
    pub desired_min_tx: u32,
    /// The sender can receive this often, at most; 0: nothing at all.
    pub required_min_rx: u32,
    /// The sender can receive echoes this often, at most; 0: none.
    pub required_min_echo_rx: u32,
}

/// Why a packet is discarded before any session is asked (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than a packet is, or than it says.
    Short,
    /// Of another version.
    Version(u8),
    /// Its length cannot be.
    Length(u8),
    /// No session is of this multiplier.
    ZeroMultiplier,
    /// For several receivers.
    Multipoint,
    /// It does not name its session.
    NoDiscriminator,
    /// It does not name ours, though its state says that it must know it.
    NotNamed(State),
    /// With an authentication section, and none was agreed on.
    Authenticated,
}

impl Packet {
    /// Reads what came in one UDP datagram, and discards what the RFC says is to be discarded whatever
    /// the session. What follows the packet is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let Some(fixed) = bytes.first_chunk::<LENGTH>() else {
            return Err(Malformed::Short);
        };
        let [first, flags, multiplier, length, rest @ ..] = *fixed;
        let [m0, m1, m2, m3, y0, y1, y2, y3, rest @ ..] = rest;
        let [t0, t1, t2, t3, r0, r1, r2, r3, e0, e1, e2, e3] = rest;
        let has = |flag: u8| flags & flag != 0;
        if first >> 5 != VERSION {
            return Err(Malformed::Version(first >> 5));
        }
        // With authentication there are two bytes more at least.
        let least = LENGTH + if has(AUTHENTICATED) { 2 } else { 0 };
        match usize::from(length) {
            length if length < least => return Err(Malformed::Length(fixed[3])),
            length if length > bytes.len() => return Err(Malformed::Short),
            _ => {}
        }
        if multiplier == 0 {
            return Err(Malformed::ZeroMultiplier);
        }
        if has(MULTIPOINT) {
            return Err(Malformed::Multipoint);
        }
        let my_discriminator = u32::from_be_bytes([m0, m1, m2, m3]);
        let my_discriminator =
            NonZeroU32::new(my_discriminator).ok_or(Malformed::NoDiscriminator)?;
        let your_discriminator = u32::from_be_bytes([y0, y1, y2, y3]);
        let state = State::from_bits(flags >> 6);
        if your_discriminator == 0 && matches!(state, State::Init | State::Up) {
            return Err(Malformed::NotNamed(state));
        }
        if has(AUTHENTICATED) {
            return Err(Malformed::Authenticated);
        }
        Ok(Self {
            diagnostic: Diagnostic(first & 0x1f),
            state,
            poll: has(POLL),
            is_final: has(FINAL),
            control_plane_independent: has(CONTROL_PLANE_INDEPENDENT),
            demand: has(DEMAND),
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: u32::from_be_bytes([t0, t1, t2, t3]),
            required_min_rx: u32::from_be_bytes([r0, r1, r2, r3]),
            required_min_echo_rx: u32::from_be_bytes([e0, e1, e2, e3]),
        })
    }

    /// As it goes into a UDP datagram.
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let flags = (self.state as u8) << 6
            | flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        let [m0, m1, m2, m3] = self.my_discriminator.get().to_be_bytes();
        let [y0, y1, y2, y3] = self.your_discriminator.to_be_bytes();
        let [t0, t1, t2, t3] = self.desired_min_tx.to_be_bytes();
        let [r0, r1, r2, r3] = self.required_min_rx.to_be_bytes();
        let [e0, e1, e2, e3] = self.required_min_echo_rx.to_be_bytes();
        let first = VERSION << 5 | self.diagnostic.0 & 0x1f;
        let length = LENGTH as u8;
        [
            first,
            flags,
            self.multiplier,
            length,
            m0,
            m1,
            m2,
            m3,
            y0,
            y1,
            y2,
            y3,
            t0,
            t1,
            t2,
            t3,
            r0,
            r1,
            r2,
            r3,
            e0,
            e1,
            e2,
            e3,
        ]
    }
}

impl State {
    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// In the RFC's words, in small letters.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            9 => "mis-connectivity defect",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("shorter than it says"),
            Self::Version(version) => write!(f, "of version {version}"),
            Self::Length(length) => write!(f, "of length {length}, which no packet has"),
            Self::ZeroMultiplier => f.write_str("of multiplier 0"),
            Self::Multipoint => f.write_str("for several receivers"),
            Self::NoDiscriminator => f.write_str("without a discriminator"),
            Self::NotNamed(state) => write!(f, "{state} without our discriminator"),
            Self::Authenticated => f.write_str("authenticated, which was not agreed on"),
        }
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good() -> Packet {
        Packet {
            diagnostic: Diagnostic::TIME_EXPIRED,
            state: State::Up,
            poll: true,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            multiplier: 3,
            my_discriminator: NonZeroU32::new(0x0102_0304).unwrap(),
            your_discriminator: 0x0506_0708,
            desired_min_tx: 300_000,
            required_min_rx: 50_000,
            required_min_echo_rx: 0,
        }
    }

    /// Every rule of RFC 5880 section 6.8.6 that needs no session: one byte of a good packet is
    /// another.
    #[test]
    fn what_the_rfc_wants_discarded_is() {
        let table = [
            (0, 0x00, Malformed::Version(0)),
            (0, 0x40, Malformed::Version(2)),
            (1, 0xc0 | AUTHENTICATED, Malformed::Length(24)),
            (1, 0xc0 | MULTIPOINT, Malformed::Multipoint),
            (2, 0, Malformed::ZeroMultiplier),
            (3, 23, Malformed::Length(23)),
            (3, 25, Malformed::Short),
        ];
        for (at, byte, expected) in table {
            let mut bytes = good().encode();
            bytes[at] = byte;
            assert_eq!(Packet::decode(&bytes), Err(expected), "byte {at} is {byte}");
        }
        let mut unnamed = good().encode();
        unnamed[4..8].fill(0);
        assert_eq!(Packet::decode(&unnamed), Err(Malformed::NoDiscriminator));
        for state in [State::AdminDown, State::Down, State::Init, State::Up] {
            let packet = Packet {
                state,
                your_discriminator: 0,
                ..good()
            };
            let expected = match state {
                State::AdminDown | State::Down => Ok(packet),
                State::Init | State::Up => Err(Malformed::NotNamed(state)),
            };
            assert_eq!(Packet::decode(&packet.encode()), expected);
        }
        let mut signed = good().encode().to_vec();
        signed[1] |= AUTHENTICATED;
        signed[3] = 26;
        assert_eq!(Packet::decode(&signed), Err(Malformed::Short));
        signed.extend([1, 2]);
        assert_eq!(Packet::decode(&signed), Err(Malformed::Authenticated));
    }

    #[test]
    fn a_cut_packet_is_short_and_what_follows_one_is_ignored() {
        let bytes = good().encode();
        for length in 0..LENGTH {
            assert_eq!(Packet::decode(&bytes[..length]), Err(Malformed::Short));
        }
        let mut longer = bytes.to_vec();
        longer.extend([0xff; 40]);
        assert_eq!(Packet::decode(&longer), Ok(good()));
    }

    proptest! {
        /// Most of the bytes come out as they went in; the others are none of ours.
        #[test]
        fn any_bytes_are_a_packet_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }

        #[test]
        fn a_packet_with_any_field_set_is_read_back(mut bytes: [u8; LENGTH], state in 0u8..4) {
            bytes[0] = VERSION << 5 | bytes[0] & 0x1f;
            bytes[1] = state << 6 | bytes[1] & 0x3f & !(AUTHENTICATED | MULTIPOINT);
            bytes[2] |= 1;
            bytes[3] = LENGTH as u8;
            bytes[7] |= 1;
            bytes[11] |= 1;
            let packet = Packet::decode(&bytes).unwrap();
            prop_assert_eq!(packet.encode(), bytes);
        }
    }
}
