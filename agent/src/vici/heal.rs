//! Which tunnels to bring up, and which SAs to close: a pure function of what is there.
