//! What configurations are wrapped in.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nap_fuzz::run("carrier", input));
