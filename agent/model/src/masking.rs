//! Takes secrets out of text that others wrote: log lines, files, what a program printed.
//!
//! Our own texts have none ([`crate::secret`]). What kubelet, containerd or a pod's image names bring into the journal is not ours, so
//! whatever looks like a credential goes. It is better to hide too much of a log than to show one token.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::secret::MASK;

/// What a credential looks like. The group `keep`, where there is one, stays.
static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        // A private key in PEM: to its end, or to the end of the text when that was cut.
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
        // A JSON Web Token: the header of each starts with `{"` in base64.
        r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*",
        // A bootstrap token. Source: the Kubernetes page on authenticating with bootstrap tokens.
        r"\b(?P<keep>[a-z0-9]{6}\.)[a-z0-9]{16}\b",
        r"(?i)(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{6,}",
        // name=value, name: value, "name": "value", --name value, and the ends of longer names: registry_password, AccountKey, client-secret.
        r#"(?i)(?P<keep>(?:password|passwd|passphrase|secret|token|api[-_]?key|account[-_]?key|access[-_]?key|private[-_]?key|authorization|credentials?|\bsig|signature)\\?["']?\s*(?:[=:]|\s--?\s)\s*\\?["']?)[^\s"'\\&,;}]+"#,
        r"(?i)(?P<keep>--[a-z-]*(?:password|secret|token|key)\s+)[^\s-][^\s]*",
        // scheme://user:password@host
        r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^/\s:@]*:)[^/\s@]+@",
    ]
    .iter()
    .map(|pattern| Regex::new(pattern).expect("the pattern is in this file"))
    .collect()
});

/// The text without what looks like a credential.
pub fn mask(text: &str) -> Cow<'_, str> {
    let mut masked = Cow::Borrowed(text);
    for pattern in PATTERNS.iter() {
        let hide = |found: &Captures<'_>| {
            let end = if found[0].ends_with('@') { "@" } else { "" };
            format!("{}{MASK}{end}", found.name("keep").map_or("", |keep| keep.as_str()))
        };
        if let Cow::Owned(changed) = pattern.replace_all(&masked, hide) {
            masked = Cow::Owned(changed);
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_hidden_and_the_rest_of_the_line_stays() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl";
        for (text, wanted) in [
            (format!("using {jwt} for x"), "using ******** for x"),
            ("Authorization: Bearer abc.DEF-123".to_owned(), "Authorization: ******** ********"),
            ("joined with abcdef.0123456789abcdef ok".to_owned(), "joined with abcdef.******** ok"),
            ("pull https://me:hunter2@r.example/x".to_owned(), "pull https://me:********@r.example/x"),
            (r#"{"client_secret": "p4ss", "id": 1}"#.to_owned(), r#"{"client_secret": "********", "id": 1}"#),
            (r#"\"aadClientSecret\":\"p4ss\" next"#.to_owned(), r#"\"aadClientSecret\":\"********\" next"#),
            ("blob?sv=2022&sig=Zm9v%3D&se=1".to_owned(), "blob?sv=2022&sig=********&se=1"),
            ("run --docker-password hunter2 now".to_owned(), "run --docker-password ******** now"),
            ("AccountKey=Zm9vYmFy==;Suffix=x".to_owned(), "AccountKey=********;Suffix=x"),
            (
                "a\n-----BEGIN EC PRIVATE KEY-----\nMHc\nAoG\n-----END EC PRIVATE KEY-----\nb".to_owned(),
                "a\n********\nb",
            ),
            ("-----BEGIN PRIVATE KEY-----\nMHcCA cut".to_owned(), "********"),
        ] {
            assert_eq!(mask(&text), wanted, "{text}");
            assert_eq!(mask(&mask(&text)), mask(&text), "{text}");
        }
    }

    #[test]
    fn what_helps_stays() {
        for text in [
            "E1127 kubelet.go:2431] \"Container runtime network not ready\" networkReady=\"NetworkReady=false\"",
            "Started containerd.service - containerd container runtime.",
            "https://cluster.hcp.example:443/api/v1/nodes?limit=500",
            "failed to pull mcr.microsoft.com/oss/kubernetes/pause:3.6@sha256:0123456789abcdef0123456789abcdef",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        ] {
            assert!(matches!(mask(text), Cow::Borrowed(_)), "{}", mask(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_secret_is_hidden_whatever_stands_around_it(before in "[ -~]{0,40}", after in "[ -~]{0,40}", secret in "[A-Za-z0-9]{20,40}") {
            let text = format!("{before} password={secret} {after}");
            proptest::prop_assert!(!mask(&text).contains(&secret), "{}", mask(&text));
        }
    }
}
