//! Packets of BIRD 2.0.12 and FRR 8.4.4, captured on a link between the two.

use routemesh_bfd::{Diagnostic, Packet, State};

/// Bytes; diagnostic, state, poll, final; multiplier; discriminators; the three times.
type Vector = (
    &'static str,
    (u8, State, bool, bool),
    u8,
    (u32, u32),
    (u32, u32, u32),
);

const BIRD: u32 = 0x075b_08e7;
const FRR: u32 = 0x836a_071e;
const FRR_AGAIN: u32 = 0xb6b0_e05f;

const VECTORS: [Vector; 11] = [
    (
        "20400318075b08e700000000000f4240000493e000000000",
        (0, State::Down, false, false),
        3,
        (BIRD, 0),
        (1_000_000, 300_000, 0),
    ),
    (
        "20800518836a071e075b08e7000f4240000f42400000c350",
        (0, State::Init, false, false),
        5,
        (FRR, BIRD),
        (1_000_000, 1_000_000, 50_000),
    ),
    (
        "20e00318075b08e7836a071e000493e0000493e000000000",
        (0, State::Up, true, false),
        3,
        (BIRD, FRR),
        (300_000, 300_000, 0),
    ),
    (
        "20e00518836a071e075b08e70000c3500000c3500000c350",
        (0, State::Up, true, false),
        5,
        (FRR, BIRD),
        (50_000, 50_000, 50_000),
    ),
    (
        "20d00518836a071e075b08e70000c3500000c3500000c350",
        (0, State::Up, false, true),
        5,
        (FRR, BIRD),
        (50_000, 50_000, 50_000),
    ),
    (
        "20d00318075b08e7836a071e000493e0000493e000000000",
        (0, State::Up, false, true),
        3,
        (BIRD, FRR),
        (300_000, 300_000, 0),
    ),
    (
        "20c00318075b08e7836a071e000493e0000493e000000000",
        (0, State::Up, false, false),
        3,
        (BIRD, FRR),
        (300_000, 300_000, 0),
    ),
    (
        "20c00518836a071e075b08e70000c3500000c3500000c350",
        (0, State::Up, false, false),
        5,
        (FRR, BIRD),
        (50_000, 50_000, 50_000),
    ),
    (
        "21400318075b08e700000000000f4240000493e000000000",
        (1, State::Down, false, false),
        3,
        (BIRD, 0),
        (1_000_000, 300_000, 0),
    ),
    (
        "20800318075b08e7b6b0e05f000f4240000493e000000000",
        (0, State::Init, false, false),
        3,
        (BIRD, FRR_AGAIN),
        (1_000_000, 300_000, 0),
    ),
    (
        "21400518b6b0e05f000000000000c3500000c3500000c350",
        (1, State::Down, false, false),
        5,
        (FRR_AGAIN, 0),
        (50_000, 50_000, 50_000),
    ),
];

#[test]
fn what_daemons_send_is_read_and_written_the_same() {
    for (hex, (diagnostic, state, poll, is_final), multiplier, discriminators, times) in VECTORS {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        let packet = Packet::decode(&bytes).expect(hex);
        let expected = Packet {
            diagnostic: Diagnostic(diagnostic),
            state,
            poll,
            is_final,
            control_plane_independent: false,
            demand: false,
            multiplier,
            my_discriminator: discriminators.0.try_into().expect("not zero"),
            your_discriminator: discriminators.1,
            desired_min_tx: times.0,
            required_min_rx: times.1,
            required_min_echo_rx: times.2,
        };
        assert_eq!(packet, expected, "{hex}");
        assert_eq!(packet.encode().as_slice(), bytes, "{hex}");
    }
}
