//! The OVF provisioning document that Azure puts on a disc at first boot.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quick_xml::escape::escape;

/// What the control plane tells a new Linux VM about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OvfDocument {
    /// The host name.
    pub host_name: String,
    /// The administrator's user name.
    pub user_name: String,
    /// The administrator's password; `None` leaves the element out, as a VM with keys only has it.
    pub user_password: Option<String>,
    /// The administrator's public keys.
    pub ssh_public_keys: Vec<String>,
    /// Custom data before base64; `None` leaves the element out.
    pub custom_data: Option<Vec<u8>>,
    /// Whether this is a pool VM that has not been claimed.
    pub preprovisioned: bool,
}

impl OvfDocument {
    /// The document as Azure writes it: `Environment` by default namespace, its sections prefixed with `wa`, the
    /// configuration set with a default namespace of its own.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let wa = "http://schemas.microsoft.com/windowsazure";
        let xsi = "http://www.w3.org/2001/XMLSchema-instance";
        let ovf = "http://schemas.dmtf.org/ovf/environment/1";
        format!(
            r#"<?xml version="1.0" encoding="utf-8"?>
<Environment xmlns="{ovf}" xmlns:oe="{ovf}" xmlns:wa="{wa}" xmlns:xsi="{xsi}">
 <wa:ProvisioningSection><wa:Version>1.0</wa:Version>
  <LinuxProvisioningConfigurationSet xmlns="{wa}" xmlns:i="{xsi}">
   <ConfigurationSetType>LinuxProvisioningConfiguration</ConfigurationSetType>
{}  </LinuxProvisioningConfigurationSet></wa:ProvisioningSection>
{}</Environment>
"#,
            self.configuration(),
            self.platform_settings(),
        )
    }

    fn configuration(&self) -> String {
        let mut lines = vec![element("HostName", &self.host_name), element("UserName", &self.user_name)];
        lines.extend(self.user_password.as_deref().map(|password| element("UserPassword", password)));
        let keys_only = self.user_password.is_none().to_string();
        lines.push(element("DisableSshPasswordAuthentication", &keys_only));
        if !self.ssh_public_keys.is_empty() {
            lines.push(self.ssh());
        }
        let custom_data = self.custom_data.as_deref().map(|data| STANDARD.encode(data));
        lines.extend(custom_data.map(|text| element("CustomData", &text)));
        lines.iter().map(|line| format!("   {line}\n")).collect()
    }

    fn ssh(&self) -> String {
        let path = element("Path", &format!("/home/{}/.ssh/authorized_keys", self.user_name));
        let key = |key: &String| format!("<PublicKey>{path}{}</PublicKey>", element("Value", key));
        format!("<SSH><PublicKeys>{}</PublicKeys></SSH>", self.ssh_public_keys.iter().map(key).collect::<String>())
    }

    fn platform_settings(&self) -> String {
        format!(
            " <wa:PlatformSettingsSection><wa:Version>1.0</wa:Version><wa:PlatformSettings>
  <wa:KmsServerHostname>kms.core.windows.net</wa:KmsServerHostname><wa:ProvisionGuestAgent>false</wa:ProvisionGuestAgent>
  <wa:GuestAgentPackageName xsi:nil=\"true\"/><wa:RetainWindowsPEPassInUnattend>true</wa:RetainWindowsPEPassInUnattend>
  <wa:RetainOfflineServicingPassInUnattend>true</wa:RetainOfflineServicingPassInUnattend>
  <wa:PreprovisionedVm>{}</wa:PreprovisionedVm>
 </wa:PlatformSettings></wa:PlatformSettingsSection>
",
            self.preprovisioned
        )
    }
}

fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_xml_with_base64_custom_data_and_escaped_text() {
        let custom_data = Some(b"apiVersion: nap-agent/v1\n".to_vec());
        let document =
            OvfDocument { host_name: "a<b".into(), user_name: "azureuser".into(), custom_data, ..Default::default() };
        let xml = document.to_xml();

        let mut reader = quick_xml::Reader::from_str(&xml);
        loop {
            match reader.read_event().expect("well-formed") {
                quick_xml::events::Event::Eof => break,
                _ => continue,
            }
        }
        assert!(xml.contains("<HostName>a&lt;b</HostName>"));
        assert!(xml.contains("<CustomData>YXBpVmVyc2lvbjogbmFwLWFnZW50L3YxCg==</CustomData>"));
        assert!(xml.contains("<DisableSshPasswordAuthentication>true<"));
        assert!(!xml.contains("UserPassword"));
    }

    #[test]
    fn a_password_is_written_only_when_given() {
        let document = OvfDocument { user_password: Some("REDACTED".into()), ..Default::default() };
        assert!(document.to_xml().contains("<UserPassword>REDACTED</UserPassword>"));
        assert!(document.to_xml().contains("<DisableSshPasswordAuthentication>false<"));
    }
}
