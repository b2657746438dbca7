//! Reading a checked document: fields by path, typed, absent when absent.

use serde_json::{Map, Value};

/// A document that its [`Shape`](super::shape::Shape) has checked and made canonical.
#[derive(Clone, Copy)]
pub(super) struct Checked<'d>(pub(super) &'d Value);

impl<'d> Checked<'d> {
    /// The value at a dotted path.
    pub(super) fn at(self, path: &str) -> Option<&'d Value> {
        path.split('.').try_fold(self.0, |value, name| value.get(name))
    }

    /// A text, absent when empty: to protobuf and to Go the empty text is no text.
    pub(super) fn text(self, path: &str) -> Option<&'d str> {
        self.at(path)?.as_str().filter(|text| !text.is_empty())
    }

    /// A text of its own, empty when absent.
    pub(super) fn owned(self, path: &str) -> String {
        self.text(path).unwrap_or_default().to_owned()
    }

    pub(super) fn number(self, path: &str) -> Option<i64> {
        self.at(path)?.as_i64()
    }

    pub(super) fn flag(self, path: &str) -> Option<bool> {
        self.at(path)?.as_bool()
    }

    pub(super) fn object(self, path: &str) -> Option<&'d Map<String, Value>> {
        self.at(path)?.as_object()
    }

    /// The entries of a map from text to text.
    pub(super) fn texts(self, path: &str) -> impl Iterator<Item = (&'d str, &'d str)> {
        let entries = self.object(path).into_iter().flatten();
        entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// The items of a list of texts.
    pub(super) fn items(self, path: &str) -> impl Iterator<Item = &'d str> {
        self.at(path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }
}
