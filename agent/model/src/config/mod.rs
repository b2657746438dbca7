//! From raw bytes of each wire format to one [`NodeConfig`], or all the problems at once.

mod aks_fields;
mod aks_kubelet;
mod aks_machine;
mod aks_node_config;
pub mod carrier;
mod corefile;
mod document;
mod kubelet_flags;
mod local_dns;
mod machine;
mod node_bootstrap;
mod node_class;
mod node_config;
pub mod ovf;
pub mod problem;
pub(crate) mod rules;
mod script_variables;
mod scriptless;
mod secure_tls;
pub mod shape;
mod shell_words;
mod storage;
mod sysctls;
mod write_files;
mod yaml;

use serde::Serialize;
use serde_json::{Value, json};

use carrier::{Carrier, CarrierError, Document, Format};
pub use local_dns::{Forward, ForwardPolicy, HEALTH_ZONE, LocalDns, Protocol, ServeStale, Zone};
pub use machine::{
    Claims, Gpu, HugePages, ImageFamily, Mirror, Network, OperatingSystem, Proxy, Registries, SecondaryNics,
    ServiceAccountPulls, Ssh, Ulimits,
};
pub use node_config::{ApiServer, BootTimes, Cloud, Cluster, CniMode, Containerd, Kubelet, NodeConfig, PrePull};
use problem::Findings;
pub use secure_tls::SecureTls;
use shape::{Naming, Shape};
pub use storage::{LocalDisks, Storage, Use};

/// What a custom data holds.
#[derive(Debug)]
pub struct Decoded {
    /// The document that counts.
    pub document: Document,
    /// What is wrong with it, and what is only strange.
    pub findings: Findings,
    /// The node it describes; absent when there are problems.
    pub config: Option<NodeConfig>,
}

/// What `nap-agent decode` shows. Holds no secret.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The document's format.
    pub format: Format,
    /// What it was wrapped in, outermost first.
    pub carriers: Vec<Carrier>,
    /// The document with its secrets masked.
    pub document: Value,
    /// What is wrong, and what is only strange.
    #[serde(flatten)]
    pub findings: Findings,
}

impl Decoded {
    /// The part that may be seen.
    pub fn shown(&self) -> Shown {
        Shown {
            format: self.document.format,
            carriers: self.document.carriers.clone(),
            document: masked(&self.document),
            findings: self.findings.clone(),
        }
    }

    /// The document without its bootstrap token, as it is kept on the node once the token has done its work. A script is
    /// kept as the AKSNodeConfig that it says.
    pub fn without_token(&self) -> Value {
        let mut value = self.document.value.clone();
        let (shape, naming, _) = format(self.document.format);
        shape.take_out(&mut value, token(self.document.format), naming);
        value
    }
}

/// Opens a custom data and reads the document in it.
///
/// When there are several documents, the first NodeBootstrap counts, else the first AKSNodeConfig, else the first
/// script; the others are a warning.
///
/// # Errors
/// When no document can be got out of its carriers. A document with mistakes in it is no error here: they are in
/// [`Decoded::findings`].
pub fn decode(custom_data: &[u8]) -> Result<Decoded, CarrierError> {
    let documents = carrier::open(custom_data)?;
    let count = documents.len();
    let first = documents.into_iter().min_by_key(|document| document.format);
    let Some(document) = first else { return Err(CarrierError::Nothing(String::new())) };
    let mut decoded = read(document);
    if count > 1 {
        decoded.findings.warn("", format!("{count} documents found; the first {} is used", decoded.document.format));
    }
    Ok(decoded)
}

fn read(mut document: Document) -> Decoded {
    let script = document.value.as_str().filter(|_| document.format == Format::ScriptlessScript);
    let translated = script.map(scriptless::translate);
    let is_script = translated.is_some();
    let mut findings = Findings::default();
    if let Some(translated) = translated {
        (document.value, findings) = (translated.value, translated.findings);
    }
    refuse_what_cannot_be_kept(&document.value, &mut findings);
    let (shape, naming, read) = format(document.format);
    let mut of_document = Findings::default();
    let canonical = shape.check(&document.value, naming, &mut of_document);
    let config = read(&canonical, &mut of_document);
    findings.append(if is_script { scriptless::under_variables(of_document) } else { of_document });
    let config =
        config.filter(|_| findings.problems.is_empty()).map(|config| NodeConfig { format: document.format, ..config });
    Decoded { document, findings, config }
}

type Reader = fn(&Value, &mut Findings) -> Option<NodeConfig>;

/// The wire formats, one row each. A script is an AKSNodeConfig by now.
fn format(format: Format) -> (&'static Shape, Naming, Reader) {
    match format {
        Format::NodeBootstrap => (&node_bootstrap::SHAPE, Naming::Exact, node_bootstrap::read),
        Format::AksNodeConfig | Format::ScriptlessScript => {
            (&aks_node_config::SHAPE, Naming::Protobuf, aks_node_config::read)
        }
    }
}

/// Where a format has its bootstrap token.
fn token(format: Format) -> &'static [&'static str] {
    match format {
        Format::NodeBootstrap => &["identity", "bootstrapToken"],
        Format::AksNodeConfig | Format::ScriptlessScript => &["bootstrapping_config", "tls_bootstrapping_token"],
    }
}

/// Most objects and lists inside each other. serde_json reads 127, and the kept copy lies inside another document.
const MAX_DEPTH: usize = 100;

/// The node keeps its document as JSON, and the next boot must be able to open that.
fn refuse_what_cannot_be_kept(document: &Value, findings: &mut Findings) {
    let bytes = document.to_string().len();
    if bytes > carrier::MAX_LAYER_BYTES {
        findings.problem("", format!("{bytes} bytes as JSON"), format!("at most {}", carrier::MAX_LAYER_BYTES));
    }
    let depth = depth(document);
    if depth > MAX_DEPTH {
        findings.problem("", format!("{depth} objects and lists inside each other"), format!("at most {MAX_DEPTH}"));
    }
}

fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or_default()
}

fn masked(document: &Document) -> Value {
    let (shape, naming, _) = format(document.format);
    shape.masked(&document.value, naming)
}

/// JSON Schema 2020-12 of our own wire format.
pub fn json_schema() -> Value {
    let mut schema = node_bootstrap::SHAPE.json_schema();
    schema["$schema"] = json!(crate::clouds::JSON_SCHEMA_DIALECT);
    schema["title"] = json!("NodeBootstrap");
    schema
}

#[cfg(test)]
mod field_effects;
#[cfg(test)]
mod tests;
