//! Malformed headers, OPENs and ROUTE-REFRESHes, and what each error is answered with.

use routemesh_bgp::wire::notification::{code, header, open, route_refresh};
use routemesh_bgp::wire::*;

const INTERNAL: Context = Context {
    four_octet_as: true,
    extended_next_hop: true,
    internal: true,
    ..Context::UNKNOWN
};

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend((19 + body.len() as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// RFC 4271 section 6.1: each error with its data, from the header alone where that will do.
#[test]
fn wrong_headers() {
    let header_of = |length: u16, kind: u8| {
        let mut bytes = vec![0xff; 16];
        bytes.extend(length.to_be_bytes());
        bytes.push(kind);
        bytes
    };
    let lengths = [
        (0, 4),
        (18, 4),
        (20, 4),
        (4097, 2),
        (65535, 2),
        (28, 1),
        (22, 2),
        (20, 3),
        (22, 5),
        (24, 5),
        (18, 77),
        (4097, 77),
    ];
    for (length, kind) in lengths {
        let data = u16::to_be_bytes(length);
        let expected = Notification::new(code::HEADER, header::BAD_LENGTH, data);
        let bytes = header_of(length, kind);
        let result = decode(&bytes, &INTERNAL);
        assert_eq!(result, Err(expected), "{length} {kind}");
    }
    for kind in [0, 6, 255] {
        let expected = Notification::new(code::HEADER, header::BAD_TYPE, [kind]);
        assert_eq!(decode(&header_of(19, kind), &INTERNAL), Err(expected));
    }
    for byte in 0..16 {
        let mut bytes = header_of(19, 4);
        bytes[byte] = 0xfe;
        let expected = Notification::new(code::HEADER, header::NOT_SYNCHRONIZED, []);
        assert_eq!(decode(&bytes, &INTERNAL), Err(expected));
    }
    // The shortest and the longest that are good.
    for (length, kind) in [
        (29, 1),
        (4096, 1),
        (23, 2),
        (4096, 2),
        (21, 3),
        (4096, 3),
        (23, 5),
    ] {
        assert_eq!(decode(&header_of(length, kind), &INTERNAL), Ok(None));
    }
}

/// An OPEN of AS 65001, hold time 90, router id 10.0.0.1.
fn open_bytes(parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, parameters.len() as u8];
    body.extend(parameters);
    framed(1, &body)
}

fn decode_open(bytes: &[u8]) -> Result<Open, Notification> {
    match decode(bytes, &Context::default())?
        .expect("complete")
        .message
    {
        Message::Open(open) => Ok(open),
        other => panic!("not an OPEN: {other:?}"),
    }
}

/// RFC 4271 section 6.2, RFC 6286, RFC 7607.
#[test]
fn wrong_opens() {
    let cases: [(usize, &[u8], u8, &[u8]); 7] = [
        (19, &[3], open::UNSUPPORTED_VERSION, &[0, 4]),
        (19, &[5], open::UNSUPPORTED_VERSION, &[0, 4]),
        (20, &[0, 0], open::BAD_PEER_AS, &[0, 0]),
        (22, &[0, 1], open::UNACCEPTABLE_HOLD_TIME, &[0, 1]),
        (22, &[0, 2], open::UNACCEPTABLE_HOLD_TIME, &[0, 2]),
        (24, &[0, 0, 0, 0], open::BAD_IDENTIFIER, &[0; 4]),
        // More parameters than there are.
        (28, &[1], open::UNSPECIFIC, &[]),
    ];
    for (at, wrong, subcode, data) in cases {
        let mut bytes = open_bytes(&[]);
        bytes[at..at + wrong.len()].copy_from_slice(wrong);
        let expected = Notification::new(code::OPEN, subcode, data);
        assert_eq!(decode_open(&bytes), Err(expected), "{at} {wrong:?}");
    }
    let mut more = open_bytes(&[2, 2, 2, 0]);
    more[28] = 0;
    let expected = Notification::new(code::OPEN, open::UNSPECIFIC, []);
    assert_eq!(decode_open(&more), Err(expected));
    for hold_time in [0, 3] {
        let mut bytes = open_bytes(&[]);
        bytes[23] = hold_time;
        let open = decode_open(&bytes).expect("good");
        assert_eq!(open.hold_time, u16::from(hold_time));
    }
}

#[test]
fn wrong_parameters() {
    let families = [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
    let cases: &[(&[u8], u8, &[u8])] = &[
        (&[2, 6, 1, 4, 0, 1, 0], open::UNSPECIFIC, &[]),
        (&[2], open::UNSPECIFIC, &[]),
        (&[1, 1, 0], open::UNSUPPORTED_PARAMETER, &[]),
        (&[7, 0], open::UNSUPPORTED_PARAMETER, &[]),
        // Capabilities: too long for the parameter, or of a wrong length.
        (&[2, 3, 1, 4, 0], open::UNSPECIFIC, &[]),
        (&[2, 1, 2], open::UNSPECIFIC, &[]),
        (&[2, 5, 1, 3, 0, 1, 0], open::UNSPECIFIC, &[]),
        (&[2, 7, 1, 5, 0, 1, 0, 1, 0], open::UNSPECIFIC, &[]),
        (&[2, 3, 2, 1, 0], open::UNSPECIFIC, &[]),
        (&[2, 5, 65, 3, 0, 0, 1], open::UNSPECIFIC, &[]),
        (&[2, 7, 5, 5, 0, 1, 0, 1, 0], open::UNSPECIFIC, &[]),
        (&[2, 3, 64, 1, 0], open::UNSPECIFIC, &[]),
        (&[2, 7, 64, 5, 0, 120, 0, 1, 1], open::UNSPECIFIC, &[]),
        // RFC 8654, 9234, 7911, 7313, 9494.
        (&[2, 3, 6, 1, 0], open::UNSPECIFIC, &[]),
        (&[2, 2, 9, 0], open::UNSPECIFIC, &[]),
        (&[2, 4, 9, 2, 3, 3], open::UNSPECIFIC, &[]),
        (&[2, 5, 69, 3, 0, 1, 1], open::UNSPECIFIC, &[]),
        (&[2, 7, 69, 5, 0, 1, 1, 3, 0], open::UNSPECIFIC, &[]),
        (&[2, 3, 70, 1, 0], open::UNSPECIFIC, &[]),
        (&[2, 8, 71, 6, 0, 1, 1, 0, 0, 9], open::UNSPECIFIC, &[]),
        (&[2, 6, 9, 1, 3, 9, 1, 4], open::ROLE_MISMATCH, &[]),
        // AS 0, and no family in common.
        (&[2, 6, 65, 4, 0, 0, 0, 0], open::BAD_PEER_AS, &[0; 4]),
        (
            &[2, 6, 1, 4, 0, 25, 0, 65],
            open::UNSUPPORTED_CAPABILITY,
            &families,
        ),
        // Extended lengths: too long, too short.
        (&[255, 0, 4, 2, 0, 2, 2], open::UNSPECIFIC, &[]),
        (&[255, 0], open::UNSPECIFIC, &[]),
    ];
    for (parameters, subcode, data) in cases {
        let expected = Notification::new(code::OPEN, *subcode, *data);
        let result = decode_open(&open_bytes(parameters));
        assert_eq!(result, Err(expected), "{parameters:?}");
    }
}

#[test]
fn capabilities_of_all_kinds() {
    let none = decode_open(&open_bytes(&[])).expect("good");
    assert_eq!(none.capabilities, Capabilities::default());

    // Unknown ones, unknown families beside known ones, several parameters, each thing twice.
    let parameters = [
        &[2, 4, 70, 0, 199, 0][..],
        &[2, 12, 1, 4, 0, 25, 0, 65, 1, 4, 0, 2, 0xff, 1],
        &[2, 8, 1, 4, 0, 2, 0, 1, 2, 0],
        &[
            2, 20, 5, 18, 0, 1, 0, 1, 0, 2, 0, 2, 0, 1, 0, 1, 0, 1, 0, 2, 0, 2,
        ],
        &[2, 4, 64, 2, 0x80, 1],
        &[
            2, 16, 64, 14, 0, 120, 0, 1, 1, 0x80, 0, 1, 1, 0, 0, 99, 1, 0x80,
        ],
        &[2, 6, 65, 4, 0, 1, 0, 0],
    ]
    .concat();
    let all = decode_open(&open_bytes(&parameters)).expect("good");
    assert_eq!(all.asn, 65536);
    let expected = Capabilities {
        families: [Family::Ipv6].into(),
        extended_next_hop: true,
        route_refresh: true,
        four_octet_as: true,
        graceful_restart: Some(GracefulRestart {
            restart_time: 120,
            families: vec![(Family::Ipv4, false)],
            ..GracefulRestart::default()
        }),
        enhanced_route_refresh: true,
        ..Capabilities::default()
    };
    assert_eq!(all.capabilities, expected);

    // Roles: the same one twice, and one that is not assigned. Extended messages.
    let roles = decode_open(&open_bytes(&[2, 8, 9, 1, 3, 9, 1, 3, 6, 0])).expect("good");
    assert_eq!(roles.capabilities.role, Some(Role::Customer));
    assert!(roles.capabilities.extended_messages);
    let roles = decode_open(&open_bytes(&[2, 3, 9, 1, 200])).expect("good");
    assert_eq!(roles.capabilities.role, Some(Role::Unassigned(200)));

    // ADD-PATH, as the peer sees it; with one undefined value nothing of it counts.
    let add_path = |ipv6, directions| {
        let parameter = [
            2, 14, 69, 12, 0, 1, 1, 1, 0, 25, 65, 3, 0, 2, ipv6, directions,
        ];
        let open = decode_open(&open_bytes(&parameter)).expect("good");
        open.capabilities.add_path
    };
    let (receive, send) = (
        Directions {
            receive: true,
            send: false,
        },
        Directions::BOTH,
    );
    let both = PerFamily {
        ipv4: receive,
        ipv6: send,
    };
    assert_eq!(add_path(1, 3), both);
    assert_eq!(
        add_path(1, 2).ipv6,
        Directions {
            receive: false,
            send: true
        }
    );
    assert_eq!(add_path(128, 3).ipv6, Directions::NEITHER);
    assert_eq!(add_path(1, 0), PerFamily::default());
    assert_eq!(add_path(1, 4), PerFamily::default());

    // Long-lived graceful restart, and the N bit.
    let parameter = [
        2, 20, 71, 14, 0, 1, 1, 0x80, 1, 2, 3, 0, 2, 1, 0x7f, 0, 0, 9, 64, 2, 0x40, 5,
    ];
    let capabilities = decode_open(&open_bytes(&parameter))
        .expect("good")
        .capabilities;
    let long_lived = |forwarding, seconds| {
        Some(LongLived {
            forwarding,
            seconds,
        })
    };
    assert_eq!(capabilities.long_lived.ipv4, long_lived(true, 0x010203));
    assert_eq!(capabilities.long_lived.ipv6, long_lived(false, 9));
    let restart = capabilities.graceful_restart.expect("graceful restart");
    assert!(restart.notification && !restart.restarting);

    // RFC 9072, where a parameter's length has two bytes.
    let extended = [255, 0, 5, 2, 0, 2, 2, 0];
    let extended = decode_open(&open_bytes(&extended)).expect("good");
    assert!(extended.capabilities.route_refresh);
}

/// RFC 2918 section 4: a family that we do not have is no error.
#[test]
fn a_refresh_for_another_family_asks_for_nothing() {
    let refresh = framed(5, &[0, 25, 0, 65]);
    let decoded = decode(&refresh, &INTERNAL).expect("good");
    let message = decoded.expect("complete").message;
    assert_eq!(message, Message::Update(UpdateView::default()));
    let mut bytes = Vec::new();
    encode(&message.to_owned(), &INTERNAL, &mut bytes);
    assert_eq!(bytes, [], "an empty UPDATE would be End-of-RIB");
}

/// RFC 8654 sections 4 and 5: longer UPDATEs and NOTIFICATIONs from those whom we told so, while OPEN
/// and KEEPALIVE stay as they are.
#[test]
fn extended_messages() {
    let extended = Context {
        extended_messages: Directions {
            receive: true,
            send: false,
        },
        ..INTERNAL
    };
    let header_of = |length: u16, kind: u8| {
        let mut bytes = vec![0xff; 16];
        bytes.extend(length.to_be_bytes());
        bytes.push(kind);
        bytes
    };
    for (length, kind) in [(4097, 2), (65535, 2), (4097, 3), (65535, 3)] {
        assert_eq!(decode(&header_of(length, kind), &extended), Ok(None));
    }
    for (length, kind) in [(4097, 1), (65535, 1), (4097, 4), (4097, 5), (4097, 2)] {
        let context = if kind == 2 { INTERNAL } else { extended };
        let data = u16::to_be_bytes(length);
        let expected = Notification::new(code::HEADER, header::BAD_LENGTH, data);
        let bytes = header_of(length, kind);
        assert_eq!(decode(&bytes, &context), Err(expected), "{length} {kind}");
    }
}

const ENHANCED: Context = Context {
    enhanced_route_refresh: true,
    ..INTERNAL
};

/// RFC 7313 section 5.
#[test]
fn refreshes_begin_and_end() {
    let refresh = |body: &[u8], context: &Context| {
        let bytes = framed(5, body);
        decode(&bytes, context).map(|it| it.expect("complete").message.to_owned())
    };
    let told = |family, refresh| Ok(Message::RouteRefresh(family, refresh));
    let subtypes = [Refresh::Request, Refresh::Begin, Refresh::End];
    for (subtype, expected) in (0..).zip(subtypes) {
        let body = [0, 2, subtype, 1];
        assert_eq!(refresh(&body, &ENHANCED), told(Family::Ipv6, expected));
        // Reserved, where nobody speaks of demarcation.
        let request = told(Family::Ipv6, Refresh::Request);
        assert_eq!(refresh(&body, &INTERNAL), request);
    }
    let ignored = Ok(Message::Update(Update::default()));
    assert_eq!(refresh(&[0, 1, 3, 1], &ENHANCED), ignored);
    assert_eq!(refresh(&[0, 1, 255, 1], &ENHANCED), ignored);
    for subtype in [1, 2] {
        let body = [0, 1, subtype, 1, 0];
        let data = framed(5, &body);
        let expected = Notification::new(code::ROUTE_REFRESH, route_refresh::INVALID_LENGTH, data);
        assert_eq!(refresh(&body, &ENHANCED), Err(expected));
    }
    for (body, context) in [([0, 1, 0, 1, 0], ENHANCED), ([0, 1, 1, 1, 0], INTERNAL)] {
        let expected = Notification::new(code::HEADER, header::BAD_LENGTH, [0, 24]);
        assert_eq!(refresh(&body, &context), Err(expected));
    }
}
