//! Our own wire format, in YAML and JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nap_fuzz::run("node_bootstrap", input));
