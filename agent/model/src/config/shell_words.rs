//! Reads the assignments of a shell script, without being a shell.
//!
//! Nothing is run and nothing is expanded. What stands at the top level of a script is read: `NAME=value` in every quoting,
//! several on a line, before a command, behind `export`. What a condition, loop or function assigns depends on a run that
//! does not happen, so it is only named. Source of the grammar: POSIX.1-2024, Shell Command Language, 2.2 to 2.10.

/// One statement, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// An assignment at the top level.
    Assignment(Assignment),
    /// An assignment whose value depends on a run: its name.
    Conditional(String),
    /// A command: its first word when it is written plainly, and its line, counted from 1.
    Command { name: Option<String>, line: usize },
}

/// `NAME=value` at the top level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) name: String,
    /// The value, its quotes undone.
    pub(super) value: String,
    /// Whether a shell would put something else there: `$`, a backtick, `+=`, an array.
    pub(super) expands: bool,
    pub(super) line: usize,
}

/// A script as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) statements: Vec<Statement>,
    /// Line of a quote or bracket that nothing closes.
    pub(super) unclosed: Option<usize>,
}

/// Reads a script. Any text is a script; what makes no sense to us is a command.
pub(super) fn read(text: &str) -> Script {
    let (tokens, unclosed) = Lexer::new(text).tokens();
    let mut reader = Reader::default();
    for token in tokens {
        reader.token(token);
    }
    reader.end_statement();
    Script { statements: reader.statements, unclosed }
}

#[derive(Debug)]
enum Token {
    Word(Word),
    /// `;`, `&`, `|` or a new line.
    Separator,
    Open,
    Close,
    /// `<` or `>`: the next word is a file.
    Redirection,
}

#[derive(Debug, Default)]
struct Word {
    text: String,
    line: usize,
    quoted: bool,
    expands: bool,
    /// Where the first `=` is, when everything before it is unquoted.
    equals: Option<usize>,
}

impl Word {
    fn plain(&self) -> Option<&str> {
        (!self.quoted && !self.expands).then_some(self.text.as_str())
    }

    fn assignment(&self) -> Option<Assignment> {
        let name = &self.text[..self.equals?];
        let (name, appends) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_name =
            name.bytes().all(letter) && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        is_name.then(|| Assignment {
            name: name.to_owned(),
            value: self.text[self.equals.unwrap_or_default() + 1..].to_owned(),
            expands: self.expands || appends,
            line: self.line,
        })
    }
}

/// Turns tokens into statements.
#[derive(Default)]
struct Reader {
    statements: Vec<Statement>,
    /// What is open: `if`, `for`, `(` and the like.
    open: Vec<&'static str>,
    /// Whether the next word may be a keyword or an assignment.
    place: Place,
    redirected: bool,
    /// Whether the last word was an assignment with nothing behind its `=`: an array may follow.
    array: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the start of a statement.
    #[default]
    Start,
    /// Behind an assignment.
    AfterAssignment,
    /// Behind `export` and the like: assignments still count.
    Exported,
    /// Behind a command's name.
    Arguments,
}

/// Words that open something, and what closes it.
const OPENING: &[(&str, &str)] = &[
    ("if", "fi"),
    ("for", "done"),
    ("while", "done"),
    ("until", "done"),
    ("select", "done"),
    ("case", "esac"),
    ("{", "}"),
];
/// Words behind which a statement starts.
const BETWEEN: &[&str] = &["then", "else", "elif", "do", "!", "time"];
const EXPORTING: &[&str] = &["export", "readonly", "declare", "typeset", "local"];

impl Reader {
    fn token(&mut self, token: Token) {
        let array = std::mem::take(&mut self.array);
        match token {
            Token::Separator => self.end_statement(),
            Token::Open => {
                if array && let Some(Statement::Assignment(assignment)) = self.statements.last_mut() {
                    assignment.expands = true;
                }
                self.open.push(")");
                self.end_statement();
            }
            Token::Close => {
                // The pattern of a case ends with one as well.
                if self.open.last() == Some(&")") {
                    self.open.pop();
                }
                self.end_statement();
            }
            Token::Redirection => self.redirected = true,
            Token::Word(_) if std::mem::take(&mut self.redirected) => {}
            Token::Word(word) => self.word(&word),
        }
    }

    fn word(&mut self, word: &Word) {
        match (self.place, word.assignment()) {
            (Place::Arguments, _) | (Place::Exported, None) => {}
            (_, Some(assignment)) => self.assign(assignment, word),
            (Place::AfterAssignment, None) => self.command(word),
            (Place::Start, None) => match word.plain() {
                Some(plain) if self.keyword(plain) => {}
                Some(plain) if EXPORTING.contains(&plain) => self.place = Place::Exported,
                _ => self.command(word),
            },
        }
    }

    fn assign(&mut self, assignment: Assignment, word: &Word) {
        self.array = assignment.value.is_empty() && !word.quoted;
        let statement = match self.open.is_empty() {
            true => Statement::Assignment(assignment),
            false => Statement::Conditional(assignment.name),
        };
        self.statements.push(statement);
        if self.place == Place::Start {
            self.place = Place::AfterAssignment;
        }
    }

    /// Whether the word is a keyword; then something opens or closes.
    fn keyword(&mut self, word: &str) -> bool {
        if let Some((opening, closing)) = OPENING.iter().find(|(opening, _)| *opening == word) {
            self.open.push(closing);
            // What follows these is a name and a list, not a statement.
            if matches!(*opening, "for" | "select" | "case") {
                self.place = Place::Arguments;
            }
            return true;
        }
        if self.open.last() == Some(&word) {
            self.open.pop();
            self.place = Place::Arguments;
            return true;
        }
        BETWEEN.contains(&word)
    }

    fn command(&mut self, word: &Word) {
        self.place = Place::Arguments;
        self.statements.push(Statement::Command { name: word.plain().map(str::to_owned), line: word.line });
    }

    fn end_statement(&mut self) {
        self.place = Place::Start;
        self.redirected = false;
    }
}

/// Turns letters into tokens.
struct Lexer<'t> {
    text: &'t str,
    at: usize,
    line: usize,
    unclosed: Option<usize>,
    /// Delimiters of here-documents whose bodies start at the next line.
    here_documents: Vec<String>,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0, line: 1, unclosed: None, here_documents: Vec::new() }
    }

    fn tokens(mut self) -> (Vec<Token>, Option<usize>) {
        let mut tokens = Vec::new();
        while let Some(letter) = self.peek() {
            match letter {
                '\n' => {
                    self.next();
                    self.skip_here_documents();
                    tokens.push(Token::Separator);
                }
                ';' | '&' | '|' => {
                    self.next();
                    tokens.push(Token::Separator);
                }
                '(' => {
                    self.next();
                    tokens.push(Token::Open);
                }
                ')' => {
                    self.next();
                    tokens.push(Token::Close);
                }
                '<' | '>' => self.redirection(&mut tokens),
                '#' => self.skip_line(),
                '\\' if self.rest().starts_with("\\\n") => {
                    self.next();
                    self.next();
                }
                letter if letter.is_whitespace() => _ = self.next(),
                _ => tokens.push(Token::Word(self.word())),
            }
        }
        (tokens, self.unclosed)
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += letter.len_utf8();
        self.line += usize::from(letter == '\n');
        Some(letter)
    }

    fn skip_line(&mut self) {
        self.at += self.rest().find('\n').unwrap_or(self.rest().len());
    }

    /// `<`, `>`, `2>&1`, `<<EOF`, `<<<word`.
    fn redirection(&mut self, tokens: &mut Vec<Token>) {
        let operator = self.rest().trim_start_matches(['<', '>', '&', '|', '-']);
        let operator = &self.rest()[..self.rest().len() - operator.len()];
        self.at += operator.len();
        tokens.push(Token::Redirection);
        if operator == "<<" || operator == "<<-" {
            while self.peek().is_some_and(|letter| letter == ' ' || letter == '\t') {
                self.next();
            }
            let delimiter = self.word();
            self.here_documents.push(delimiter.text);
            // The delimiter stands where the file would, so it closes the redirection.
            tokens.push(Token::Word(Word::default()));
        }
    }

    fn skip_here_documents(&mut self) {
        for delimiter in std::mem::take(&mut self.here_documents) {
            while !self.rest().is_empty() {
                let line = self.rest().lines().next().unwrap_or_default();
                self.skip_line();
                self.next();
                if line.trim_start_matches('\t') == delimiter {
                    break;
                }
            }
        }
    }

    fn word(&mut self) -> Word {
        let mut word = Word { line: self.line, ..Word::default() };
        while let Some(letter) = self.peek() {
            match letter {
                letter if letter.is_whitespace() || ";&|()<>".contains(letter) => break,
                '\'' => self.single_quoted(&mut word),
                '"' => self.double_quoted(&mut word),
                '\\' => {
                    self.next();
                    match self.next() {
                        None | Some('\n') => {}
                        Some(letter) => {
                            word.quoted = true;
                            word.text.push(letter);
                        }
                    }
                }
                '$' | '`' => self.expansion(&mut word),
                letter => {
                    if letter == '=' && !word.quoted && !word.expands {
                        word.equals.get_or_insert(word.text.len());
                    }
                    self.next();
                    word.text.push(letter);
                }
            }
        }
        word
    }

    fn single_quoted(&mut self, word: &mut Word) {
        let line = self.line;
        word.quoted = true;
        self.next();
        loop {
            match self.next() {
                None => return self.unclosed = self.unclosed.or(Some(line)),
                Some('\'') => return,
                Some(letter) => word.text.push(letter),
            }
        }
    }

    fn double_quoted(&mut self, word: &mut Word) {
        let line = self.line;
        word.quoted = true;
        self.next();
        while let Some(letter) = self.peek() {
            match letter {
                '"' => {
                    self.next();
                    return;
                }
                '\\' => {
                    self.next();
                    match self.next() {
                        Some('\n') => {}
                        Some(letter) if "$`\"\\".contains(letter) => word.text.push(letter),
                        Some(letter) => word.text.extend(['\\', letter]),
                        None => word.text.push('\\'),
                    }
                }
                '$' | '`' => self.expansion(word),
                _ => {
                    self.next();
                    word.text.push(letter);
                }
            }
        }
        self.unclosed = self.unclosed.or(Some(line));
    }

    /// `$name`, `${...}`, `$(...)`, `$((...))`, `$'...'` and backticks: kept as they are written, and marked.
    fn expansion(&mut self, word: &mut Word) {
        let start = self.at;
        let line = self.line;
        let first = self.next();
        let after = self.peek();
        // A dollar that names nothing is a dollar.
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_*@#?-!{('\"".contains(letter);
        if first == Some('$') && !after.is_some_and(is_name) {
            return word.text.push('$');
        }
        word.expands = true;
        let closed = match (first, after) {
            (Some('`'), _) => self.skip_past('`'),
            (_, Some('{')) => self.skip_balanced('{', '}'),
            (_, Some('(')) => self.skip_balanced('(', ')'),
            _ => true,
        };
        if !closed {
            self.unclosed = self.unclosed.or(Some(line));
        }
        word.text.push_str(&self.text[start..self.at]);
    }

    fn skip_past(&mut self, end: char) -> bool {
        while let Some(letter) = self.next() {
            match letter {
                '\\' => _ = self.next(),
                letter if letter == end => return true,
                _ => {}
            }
        }
        false
    }

    fn skip_balanced(&mut self, open: char, close: char) -> bool {
        let mut depth = 0_usize;
        while let Some(letter) = self.next() {
            match letter {
                '\\' => _ = self.next(),
                '\'' => _ = self.skip_past_plain('\''),
                '"' => _ = self.skip_past('"'),
                letter if letter == open => depth += 1,
                letter if letter == close => {
                    depth -= 1;
                    if depth == 0 {
                        return true;
                    }
                }
                _ => {}
            }
        }
        false
    }

    fn skip_past_plain(&mut self, end: char) -> bool {
        std::iter::from_fn(|| self.next()).any(|letter| letter == end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignments(script: &str) -> Vec<(String, String, bool)> {
        let statements = read(script).statements.into_iter();
        statements
            .filter_map(|statement| match statement {
                Statement::Assignment(assignment) => Some((assignment.name, assignment.value, assignment.expands)),
                _ => None,
            })
            .collect()
    }

    fn literals(script: &str) -> Vec<(String, String)> {
        assignments(script)
            .into_iter()
            .map(|(name, value, expands)| (name, value, assert!(!expands)))
            .map(|(a, b, ())| (a, b))
            .collect()
    }

    fn pairs<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_way_to_write_an_assignment_is_read() {
        let script = "A=1 B='two words' C=\"it's \\\"3\\\" \\$x \\n\"\nD=a\"b c\"'d'\\ e; export E=5 F=6\nG=long\\\ner # H=no\n\
                      I=\nJ=a=b K=#no L=$ M=5$ /usr/bin/nohup true N=argument\n";
        assert_eq!(
            literals(script),
            pairs(&[
                ("A", "1"),
                ("B", "two words"),
                ("C", "it's \"3\" $x \\n"),
                ("D", "ab cd e"),
                ("E", "5"),
                ("F", "6"),
                ("G", "longer"),
                ("I", ""),
                ("J", "a=b"),
                ("K", "#no"),
                ("L", "$"),
                ("M", "5$"),
            ])
        );
    }

    #[test]
    fn expansions_are_marked_and_not_made() {
        for script in
            ["A=$B", "A=\"${B:-)}\"", "A=$(echo \")\" ')')", "A=`date`", "A=$'x'", "A+=b", "A=(b c)", "A=$((1+2))"]
        {
            let found = assignments(&format!("{script}\nZ=1"));
            assert_eq!(
                found.first().map(|(name, _, expands)| (name.as_str(), *expands)),
                Some(("A", true)),
                "{script}"
            );
            assert_eq!(found.last().map(|(name, ..)| name.as_str()), Some("Z"), "{script}: {found:?}");
        }
    }

    #[test]
    fn what_a_run_would_decide_is_only_named() {
        let script = "for i in $(seq 1 9); do\ngrep -Fq \"EOF\" /x && break;\nif [ $i -eq 9 ]; then A=1; else B=2; fi;\ndone;\n\
                      case $x in a) C=3;; esac\nf() { D=4; }\n(E=5)\nwhile true; do F=6; done > /dev/null 2>&1\nZ=26\n";
        assert_eq!(literals(script), pairs(&[("Z", "26")]));
        let conditional: Vec<_> = read(script)
            .statements
            .into_iter()
            .filter_map(|statement| match statement {
                Statement::Conditional(name) => Some(name),
                _ => None,
            })
            .collect();
        assert_eq!(conditional, ["A", "B", "C", "D", "E", "F"]);
    }

    #[test]
    fn a_here_document_and_the_target_of_a_redirection_are_no_assignments() {
        let script = "cat > X=1 <<-'EOF' >> /y\nA=1\n\tEOF\nB=2\nread x <<< C=3\nD=4\n";
        assert_eq!(literals(script), pairs(&[("B", "2"), ("D", "4")]));
    }

    #[test]
    fn an_unclosed_quote_is_told_by_its_line() {
        assert_eq!(read("A=1\nB='x\nC=2").unclosed, Some(2));
        assert_eq!(read("A=1\nB=\"x").unclosed, Some(2));
        assert_eq!(read("A=$(x").unclosed, Some(1));
        assert_eq!(read("A='x' B=\"$(y)\"").unclosed, None);
    }

    fn single_quoted(value: &str) -> String {
        format!("'{}'", value.replace('\'', "'\\''"))
    }

    fn double_quoted(value: &str) -> String {
        let escaped = value.chars().flat_map(|letter| {
            let escape = "$`\"\\".contains(letter).then_some('\\');
            escape.into_iter().chain([letter])
        });
        format!("\"{}\"", escaped.collect::<String>())
    }

    proptest::proptest! {
        #[test]
        fn a_quoted_value_reads_back(values in proptest::collection::vec("\\PC*|[ -~\n\t]*", 1..4)) {
            let quotings: [fn(&str) -> String; 2] = [single_quoted, double_quoted];
            for quoted in quotings {
                for between in [" ", "\n", "; ", " \\\n "] {
                    let line: Vec<_> = values.iter().map(|value| format!("NAME={}", quoted(value))).collect();
                    let read: Vec<_> = literals(&line.join(between)).into_iter().map(|(_, value)| value).collect();
                    proptest::prop_assert_eq!(&read, &values);
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[A-Z=+$(){}<>'\"`\\\\;|&# \n\\PC]{0,80}") {
            let _ = read(&text); // any answer will do, as long as there is one
        }
    }
}
