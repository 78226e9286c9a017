#![no_main]
#![allow(dead_code)]

#[path = "../../agent/tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::config(input));
