//! AgentBaker's wire format.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nap_fuzz::run("aks_node_config", input));
