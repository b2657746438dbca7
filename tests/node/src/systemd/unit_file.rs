//! The text of a unit: sections of assignments, a fragment first and its drop-ins after it.

/// One `Key=value` line of a unit.
#[derive(Clone, Debug)]
struct Assignment {
    section: String,
    key: String,
    value: String,
}

/// Assignments of a fragment and its drop-ins, in the order they were read.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnitText {
    assignments: Vec<Assignment>,
}

impl UnitText {
    /// Appends the lines of one file; a broken section header makes the whole unit unreadable.
    pub(crate) fn read(&mut self, text: &str) -> Result<(), String> {
        let mut section: Option<String> = None;
        for line in logical_lines(text) {
            if let Some(header) = line.strip_prefix('[') {
                let name = header.strip_suffix(']').ok_or_else(|| format!("invalid section header '{line}'"))?;
                section = Some(name.to_owned());
                continue;
            }
            // Lines outside a section and lines without '=' are ignored with a warning by systemd.
            let (Some(section), Some((key, value))) = (&section, line.split_once('=')) else { continue };
            let (section, key, value) = (section.clone(), key.trim().to_owned(), value.trim().to_owned());
            self.assignments.push(Assignment { section, key, value });
        }
        Ok(())
    }

    /// The last value given, unless it was emptied.
    pub(crate) fn last(&self, section: &str, key: &str) -> Option<&str> {
        self.values(section, key).last().copied()
    }

    /// All values given since the last empty one.
    pub(crate) fn values(&self, section: &str, key: &str) -> Vec<&str> {
        self.assignments_of(section, |k| k == key).into_iter().map(|(_, value)| value).collect()
    }

    /// All assignments of keys that `wanted` accepts, in order; an empty value forgets those before it, whichever
    /// their keys (as systemd does for `Condition...=`).
    pub(crate) fn assignments_of(&self, section: &str, wanted: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
        let mut out = Vec::new();
        for a in self.assignments.iter().filter(|a| a.section == section && wanted(&a.key)) {
            if a.value.is_empty() {
                out.clear();
            } else {
                out.push((a.key.as_str(), a.value.as_str()));
            }
        }
        out
    }

    /// The words of a list setting such as `After=`.
    pub(crate) fn words(&self, section: &str, key: &str) -> Vec<String> {
        self.values(section, key).iter().flat_map(|v| v.split_whitespace()).map(str::to_owned).collect()
    }

    /// A yes/no setting.
    pub(crate) fn flag(&self, section: &str, key: &str) -> bool {
        matches!(self.last(section, key), Some("1" | "yes" | "y" | "true" | "t" | "on"))
    }
}

/// Lines without comments, continued lines joined by a space.
fn logical_lines(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut pending: Option<String> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        if bare.starts_with(['#', ';']) {
            continue;
        }
        let mut whole = pending.take().unwrap_or_default();
        match line.strip_suffix('\\') {
            Some(start) => {
                whole.push_str(start);
                whole.push(' ');
                pending = Some(whole);
            }
            None => {
                whole.push_str(line);
                out.push(whole);
            }
        }
    }
    out.extend(pending);
    out.into_iter().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_forgets_those_before_it() {
        let mut unit = UnitText::default();
        unit.read("[Service]\nExecStart=/bin/a\n").unwrap();
        unit.read("[Service]\nExecStart=\nExecStart=/bin/b \\\n# inside\n  c\n").unwrap();
        assert_eq!(unit.values("Service", "ExecStart"), ["/bin/b    c"]);
    }

    #[test]
    fn a_broken_header_is_an_error_and_a_broken_line_is_not() {
        assert_eq!(UnitText::default().read("[Unit"), Err("invalid section header '[Unit'".to_owned()));
        let mut unit = UnitText::default();
        unit.read("Before=x\n[Unit]\nwhat\nAfter=a b\nAfter=c\n").unwrap();
        assert_eq!(unit.words("Unit", "After"), ["a", "b", "c"]);
        assert_eq!(unit.words("Unit", "Before"), Vec::<String>::new());
    }
}
