//! The health report: the one message that ends provisioning.

use std::collections::BTreeMap;
use std::time::Instant;

use quick_xml::Reader;
use quick_xml::events::Event;

/// What a provisioning agent says about the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Provisioned.
    Ready,
    /// Not, or not yet.
    NotReady,
}

/// One health report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// The verdict.
    pub state: HealthState,
    /// `Provisioning` or `ProvisioningFailed`, when given.
    pub sub_status: Option<String>,
    /// For people, when given; at most 512 characters.
    pub description: Option<String>,
    /// When it arrived.
    pub at: Instant,
    subject: [String; 3],
}

impl HealthReport {
    pub(super) fn is_about(&self, incarnation: &str, container: &str, instance: &str) -> bool {
        self.subject == [incarnation, container, instance]
    }
}

/// Reads a report; `None` when it is not one.
pub(super) fn parse(body: &[u8]) -> Option<HealthReport> {
    let mut texts = leaf_texts(std::str::from_utf8(body).ok()?)?;
    let state = match texts.remove("State")?.as_str() {
        "Ready" => HealthState::Ready,
        "NotReady" => HealthState::NotReady,
        _ => return None,
    };
    let subject = [texts.remove("GoalStateIncarnation")?, texts.remove("ContainerId")?, texts.remove("InstanceId")?];
    let (sub_status, description) = (texts.remove("SubStatus"), texts.remove("Description"));
    Some(HealthReport { state, sub_status, description, at: Instant::now(), subject })
}

/// The text of each element that has text, by local name.
fn leaf_texts(xml: &str) -> Option<BTreeMap<String, String>> {
    let mut reader = Reader::from_str(xml);
    let (mut texts, mut name) = (BTreeMap::<String, String>::new(), String::new());
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned(),
            Event::End(_) => name.clear(),
            Event::Text(text) if !name.is_empty() => {
                let text = text.decode().ok()?;
                let text = quick_xml::escape::unescape(&text).ok()?;
                texts.entry(name.clone()).or_default().push_str(text.trim());
            }
            Event::GeneralRef(entity) if !name.is_empty() => {
                let entity = format!("&{};", entity.decode().ok()?);
                texts.entry(name.clone()).or_default().push_str(&quick_xml::escape::unescape(&entity).ok()?);
            }
            Event::Eof => return Some(texts),
            Event::Text(_)
            | Event::GeneralRef(_)
            | Event::Empty(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_cloud_init_is_read() {
        let xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<Health><GoalStateIncarnation>1</GoalStateIncarnation>\
            <Container><ContainerId>c</ContainerId><RoleInstanceList><Role><InstanceId>i</InstanceId><Health>\
            <State>NotReady</State><Details><SubStatus>ProvisioningFailed</SubStatus>\
            <Description>a &amp; b</Description></Details></Health></Role></RoleInstanceList></Container></Health>";
        let report = parse(xml.as_bytes()).unwrap();
        assert_eq!(report.state, HealthState::NotReady);
        assert_eq!(report.sub_status.as_deref(), Some("ProvisioningFailed"));
        assert!(report.is_about("1", "c", "i"));
        assert_eq!(report.description.as_deref().map(|text| text.replace(' ', "")), Some("a&b".to_owned()));
    }

    #[test]
    fn anything_else_is_not_a_report() {
        assert_eq!(parse(b"<Health><State>Fine</State></Health>"), None);
        assert_eq!(parse(b"not xml <"), None);
    }
}
