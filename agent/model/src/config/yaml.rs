//! YAML in which a short text cannot stand for a long one.

use serde::de::DeserializeOwned;

use super::carrier::{MAX_LAYER_BYTES, MAX_VALUES};

/// Most bytes that the aliases of a text say again.
const MAX_REPEATED_BYTES: usize = 4 * MAX_LAYER_BYTES;

/// Reads a text.
///
/// # Errors
/// When it is not well-formed, has more values than any configuration, or repeats too much.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    // The parser counts what aliases repeat in values, each of which may be as long as the text.
    let repeated = (MAX_REPEATED_BYTES / text.len().max(1)).min(MAX_VALUES);
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: MAX_VALUES },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: repeated },
    };
    serde_saphyr::from_str_with_options(text, options)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn aliases_repeat_little() {
        assert_eq!(parse::<Value>("x: &x [1]\ny: *x\n").unwrap(), json!({"x": [1], "y": [1]}));
        let long = format!("x: &x {}\ny: [{}]\n", "x".repeat(900_000), "*x,".repeat(90));
        assert!(parse::<Value>(&long).is_err());
        let laugh = |i: u32| format!("a{}: &a{} [{}]\n", i, i, format!("*a{},", i - 1).repeat(9));
        let many = "a0: &a0 [1]\n".to_owned() + &(1..9).map(laugh).collect::<String>();
        assert!(parse::<Value>(&many).is_err());
    }

    #[test]
    fn values_are_counted() {
        assert!(parse::<Value>(&"- a\n".repeat(MAX_VALUES / 2)).is_ok());
        assert!(parse::<Value>(&"- a\n".repeat(MAX_VALUES + 1)).is_err());
    }
}
