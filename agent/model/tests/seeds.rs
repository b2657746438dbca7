//! The inputs that the fuzzer starts from, and those at which it found something: every promise holds for each of them.

#[path = "../../../tests/fuzz/src/promises.rs"]
mod promises;

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads its seeds")]
fn seeds_keep_every_promise() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/seeds");
    for target in std::fs::read_dir(seeds).unwrap().map(Result::unwrap) {
        let name = target.file_name().into_string().unwrap();
        let inputs: Vec<_> = std::fs::read_dir(target.path()).unwrap().map(Result::unwrap).collect();
        assert!(!inputs.is_empty(), "{name} has no seeds");
        for input in inputs {
            let bytes = std::fs::read(input.path()).unwrap();
            let kept = std::panic::catch_unwind(|| promises::hold(&name, &bytes));
            assert!(kept.is_ok(), "{} breaks a promise", input.path().display());
        }
    }
}
