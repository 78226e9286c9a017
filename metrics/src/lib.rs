//! Figures for Prometheus: a [`Page`] of them, made at the time of asking, and [`serve`], which
//! gives it to whoever asks over HTTP.
//!
//! It never collects anything by itself, and knows nothing of what the figures are about.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod page;
mod serve;

pub use page::{Labels, Page};
pub use serve::{ServeError, listen, serve};
