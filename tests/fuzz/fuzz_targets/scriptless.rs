//! The script that is read and not run.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nap_fuzz::run("scriptless", input));
