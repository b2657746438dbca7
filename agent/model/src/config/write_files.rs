//! The files that a cloud-config's `write_files` would write.
//! Source: cloud-init's `cc_write_files` schema (encodings `b64`, `base64`, `gz`, `gzip`, `gz+b64` and their long forms).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::yaml;

#[derive(Deserialize)]
struct CloudConfig {
    #[serde(default)]
    write_files: Vec<WriteFile>,
}

#[derive(Deserialize)]
struct WriteFile {
    #[serde(default)]
    content: String,
    #[serde(default)]
    encoding: Option<String>,
}

/// The contents, base64 undone; gzip is left to the next layer, which knows its cap. A cloud-config that is not
/// well-formed carries nothing: cloud-init would not write its files either.
pub(super) fn contents(cloud_config: &str) -> Vec<Vec<u8>> {
    let plain = without_binary_tags(cloud_config);
    let Ok(config) = yaml::parse::<CloudConfig>(&plain) else { return Vec::new() };
    config.write_files.into_iter().map(content).collect()
}

fn content(file: WriteFile) -> Vec<u8> {
    let encoded =
        file.encoding.as_deref().is_some_and(|encoding| encoding.contains("b64") || encoding.contains("base64"));
    let dense: String = file.content.split_ascii_whitespace().collect();
    match BASE64.decode(dense) {
        Ok(bytes) if encoded => bytes,
        _ => file.content.into_bytes(),
    }
}

/// `!!binary` is base64, which the next layer recognises by itself.
fn without_binary_tags(cloud_config: &str) -> String {
    cloud_config.replace("!!binary ", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_binary_and_encoded_contents_come_out() {
        let encoded = BASE64.encode("{}");
        let config = format!(
            "#cloud-config\nwrite_files:\n- path: /a\n  content: |\n    plain\n- path: /b\n  encoding: gz+b64\n  content: {encoded}\n\
             - path: /c\n  permissions: \"0600\"\n  content: !!binary |\n    {encoded}\n"
        );
        assert_eq!(contents(&config), [b"plain\n".to_vec(), b"{}".to_vec(), format!("{encoded}\n").into_bytes()]);
    }
}
