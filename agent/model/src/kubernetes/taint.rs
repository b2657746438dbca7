//! Taints a node registers with.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use super::label::{LabelValue, Qualified};

/// The taint that every node registers with, so that nothing runs before Karpenter has seen it.
/// Source: `UnregisteredTaintKey`, sigs.k8s.io/karpenter/pkg/apis/v1.
pub const UNREGISTERED: &str = "karpenter.sh/unregistered:NoExecute";

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TaintEffect {
    /// Keeps new pods away.
    NoSchedule,
    /// Keeps new pods away when there is another place.
    PreferNoSchedule,
    /// Keeps new pods away and evicts old ones.
    NoExecute,
}

/// A taint: `key=value:effect`, the value optional.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Taint {
    /// A qualified name.
    pub key: Qualified,
    /// A label value; absent when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

/// Why a text is no taint.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a taint such as key=value:NoSchedule with effect NoSchedule, PreferNoSchedule or NoExecute")]
pub struct TaintError;

impl TryFrom<&str> for Taint {
    type Error = TaintError;

    fn try_from(text: &str) -> Result<Self, TaintError> {
        let (name, effect) = text.rsplit_once(':').ok_or(TaintError)?;
        let effect = match effect {
            "NoSchedule" => TaintEffect::NoSchedule,
            "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
            "NoExecute" => TaintEffect::NoExecute,
            _ => return Err(TaintError),
        };
        let (key, value) = name.split_once('=').unwrap_or((name, ""));
        let key = Qualified::try_from(key).map_err(|_| TaintError)?;
        let value = LabelValue::try_from(value).map_err(|_| TaintError)?.as_str().to_owned();
        Ok(Self { key, value, effect })
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.value.is_empty() { "" } else { "=" };
        write!(f, "{}{equals}{}:{:?}", self.key.as_str(), self.value, self.effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_print_as_they_were_read() {
        for text in [UNREGISTERED, "a=b:NoSchedule", "x.y/z=1:PreferNoSchedule"] {
            assert_eq!(Taint::try_from(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_taint_is_refused() {
        for text in ["a", "a:Never", "a b:NoSchedule", ":NoSchedule", "a=b c:NoExecute"] {
            assert_eq!(Taint::try_from(text), Err(TaintError), "{text}");
        }
    }
}
