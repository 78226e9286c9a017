//! What a tunnel is, or several together.

use clap::ValueEnum;
use routemesh_proto::EdgeCounts;

/// Up only if both ends say so; of several, only if all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum State {
    Up,
    Unknown,
    Degraded,
    Down,
}

impl State {
    pub(crate) const ALL: [Self; 4] = [Self::Up, Self::Degraded, Self::Down, Self::Unknown];

    /// Of an edge's verdict.
    pub(crate) fn of(verdict: &str) -> Self {
        match verdict {
            "up" => Self::Up,
            "degraded" => Self::Degraded,
            "down" => Self::Down,
            _ => Self::Unknown,
        }
    }

    /// Of several tunnels together.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (one, same) if one == same => one,
            // One of them carries traffic, another does not.
            (Self::Up, _) | (_, Self::Up) => Self::Degraded,
            (one, other) => one.max(other),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }

    /// A colour that can be seen on black and on white. A shape always goes with it.
    pub(crate) fn colour(self) -> &'static str {
        match self {
            Self::Up => "#1a9850",
            Self::Degraded => "#c77700",
            Self::Down => "#d62f2f",
            Self::Unknown => "#7d8590",
        }
    }

    /// How many tunnels are in it.
    pub(crate) fn counted(self, counts: &EdgeCounts) -> u64 {
        match self {
            Self::Up => counts.up,
            Self::Degraded => counts.degraded,
            Self::Down => counts.down,
            Self::Unknown => counts.unknown,
        }
    }
}
