//! What is wrong with a configuration, all of it at once.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// One thing that is wrong: where, what stands there, what should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Path of the field, such as `node.labels["a b"]`; empty for the document as a whole.
    pub path: String,
    /// What was found, shortened; never the value of a secret field.
    pub found: String,
    /// What would have been right.
    pub wanted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "the document" } else { &self.path };
        write!(f, "{path}: found {}, want {}", self.found, self.wanted)
    }
}

/// Something that does not stop the boot and yet should be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Path of the field.
    pub path: String,
    /// What about it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "the document" } else { &self.path };
        write!(f, "{path}: {}", self.message)
    }
}

/// Problems and warnings, collected while reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// What makes the document unusable.
    pub problems: Vec<Problem>,
    /// What a newer or older writer put there and this reader does not act on.
    pub warnings: Vec<Warning>,
}

impl Findings {
    /// Adds a problem.
    pub fn problem(&mut self, path: &str, found: impl Into<String>, wanted: impl Into<String>) {
        self.problems.push(Problem { path: path.to_owned(), found: found.into(), wanted: wanted.into() });
    }

    /// Adds a warning.
    pub fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(Warning { path: path.to_owned(), message: message.into() });
    }

    /// Adds what another reading found.
    pub fn append(&mut self, other: Findings) {
        self.problems.extend(other.problems);
        self.warnings.extend(other.warnings);
    }

    /// Runs a constructor that can fail, and turns its failure into a problem at `path`.
    pub fn parse<'a, T>(&mut self, path: &str, text: &'a str) -> Option<T>
    where
        T: TryFrom<&'a str>,
        T::Error: fmt::Display,
    {
        match T::try_from(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(path, quoted(text), error.to_string());
                None
            }
        }
    }
}

/// Longest part of a found value that is shown, in characters.
const SHOWN_CHARACTERS: usize = 48;

/// A text as it is shown in a problem: quoted, shortened.
pub fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
    let dots = if shown.len() < text.len() { "..." } else { "" };
    format!("\"{}{dots}\"", shown.escape_debug())
}

/// A value as it is shown in a problem.
pub fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The path of a field of the object at `path`.
pub fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// The path of an entry of the map at `path`.
pub fn entry(path: &str, key: &str) -> String {
    format!("{path}[{}]", quoted(key))
}
