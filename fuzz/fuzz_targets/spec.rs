#![no_main]
#![allow(dead_code)]

#[path = "../../controller/tests/fuzz/mod.rs"]
mod fuzz;

// What a controller renders, an agent takes.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    for config in fuzz::spec(input) {
        if let Err(error) = routemesh_agent::config::Config::try_from(&config) {
            panic!("{}: {error}", config.gateway);
        }
    }
});
