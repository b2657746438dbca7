//! Lines of ours at the top of a file that others write to as well, between two marks.

use nap_model::plan::{AbsPath, Place};

use crate::root::{FileError, Root};

const BEGIN: &str = "# nap-agent: begin, lines between the marks are put back when changed";
const END: &str = "# nap-agent: end";

/// The file as it should be: our block in its place, everybody else's lines as they were.
fn wanted(now: &str, place: Place, lines: &str) -> String {
    let others = without_block(now, lines);
    let block = format!("{BEGIN}\n{lines}{END}\n");
    match place {
        Place::Top => format!("{block}{others}"),
        Place::Bottom if others.is_empty() || others.ends_with('\n') => format!("{others}{block}"),
        Place::Bottom => format!("{others}\n{block}"),
    }
}

/// Everybody else's lines. A block whose end is missing ends after those lines that are still ours.
fn without_block(now: &str, lines: &str) -> String {
    let Some((before, rest)) = split_at_line(now, BEGIN) else { return now.to_owned() };
    let after = match split_at_line(rest, END) {
        Some((_, after)) => after,
        None => {
            let ours = |line: &&str| lines.split_inclusive('\n').any(|our| our.trim_end() == line.trim_end());
            let kept: usize = rest.split_inclusive('\n').take_while(ours).map(str::len).sum();
            &rest[kept..]
        }
    };
    // Somebody may have copied it.
    format!("{before}{}", without_block(after, lines))
}

/// What is before a line and what is after it.
fn split_at_line<'t>(text: &'t str, line: &str) -> Option<(&'t str, &'t str)> {
    let mut start = 0;
    for whole in text.split_inclusive('\n') {
        let end = start + whole.len();
        if whole.trim_end() == line {
            return Some((&text[..start], &text[end..]));
        }
        start = end;
    }
    None
}

/// How our part of a file looks now, for a difference that shows nothing of anybody else's.
pub(crate) fn ours(now: &str) -> &str {
    let rest = split_at_line(now, BEGIN).map_or("", |(_, rest)| rest);
    split_at_line(rest, END).map_or("", |(block, _)| block)
}

/// The file's text now and as it should be; nothing when they are the same.
///
/// # Errors
/// When the file cannot be read, or is no text.
pub(crate) fn difference(
    root: &Root,
    path: &AbsPath,
    place: Place,
    lines: &str,
) -> Result<Option<(String, String)>, FileError> {
    let now = match root.read(path.as_str())? {
        None => String::new(),
        Some(bytes) => String::from_utf8(bytes).map_err(|_| FileError {
            action: "understand",
            path: path.to_string(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no text"),
        })?,
    };
    let wanted = wanted(&now, place, lines);
    Ok((now != wanted).then_some((now, wanted)))
}

/// Puts the block in its place. The file keeps its mode; a new one gets `mode`.
pub(crate) fn write(root: &Root, path: &AbsPath, place: Place, mode: u32, lines: &str) -> Result<(), FileError> {
    let Some((_, wanted)) = difference(root, path, place, lines)? else { return Ok(()) };
    let mode = root.target(path)?.map_or(mode, |entry| entry.mode);
    root.write(path, wanted.as_bytes(), mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_comes_first_and_other_lines_stay() {
        let first = wanted("127.0.0.1 localhost\n", Place::Top, "10.0.0.4 api\n");
        assert_eq!(first, format!("{BEGIN}\n10.0.0.4 api\n{END}\n127.0.0.1 localhost\n"));
        assert_eq!(wanted(&first, Place::Top, "10.0.0.4 api\n"), first);
        assert_eq!(wanted(&first, Place::Top, "10.0.0.5 api\n"), first.replace("0.4", "0.5"));
        let moved = format!("::1 localhost\n{first}");
        assert_eq!(
            wanted(&moved, Place::Top, "x\n"),
            format!("{BEGIN}\nx\n{END}\n::1 localhost\n127.0.0.1 localhost\n")
        );
        assert_eq!(wanted(&first.replace(&format!("{END}\n"), ""), Place::Top, "10.0.0.4 api\n"), first);
    }

    #[test]
    fn the_block_comes_last_where_the_last_word_counts() {
        let last = wanted("A=1", Place::Bottom, "B=2\n");
        assert_eq!(last, format!("A=1\n{BEGIN}\nB=2\n{END}\n"));
        assert_eq!(ours(&last), "B=2\n");
        assert_eq!(wanted(&last, Place::Bottom, "B=2\n"), last);
    }

    #[test]
    fn a_file_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let path = AbsPath::literal("/etc/hosts");
        root.write(&path, b"a\n", 0o640).unwrap();
        write(&root, &path, Place::Top, 0o644, "b\n").unwrap();
        assert_eq!(root.target(&path).unwrap().unwrap().mode, 0o640);
        assert_eq!(difference(&root, &path, Place::Top, "b\n").unwrap(), None);
        assert!(difference(&root, &path, Place::Top, "c\n").unwrap().is_some());
    }

    proptest::proptest! {
        #[test]
        fn putting_it_in_twice_changes_nothing(now in "([ab#]{0,3}\n|# nap-agent: (begin|end)[^\n]{0,3}\n){0,6}", lines in "([xy ]{1,4}\n){1,3}") {
            for place in [Place::Top, Place::Bottom] {
                let once = wanted(&now, place, &lines);
                proptest::prop_assert_eq!(wanted(&once, place, &lines), once);
            }
        }
    }
}
