//! A difference that a person can read.

use similar::TextDiff;

/// The lines by which `new` differs from `old`, as a unified diff without a header.
pub fn text_diff(old: &str, new: &str) -> String {
    TextDiff::from_lines(old, new).unified_diff().context_radius(1).to_string()
}
