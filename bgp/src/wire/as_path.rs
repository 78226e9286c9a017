//! AS_PATH in both widths, and its reconstruction from AS4_PATH (RFC 4271 section 4.3, RFC 6793).

use super::AsPath;
use super::attribute::AS_TRANS;
use super::reader::Reader;

const SET: u8 = 1;
const SEQUENCE: u8 = 2;
/// Of confederations (RFC 5065), which we are no member of.
const CONFED_SEQUENCE: u8 = 3;
const CONFED_SET: u8 = 4;

/// The most ASes that a segment can count.
const MAX_SEGMENT: usize = 255;

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// A set of ASes: such routes are to be withdrawn (RFC 9774 section 3). The RFC allows to be
    /// configured otherwise; we are not, and so have no use for sets at all.
    Set,
    /// Anything else, in words.
    Malformed(&'static str),
}

impl Wrong {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Set => "AS_SET",
            Self::Malformed(reason) => reason,
        }
    }
}

/// Reads an AS_PATH (RFC 7606 section 7.2, RFC 7607).
pub(super) fn read(bytes: &[u8], four_octet_as: bool) -> Result<AsPath, Wrong> {
    read_segments(bytes, four_octet_as, |_| false)
}

/// Reads an AS4_PATH. Confederation segments do not belong there and are left out (RFC 6793
/// section 3).
pub(super) fn read_as4(bytes: &[u8]) -> Result<AsPath, Wrong> {
    if bytes.is_empty() {
        return Err(Wrong::Malformed("no AS in it"));
    }
    read_segments(bytes, true, |kind| kind == CONFED_SEQUENCE)
}

/// `left_out` says whether a segment of an unknown type may be.
fn read_segments(
    bytes: &[u8],
    four_octet_as: bool,
    left_out: impl Fn(u8) -> bool,
) -> Result<AsPath, Wrong> {
    let mut reader = Reader::new(bytes);
    let width = if four_octet_as { 4 } else { 2 };
    // Exact for the usual path of one segment.
    let mut path = Vec::with_capacity(bytes.len() / width);
    while !reader.is_empty() {
        let (kind, ases) =
            take_segment(&mut reader, width).ok_or(Wrong::Malformed("segment too long"))?;
        match kind {
            SET | CONFED_SET => return Err(Wrong::Set),
            _ if ases.is_empty() => return Err(Wrong::Malformed("empty segment")),
            SEQUENCE if four_octet_as => {
                let (ases, _) = ases.as_chunks();
                path.extend(ases.iter().map(|asn| u32::from_be_bytes(*asn)));
            }
            SEQUENCE => {
                let (ases, _) = ases.as_chunks();
                path.extend(ases.iter().map(|asn| u32::from(u16::from_be_bytes(*asn))));
            }
            kind if left_out(kind) => {}
            _ => return Err(Wrong::Malformed("unknown segment type")),
        }
    }
    match path.contains(&0) {
        true => Err(Wrong::Malformed("AS 0")),
        false => Ok(AsPath(path)),
    }
}

/// The type of a segment, and its ASes of `width` bytes each.
fn take_segment<'a>(reader: &mut Reader<'a>, width: usize) -> Option<(u8, &'a [u8])> {
    let kind = reader.u8()?;
    let count = usize::from(reader.u8()?);
    Some((kind, reader.take(width * count)?))
}

/// How many bytes [`write`] appends.
pub(super) fn size(path: &AsPath, four_octet_as: bool) -> usize {
    let width = if four_octet_as { 4 } else { 2 };
    2 * path.0.len().div_ceil(MAX_SEGMENT) + width * path.0.len()
}

/// Appends the path; ASes that do not fit into two bytes become AS_TRANS. What is too long for one
/// segment becomes several.
pub(super) fn write(path: &AsPath, four_octet_as: bool, out: &mut Vec<u8>) {
    for ases in path.0.chunks(MAX_SEGMENT) {
        out.extend([SEQUENCE, ases.len() as u8]);
        if four_octet_as {
            out.extend(ases.iter().flat_map(|asn| asn.to_be_bytes()));
        } else {
            out.extend(ases.iter().flat_map(|asn| two_octets(*asn).to_be_bytes()));
        }
    }
}

/// The AS as a speaker of two octets sees it.
pub(super) fn two_octets(asn: u32) -> u16 {
    u16::try_from(asn).unwrap_or(AS_TRANS)
}

/// Whether two octets cannot express the path.
pub(super) fn needs_as4(path: &AsPath) -> bool {
    path.0.iter().any(|asn| u16::try_from(*asn).is_err())
}

/// The true path (RFC 6793 section 4.2.3): what speakers of two octets put before the part that
/// AS4_PATH tells, and then AS4_PATH. One that tells more than AS_PATH is wrong and ignored.
pub(super) fn merge(path: &mut AsPath, as4: AsPath) {
    if let Some(leading) = path.length().checked_sub(as4.length()) {
        path.0.truncate(leading);
        path.0.extend(as4.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_paths() {
        let table: [(&[u8], &str); 9] = [
            (&[2, 2, 0, 1], "segment too long"),
            (&[2, 1, 0, 1, 0], "segment too long"),
            (&[2], "segment too long"),
            (&[2, 0], "empty segment"),
            (&[5, 1, 0, 1], "unknown segment type"),
            (&[3, 1, 0, 1], "unknown segment type"),
            (&[2, 2, 0, 1, 0, 0], "AS 0"),
            (&[1, 1, 0, 1], "AS_SET"),
            (&[2, 1, 0, 1, 4, 1, 0, 1], "AS_SET"),
        ];
        for (bytes, expected) in table {
            let wrong = read(bytes, false).map_err(Wrong::reason);
            assert_eq!(wrong, Err(expected), "{bytes:?}");
        }
        assert_eq!(read(&[], false), Ok(AsPath::default()));
        let as4 = |bytes| read_as4(bytes).map_err(Wrong::reason);
        assert_eq!(as4(&[]), Err("no AS in it"));
        assert_eq!(as4(&[9, 1, 0, 0, 0, 1]), Err("unknown segment type"));
        assert_eq!(as4(&[4, 1, 0, 0, 0, 1]), Err("AS_SET"));
    }

    #[test]
    fn confederations_are_left_out_of_as4_path() {
        let bytes = [3, 1, 0, 0, 0, 7, 2, 1, 0, 1, 0, 0];
        assert_eq!(read_as4(&bytes), Ok(AsPath(vec![65536])));
    }

    /// RFC 6793 section 4.2.3, with 23456 for AS_TRANS.
    #[test]
    fn as4_path_fills_in_what_as_trans_hides() {
        let table: [(&[u32], &[u32], &[u32]); 3] = [
            // An old speaker prepended itself twice.
            (&[5, 5, 23456, 3], &[70000, 3], &[5, 5, 70000, 3]),
            // All of it is told.
            (&[23456], &[70000], &[70000]),
            // More is told than there is: ignored.
            (&[23456], &[70000, 1], &[23456]),
        ];
        for (path, as4, expected) in table {
            let mut path = AsPath(path.to_vec());
            merge(&mut path, AsPath(as4.to_vec()));
            assert_eq!(path, AsPath(expected.to_vec()));
        }
    }

    #[test]
    fn segments_are_joined_and_split() {
        let bytes = [2, 1, 0, 5, 2, 2, 0, 6, 0, 7];
        assert_eq!(read(&bytes, false), Ok(AsPath(vec![5, 6, 7])));
        let long = AsPath(vec![9; 300]);
        let mut bytes = Vec::new();
        write(&long, true, &mut bytes);
        assert_eq!(bytes.len(), 2 * 2 + 4 * 300);
        assert_eq!(bytes.len(), size(&long, true));
        assert_eq!(read(&bytes, true), Ok(long));
    }
}
