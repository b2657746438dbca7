//! What is linked into the program: CycloneDX 1.5, from `cargo metadata` and `Cargo.lock`.
//! Source: <https://cyclonedx.org/docs/1.5/json/>.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

/// Why there is no list.
#[derive(Debug, Error)]
pub enum SbomError {
    /// The metadata are not cargo's.
    #[error("the input is not what `cargo metadata --format-version 1` prints")]
    Metadata(#[source] serde_json::Error),
    /// The lock file is not cargo's.
    #[error("Cargo.lock cannot be read")]
    Lock(#[source] toml::de::Error),
    /// There is no such package in the workspace.
    #[error("the workspace has no package {0}")]
    NoPackage(String),
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Crate {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// Absent for what is linked; `dev` or `build` otherwise.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The list for one package of the workspace: what is linked into it, and nothing that only builds or tests it.
///
/// # Errors
/// When the input is not cargo's or has no such package.
pub fn cyclonedx(metadata: &str, lock: &str, package: &str, at: Timestamp) -> Result<Value, SbomError> {
    let metadata: Metadata = serde_json::from_str(metadata).map_err(SbomError::Metadata)?;
    let lock: Lock = toml::from_str(lock).map_err(SbomError::Lock)?;
    let ours = |found: &&Crate| found.name == package && found.source.is_none();
    let root = metadata.packages.iter().find(ours).ok_or_else(|| SbomError::NoPackage(package.to_owned()))?;
    let linked: BTreeMap<&str, Vec<&str>> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), of(node))).collect();
    let mut reached = BTreeSet::new();
    let mut open = vec![root.id.as_str()];
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            open.extend(linked.get(id).into_iter().flatten());
        }
    }
    let mut crates: Vec<&Crate> =
        metadata.packages.iter().filter(|found| reached.contains(found.id.as_str())).collect();
    crates.sort_by_key(|found| (&found.name, &found.version));
    let reference = |id: &str| crates.iter().find(|found| found.id == id).map(|found| purl(found));
    let dependencies: Vec<Value> = crates
        .iter()
        .map(|found| {
            let mut on: Vec<String> =
                linked.get(found.id.as_str()).into_iter().flatten().filter_map(|id| reference(id)).collect();
            on.sort();
            json!({"ref": purl(found), "dependsOn": on})
        })
        .collect();
    let others = crates.iter().filter(|found| found.id != root.id);
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": at.to_string(), "component": component(root, "application", &lock)},
        "components": others.map(|found| component(found, "library", &lock)).collect::<Vec<_>>(),
        "dependencies": dependencies,
    }))
}

fn of(node: &Node) -> Vec<&str> {
    let is_linked = |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
    node.deps.iter().filter(is_linked).map(|dependency| dependency.pkg.as_str()).collect()
}

fn purl(found: &Crate) -> String {
    format!("pkg:cargo/{}@{}", found.name, found.version)
}

fn component(found: &Crate, kind: &str, lock: &Lock) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": purl(found),
        "name": found.name,
        "version": found.version,
        "purl": purl(found),
    });
    if let Some(description) = &found.description {
        component["description"] = json!(description.trim());
    }
    if let Some(license) = &found.license {
        // Old crates write MIT/Apache-2.0 and mean either; SPDX says it with a word.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    if let Some(repository) = &found.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    let locked = lock.package.iter().find(|locked| locked.name == found.name && locked.version == found.version);
    if let Some(checksum) = locked.and_then(|locked| locked.checksum.as_ref()) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_builds_or_tests_is_not() {
        let linked = |id: &str| json!({"pkg": id, "dep_kinds": [{"kind": null}]});
        let only = |id: &str, kind: &str| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let found = |name: &str, source: Option<&str>| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source});
        let metadata = json!({
            "packages": [found("ours", None), found("b", Some("r")), found("a", Some("r")), found("cc", Some("r")), found("tempfile", Some("r"))],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [linked("b"), only("tempfile", "dev"), only("cc", "build")]},
                {"id": "b", "deps": [linked("a")]},
                {"id": "a", "deps": []},
            ]},
        });
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n";
        let list = cyclonedx(&metadata.to_string(), lock, "ours", Timestamp::UNIX_EPOCH).unwrap();
        let names: Vec<&str> =
            list["components"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(list["components"][0]["hashes"][0]["content"], "abc");
        assert_eq!(list["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(list["dependencies"][2], json!({"ref": "pkg:cargo/ours@1.0.0", "dependsOn": ["pkg:cargo/b@1.0.0"]}));
        let missing = cyclonedx(&metadata.to_string(), lock, "a", Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(missing.to_string(), "the workspace has no package a");
    }
}
