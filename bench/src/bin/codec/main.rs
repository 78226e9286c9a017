//! `codec`: UPDATEs from bytes and to bytes, by Routemesh and by other crates, as a table.
//!
//! All get the same bytes, and a message is read when every attribute and every prefix was seen as a
//! value. Each writes the message that it read itself. The rounds alternate; a figure is a median.

mod others;
mod ours;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use routemesh_bench::clock;
use routemesh_bench::prefix::Family;
use routemesh_bench::report::median;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ROUNDS: usize = 7;
/// How long a loop has to run to be timed.
const LONG: Duration = Duration::from_millis(40);
/// Goals for a message of 200 prefixes, in nanoseconds for each.
const DECODE_GOAL: f64 = 12.0;
const ENCODE_GOAL: f64 = 6.0;

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised to this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised to this function.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised to this function.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A message to read and to write.
pub struct Case {
    /// Of these prefixes.
    pub family: Family,
    /// What it announces.
    pub prefixes: Vec<IpNet>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Reads or writes the message once, and says how many prefixes or bytes it had.
pub type Work<'a> = Box<dyn FnMut() -> usize + 'a>;

/// A crate: how it makes its work of a case. `None` where it cannot.
struct Codec {
    name: &'static str,
    decode: for<'a> fn(&'a Case) -> Option<Work<'a>>,
    encode: for<'a> fn(&'a Case) -> Option<Work<'a>>,
}

const CODECS: [Codec; 4] = [
    Codec {
        name: "Routemesh",
        decode: ours::decode,
        encode: ours::encode,
    },
    Codec {
        name: "netgauze-bgp-pkt 0.13",
        decode: others::netgauze_decode,
        encode: others::netgauze_encode,
    },
    Codec {
        name: "bgpkit-parser 0.23",
        decode: others::bgpkit_decode,
        encode: others::bgpkit_encode,
    },
    Codec {
        name: "routecore 0.7",
        decode: others::routecore_decode,
        encode: others::routecore_encode,
    },
];

/// Time and allocations of one message.
#[derive(Clone, Copy)]
struct Cost {
    nanoseconds: f64,
    allocations: u64,
}

fn main() -> ExitCode {
    let mut failed = false;
    let mut table = String::from("| UPDATE of | ");
    table += &CODECS.map(|codec| codec.name).join(" | ");
    table += " | fastest | allocations for prefixes | goal |\n|---|---|---|---|---|---|---|---|\n";
    for (what, goal) in [("decode", DECODE_GOAL), ("encode", ENCODE_GOAL)] {
        for family in [Family::Ipv4, Family::Ipv6] {
            let one = measure(what, family, 1, &mut failed);
            let many = measure(what, family, 200, &mut failed);
            let allocations = match (one[0], many[0]) {
                (Some(one), Some(many)) => (many.allocations - one.allocations).to_string(),
                _ => String::new(),
            };
            table += &row(what, family, 1, &one, "", None);
            table += &row(what, family, 200, &many, &allocations, Some(goal));
        }
    }
    print!("{table}");
    match failed {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    }
}

/// One row: nanoseconds for each prefix of many, and for a message of one.
fn row(
    what: &str,
    family: Family,
    count: usize,
    costs: &[Option<Cost>; 4],
    allocations: &str,
    goal: Option<f64>,
) -> String {
    let each = |cost: Cost| cost.nanoseconds / count as f64;
    let cells =
        costs.map(|cost| cost.map_or("cannot".into(), |cost| format!("{:.1} ns", each(cost))));
    let own = costs[0].map_or(f64::INFINITY, each);
    let best = costs
        .iter()
        .flatten()
        .map(|cost| each(*cost))
        .fold(f64::INFINITY, f64::min);
    let fastest = if own <= best { "yes" } else { "**no**" };
    let goal = goal.map_or(String::new(), |goal| {
        let word = if own <= goal { "met" } else { "**missed**" };
        format!("≤ {goal} ns: {word}")
    });
    let unit = if count == 1 {
        "1 prefix"
    } else {
        "200 prefixes, each"
    };
    let cells = cells.join(" | ");
    format!("| {what}, {family}, {unit} | {cells} | {fastest} | {allocations} | {goal} |\n")
}

/// What a message costs each crate.
fn measure(what: &str, family: Family, count: usize, failed: &mut bool) -> [Option<Cost>; 4] {
    let case = case(family, count);
    let expected = if what == "decode" { count } else { 0 };
    let mut works = CODECS.map(|codec| match what {
        "decode" => (codec.decode)(&case),
        _ => (codec.encode)(&case),
    });
    let mut times = [const { Vec::new() }; 4];
    let mut allocations = [0; 4];
    for round in 0..=ROUNDS {
        for (number, work) in works.iter_mut().enumerate() {
            let Some(work) = work else { continue };
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            let found = work();
            allocations[number] = ALLOCATIONS.load(Ordering::Relaxed) - before;
            if found < expected {
                eprintln!(
                    "codec: {}: {what}: {found} of {count} prefixes",
                    CODECS[number].name
                );
                *failed = true;
            }
            let time = time(work);
            // The first round is to get warm.
            if round > 0 {
                times[number].push(time);
            }
        }
    }
    std::array::from_fn(|number| {
        Some(Cost {
            nanoseconds: median(&times[number])?,
            allocations: allocations[number],
        })
    })
}

/// Nanoseconds of processor time for one turn.
fn time(work: &mut Work) -> f64 {
    let mut turns = 64_u32;
    loop {
        let began = clock::own();
        for _ in 0..turns {
            black_box(work());
        }
        let took = clock::own() - began;
        if took >= LONG {
            return took.as_nanos() as f64 / f64::from(turns);
        }
        turns *= 2;
    }
}

/// A message of prefixes of lengths as they come in a private network.
fn case(family: Family, count: usize) -> Case {
    let prefix = |number: usize| -> IpNet {
        let bits = number as u32;
        match family {
            Family::Ipv4 => {
                let length = [24, 24, 22, 16, 24, 28, 23, 32][number % 8];
                let address = Ipv4Addr::from_bits((10 << 24) | (bits << 12));
                Ipv4Net::new_assert(address, length).trunc().into()
            }
            Family::Ipv6 => {
                let length = [48, 64, 64, 56, 48, 64, 52, 128][number % 8];
                let address = Ipv6Addr::from_bits((0xfd10 << 112) | (u128::from(bits) << 72));
                Ipv6Net::new_assert(address, length).trunc().into()
            }
        }
    };
    let prefixes: Vec<IpNet> = (0..count).map(prefix).collect();
    let bytes = ours::bytes(family, &prefixes);
    Case {
        family,
        prefixes,
        bytes,
    }
}
