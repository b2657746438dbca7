//! The inputs that the fuzzer starts from, and those at which it found something: every promise holds for each of them.

#[path = "../../../tests/fuzz/src/promises.rs"]
mod promises;

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads its seeds")]
fn seeds_keep_every_promise() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/seeds");
    let mut broken = Vec::new();
    for target in std::fs::read_dir(seeds).unwrap().map(Result::unwrap) {
        let name = target.file_name().into_string().unwrap();
        let inputs: Vec<_> = std::fs::read_dir(target.path()).unwrap().map(Result::unwrap).collect();
        assert!(!inputs.is_empty(), "{name} has no seeds");
        for input in inputs {
            let bytes = std::fs::read(input.path()).unwrap();
            let kept = std::panic::catch_unwind(|| promises::hold(&name, &bytes));
            if kept.is_err() {
                broken.push(input.path());
            }
        }
    }
    assert!(broken.is_empty(), "these break a promise: {broken:#?}");
}
