//! NOTIFICATION codes (RFC 4271 section 6, RFC 4486, RFC 9003) as names, and their text for people.
