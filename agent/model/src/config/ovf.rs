//! Azure's provisioning document, `ovf-env.xml`.
//! Source: the OVF environment schema (DMTF DSP8027) with Azure's `LinuxProvisioningConfigurationSet`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quick_xml::NsReader;
use quick_xml::events::Event;
use quick_xml::name::{Namespace, ResolveResult};
use thiserror::Error;

/// Largest document that is read, in bytes.
pub const MAX_OVF_BYTES: usize = 1024 * 1024;

const AZURE_NAMESPACE: Namespace<'static> = Namespace(crate::clouds::OVF_NAMESPACE.as_bytes());

/// What the agent takes from the document. The user's password is never read.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct OvfEnvironment {
    /// `HostName`.
    pub host_name: Option<String>,
    /// `CustomData`, base64 undone. Holds secrets.
    pub custom_data: Option<Vec<u8>>,
    /// `PreprovisionedVm`: the document may still be the pool's, not this VM's.
    pub preprovisioned: bool,
}

/// Why the document cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OvfError {
    /// Larger than [`MAX_OVF_BYTES`].
    #[error("ovf-env.xml is larger than {MAX_OVF_BYTES} bytes")]
    TooLarge,
    /// Not well-formed.
    #[error("ovf-env.xml is not well-formed XML near byte {0}")]
    Xml(u64),
    /// Not exactly one provisioning section.
    #[error("ovf-env.xml has {0} provisioning sections, want one")]
    Sections(usize),
}

/// Reads the document. Namespaces count, prefixes do not; entities of the document's own are not expanded.
///
/// # Errors
/// When it is too large, not well-formed, or has not exactly one `ProvisioningSection`.
pub fn parse(xml: &[u8]) -> Result<OvfEnvironment, OvfError> {
    if xml.len() > MAX_OVF_BYTES {
        return Err(OvfError::TooLarge);
    }
    let mut reader = NsReader::from_reader(xml);
    let mut sections = 0;
    let mut element = None;
    let mut text = String::new();
    let mut found = OvfEnvironment::default();
    loop {
        let (namespace, event) = match reader.read_resolved_event() {
            Ok(next) => next,
            Err(_) => return Err(OvfError::Xml(reader.error_position())),
        };
        let ours = namespace == ResolveResult::Bound(AZURE_NAMESPACE);
        match event {
            Event::Start(start) if ours => {
                let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                sections += usize::from(name == "ProvisioningSection");
                element = Some(name);
                text.clear();
            }
            Event::Text(part) => text.push_str(&String::from_utf8_lossy(&part)),
            Event::CData(part) => text.push_str(&String::from_utf8_lossy(&part)),
            Event::End(_) => {
                if let Some(name) = element.take() {
                    take(&name, &text, &mut found);
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if sections == 1 { Ok(found) } else { Err(OvfError::Sections(sections)) }
}

fn take(element: &str, text: &str, found: &mut OvfEnvironment) {
    let text = text.trim();
    match element {
        _ if text.is_empty() => {}
        "HostName" => found.host_name = Some(text.to_owned()),
        "CustomData" => found.custom_data = Some(unwrap_custom_data(text)),
        "PreprovisionedVm" => found.preprovisioned = text.eq_ignore_ascii_case("true"),
        _ => {}
    }
}

/// Azure puts base64 there; WALinuxAgent's own fixtures have plain text.
fn unwrap_custom_data(text: &str) -> Vec<u8> {
    let dense: String = text.split_ascii_whitespace().collect();
    BASE64.decode(dense).unwrap_or_else(|_| text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "<LinuxProvisioningConfigurationSet xmlns=\"http://schemas.microsoft.com/windowsazure\"><HostName>aks-1</HostName>\
                       <UserPassword>sesame</UserPassword><CustomData>\n aGVs\n bG8=\n</CustomData></LinuxProvisioningConfigurationSet>";

    fn ovf(sections: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><Environment xmlns=\"http://schemas.dmtf.org/ovf/environment/1\" \
             xmlns:any=\"http://schemas.microsoft.com/windowsazure\">{sections}<any:PlatformSettingsSection><any:PlatformSettings>\
             <any:PreprovisionedVm>false</any:PreprovisionedVm></any:PlatformSettings></any:PlatformSettingsSection></Environment>"
        )
    }

    #[test]
    fn custom_data_is_found_by_namespace_whatever_the_prefix() {
        let found =
            parse(ovf(&format!("<any:ProvisioningSection>{SET}</any:ProvisioningSection>")).as_bytes()).unwrap();
        assert_eq!(found.host_name.as_deref(), Some("aks-1"));
        assert_eq!(found.custom_data.as_deref(), Some(b"hello".as_slice()));
        assert!(!found.preprovisioned);
    }

    #[test]
    fn none_two_and_broken_sections_are_errors() {
        assert_eq!(parse(ovf("").as_bytes()).err(), Some(OvfError::Sections(0)));
        let two = "<any:ProvisioningSection/>".replace("/>", "></any:ProvisioningSection>").repeat(2);
        assert_eq!(parse(ovf(&two).as_bytes()).err(), Some(OvfError::Sections(2)));
        assert!(matches!(parse(b"<a><b></a>"), Err(OvfError::Xml(_))));
        assert_eq!(parse(&vec![b' '; MAX_OVF_BYTES + 1]).err(), Some(OvfError::TooLarge));
    }
}
