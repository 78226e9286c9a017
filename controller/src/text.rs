//! Addresses as text, fast: a large mesh has millions of them.

use std::net::{IpAddr, Ipv6Addr};

/// As its `Display` writes it (RFC 5952).
pub(crate) fn address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => ipv6(address),
    }
}

/// The same of an IPv6 address.
pub(crate) fn ipv6(address: Ipv6Addr) -> String {
    let segments = address.segments();
    // Those with an IPv4 address in them are written otherwise.
    if segments.iter().take(5).all(|it| *it == 0) {
        return address.to_string();
    }
    // The longest run of two zeros or more, the first of those.
    let (mut run, mut longest) = (0..0, 0..0);
    for (at, segment) in segments.iter().enumerate() {
        if *segment != 0 {
            run = at + 1..at + 1;
            continue;
        }
        run.end = at + 1;
        if run.len() > longest.len() && run.len() > 1 {
            longest = run.clone();
        }
    }
    let mut text = String::with_capacity(39);
    for (at, segment) in segments.iter().enumerate() {
        if longest.contains(&at) {
            if at == longest.start {
                text.push_str("::");
            }
            continue;
        }
        if at > 0 && at != longest.end {
            text.push(':');
        }
        let digits = (u16::BITS - segment.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let digit = u32::from(segment >> (4 * digit)) & 0xf;
            text.extend(char::from_digit(digit, 16));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_address_is_written_as_it_always_is(
            segments in proptest::array::uniform8(prop_oneof![Just(0u16), 0u16..20, any::<u16>()]),
        ) {
            let v6 = Ipv6Addr::from(segments);
            prop_assert_eq!(ipv6(v6), v6.to_string());
        }
    }
}
