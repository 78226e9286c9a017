//! The link bandwidth extended community (draft-ietf-idr-link-bandwidth).

/// Type of a community of a two-octet AS (RFC 4360 section 3.1).
const TWO_OCTET_AS: u8 = 0x00;
/// Bit of the type: not carried on to other ASes (RFC 4360 section 2).
const NON_TRANSITIVE: u8 = 0x40;
const LINK_BANDWIDTH: u8 = 0x04;

/// How much a path can carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkBandwidth {
    /// Whose link it is: AS_TRANS for an AS that does not fit.
    pub asn: u16,
    /// Above zero, and finite.
    pub bytes_per_second: f32,
}

impl LinkBandwidth {
    /// The bandwidth among extended communities. Of several the smallest, so that their order makes no
    /// difference; `None` also where all are zero, negative, infinite, no number, or subnormal.
    pub fn find(extended_communities: &[[u8; 8]]) -> Option<Self> {
        let all = extended_communities.iter().filter_map(Self::read);
        all.min_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second))
    }

    /// Both the non-transitive form of the draft and the transitive one, which some send.
    fn read(community: &[u8; 8]) -> Option<Self> {
        let [kind, LINK_BANDWIDTH, high, low, float @ ..] = *community else {
            return None;
        };
        let bytes_per_second = f32::from_be_bytes(float);
        let usable = bytes_per_second.is_normal() && bytes_per_second > 0.0;
        (kind & !NON_TRANSITIVE == TWO_OCTET_AS && usable).then_some(Self {
            asn: u16::from_be_bytes([high, low]),
            bytes_per_second,
        })
    }

    /// As a non-transitive extended community.
    pub fn to_community(self) -> [u8; 8] {
        let [high, low] = self.asn.to_be_bytes();
        let [a, b, c, d] = self.bytes_per_second.to_be_bytes();
        [
            TWO_OCTET_AS | NON_TRANSITIVE,
            LINK_BANDWIDTH,
            high,
            low,
            a,
            b,
            c,
            d,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: u8, subtype: u8, value: f32) -> [u8; 8] {
        let [a, b, c, d] = value.to_be_bytes();
        [kind, subtype, 0xfd, 0xe8, a, b, c, d]
    }

    #[test]
    fn a_bandwidth_is_found_in_either_form_and_only_where_it_is_one() {
        let found = |list: &[[u8; 8]]| LinkBandwidth::find(list).map(|it| it.bytes_per_second);
        assert_eq!(found(&[with(0x40, 4, 125e6)]), Some(125e6));
        assert_eq!(found(&[with(0x00, 4, 125e6)]), Some(125e6));
        // A route target, another type, and the bandwidth of no use.
        assert_eq!(found(&[with(0x00, 2, 1.0), with(0x41, 4, 1.0)]), None);
        for value in [
            0.0,
            -0.0,
            -1.0,
            f32::INFINITY,
            f32::NAN,
            1e-40,
            f32::NEG_INFINITY,
        ] {
            assert_eq!(found(&[with(0x40, 4, value)]), None, "{value}");
            let beside = [with(0x40, 4, value), with(0x40, 4, 2.0)];
            assert_eq!(found(&beside), Some(2.0), "{value}");
        }
        assert_eq!(found(&[with(0x40, 4, 3.0), with(0, 4, 2.0)]), Some(2.0));
        assert_eq!(found(&[with(0, 4, 2.0), with(0x40, 4, 3.0)]), Some(2.0));
    }

    /// As FRR says 1 Gbit/s of AS 65000.
    #[test]
    fn it_is_written_as_it_is_read() {
        let community = [0x40, 4, 0xfd, 0xe8, 0x4c, 0xee, 0x6b, 0x28];
        let bandwidth = LinkBandwidth {
            asn: 65000,
            bytes_per_second: 125e6,
        };
        assert_eq!(LinkBandwidth::find(&[community]), Some(bandwidth));
        assert_eq!(bandwidth.to_community(), community);
    }
}
