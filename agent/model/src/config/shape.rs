//! The shape of a wire format, as data.
//!
//! A wire format is one table of [`Field`]s. From that table come the check that reports every problem at once, the warnings
//! about fields that nobody reads, the masking of secrets in `decode`, and the JSON Schema. serde stops at the first
//! mistake and knows neither a range nor a secret, so it only fills our structs after the table has said yes.

use serde_json::{Map, Value, json};

use super::problem::{Findings, described, entry, join};
use crate::secret::MASK;

/// What may stand in one place of a document.
#[derive(Debug)]
pub enum Shape {
    /// An object with named fields.
    Object(&'static [Field]),
    /// An object whose keys are data, such as labels.
    Map(&'static Shape),
    /// A list.
    List(&'static Shape),
    /// Any text.
    Text,
    /// Text under a rule: what it should be, in words, and the test.
    TextThat(&'static str, fn(&str) -> bool),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number in this closed range.
    Integer(i64, i64),
    /// True or false.
    Bool,
    /// A protobuf enumeration: names and numbers, both accepted, the name kept.
    ProtobufEnum(&'static [(&'static str, i64)]),
    /// Anything; somebody further in knows its rules.
    Any,
}

/// A named field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name as the format's owner spells it.
    pub name: &'static str,
    /// What may stand there.
    pub shape: Shape,
    /// One line for people: meaning, unit, default.
    pub doc: &'static str,
    /// A second spelling that its owner's JSON uses, such as kubelet's own name of a protobuf field.
    pub also: Option<&'static str>,
    required: bool,
    secret: bool,
    ignored: Option<&'static str>,
}

/// A field that may be absent and is acted on.
pub const fn field(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { name, shape, doc, also: None, required: false, secret: false, ignored: None }
}

impl Field {
    /// It has a second spelling.
    pub const fn also(mut self, name: &'static str) -> Self {
        self.also = Some(name);
        self
    }

    /// Why this version does nothing with it; nothing when it does something.
    pub const fn why_ignored(&self) -> Option<&'static str> {
        self.ignored
    }

    /// It must be there.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Nobody may see its value.
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// This version knows it and does nothing with it, for a reason that a person can read; its presence is a warning.
    pub const fn ignored(mut self, why: &'static str) -> Self {
        self.ignored = Some(why);
        self
    }
}

/// How field names are matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// As spelled in the table; another case is read with a warning, in names and in words.
    Exact,
    /// As protobuf's JSON mapping says: `snake_case` or `lowerCamelCase`; integers also as strings.
    Protobuf,
}

impl Shape {
    /// Checks `value`, reports everything wrong, and returns it with canonical names and enum words.
    pub fn check(&self, value: &Value, naming: Naming, findings: &mut Findings) -> Value {
        Check { naming, findings }.value(self, value, "", false).unwrap_or(Value::Null)
    }

    /// The same document with every secret masked. Works on documents that failed the check, too.
    pub fn masked(&self, value: &Value, naming: Naming) -> Value {
        match (self, value) {
            (Shape::Object(fields), Value::Object(object)) => Value::Object(
                object
                    .iter()
                    .map(|(name, value)| (name.clone(), masked_field(find(fields, name, naming), value, naming)))
                    .collect(),
            ),
            (Shape::Map(inner), Value::Object(object)) => {
                Value::Object(object.iter().map(|(key, value)| (key.clone(), inner.masked(value, naming))).collect())
            }
            (Shape::List(inner), Value::Array(items)) => {
                Value::Array(items.iter().map(|item| inner.masked(item, naming)).collect())
            }
            // What stands in a wrong place may be the secret that belongs further in.
            (shape, _) if shape.holds_secret() => json!(MASK),
            _ => value.clone(),
        }
    }

    /// Takes the field at `path`, in the table's names, out of a document, however that spells it.
    pub fn take_out(&self, value: &mut Value, path: &[&str], naming: Naming) {
        let (Shape::Object(fields), Value::Object(object), [name, further @ ..]) = (self, value, path) else { return };
        let named = |spelling: &str| find(fields, spelling, naming).filter(|field| field.name == *name);
        if further.is_empty() {
            object.retain(|spelling, _| named(spelling).is_none());
        }
        for (spelling, value) in object {
            if let Some(field) = named(spelling) {
                field.shape.take_out(value, further, naming);
            }
        }
    }

    /// protobuf has no absence: where a text belongs, an empty one stands for none.
    fn is_no_text(&self, value: &Value) -> bool {
        *value == json!("") && matches!(self, Shape::Text | Shape::TextThat(..) | Shape::Word(_))
    }

    /// Whether a secret may be in there.
    fn holds_secret(&self) -> bool {
        match self {
            Shape::Object(fields) => fields.iter().any(|field| field.secret || field.shape.holds_secret()),
            Shape::Map(inner) | Shape::List(inner) => inner.holds_secret(),
            _ => false,
        }
    }

    /// JSON Schema 2020-12 of this shape.
    pub fn json_schema(&self) -> Value {
        match self {
            Shape::Object(fields) => object_schema(fields),
            Shape::Map(inner) => json!({"type": "object", "additionalProperties": inner.json_schema()}),
            Shape::List(inner) => json!({"type": "array", "items": inner.json_schema()}),
            Shape::Text => json!({"type": "string"}),
            Shape::TextThat(wanted, _) => json!({"type": "string", "$comment": wanted}),
            Shape::Word(words) => json!({"enum": words}),
            Shape::Integer(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::ProtobufEnum(rows) => {
                let names = rows.iter().map(|(name, _)| json!(name));
                json!({"enum": names.chain(rows.iter().map(|(_, number)| json!(number))).collect::<Vec<_>>()})
            }
            Shape::Any => json!({}),
        }
    }
}

/// Whether protobuf would have left this value out. What a provisioner spells out although it is off deserves no warning.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text.ends_with("_UNSPECIFIED"),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(says_nothing),
    }
}

fn masked_field(field: Option<&Field>, value: &Value, naming: Naming) -> Value {
    match field {
        Some(field) if field.secret && !value.is_null() => json!(MASK),
        // Nobody has told what is in there; mirrors, proxies and archives come with passwords.
        Some(field) if field.ignored.is_some() && (matches!(field.shape, Shape::Any) || holds_url(value)) => {
            json!("(not acted on, not shown)")
        }
        Some(field) => field.shape.masked(value, naming),
        // A field nobody knows might be a secret with a spelling mistake in its name.
        None => json!("(unknown field, not shown)"),
    }
}

fn holds_url(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("://"))
}

fn object_schema(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let mut schema = field.shape.json_schema();
        schema["description"] = json!(field.doc);
        if field.secret {
            schema["writeOnly"] = json!(true);
        }
        properties.insert(field.name.to_owned(), schema);
    }
    let required: Vec<_> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

fn find<'f>(fields: &'f [Field], name: &str, naming: Naming) -> Option<&'f Field> {
    match naming {
        // AKS' public pages misspell the case of several; a right spelling wins over one that only looks like it.
        Naming::Exact => fields
            .iter()
            .find(|field| field.name == name)
            .or_else(|| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))),
        Naming::Protobuf => fields
            .iter()
            .find(|field| field.name == name || field.also == Some(name) || lower_camel_case(field.name) == name),
    }
}

impl Shape {
    /// A value with every field under its first spelling; fields that nobody knows stay as they are.
    pub fn under_first_names(&self, value: &Value) -> Value {
        match (self, value) {
            (Shape::Object(fields), Value::Object(object)) => {
                let renamed = object.iter().map(|(name, value)| match find(fields, name, Naming::Protobuf) {
                    Some(field) => (field.name.to_owned(), field.shape.under_first_names(value)),
                    None => (name.clone(), value.clone()),
                });
                Value::Object(renamed.collect())
            }
            _ => value.clone(),
        }
    }

    /// A checked value with every field under its second spelling, where it has one.
    pub fn under_second_names(&self, value: &Value) -> Value {
        match (self, value) {
            (Shape::Object(fields), Value::Object(object)) => {
                let renamed = object.iter().filter_map(|(name, value)| {
                    let field = fields.iter().find(|field| field.name == name)?;
                    Some((field.also.unwrap_or(field.name).to_owned(), field.shape.under_second_names(value)))
                });
                Value::Object(renamed.collect())
            }
            _ => value.clone(),
        }
    }
}

/// protobuf's default JSON name of a field: underscores dropped, the letter after each in upper case.
/// Source: protocolbuffers `ToJsonName`.
fn lower_camel_case(snake_case: &str) -> String {
    let mut after_underscore = false;
    let mut name = String::with_capacity(snake_case.len());
    for letter in snake_case.chars() {
        match letter {
            '_' => after_underscore = true,
            letter if after_underscore => {
                name.push(letter.to_ascii_uppercase());
                after_underscore = false;
            }
            letter => name.push(letter),
        }
    }
    name
}

struct Check<'a> {
    naming: Naming,
    findings: &'a mut Findings,
}

impl Check<'_> {
    fn value(&mut self, shape: &Shape, value: &Value, path: &str, secret: bool) -> Option<Value> {
        match (shape, value) {
            (Shape::Any, value) => Some(value.clone()),
            (Shape::Object(fields), Value::Object(object)) => Some(self.object(fields, object, path)),
            (Shape::Map(inner), Value::Object(object)) => {
                let entries = object.iter().filter_map(|(key, value)| {
                    let value = self.value(inner, value, &entry(path, key), secret)?;
                    Some((key.clone(), value))
                });
                Some(Value::Object(entries.collect()))
            }
            (Shape::List(inner), Value::Array(items)) => {
                let items = items.iter().enumerate();
                Some(items.filter_map(|(i, item)| self.value(inner, item, &format!("{path}[{i}]"), secret)).collect())
            }
            (shape, value) => self.scalar(shape, value, path, secret),
        }
    }

    fn object(&mut self, fields: &[Field], object: &Map<String, Value>, path: &str) -> Value {
        let mut canonical = Map::new();
        for (name, value) in object {
            let path = join(path, name);
            let Some(field) = find(fields, name, self.naming) else {
                self.findings.warn(&path, "unknown field, ignored");
                continue;
            };
            // Every format says: null is the same as absent.
            if value.is_null() || (self.naming == Naming::Protobuf && field.shape.is_no_text(value)) {
                continue;
            }
            if let Some(why) = field.ignored.filter(|_| self.naming == Naming::Exact || !says_nothing(value)) {
                self.findings.warn(&path, format!("not acted on: {why}"));
            }
            if self.naming == Naming::Exact && field.name != name {
                self.findings.warn(&path, format!("spelled {} in the format; read all the same", field.name));
            }
            let value = self.value(&field.shape, value, &path, field.secret);
            if canonical.insert(field.name.to_owned(), value.unwrap_or(Value::Null)).is_some() {
                self.findings.problem(&path, "the same field under two spellings", "one of them");
            }
        }
        for field in fields.iter().filter(|field| field.required) {
            match canonical.get(field.name) {
                None => self.findings.problem(&join(path, field.name), "nothing", field.shape.wanted()),
                Some(Value::String(text)) if text.is_empty() => {
                    self.findings.problem(&join(path, field.name), "an empty text", field.shape.wanted());
                }
                Some(_) => {}
            }
        }
        canonical.retain(|_, value| !value.is_null());
        Value::Object(canonical)
    }

    fn scalar(&mut self, shape: &Shape, value: &Value, path: &str, secret: bool) -> Option<Value> {
        let canonical = match (shape, value) {
            (Shape::Text, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => Some(value.clone()),
            (Shape::TextThat(_, holds), Value::String(text)) => holds(text).then(|| value.clone()),
            (Shape::Word(words), Value::String(text)) => self.word(words, text, path).map(|word| json!(word)),
            (Shape::Integer(min, max), value) => {
                integer(value, self.naming).filter(|number| (min..=max).contains(&number)).map(Value::from)
            }
            (Shape::ProtobufEnum(rows), Value::String(text)) => {
                rows.iter().find(|(name, _)| name == text).map(|(name, _)| json!(name))
            }
            (Shape::ProtobufEnum(rows), Value::Number(number)) => {
                rows.iter().find(|(_, row)| number.as_i64() == Some(*row)).map(|(name, _)| json!(name))
            }
            _ => None,
        };
        if canonical.is_none() {
            let hidden = secret || shape.holds_secret();
            let found = if hidden { "a value that is not shown".to_owned() } else { described(value) };
            self.findings.problem(path, found, shape.wanted());
        }
        canonical
    }
}

impl Check<'_> {
    fn word(&mut self, words: &[&'static str], text: &str, path: &str) -> Option<&'static str> {
        let exact = words.iter().find(|word| **word == text);
        let word = exact.or_else(|| words.iter().find(|word| word.eq_ignore_ascii_case(text)))?;
        if exact.is_none() {
            self.findings.warn(path, format!("spelled {word} in the format; read all the same"));
        }
        Some(word)
    }
}

fn integer(value: &Value, naming: Naming) -> Option<i64> {
    match (value, naming) {
        (Value::Number(number), _) => {
            // protobuf's JSON mapping allows 5.0 for 5.
            let whole = number.as_f64().filter(|f| naming == Naming::Protobuf && f.fract() == 0.0 && f.abs() < 9e15);
            number.as_i64().or_else(|| whole.map(|f| f as i64))
        }
        (Value::String(text), Naming::Protobuf) => text.parse().ok(),
        _ => None,
    }
}

impl Shape {
    fn wanted(&self) -> String {
        match self {
            Shape::Object(_) | Shape::Map(_) => "an object".to_owned(),
            Shape::List(_) => "a list".to_owned(),
            Shape::Text => "a text".to_owned(),
            Shape::TextThat(wanted, _) => (*wanted).to_owned(),
            Shape::Word(words) => format!("one of {}", words.join(", ")),
            Shape::Integer(i64::MIN, i64::MAX) => "a whole number".to_owned(),
            Shape::Integer(min, max) => format!("a number from {min} to {max}"),
            Shape::Bool => "true or false".to_owned(),
            Shape::ProtobufEnum(rows) => {
                let names: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
                format!("one of {}", names.join(", "))
            }
            Shape::Any => "a value".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOUR: Shape = Shape::ProtobufEnum(&[("COLOUR_UNSPECIFIED", 0), ("COLOUR_RED", 1)]);
    const SHAPE: Shape = Shape::Object(&[
        field("max_pods", Shape::Integer(1, 1024), "Pods."),
        field("colour", COLOUR, "Colour."),
        field("token", Shape::TextThat("six characters", |text| text.len() == 6), "Token.").secret(),
        field("name", Shape::Text, "Name.").required(),
        field("later", Shape::Bool, "Later.").ignored("it is an example"),
    ]);

    fn check(value: &Value, naming: Naming) -> (Value, Findings) {
        let mut findings = Findings::default();
        (SHAPE.check(value, naming, &mut findings), findings)
    }

    #[test]
    fn every_problem_is_reported_at_once_and_no_secret_is_shown() {
        let (_, findings) =
            check(&json!({"max_pods": "many", "colour": 7, "token": "sesame!", "later": true}), Naming::Exact);
        let problems: Vec<_> = findings.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "colour: found 7, want one of COLOUR_UNSPECIFIED, COLOUR_RED",
                "max_pods: found \"many\", want a number from 1 to 1024",
                "token: found a value that is not shown, want six characters",
                "name: found nothing, want a text",
            ]
        );
        assert_eq!(findings.warnings[0].to_string(), "later: not acted on: it is an example");
    }

    #[test]
    fn protobuf_names_enums_and_integers_come_out_canonical() {
        let (value, findings) = check(&json!({"maxPods": "30", "colour": 1, "name": "n", "new": 1}), Naming::Protobuf);
        assert_eq!(value, json!({"max_pods": 30, "colour": "COLOUR_RED", "name": "n"}));
        assert_eq!(findings.problems, []);
        assert_eq!(findings.warnings[0].to_string(), "new: unknown field, ignored");
    }

    #[test]
    fn a_field_under_two_spellings_is_a_problem() {
        let (_, findings) = check(&json!({"maxPods": 1, "max_pods": 2, "name": "n"}), Naming::Protobuf);
        assert_eq!(findings.problems.len(), 1);
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_shown() {
        const OUTER: Shape = Shape::Object(&[field("identity", SHAPE, "Identity.")]);
        let mut findings = Findings::default();
        for wrong in [json!({"identity": "sesame"}), json!({"identity": [{"token": "sesame"}]})] {
            OUTER.check(&wrong, Naming::Exact, &mut findings);
            let shown = format!("{findings:?} {}", OUTER.masked(&wrong, Naming::Exact));
            assert!(!shown.contains("sesame"), "{shown}");
        }
    }

    #[test]
    fn a_url_that_nobody_reads_is_not_shown() {
        const OUTER: Shape = Shape::Object(&[field("mirror", Shape::Text, "Mirror.").ignored("it is an example")]);
        let masked = OUTER.masked(&json!({"mirror": "curl https://u:sesame@mirror"}), Naming::Protobuf);
        assert_eq!(masked, json!({"mirror": "(not acted on, not shown)"}));
        assert_eq!(OUTER.masked(&json!({"mirror": "none"}), Naming::Protobuf), json!({"mirror": "none"}));
    }

    #[test]
    fn an_empty_text_is_none_where_one_is_required() {
        let (_, findings) = check(&json!({"name": ""}), Naming::Exact);
        assert_eq!(findings.problems[0].to_string(), "name: found an empty text, want a text");
    }

    #[test]
    fn masking_hides_secrets_and_unknown_fields() {
        let masked = SHAPE.masked(&json!({"token": "sesame", "tokn": "sesame", "name": "n"}), Naming::Exact);
        assert_eq!(masked, json!({"token": MASK, "tokn": "(unknown field, not shown)", "name": "n"}));
    }
}
