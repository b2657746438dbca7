//! Gets the configuration out of what carries it.
//!
//! Provisioners wrap: base64 around gzip around MIME around a boothook around base64 again. Every layer is opened by what
//! it looks like, none is ever run, and each has a size cap, so that a gzip bomb is an error and not an outage.

use std::fmt;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_parser::{MessageParser, MimeHeaders, PartType};
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::{write_files, yaml};

/// Largest size of one layer once opened, in bytes. Azure allows 64 KiB of custom data; gzip makes configuration about ten
/// times smaller, never more than that.
pub const MAX_LAYER_BYTES: usize = 1024 * 1024;

/// Most layers inside each other.
pub const MAX_LAYERS: usize = 8;

/// Most layers that are opened in all, however they lie beside and inside each other.
const MAX_OPENED: usize = 256;

/// Most bytes that are opened in all.
const MAX_OPENED_BYTES: usize = 8 * MAX_LAYER_BYTES;

/// Most values in all documents: fields, items, lines, words. A large configuration has a thousand; without a limit one byte of JSON
/// would take a hundred in memory.
pub(super) const MAX_VALUES: usize = 32 * 1024;

/// Shortest run of base64 inside a script that is worth opening, in characters.
const MIN_EMBEDDED_BASE64: usize = 32;

/// One way of carrying something inside something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// Standard base64 with padding, white space ignored.
    Base64,
    /// RFC 1952.
    Gzip,
    /// A MIME multipart message, as cloud-init reads it.
    Mime,
    /// A shell script that cloud-init runs early. Read here, never run.
    Boothook,
    /// A cloud-config's `write_files` entry.
    WriteFiles,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Carrier::Base64 => "base64",
            Carrier::Gzip => "gzip",
            Carrier::Mime => "mime",
            Carrier::Boothook => "boothook",
            Carrier::WriteFiles => "write_files",
        })
    }
}

/// The formats a document can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Format {
    /// Ours: `apiVersion: nap-agent/v1`.
    NodeBootstrap,
    /// AgentBaker's AKSNodeConfig v1 JSON.
    #[serde(rename = "AKSNodeConfig")]
    AksNodeConfig,
    /// The scriptless shell script of karpenter-provider-azure and AgentBaker. Read, never run.
    ScriptlessScript,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::NodeBootstrap => "NodeBootstrap",
            Format::AksNodeConfig => "AKSNodeConfig",
            Format::ScriptlessScript => "scriptless script",
        })
    }
}

/// A configuration document, out of its wrapping.
#[derive(Clone, PartialEq)]
pub struct Document {
    /// What it was wrapped in, outermost first.
    pub carriers: Vec<Carrier>,
    /// What it is.
    pub format: Format,
    /// Its content; for a script its text, and once decoded the AKSNodeConfig that it says. Holds secrets.
    pub value: Value,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("carriers", &self.carriers)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// Why no document came out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CarrierError {
    /// A layer is larger than [`MAX_LAYER_BYTES`].
    #[error("{layer} opens to more than {MAX_LAYER_BYTES} bytes; refusing to read on")]
    TooLarge {
        /// Which layer.
        layer: &'static str,
    },
    /// Too many layers inside each other.
    #[error("more than {MAX_LAYERS} layers inside each other")]
    TooDeep,
    /// Too much to open.
    #[error("more than {MAX_OPENED} parts or {MAX_OPENED_BYTES} bytes in them, or more than {MAX_VALUES} values")]
    TooMuch,
    /// gzip data that is cut or damaged.
    #[error("gzip data is damaged: {0}")]
    Gzip(String),
    /// A document that says it is ours and is not well-formed.
    #[error("{format} is not well-formed: {message}")]
    Malformed {
        /// Which format it claims.
        format: Format,
        /// What the parser says, without the text around it.
        message: String,
    },
    /// Nothing in there that we know.
    #[error("no configuration in {0}")]
    Nothing(String),
}

/// Opens all layers and returns every document found, in order.
///
/// # Errors
/// When a cap is exceeded, a layer is damaged, a document of ours is malformed, or nothing is found.
pub fn open(bytes: &[u8]) -> Result<Vec<Document>, CarrierError> {
    let mut opening = Opening::default();
    opening.layer(bytes, &[])?;
    match opening.malformed {
        _ if !opening.documents.is_empty() => Ok(opening.documents),
        Some(error) => Err(error),
        None => Err(CarrierError::Nothing(outline(bytes))),
    }
}

/// What opening has found and used up so far.
#[derive(Default)]
struct Opening {
    documents: Vec<Document>,
    malformed: Option<CarrierError>,
    layers: usize,
    bytes: usize,
    values: usize,
}

impl Opening {
    fn layer(&mut self, bytes: &[u8], carriers: &[Carrier]) -> Result<(), CarrierError> {
        if bytes.len() > MAX_LAYER_BYTES {
            return Err(CarrierError::TooLarge { layer: "custom data" });
        }
        if carriers.len() > MAX_LAYERS {
            return Err(CarrierError::TooDeep);
        }
        self.layers += 1;
        self.bytes += bytes.len();
        if self.layers > MAX_OPENED || self.bytes > MAX_OPENED_BYTES {
            return Err(CarrierError::TooMuch);
        }
        let within = |carrier| [carriers, &[carrier]].concat();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return self.layer(&gunzip(bytes)?, &within(Carrier::Gzip));
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(()) };
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if is_mime(text) {
            return self.mime(text, &within(Carrier::Mime));
        }
        if text.starts_with("#cloud-config") {
            let files = write_files::contents(text);
            return files.iter().try_for_each(|file| self.layer(file, &within(Carrier::WriteFiles)));
        }
        if text.starts_with("#cloud-boothook") || text.starts_with("#!") {
            return self.script(text, carriers);
        }
        match self.document(text, carriers) {
            Ok(Some(document)) => self.documents.push(document),
            Ok(None) => {
                if let Some(inner) = unbase64(text) {
                    return self.layer(&inner, &within(Carrier::Base64));
                }
                // AgentBaker's CSE command has no first line that says what it is.
                if is_scriptless(text) {
                    return self.script(text, carriers);
                }
            }
            // Somebody else's file may look like ours; it counts only when ours is not beside it.
            Err(error) => _ = self.malformed.get_or_insert(error),
        }
        Ok(())
    }

    fn mime(&mut self, text: &str, carriers: &[Carrier]) -> Result<(), CarrierError> {
        let Some(message) = MessageParser::default().parse(text.as_bytes()) else { return Ok(()) };
        for part in &message.parts {
            if part.content_type().is_some_and(|kind| kind.ctype().eq_ignore_ascii_case("multipart")) {
                continue;
            }
            let body: &[u8] = match &part.body {
                PartType::Text(text) | PartType::Html(text) => text.as_bytes(),
                PartType::Binary(bytes) | PartType::InlineBinary(bytes) => bytes,
                PartType::Message(_) | PartType::Multipart(_) => continue,
            };
            self.layer(body, carriers)?;
        }
        Ok(())
    }

    /// A boothook writes the configuration with a here-document or an encoded word. We read those, and run nothing.
    fn script(&mut self, script: &str, carriers: &[Carrier]) -> Result<(), CarrierError> {
        let before = self.documents.len();
        let within = [carriers, &[Carrier::Boothook]].concat();
        for body in here_documents(script) {
            self.layer(body.as_bytes(), &within)?;
        }
        for word in encoded_words(script) {
            self.layer(word.as_bytes(), &within)?;
        }
        if self.documents.len() == before && is_scriptless(script) {
            let (carriers, format) = (carriers.to_vec(), Format::ScriptlessScript);
            match self.spend(script, |letter| letter.is_whitespace() || ";&|()<>".contains(letter)) {
                Ok(()) => self.documents.push(Document { carriers, format, value: Value::from(script) }),
                Err(error) => _ = self.malformed.get_or_insert(error),
            }
        }
        Ok(())
    }

    /// Counts the values of a document before they are made: by what stands between them.
    fn spend(&mut self, text: &str, between: fn(char) -> bool) -> Result<(), CarrierError> {
        let values = text.matches(between).count();
        if self.values + values > MAX_VALUES {
            return Err(CarrierError::TooMuch);
        }
        self.values += values;
        Ok(())
    }

    fn document(&mut self, text: &str, carriers: &[Carrier]) -> Result<Option<Document>, CarrierError> {
        let json = text.starts_with('{');
        let ours = text.lines().any(|line| line.contains("apiVersion") && line.contains("nap-agent/"));
        if !json && !ours {
            return Ok(None);
        }
        self.spend(text, |letter| "\n,:[{".contains(letter))?;
        let parsed = if json { parse_json(text) } else { parse_yaml(text) };
        let value: Value = match parsed {
            Ok(value) => value,
            Err(message) => {
                let format = if ours { Format::NodeBootstrap } else { Format::AksNodeConfig };
                return Err(CarrierError::Malformed { format, message });
            }
        };
        let is_ours =
            value.get("apiVersion").and_then(Value::as_str).is_some_and(|version| version.starts_with("nap-agent/"));
        let format = if is_ours {
            Format::NodeBootstrap
        } else if looks_like_aks_node_config(&value) {
            Format::AksNodeConfig
        } else {
            return Ok(None);
        };
        Ok(Some(Document { carriers: carriers.to_vec(), format, value }))
    }
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, CarrierError> {
    let mut inner = Vec::new();
    let mut limited = flate2::read::GzDecoder::new(bytes).take(MAX_LAYER_BYTES as u64 + 1);
    limited.read_to_end(&mut inner).map_err(|error| CarrierError::Gzip(error.to_string()))?;
    if inner.len() > MAX_LAYER_BYTES {
        return Err(CarrierError::TooLarge { layer: "gzip data" });
    }
    Ok(inner)
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let dense: String = text.split_ascii_whitespace().collect();
    BASE64.decode(dense).ok().filter(|inner| !inner.is_empty())
}

fn is_mime(text: &str) -> bool {
    let head = text.get(..512.min(text.len())).unwrap_or(text).to_ascii_lowercase();
    head.starts_with("content-type: multipart/") || head.starts_with("mime-version:")
}

/// The bodies of a shell script's here-documents (`<<EOF`, `<<'EOF'`, `<<-"EOF"`).
fn here_documents(script: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let Some((_, after)) = line.split_once("<<") else { continue };
        if after.starts_with('<') || line.contains("((") {
            continue; // a here-string, whose word is found by encoded_words, or arithmetic
        }
        let word: String = after
            .trim_start_matches('-')
            .trim_start()
            .trim_start_matches(['\'', '"', '\\'])
            .chars()
            .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
            .collect();
        if !word.is_empty() {
            let body: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != word).collect();
            bodies.push(body.join("\n"));
        }
    }
    bodies
}

fn encoded_words(script: &str) -> impl Iterator<Item = &str> {
    let base64 = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '/' | '=');
    script
        .lines()
        .filter(|line| line.contains(char::is_whitespace)) // a line of nothing but base64 belongs to a here-document
        .flat_map(move |line| line.split(move |letter| !base64(letter)))
        .filter(|word| word.len() >= MIN_EMBEDDED_BASE64)
}

/// Karpenter's and AgentBaker's templates always set these, each at the start of a word.
fn is_scriptless(script: &str) -> bool {
    ["KUBELET_FLAGS=", "API_SERVER_NAME="].iter().all(|name| {
        let before = |at: usize| script[..at].chars().next_back();
        script
            .match_indices(name)
            .any(|(at, _)| before(at).is_none_or(|letter| letter.is_whitespace() || letter == ';'))
    })
}

fn looks_like_aks_node_config(value: &Value) -> bool {
    let keys = [
        "version",
        "kubelet_config",
        "kubeletConfig",
        "api_server_config",
        "apiServerConfig",
        "cluster_config",
        "clusterConfig",
    ];
    keys.iter().filter(|key| value.get(**key).is_some()).count() >= 2
}

fn parse_json(text: &str) -> Result<Value, String> {
    // serde_json's message names line and column and never quotes the text.
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn parse_yaml(text: &str) -> Result<Value, String> {
    yaml::parse(text).map_err(|error| first_line(&error.to_string()))
}

/// YAML's errors show the lines around the mistake, which may hold a secret; only the first line says what and where.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// What the custom data looks like, for the error that says nothing was found. Shows sizes and kinds, no content.
fn outline(bytes: &[u8]) -> String {
    let kind = match bytes {
        [] => "an empty custom data".to_owned(),
        [0x1f, 0x8b, ..] => "gzip data".to_owned(),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) if text.trim_start().starts_with("#cloud-config") => "a cloud-config".to_owned(),
            Ok(text) if text.trim_start().starts_with("#!") => "a script".to_owned(),
            Ok(text) if is_mime(text.trim_start()) => "a MIME message".to_owned(),
            Ok(_) => "a text".to_owned(),
            Err(_) => "binary data".to_owned(),
        },
    };
    format!("{kind} of {} bytes", bytes.len())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const YAML: &str = "apiVersion: nap-agent/v1\nkind: NodeBootstrap\n";
    const JSON: &str = r#"{"version": "v1", "kubelet_config": {}}"#;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn carriers(bytes: &[u8]) -> (Vec<Carrier>, Format) {
        let documents = open(bytes).unwrap();
        assert_eq!(documents.len(), 1, "{documents:?}");
        (documents[0].carriers.clone(), documents[0].format)
    }

    #[test]
    fn opens_each_carrier_alone() {
        use Carrier::*;
        let encoded = BASE64.encode(YAML);
        assert_eq!(carriers(YAML.as_bytes()), (vec![], Format::NodeBootstrap));
        assert_eq!(carriers(JSON.as_bytes()), (vec![], Format::AksNodeConfig));
        assert_eq!(carriers(encoded.as_bytes()), (vec![Base64], Format::NodeBootstrap));
        assert_eq!(carriers(&gzip(YAML.as_bytes())), (vec![Gzip], Format::NodeBootstrap));
        let boothook = format!(
            "#cloud-boothook\n#!/bin/bash\ncat <<'EOF' | base64 -d >/opt/x.json\n{}\nEOF\n",
            BASE64.encode(JSON)
        );
        assert_eq!(carriers(boothook.as_bytes()), (vec![Boothook, Base64], Format::AksNodeConfig));
        let boothook =
            format!("#cloud-boothook\n#!/bin/bash\necho '{}' | base64 -d > /opt/x.json\n", BASE64.encode(JSON));
        assert_eq!(carriers(boothook.as_bytes()), (vec![Boothook, Base64], Format::AksNodeConfig));
        let plain = format!("#cloud-boothook\ncat > /etc/x <<EOF\n{YAML}\nEOF\n");
        assert_eq!(carriers(plain.as_bytes()), (vec![Boothook], Format::NodeBootstrap));
    }

    #[test]
    fn opens_carriers_inside_each_other() {
        let mime = format!(
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"=B=\"\n\n--=B=\nContent-Type: text/cloud-boothook\n\
             Content-Transfer-Encoding: base64\n\n{}\n--=B=\nContent-Type: text/cloud-config\n\n#cloud-config\nruncmd:\n- [echo]\n--=B=--\n",
            BASE64.encode(format!(
                "#cloud-boothook\necho {} | base64 -d | gunzip\n",
                BASE64.encode(gzip(JSON.as_bytes()))
            ))
        );
        use Carrier::*;
        let all = BASE64.encode(gzip(mime.as_bytes()));
        assert_eq!(carriers(all.as_bytes()), (vec![Base64, Gzip, Mime, Boothook, Base64, Gzip], Format::AksNodeConfig));
    }

    #[test]
    fn a_gzip_bomb_is_an_error() {
        let bomb = gzip(&vec![b' '; MAX_LAYER_BYTES * 64]);
        assert!(bomb.len() < MAX_LAYER_BYTES);
        assert_eq!(open(&bomb), Err(CarrierError::TooLarge { layer: "gzip data" }));
    }

    #[test]
    fn endless_nesting_is_an_error() {
        let mut text = YAML.to_owned();
        for _ in 0..12 {
            text = BASE64.encode(text);
        }
        assert_eq!(open(text.as_bytes()), Err(CarrierError::TooDeep));
    }

    #[test]
    fn damage_and_emptiness_have_their_own_errors() {
        assert!(matches!(open(&gzip(YAML.as_bytes())[..20]), Err(CarrierError::Gzip(_))));
        assert_eq!(open(b""), Err(CarrierError::Nothing("an empty custom data of 0 bytes".into())));
        assert_eq!(open(b"#cloud-config\n{}"), Err(CarrierError::Nothing("a cloud-config of 16 bytes".into())));
        assert!(matches!(open(b"apiVersion: nap-agent/v1\n  a: [\n"), Err(CarrierError::Malformed { .. })));
    }

    #[test]
    fn many_small_bombs_are_an_error_as_well() {
        let layer = |inner: &[u8], count: usize| {
            let entry = format!("- encoding: gz+b64\n  content: {}\n", BASE64.encode(gzip(inner)));
            format!("#cloud-config\nwrite_files:\n{}", entry.repeat(count)).into_bytes()
        };
        let inner = layer(&vec![b' '; 900_000], 200);
        assert_eq!(open(&gzip(&layer(&inner, 100))), Err(CarrierError::TooMuch));
    }

    #[test]
    fn more_values_than_a_configuration_has_are_an_error() {
        let json = format!("{{\"apiVersion\":\"nap-agent/v1\",\"x\":[0{}]}}", ",{\"\":0}".repeat(20_000));
        let yaml = format!("{YAML}x:\n{}", "- a\n".repeat(40_000));
        let script = format!("#!/bin/sh\nKUBELET_FLAGS= API_SERVER_NAME=\n{}", "a\n".repeat(40_000));
        for text in [json, yaml, script] {
            assert_eq!(open(text.as_bytes()), Err(CarrierError::TooMuch), "{}", &text[..60]);
        }
    }

    #[test]
    fn a_neighbour_that_looks_like_ours_does_not_hide_ours() {
        let files = format!(
            "#cloud-config\nwrite_files:\n- content: |\n    {{{{ jinja }}}}\n- content: |\n    apiVersion: nap-agent/v0\n      a: [\n\
             - encoding: b64\n  content: {}\n",
            BASE64.encode(YAML)
        );
        assert_eq!(carriers(files.as_bytes()), (vec![Carrier::WriteFiles], Format::NodeBootstrap));
        let script = format!("#!/bin/sh\necho $((1<<20))\nbase64 -d <<E\n{}\nE\n", BASE64.encode(YAML));
        assert_eq!(carriers(script.as_bytes()), (vec![Carrier::Boothook, Carrier::Base64], Format::NodeBootstrap));
    }

    #[test]
    fn a_malformed_document_does_not_show_its_text() {
        let error = open(b"apiVersion: nap-agent/v1\nidentity: {bootstrapToken: sesame\n").unwrap_err().to_string();
        assert!(!error.contains("sesame"), "{error}");
    }

    #[test]
    fn the_scriptless_script_is_recognised_and_not_run() {
        assert_eq!(
            carriers(b"#!/bin/bash\nKUBELET_FLAGS=\"--a=b\"\nAPI_SERVER_NAME=x\n"),
            (vec![], Format::ScriptlessScript)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = open(&bytes); // any answer will do, as long as there is one
        }

        #[test]
        fn what_is_wrapped_comes_out(layers in proptest::collection::vec(0..3u8, 0..6)) {
            let mut bytes = YAML.as_bytes().to_vec();
            for layer in layers {
                bytes = match layer {
                    0 => BASE64.encode(&bytes).into_bytes(),
                    1 => gzip(&bytes),
                    _ => [b"#cloud-boothook\nbase64 -d <<E\n", BASE64.encode(&bytes).as_bytes(), b"\nE\n"].concat(),
                };
            }
            let opened = open(&bytes);
            match opened {
                Ok(documents) => proptest::prop_assert_eq!(&documents[0].value["kind"], "NodeBootstrap"),
                Err(error) => proptest::prop_assert_eq!(error, CarrierError::TooDeep),
            }
        }
    }
}
