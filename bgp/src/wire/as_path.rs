//! AS_PATH in both widths, and its reconstruction from AS4_PATH (RFC 4271 section 4.3, RFC 6793).

use super::attribute::AS_TRANS;
use super::reader::Reader;
use super::{AsPath, Segment};

const SET: u8 = 1;
const SEQUENCE: u8 = 2;
/// AS_CONFED_SEQUENCE and AS_CONFED_SET (RFC 5065).
const CONFEDERATION: std::ops::RangeInclusive<u8> = 3..=4;

/// The most ASes that a segment can count.
const MAX_SEGMENT: usize = 255;

/// Reads an AS_PATH; an error says what is wrong with it (RFC 7606 section 7.2, RFC 7607).
pub(super) fn read(bytes: &[u8], four_octet_as: bool) -> Result<AsPath, &'static str> {
    read_segments(bytes, four_octet_as, |_| Err("unknown segment type"))
}

/// Reads an AS4_PATH. Confederation segments do not belong there and are left out (RFC 6793 section 3).
pub(super) fn read_as4(bytes: &[u8]) -> Result<AsPath, &'static str> {
    if bytes.is_empty() {
        return Err("no AS in it");
    }
    read_segments(bytes, true, |kind| match CONFEDERATION.contains(&kind) {
        true => Ok(()),
        false => Err("unknown segment type"),
    })
}

/// `other` says whether a segment that is neither sequence nor set may be left out.
fn read_segments(
    bytes: &[u8],
    four_octet_as: bool,
    other: impl Fn(u8) -> Result<(), &'static str>,
) -> Result<AsPath, &'static str> {
    let mut reader = Reader::new(bytes);
    let mut segments = Vec::new();
    while !reader.is_empty() {
        let (kind, ases) = read_segment(&mut reader, four_octet_as).ok_or("segment too long")?;
        if ases.is_empty() {
            return Err("empty segment");
        }
        if ases.contains(&0) {
            return Err("AS 0");
        }
        match kind {
            SET => segments.push(Segment::Set(ases)),
            SEQUENCE => segments.push(Segment::Sequence(ases)),
            kind => other(kind)?,
        }
    }
    Ok(AsPath(segments))
}

fn read_segment(reader: &mut Reader<'_>, four_octet_as: bool) -> Option<(u8, Vec<u32>)> {
    let kind = reader.u8()?;
    let count = usize::from(reader.u8()?);
    let ases = if four_octet_as {
        let (ases, _) = reader.take(4 * count)?.as_chunks();
        ases.iter().map(|asn| u32::from_be_bytes(*asn)).collect()
    } else {
        let (ases, _) = reader.take(2 * count)?.as_chunks();
        let ases = ases.iter().map(|asn| u16::from_be_bytes(*asn));
        ases.map(u32::from).collect()
    };
    Some((kind, ases))
}

/// Appends the path; ASes that do not fit into two bytes become AS_TRANS. What is too long for one
/// segment becomes several, and empty segments, which no peer accepts, are left out.
pub(super) fn write(path: &AsPath, four_octet_as: bool, out: &mut Vec<u8>) {
    for segment in &path.0 {
        let (kind, ases) = match segment {
            Segment::Set(ases) => (SET, ases),
            Segment::Sequence(ases) => (SEQUENCE, ases),
        };
        for ases in ases.chunks(MAX_SEGMENT) {
            out.extend([kind, ases.len() as u8]);
            if four_octet_as {
                out.extend(ases.iter().flat_map(|asn| asn.to_be_bytes()));
            } else {
                out.extend(ases.iter().flat_map(|asn| two_octets(*asn).to_be_bytes()));
            }
        }
    }
}

/// The AS as a speaker of two octets sees it.
pub(super) fn two_octets(asn: u32) -> u16 {
    u16::try_from(asn).unwrap_or(AS_TRANS)
}

/// Whether two octets cannot express the path.
pub(super) fn needs_as4(path: &AsPath) -> bool {
    path.0.iter().any(|segment| match segment {
        Segment::Set(ases) | Segment::Sequence(ases) => {
            ases.iter().any(|asn| u16::try_from(*asn).is_err())
        }
    })
}

/// The true path (RFC 6793 section 4.2.3): what speakers of two octets put before the part that
/// AS4_PATH tells, and then AS4_PATH. One that tells more than AS_PATH is wrong and ignored.
pub(super) fn merge(path: AsPath, as4: AsPath) -> AsPath {
    let Some(leading) = path.length().checked_sub(as4.length()) else {
        return path;
    };
    let mut merged = first_hops(path, leading);
    let mut told = as4.0.into_iter();
    match (merged.last_mut(), told.next()) {
        (Some(Segment::Sequence(before)), Some(Segment::Sequence(more))) => before.extend(more),
        (_, first) => merged.extend(first),
    }
    merged.extend(told);
    AsPath(merged)
}

fn first_hops(path: AsPath, mut hops: usize) -> Vec<Segment> {
    let mut first = Vec::new();
    for segment in path.0 {
        if hops == 0 {
            break;
        }
        match segment {
            Segment::Sequence(mut ases) => {
                ases.truncate(hops);
                hops -= ases.len();
                first.push(Segment::Sequence(ases));
            }
            set => {
                hops -= 1;
                first.push(set);
            }
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ases: &[u32]) -> Segment {
        Segment::Sequence(ases.to_vec())
    }

    fn set(ases: &[u32]) -> Segment {
        Segment::Set(ases.to_vec())
    }

    #[test]
    fn malformed_paths() {
        let table: [(&[u8], &str); 7] = [
            (&[2, 2, 0, 1], "segment too long"),
            (&[2, 1, 0, 1, 0], "segment too long"),
            (&[2], "segment too long"),
            (&[2, 0], "empty segment"),
            (&[5, 1, 0, 1], "unknown segment type"),
            (&[3, 1, 0, 1], "unknown segment type"),
            (&[2, 2, 0, 1, 0, 0], "AS 0"),
        ];
        for (bytes, expected) in table {
            assert_eq!(read(bytes, false), Err(expected), "{bytes:?}");
        }
        assert_eq!(read(&[], false), Ok(AsPath::default()));
        assert_eq!(read_as4(&[]), Err("no AS in it"));
        assert_eq!(read_as4(&[9, 1, 0, 0, 0, 1]), Err("unknown segment type"));
    }

    #[test]
    fn confederations_are_left_out_of_as4_path() {
        let bytes = [3, 1, 0, 0, 0, 7, 2, 1, 0, 1, 0, 0];
        assert_eq!(read_as4(&bytes), Ok(AsPath(vec![sequence(&[65536])])));
    }

    /// RFC 6793 section 4.2.3, with 23456 for AS_TRANS.
    #[test]
    fn as4_path_fills_in_what_as_trans_hides() {
        let table = [
            // An old speaker prepended itself twice.
            (
                vec![sequence(&[5, 5, 23456, 3])],
                vec![sequence(&[70000, 3])],
                vec![sequence(&[5, 5, 70000, 3])],
            ),
            // Sets count once, whole.
            (
                vec![sequence(&[5]), set(&[1, 2]), sequence(&[23456])],
                vec![sequence(&[70000])],
                vec![sequence(&[5]), set(&[1, 2]), sequence(&[70000])],
            ),
            (
                vec![sequence(&[5, 6]), set(&[23456, 2])],
                vec![sequence(&[6]), set(&[70000, 2])],
                vec![sequence(&[5, 6]), set(&[70000, 2])],
            ),
            // Several sequences before the part that is told; the seam closes.
            (
                vec![sequence(&[5, 6]), sequence(&[7]), sequence(&[23456, 8])],
                vec![sequence(&[70000]), sequence(&[8])],
                vec![sequence(&[5, 6]), sequence(&[7, 70000]), sequence(&[8])],
            ),
            // All of it is told.
            (
                vec![sequence(&[23456])],
                vec![sequence(&[70000])],
                vec![sequence(&[70000])],
            ),
            // More is told than there is: ignored.
            (
                vec![sequence(&[23456])],
                vec![sequence(&[70000, 1])],
                vec![sequence(&[23456])],
            ),
        ];
        for (path, as4, expected) in table {
            assert_eq!(merge(AsPath(path), AsPath(as4)), AsPath(expected));
        }
    }

    #[test]
    fn long_segments_are_split_and_empty_ones_left_out() {
        let path = AsPath(vec![sequence(&[]), sequence(&[9; 300])]);
        let mut bytes = Vec::new();
        write(&path, true, &mut bytes);
        let split = AsPath(vec![sequence(&[9; 255]), sequence(&[9; 45])]);
        assert_eq!(read(&bytes, true), Ok(split));
    }
}
