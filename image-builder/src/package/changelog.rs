//! The changelog as the packages and the release notes want it.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use thiserror::Error;

/// Why a changelog cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ChangelogError {
    /// A heading is not `## VERSION - DATE`.
    #[error("CHANGELOG.md:{line}: found {found:?}, want \"## VERSION - YYYY-MM-DD\"")]
    Heading {
        /// Line, from 1.
        line: usize,
        /// The line.
        found: String,
    },
    /// There is no entry for the version that is packaged.
    #[error("CHANGELOG.md has no heading for version {0}; write what is new in it")]
    Missing(String),
}

/// What is new in a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The version.
    pub version: String,
    /// Noon of its day, UTC.
    pub at: Timestamp,
    /// What is new, an item a line.
    pub items: Vec<String>,
}

/// Reads a changelog, the newest version first.
///
/// # Errors
/// When a heading is not as it should be.
pub fn read(text: &str) -> Result<Vec<Release>, ChangelogError> {
    let mut releases: Vec<Release> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(heading) = line.strip_prefix("## ") {
            let wrong = || ChangelogError::Heading { line: number + 1, found: line.to_owned() };
            let (version, date) = heading.split_once(" - ").ok_or_else(wrong)?;
            let date: Date = date.trim().parse().map_err(|_| wrong())?;
            let at = date.at(12, 0, 0, 0).to_zoned(TimeZone::UTC).map_err(|_| wrong())?.timestamp();
            releases.push(Release { version: version.trim().to_owned(), at, items: Vec::new() });
        } else if let (Some(release), Some(item)) = (releases.last_mut(), line.strip_prefix("- ")) {
            release.items.push(item.trim().to_owned());
        } else if let (Some(item), Some(rest)) =
            (releases.last_mut().and_then(|release| release.items.last_mut()), line.strip_prefix("  "))
        {
            *item = format!("{item} {}", rest.trim());
        }
    }
    Ok(releases)
}

/// The entry of one version.
///
/// # Errors
/// When there is none.
pub fn of<'r>(releases: &'r [Release], version: &str) -> Result<&'r Release, ChangelogError> {
    let found = releases.iter().find(|release| release.version == version);
    found.ok_or_else(|| ChangelogError::Missing(version.to_owned()))
}

/// As `/usr/share/doc/*/changelog.gz` has it. Source: deb-changelog(5).
pub fn debian(releases: &[Release], name: &str, maintainer: &str) -> String {
    let entry = |release: &Release| {
        let items: String = release.items.iter().map(|item| format!("  * {}\n", wrapped(item, "    "))).collect();
        let at = release.at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        format!("{name} ({}) unstable; urgency=medium\n\n{items}\n -- {maintainer}  {at}\n", release.version)
    };
    releases.iter().map(entry).collect::<Vec<_>>().join("\n")
}

/// Words in lines of 80 characters at most, the first line a little shorter for what stands before it.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is one from the start");
        if last.is_empty() {
            last.push_str(word);
        } else if last.len() + word.len() < 75 {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join(&format!("\n{indent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Changelog\n\nWords.\n\n## 0.2.0 - 2026-12-01\n\n- One\n  goes on.\n- Two.\n\n## 0.1.0 - 2026-11-26\n- First.\n";

    #[test]
    fn headings_and_items_are_read() {
        let releases = read(TEXT).unwrap();
        assert_eq!(of(&releases, "0.2.0").unwrap().items, ["One goes on.", "Two."]);
        assert_eq!(of(&releases, "0.3.0"), Err(ChangelogError::Missing("0.3.0".into())));
        let found = "## 0.1.0".to_owned();
        assert_eq!(read("x\n## 0.1.0"), Err(ChangelogError::Heading { line: 2, found }));
    }

    #[test]
    fn debian_gets_its_own_form() {
        let text = debian(&read(TEXT).unwrap()[1..], "nap-agent", "M <m@x.example>");
        assert_eq!(
            text,
            "nap-agent (0.1.0) unstable; urgency=medium\n\n  * First.\n\n -- M <m@x.example>  Thu, 26 Nov 2026 12:00:00 +0000\n"
        );
    }
}
