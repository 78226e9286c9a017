//! The kernel over netlink.
