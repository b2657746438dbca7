//! Command lines, variables, environment files and time spans, as systemd.service(5), systemd.exec(5) and
//! systemd.time(7) define them.

use std::collections::BTreeMap;
use std::time::Duration;

/// Environment of one process.
pub(crate) type Environment = BTreeMap<String, String>;

/// Splits a setting into words: white space separates, quotes group, backslashes escape.
/// `None` when a quote is not closed.
pub(crate) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, '\\') => word.get_or_insert_default().push(unescape(&mut chars)?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return None;
    }
    words.extend(word);
    Some(words)
}

fn unescape(chars: &mut std::str::Chars<'_>) -> Option<char> {
    Some(match chars.next()? {
        'n' => '\n',
        't' => '\t',
        's' => ' ',
        'r' => '\r',
        'x' => {
            let digits: String = [chars.next()?, chars.next()?].iter().collect();
            char::from(u8::from_str_radix(&digits, 16).ok()?)
        }
        other => other,
    })
}

/// Puts the variables of `environment` into the arguments: `$NAME` alone becomes zero or more words, `${NAME}`
/// anywhere becomes part of its word, `$$` is a dollar.
pub(crate) fn expand(arguments: &[String], environment: &Environment) -> Vec<String> {
    let mut out = Vec::new();
    for argument in arguments {
        match argument.strip_prefix('$') {
            Some(name) if !name.starts_with(['{', '$']) && !name.is_empty() => {
                let value = environment.get(name).map(String::as_str).unwrap_or("");
                // systemd is lenient here: a value with an open quote is taken word by word as it stands.
                let plain = || value.split_whitespace().map(str::to_owned).collect();
                out.extend(split(value).unwrap_or_else(plain));
            }
            Some(_) | None => out.push(expand_word(argument, environment)),
        }
    }
    out
}

fn expand_word(word: &str, environment: &Environment) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
            out.push_str(environment.get(name).map(String::as_str).unwrap_or(""));
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Reads an `EnvironmentFile=`: `NAME=value` lines with comments, quotes and continued lines.
pub(crate) fn environment_file(text: &str) -> Environment {
    let mut out = Environment::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.trim_start();
        if line.starts_with(['#', ';']) {
            rest = line.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        let end = line.find(['=', '\n']).unwrap_or(line.len());
        let name = line[..end].trim();
        if !line[end..].starts_with('=') {
            rest = line.get(end + 1..).unwrap_or("");
            continue;
        }
        let (value, after) = environment_value(&line[end + 1..]);
        if is_variable_name(name) {
            out.insert(name.to_owned(), value);
        }
        rest = after;
    }
    out
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// One value and the text after its line.
fn environment_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut bare_end = 0;
    let mut quote: Option<char> = None;
    // A quote opens where a value starts and after another quote, not inside a bare word.
    let mut may_open = true;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\n') => {
                value.truncate(bare_end);
                return (value, &text[at + 1..]);
            }
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') if may_open => quote = Some(c),
            (None | Some('"'), '\\') => {
                may_open &= quote.is_some();
                escaped(quote, chars.next(), &mut value);
            }
            (None, c) if c.is_whitespace() => {
                if !value.is_empty() {
                    value.push(c);
                }
                continue;
            }
            (_, c) => {
                may_open &= quote.is_some();
                value.push(c);
            }
        }
        bare_end = value.len();
    }
    value.truncate(bare_end);
    (value, "")
}

fn escaped(quote: Option<char>, next: Option<(usize, char)>, value: &mut String) {
    match next {
        None | Some((_, '\n')) => {}
        Some((_, c)) => {
            if quote.is_some() && !matches!(c, '"' | '\\' | '`' | '$') {
                value.push('\\');
            }
            value.push(c);
        }
    }
}

/// Reads a time span such as `2`, `100ms` or `1min 30s`; `infinity` is `Some(None)`, nonsense is `None`.
pub(crate) fn time_span(text: &str) -> Option<Option<Duration>> {
    let text = text.trim();
    if text == "infinity" {
        return Some(None);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        total += Duration::from_secs_f64(number * seconds_in(&rest[..letters])?);
        rest = rest[letters..].trim_start();
    }
    Some(Some(total))
}

fn seconds_in(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "usec" => 1e-6,
        "ms" | "msec" => 1e-3,
        "" | "s" | "sec" | "second" | "seconds" => 1.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86400.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn words_are_split_at_white_space_outside_quotes() {
        assert_eq!(split(r#"/bin/a "b c" d'e f' \x41\s ''"#).unwrap(), ["/bin/a", "b c", "de f", "A ", ""]);
        assert_eq!(split("a 'b"), None);
    }

    #[test]
    fn a_variable_alone_is_split_and_one_in_braces_is_not() {
        let env = environment(&[("FLAGS", "--a=1 '--b=2 3'"), ("LABELS", "x=1,y=2 z"), ("EMPTY", "")]);
        let words = split("$FLAGS --l=${LABELS} ${LABELS} $EMPTY ${NONE} --p=$FLAGS $$FLAGS").unwrap();
        let want = ["--a=1", "--b=2 3", "--l=x=1,y=2 z", "x=1,y=2 z", "", "--p=$FLAGS", "$FLAGS"];
        assert_eq!(expand(&words, &env), want);
    }

    #[test]
    fn environment_files_know_comments_quotes_and_continued_lines() {
        let text = "# c\nA=1 2  \n;x\nB=\"q \\\"r\\\" \\d\"\n C = 'a\\b'\nD=x\\\n  y\nbad line\n1E=2\nF=\nG=a \"b\"";
        let want = [("A", "1 2"), ("B", "q \"r\" \\d"), ("C", "a\\b"), ("D", "x  y"), ("F", ""), ("G", "a \"b\"")];
        assert_eq!(environment_file(text), environment(&want));
    }

    #[test]
    fn time_spans_are_seconds_unless_they_say_otherwise() {
        assert_eq!(time_span("2"), Some(Some(Duration::from_secs(2))));
        assert_eq!(time_span("1min 30s"), Some(Some(Duration::from_secs(90))));
        assert_eq!(time_span("100ms"), Some(Some(Duration::from_millis(100))));
        assert_eq!(time_span("infinity"), Some(None));
        assert_eq!(time_span("soon"), None);
    }
}
