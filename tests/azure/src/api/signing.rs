//! Certificate signing requests: checked when created, then approved and signed as Kubernetes' controllers do.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateSigningRequestParams, DnType, DnValue};
use serde_json::{Value, json};

use super::authority::{Authority, Validity};
use super::clock::Clock;
use super::identity::User;
use super::options::CsrPolicy;
use super::route::Kind;
use super::status::{ApiError, Cause};

pub(crate) const KUBELET_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

const SHORTEST_SECONDS: i64 = 600;
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Completes and checks a request that is being created.
pub(crate) fn prepare(user: &User, object: &mut Value) -> Result<(), ApiError> {
    object["spec"]["username"] = json!(user.name);
    object["spec"]["groups"] = json!(user.groups);
    object["status"] = json!({});
    let spec = &object["spec"];
    let mut causes = Vec::new();
    if let Err(why) = parse_request(spec) {
        causes.push(Cause::invalid("spec.request", "<bytes>", &why));
    }
    if spec["usages"].as_array().is_none_or(Vec::is_empty) {
        causes.push(Cause::required("spec.usages"));
    }
    let signer = spec["signerName"].as_str().unwrap_or_default();
    if signer.is_empty() {
        causes.push(Cause::required("spec.signerName"));
    } else if !signer.contains('/') {
        causes.push(Cause::invalid("spec.signerName", "", "must be a fully qualified domain and path"));
    }
    if spec["expirationSeconds"].as_i64().is_some_and(|seconds| seconds < SHORTEST_SECONDS) {
        causes.push(Cause::invalid("spec.expirationSeconds", "", "may not specify a duration less than 600 seconds"));
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(Kind::Csr, name, &causes)) }
}

/// The changes the controllers make to a pending request, in order, each a version of the object.
pub(crate) fn review(object: &Value, policy: CsrPolicy, authority: &Authority, clock: Clock) -> Vec<Value> {
    if object["status"]["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty()) {
        return Vec::new();
    }
    let Some(request) = recognised(&object["spec"]) else { return Vec::new() };
    match policy {
        CsrPolicy::Never => Vec::new(),
        CsrPolicy::Deny => vec![with_condition(object, clock, "Denied", "AutoDenied", "Denied by policy of the test.")],
        CsrPolicy::Approve => {
            let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
            let approved = with_condition(object, clock, "Approved", "AutoApproved", message);
            let validity = Validity::from_now(clock, lifetime(&object["spec"]));
            let signed = match authority.sign(request, validity) {
                Ok(pem) => {
                    let mut signed = approved.clone();
                    signed["status"]["certificate"] = json!(STANDARD.encode(pem));
                    signed
                }
                Err(error) => with_condition(&approved, clock, "Failed", "SignerValidationFailure", &error.to_string()),
            };
            vec![approved, signed]
        }
    }
}

fn lifetime(spec: &Value) -> Duration {
    let wanted = spec["expirationSeconds"].as_u64().map(Duration::from_secs);
    wanted.unwrap_or(LONGEST).min(LONGEST)
}

fn with_condition(object: &Value, clock: Clock, kind: &str, reason: &str, message: &str) -> Value {
    let now = clock.object_time();
    let condition = json!({
        "type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now,
    });
    let mut changed = object.clone();
    match changed["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => changed["status"]["conditions"] = json!([condition]),
    }
    changed
}

/// The request, if it is a node's for its client certificate: the right signer, subject, usages and requester, and no
/// names of servers. Source: the rules of kubernetes.io/kube-apiserver-client-kubelet in Kubernetes' documentation.
fn recognised(spec: &Value) -> Option<CertificateSigningRequestParams> {
    let request = parse_request(spec).ok()?;
    let subject = &request.params.distinguished_name;
    let node = text(subject.get(&DnType::CommonName)?)?;
    let organization = text(subject.get(&DnType::OrganizationName)?)?;
    let by_bootstrapper = strings(&spec["groups"]).contains(&"system:bootstrappers");
    let by_itself = spec["username"] == node;
    let fits = spec["signerName"] == KUBELET_CLIENT_SIGNER
        && node.strip_prefix("system:node:").is_some_and(|name| !name.is_empty())
        && organization == "system:nodes"
        && subject.iter().count() == 2
        && request.params.subject_alt_names.is_empty()
        && is_client_usage(&strings(&spec["usages"]))
        && (by_bootstrapper || by_itself);
    fits.then_some(request)
}

fn is_client_usage(usages: &[&str]) -> bool {
    let known = ["digital signature", "key encipherment", "client auth"];
    let needed = ["digital signature", "client auth"];
    usages.iter().all(|usage| known.contains(usage)) && needed.iter().all(|usage| usages.contains(usage))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn text(value: &DnValue) -> Option<&str> {
    match value {
        DnValue::Utf8String(text) => Some(text),
        DnValue::PrintableString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// Decodes the PEM and checks that the requester holds the key.
fn parse_request(spec: &Value) -> Result<CertificateSigningRequestParams, String> {
    let pem = STANDARD.decode(spec["request"].as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
    let pem = String::from_utf8(pem).map_err(|error| error.to_string())?;
    if !pem.trim_start().starts_with("-----BEGIN CERTIFICATE REQUEST-----") {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    CertificateSigningRequestParams::from_pem(&pem).map_err(|error| error.to_string())
}
