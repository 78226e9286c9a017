#![no_main]
#![allow(dead_code)]

#[path = "../../controller/tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::messages(input));
