//! What holds for any input. The fuzz targets try it on inputs that nobody has thought of, and nap-model's test `seeds` on those
//! that are kept.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nap_model::config::carrier::{self, Carrier, CarrierError, Document, Format, MAX_LAYERS};
use nap_model::config::{Decoded, NodeConfig, decode, ovf};
use nap_model::facts::Facts;
use nap_model::os::DISTRIBUTIONS;
use nap_model::plan::{Plan, Want, plan};
use serde_json::Value;

/// A target's name and what it runs.
type Target = (&'static str, fn(&[u8]));

/// The targets: each has a file in `fuzz_targets` and a folder in `seeds`.
const TARGETS: &[Target] = &[
    ("carrier", carriers),
    ("node_bootstrap", |input| document(input, Format::NodeBootstrap)),
    ("aks_node_config", |input| document(input, Format::AksNodeConfig)),
    ("scriptless", |input| document(input, Format::ScriptlessScript)),
    ("ovf", provisioning_document),
];

/// Tries one input of a target.
///
/// # Panics
/// When a promise is broken, or there is no such target.
pub(crate) fn hold(target: &str, input: &[u8]) {
    let (_, promises) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of the table");
    promises(input);
}

fn carriers(input: &[u8]) {
    let opened = carrier::open(input);
    assert_eq!(opened, carrier::open(input), "the same bytes open to the same");
    match &opened {
        Ok(documents) => {
            assert!(documents.iter().all(|document| document.carriers.len() <= MAX_LAYERS));
            for (carrier, wrapped) in
                [(Carrier::Base64, BASE64.encode(input).into_bytes()), (Carrier::Gzip, gzip(input))]
            {
                opens_to(&wrapped, carrier, documents);
            }
        }
        Err(error) => shows_no_token(input, error),
    }
    if let Ok(decoded) = decode(input) {
        keeps_secrets(input, &decoded);
    }
}

/// One more layer changes nothing but the list of layers, as long as there may be one more.
fn opens_to(wrapped: &[u8], carrier: Carrier, documents: &[Document]) {
    match carrier::open(wrapped) {
        Ok(inner) => {
            let within = |document: &Document| {
                let carriers = [&[carrier], document.carriers.as_slice()].concat();
                Document { carriers, ..document.clone() }
            };
            assert_eq!(inner, documents.iter().map(within).collect::<Vec<_>>());
        }
        Err(error) => {
            let caps = [CarrierError::TooDeep, CarrierError::TooMuch, CarrierError::TooLarge { layer: "custom data" }];
            assert!(caps.contains(&error), "{carrier}: {error}");
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes what is written")
}

/// An error of the carriers says what is wrong and quotes no token.
fn shows_no_token(input: &[u8], error: &CarrierError) {
    let text = String::from_utf8_lossy(input);
    let message = format!("{error} {error:?}");
    let tokens =
        text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.').filter(|word| is_token(word));
    tokens.for_each(|token| assert!(!message.contains(token), "{token} in {message}"));
}

fn is_token(word: &str) -> bool {
    let is = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    word.split_once('.').is_some_and(|(id, secret)| is(id, 6) && is(secret, 16))
}

fn document(input: &[u8], format: Format) {
    let decoded = decode(input);
    let again = decode(input);
    let (decoded, again) = match (decoded, again) {
        (Ok(decoded), Ok(again)) => (decoded, again),
        (Err(error), Err(again)) => {
            assert_eq!(error, again);
            return shows_no_token(input, &error);
        }
        _ => panic!("the same bytes decode to the same"),
    };
    assert_eq!(decoded.document, again.document);
    assert_eq!(decoded.findings, again.findings);
    assert_eq!(decoded.config, again.config);
    assert_eq!(decoded.config.is_some(), decoded.findings.problems.is_empty(), "{:?}", decoded.findings);
    keeps_secrets(input, &decoded);
    if let Some(config) = decoded.config.as_ref().filter(|_| decoded.document.format == format) {
        keeps_a_copy(&decoded, config);
        let distribution = &DISTRIBUTIONS[input.len() % DISTRIBUTIONS.len()];
        plans(&secrets(input, &decoded), config, &distribution.typical_facts());
    }
}

/// What may be seen of a document shows none of its secrets.
fn keeps_secrets(input: &[u8], decoded: &Decoded) {
    let shown = serde_json::to_string(&decoded.shown()).expect("JSON is JSON");
    shows_none(&secrets(input, decoded), &format!("{shown} {decoded:?}"));
}

fn shows_none(secrets: &[String], shown: &str) {
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

/// The secrets of a document that would be recognised where they show: not those that are short, that have another place in the
/// document, or that our own messages give as an example; and of a proxy's URLs those that hold a password, as the plan has it.
fn secrets(input: &[u8], decoded: &Decoded) -> Vec<String> {
    let places = [
        "/identity/bootstrapToken",
        "/identity/servicePrincipalSecret",
        "/bootstrapping_config/tls_bootstrapping_token",
        "/bootstrappingConfig/tlsBootstrappingToken",
        "/auth_config/service_principal_secret",
        "/authConfig/servicePrincipalSecret",
    ];
    // A script may say the same under two names of which only one is read, or a secret where a quote is missing.
    let opened = carrier::open(input).expect("what decodes opens");
    let value = opened.iter().min_by_key(|document| document.format).map_or(&Value::Null, |document| &document.value);
    let text = value.to_string();
    let read_text = decoded.document.value.to_string();
    let words = value.as_str().unwrap_or_default().split_whitespace();
    let tokens = words.filter_map(|word| word.strip_prefix("TLS_BOOTSTRAP_TOKEN="));
    let tokens = tokens.map(|token| token.trim_matches(['"', '\'']));
    let in_places = places.iter().filter_map(|place| decoded.document.value.pointer(place)?.as_str());
    let read = decoded.config.iter().flat_map(NodeConfig::secrets).map(|secret| secret.reveal());
    let escaped =
        in_places.chain(read).chain(tokens.filter(|word| is_token(word))).map(|secret| Value::from(secret).to_string());
    let inner = escaped.map(|secret| secret[1..secret.len() - 1].to_owned());
    inner
        .filter(|secret| secret.len() >= 16 && secret.contains(|letter: char| letter.is_ascii_digit()))
        .filter(|secret| !secret.contains(' ') && secret != "abcdef.0123456789abcdef")
        .filter(|secret| !secret.contains("://") || secret.contains('@'))
        .filter(|secret| [&text, &read_text].iter().all(|text| text.matches(secret.as_str()).count() <= 1))
        .collect()
}

/// The copy that outlives the token describes the same node, also where it is kept: one level down in another document.
fn keeps_a_copy(decoded: &Decoded, config: &NodeConfig) {
    let file = serde_json::json!({"vmId": "", "document": decoded.without_token()}).to_string();
    let file: Value = serde_json::from_str(&file).expect("the kept file reads back");
    let copy = file["document"].to_string();
    let again = decode(copy.as_bytes()).unwrap_or_else(|error| panic!("the kept copy: {error}"));
    let format = match config.format {
        Format::ScriptlessScript => Format::AksNodeConfig,
        format => format,
    };
    assert_eq!(again.findings.problems, []);
    let kept = again.config.expect("a copy without problems is a node");
    assert_eq!(kept, NodeConfig { format, bootstrap_token: None, ..config.clone() });
}

/// A machine becomes that node in one way, or there is a reason why not; neither shows a secret.
fn plans(secrets: &[String], config: &NodeConfig, facts: &Facts) {
    let planned = plan(config, facts);
    assert_eq!(planned, plan(config, facts), "the same input has the same plan");
    match planned {
        Ok(plan) => {
            let json = serde_json::to_string(&plan).expect("a plan has only texts");
            shows_none(secrets, &format!("{json} {plan:?}"));
            is_well_formed(&plan);
        }
        Err(failure) => shows_none(secrets, &format!("{failure} {failure:?}")),
    }
}

/// Steps can be told apart, and programs can read their files.
fn is_well_formed(plan: &Plan) {
    let mut ids: Vec<_> = plan.steps().map(|step| &step.id).collect();
    ids.sort();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    for step in plan.steps() {
        let Want::File { path, content, .. } = &step.want else { continue };
        let text = content.reveal();
        match path.as_str().rsplit_once('.').map_or("", |(_, extension)| extension) {
            "json" | "conflist" => {
                _ = serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{path}: {error}"))
            }
            "toml" => _ = toml::from_str::<toml::Table>(text).unwrap_or_else(|error| panic!("{path}: {error}")),
            _ => {}
        }
        let variables: &[&str] = match path.as_str() {
            "/etc/default/kubelet" => &["KUBELET_NODE_LABELS", "KUBELET_FLAGS", "AZURE_ENVIRONMENT_FILEPATH"],
            "/etc/nap-agent/proxy.env" => &["http_proxy", "https_proxy", "no_proxy"],
            _ => continue,
        };
        let name = |line: &str| line.split_once('=').map_or("", |(name, _)| name).to_owned();
        let is_ours = |line: &str| variables.iter().any(|ours| ours.eq_ignore_ascii_case(&name(line)));
        assert!(text.lines().all(is_ours), "{path}: {text}");
    }
}

fn provisioning_document(input: &[u8]) {
    let parsed = ovf::parse(input);
    assert!(parsed == ovf::parse(input), "the same bytes parse to the same");
    if let Ok(found) = parsed {
        let host_name = found.host_name.as_deref();
        assert!(host_name.is_none_or(|name| !name.is_empty() && name.trim() == name), "{host_name:?}");
        // Bytes that are no UTF-8 come out as one character each, of three bytes.
        assert!(found.custom_data.is_none_or(|data| data.len() <= 3 * input.len()));
    }
    let encoded = BASE64.encode(input);
    let xml = format!(
        "<e xmlns:w=\"http://schemas.microsoft.com/windowsazure\"><w:ProvisioningSection><w:CustomData>{encoded}</w:CustomData>\
         </w:ProvisioningSection></e>"
    );
    let found = ovf::parse(xml.as_bytes()).expect("a document of ours");
    assert_eq!(found.custom_data.unwrap_or_default(), input);
}
