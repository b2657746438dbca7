//! Azure's provisioning document.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nap_fuzz::run("ovf", input));
