//! LocalDNS' zones, out of the Corefile that AKS' provisioners put into their scripts.
//!
//! A script carries no zone overrides, only what AgentBaker's template made of them (`pkg/agent/const.go`, `localDnsCorefileTemplate`).
//! nap-agent writes its own Corefile, so this reads the template's server blocks back into overrides. It is strict: a block that says
//! something about where or how questions are answered that an override cannot say is left out as a whole, and the listener has AKS'
//! default for that zone. What only decorates a block is named and left out.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::local_dns::{self, HEALTH_ZONE};
use super::problem::quoted;
use crate::resolver::{NODE_LISTENER, POD_LISTENER};

/// Azure's own DNS server, which the template writes for the virtual network's.
const AZURE_DNS: &str = "168.63.129.16";

/// The zone whose upstream is the cluster's DNS service in every Corefile of AKS.
const CLUSTER_ZONE: &str = "cluster.local";

/// Statements that say where LocalDNS listens and how it is watched, which nap-agent decides.
const OURS: &[&str] = &["bind", "errors", "log", "loop", "nsid", "prometheus", "ready", "whoami"];

/// Overrides of both listeners, as AKSNodeConfig has them, by zone.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Overrides {
    /// Of the node's listener.
    pub(super) node: Map<String, Value>,
    /// Of the pods' listener.
    pub(super) pods: Map<String, Value>,
    /// What was left out, each in one line.
    pub(super) left_out: Vec<String>,
}

/// Reads a Corefile.
///
/// # Errors
/// What is wrong with the text as a whole.
pub(super) fn read(text: &str) -> Result<Overrides, String> {
    let servers = parse(text)?;
    let cluster = servers.iter().filter(|server| server.zone() == Some(CLUSTER_ZONE));
    let cluster = cluster.filter_map(Statement::upstream).next().unwrap_or_default();
    let mut overrides = Overrides::default();
    let mut decorations = BTreeSet::new();
    for server in &servers {
        if server.zone() == Some(HEALTH_ZONE) {
            continue;
        }
        match zone(server, cluster, &mut decorations) {
            Ok((listener, name, zone)) => {
                let zones = if listener == Listener::Node { &mut overrides.node } else { &mut overrides.pods };
                if zones.insert(name.clone(), zone).is_some() {
                    overrides.left_out.push(format!("the first of two blocks of zone {}", quoted(&name)));
                }
            }
            Err(why) => overrides.left_out.push(format!("the block {}: {why}", quoted(&server.words.join(" ")))),
        }
    }
    if !decorations.is_empty() {
        let names: Vec<_> = decorations.into_iter().collect();
        overrides.left_out.push(format!("the statements {}", names.join(", ")));
    }
    complete(&mut overrides);
    Ok(overrides)
}

/// A listener with zones must have the two that everything else rests on.
fn complete(overrides: &mut Overrides) {
    let root_of_pods = json!({"forward_destination": "ClusterCoreDNS"});
    for (zones, root) in [(&mut overrides.node, json!({})), (&mut overrides.pods, root_of_pods)] {
        if !zones.is_empty() {
            zones.entry(".").or_insert(root);
            zones.entry(CLUSTER_ZONE).or_insert(json!({"protocol": "ForceTCP"}));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Listener {
    Node,
    Pods,
}

/// A server block as an override, or why it is none.
fn zone(
    server: &Statement,
    cluster: &str,
    decorations: &mut BTreeSet<String>,
) -> Result<(Listener, String, Value), String> {
    let name =
        server.zone().filter(|name| local_dns::is_zone(name)).ok_or("its name is no single zone with port 53")?;
    let listener = server.listener().ok_or("it does not listen at one address of LocalDNS")?;
    let mut zone = Zone::default();
    for statement in &server.inner {
        match statement.name() {
            "log" => zone.set("query_logging", json!("Log")),
            "errors" => _ = zone.fields.entry("query_logging").or_insert(json!("Error")),
            name if OURS.contains(&name) => {}
            "forward" => zone.forward(statement, cluster)?,
            "cache" => zone.cache(statement, decorations)?,
            // AKS' answer for names that only exist within a virtual network.
            "template" => _ = decorations.insert("template".to_owned()),
            other => return Err(format!("no override can say {}", quoted(other))),
        }
    }
    if !zone.fields.contains_key("forward_destination") {
        return Err("it forwards nothing".to_owned());
    }
    zone.fields.entry("cache_duration_in_seconds").or_insert(json!(0));
    zone.fields.entry("serve_stale").or_insert(json!("Disable"));
    zone.fields.entry("protocol").or_insert(json!("PreferUDP"));
    zone.refuse_what_overrides_may_not_say(name, listener)?;
    Ok((listener, name.to_owned(), Value::Object(zone.fields)))
}

#[derive(Default)]
struct Zone {
    fields: Map<String, Value>,
}

impl Zone {
    fn set(&mut self, field: &str, value: Value) {
        self.fields.insert(field.to_owned(), value);
    }

    fn is(&self, field: &str, word: &str) -> bool {
        self.fields.get(field).is_some_and(|value| value == word)
    }

    fn forward(&mut self, statement: &Statement, cluster: &str) -> Result<(), String> {
        let destination = match statement.upstream() {
            Some(AZURE_DNS) => "VnetDNS",
            Some(upstream) if upstream == cluster => "ClusterCoreDNS",
            _ => return Err("it forwards to neither Azure's nor the cluster's DNS".to_owned()),
        };
        self.set("forward_destination", json!(destination));
        for option in &statement.inner {
            match (option.name(), option.argument()) {
                ("force_tcp", None) => self.set("protocol", json!("ForceTCP")),
                ("prefer_udp", None) => self.set("protocol", json!("PreferUDP")),
                ("policy", Some("sequential")) => self.set("forward_policy", json!("Sequential")),
                ("policy", Some("round_robin")) => self.set("forward_policy", json!("RoundRobin")),
                ("policy", Some("random")) => self.set("forward_policy", json!("Random")),
                ("max_concurrent", Some(most)) => self.set("max_concurrent", json!(number(most)?)),
                (other, _) => return Err(format!("no override can say {} of forward", quoted(other))),
            }
        }
        self.fields.entry("max_concurrent").or_insert(json!(0));
        Ok(())
    }

    fn cache(&mut self, statement: &Statement, decorations: &mut BTreeSet<String>) -> Result<(), String> {
        let seconds = statement.argument().ok_or("a cache without its time")?;
        self.set("cache_duration_in_seconds", json!(number(seconds)?));
        for option in &statement.inner {
            match (option.name(), &option.words[1..]) {
                ("serve_stale", [age, mode]) => {
                    let seconds =
                        age.strip_suffix('s').ok_or_else(|| format!("{} is no age in seconds", quoted(age)))?;
                    self.set("serve_stale_duration_in_seconds", json!(number(seconds)?));
                    let mode = match mode.as_str() {
                        "verify" => "Verify",
                        "immediate" => "Immediate",
                        other => return Err(format!("no override can say serve_stale {}", quoted(other))),
                    };
                    self.set("serve_stale", json!(mode));
                }
                // How many answers are kept, and for how long a failure is.
                (name @ ("success" | "denial" | "servfail"), _) => _ = decorations.insert(format!("cache {name}")),
                (other, _) => return Err(format!("no override can say {} of cache", quoted(other))),
            }
        }
        Ok(())
    }

    /// The contradictions that make an override a problem would lose the boot; here they lose the block.
    fn refuse_what_overrides_may_not_say(&self, name: &str, listener: Listener) -> Result<(), String> {
        let is_cluster = name == CLUSTER_ZONE || name.ends_with(".cluster.local");
        if is_cluster && self.is("forward_destination", "VnetDNS") {
            return Err("only the cluster knows its own names".to_owned());
        }
        if listener == Listener::Node && !is_cluster && self.is("forward_destination", "ClusterCoreDNS") {
            return Err("the node's own questions must not wait for pods".to_owned());
        }
        if self.is("serve_stale", "Verify") && self.is("protocol", "ForceTCP") {
            return Err("serve_stale verify with force_tcp".to_owned());
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|number| i32::try_from(*number).is_ok());
    number.ok_or_else(|| format!("{} is no number that an override can have", quoted(text)))
}

/// A line of a Corefile, and the lines in its braces.
#[derive(Debug, Default, PartialEq)]
struct Statement {
    /// At least one.
    words: Vec<String>,
    inner: Vec<Statement>,
}

impl Statement {
    fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The only word after the name.
    fn argument(&self) -> Option<&str> {
        (self.words.len() == 2).then(|| self.words[1].as_str())
    }

    /// Of a server block: its zone in lower case letters as written; nothing when it has several or another port.
    fn zone(&self) -> Option<&str> {
        let [name] = self.words.as_slice() else { return None };
        name.strip_suffix(":53")
    }

    fn listener(&self) -> Option<Listener> {
        let mut binds = self.inner.iter().filter(|statement| statement.name() == "bind");
        let address = binds.next()?.argument()?.parse().ok()?;
        match (binds.next(), address) {
            (None, NODE_LISTENER) => Some(Listener::Node),
            (None, POD_LISTENER) => Some(Listener::Pods),
            _ => None,
        }
    }

    /// Of a `forward . ADDRESS`, or of the server block around the only one.
    fn upstream(&self) -> Option<&str> {
        match self.words.as_slice() {
            [name, dot, address] if name == "forward" && dot == "." => Some(address),
            _ => {
                let mut forwards = self.inner.iter().filter(|statement| statement.name() == "forward");
                let first = forwards.next().filter(|_| forwards.next().is_none())?;
                if first.inner.iter().any(|inner| inner.name() == "forward") { None } else { first.upstream() }
            }
        }
    }
}

/// Most braces inside each other in what the template makes.
const MAX_DEPTH: usize = 3;

/// Server blocks. Source: coredns.io/manual/configuration; snippets, imports and environment variables are not in it.
fn parse(text: &str) -> Result<Vec<Statement>, String> {
    let mut open = vec![Statement::default()];
    for (i, line) in text.lines().enumerate() {
        let at = || format!("line {}", i + 1);
        let mut words = words(line).ok_or_else(|| format!("{}: a quote that nothing closes", at()))?;
        match words.last().map(String::as_str) {
            None => {}
            Some("}") if words.len() == 1 => {
                let closed =
                    open.pop().filter(|_| !open.is_empty()).ok_or_else(|| format!("{}: a }} too many", at()))?;
                open.last_mut().ok_or_else(at)?.inner.push(closed);
            }
            Some("{") => {
                words.pop();
                if words.is_empty() || open.len() > MAX_DEPTH {
                    return Err(format!("{}: a {{ where none can be", at()));
                }
                open.push(Statement { words, inner: Vec::new() });
            }
            Some(_) if open.len() == 1 => return Err(format!("{}: a statement outside a block", at())),
            Some(_) => open.last_mut().ok_or_else(at)?.inner.push(Statement { words, inner: Vec::new() }),
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some(whole), true) => Ok(whole.inner),
        _ => Err("a { that nothing closes".to_owned()),
    }
}

/// The words of a line up to a comment; nothing when a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            // The template quotes expressions with backslashes that are their own.
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy as _;

    use super::*;

    /// What AgentBaker's template makes of overrides, shortened to what matters. Source: AgentBaker, `pkg/agent/baker_test.go`.
    fn server(zone: &str, bind: &str, forward: &str, options: &str, cache: &str) -> String {
        format!(
            "{zone}:53 {{\n    errors\n    bind {bind}\n    forward . {forward} {{\n{options}    }}\n    ready {bind}:8181\n    {cache}\n    \
             loop\n    nsid localdns\n    prometheus :9253\n}}\n"
        )
    }

    fn stale(seconds: u32, stale: &str) -> String {
        format!("cache {seconds} {{\n        success 9984\n        denial 9984\n{stale}        servfail 0\n    }}")
    }

    fn aks() -> String {
        let usual = "        policy sequential\n        max_concurrent 1000\n";
        [
            "# WARNING: Changes\nhealth-check.localdns.local:53 {\n    bind 169.254.10.10 169.254.10.11\n    whoami\n}\n".to_owned(),
            server(".", "169.254.10.10", "168.63.129.16", usual, &stale(3600, "        serve_stale 3600s immediate\n")).replace(
                "    loop\n",
                "    loop\n    template ANY ANY internal.cloudapp.net {\n        match \"^(?:[^.]+\\.){4,}internal\\.cloudapp\\.net\\.$\"\n        rcode NXDOMAIN\n        fallthrough\n    }\n",
            ),
            server("cluster.local", "169.254.10.10", "10.0.0.10", &format!("        force_tcp\n{usual}"), &stale(60, "")),
            server("corp.example", "169.254.10.10", "168.63.129.16", "        policy round_robin\n        max_concurrent 7\n", &stale(30, "        serve_stale 90s verify\n"))
                .replace("errors", "log"),
            server(".", "169.254.10.11", "10.0.0.10", usual, &stale(3600, "")),
            server("cluster.local", "169.254.10.11", "10.0.0.10", usual, &stale(0, "")),
        ]
        .concat()
    }

    #[test]
    fn aks_own_corefile_is_read_whole() {
        let overrides = read(&aks()).unwrap();
        let corp = json!({
            "query_logging": "Log", "forward_destination": "VnetDNS", "forward_policy": "RoundRobin", "max_concurrent": 7,
            "protocol": "PreferUDP", "cache_duration_in_seconds": 30, "serve_stale": "Verify", "serve_stale_duration_in_seconds": 90,
        });
        assert_eq!(overrides.node["corp.example"], corp);
        let cluster = json!({
            "query_logging": "Error", "forward_destination": "ClusterCoreDNS", "forward_policy": "Sequential", "max_concurrent": 1000,
            "protocol": "ForceTCP", "cache_duration_in_seconds": 60, "serve_stale": "Disable",
        });
        assert_eq!(overrides.node["cluster.local"], cluster);
        assert_eq!(overrides.node.len(), 3);
        assert_eq!(overrides.pods.keys().collect::<Vec<_>>(), [".", "cluster.local"]);
        assert_eq!(overrides.pods["."]["forward_destination"], "ClusterCoreDNS");
        assert_eq!(overrides.left_out, ["the statements cache denial, cache servfail, cache success, template"]);
    }

    #[test]
    fn a_block_that_no_override_can_say_is_left_out_and_named() {
        let plain = "        policy sequential\n";
        for (block, why) in [
            (server("a.example", "169.254.10.10", "10.9.9.9", plain, "cache 5"), "neither Azure's nor the cluster's"),
            (
                server("a.example", "169.254.10.10", "168.63.129.16 1.2.3.4", plain, "cache 5"),
                "neither Azure's nor the cluster's",
            ),
            (server("a.example", "10.0.0.1", "168.63.129.16", plain, "cache 5"), "does not listen"),
            (server("a.example b.example", "169.254.10.10", "168.63.129.16", plain, "cache 5"), "no single zone"),
            (server("a b", "169.254.10.10", "168.63.129.16", plain, "cache 5"), "no single zone"),
            (
                server("a.example", "169.254.10.10", "168.63.129.16", "        expire 1s\n", "cache 5"),
                "\"expire\" of forward",
            ),
            (
                server("a.example", "169.254.10.10", "168.63.129.16", "        max_concurrent -1\n", "cache 5"),
                "no number",
            ),
            (server("a.example", "169.254.10.10", "168.63.129.16", plain, "cache 5000000000"), "no number"),
            (
                server(
                    "a.example",
                    "169.254.10.10",
                    "168.63.129.16",
                    plain,
                    "hosts /etc/localdns/hosts {\n    ttl 5\n    }",
                ),
                "\"hosts\"",
            ),
            (server("a.example", "169.254.10.10", "10.0.0.10", plain, "cache 5"), "must not wait for pods"),
            (server("x.cluster.local", "169.254.10.11", "168.63.129.16", plain, "cache 5"), "only the cluster"),
            (
                server(
                    "a.example",
                    "169.254.10.11",
                    "168.63.129.16",
                    "        force_tcp\n",
                    &stale(1, "        serve_stale 1s verify\n"),
                ),
                "verify with force_tcp",
            ),
        ] {
            let overrides = read(&format!("{}{block}", aks())).unwrap();
            let named: Vec<_> = overrides.left_out.iter().filter(|line| line.starts_with("the block ")).collect();
            assert!(matches!(named[..], [line] if line.contains(why)), "{why}: {named:?}");
            assert_eq!((overrides.node.len(), overrides.pods.len()), (3, 2));
        }
    }

    #[test]
    fn a_listener_has_its_defaults_for_what_was_left_out() {
        let block = server("corp.example", "169.254.10.11", "168.63.129.16", "", "cache 5");
        let overrides = read(&block).unwrap();
        assert_eq!(overrides.node, Map::new());
        assert_eq!(overrides.pods["."], json!({"forward_destination": "ClusterCoreDNS"}));
        assert_eq!(overrides.pods["cluster.local"], json!({"protocol": "ForceTCP"}));
        assert_eq!(read("").unwrap(), Overrides::default());
    }

    #[test]
    fn what_is_no_corefile_is_said() {
        for (text, why) in [
            ("a {\n", "a { that nothing closes"),
            ("}\n", "line 1: a } too many"),
            ("import x\n", "line 1: a statement outside a block"),
            ("a {\nb \"c\n}\n", "line 2: a quote that nothing closes"),
            ("a {\nb {\nc {\nd {\n}\n}\n}\n}\n", "line 4: a { where none can be"),
            ("{\n}\n", "line 1: a { where none can be"),
        ] {
            assert_eq!(read(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest::proptest! {
        /// Lines of words that mean something, in any order, and any text at all.
        #[test]
        fn no_text_breaks_the_reader(
            lines in proptest::collection::vec(
                proptest::collection::vec(
                    proptest::prop_oneof![
                        proptest::sample::select(vec![
                            "{", "}", ".", ".:53", "cluster.local:53", "a.example:53", "bind", "169.254.10.10", "169.254.10.11", "forward",
                            "168.63.129.16", "10.0.0.10", "cache", "serve_stale", "5s", "verify", "force_tcp", "policy", "max_concurrent", "9",
                            "errors", "log", "template", "\"", "#",
                        ]).prop_map(str::to_owned),
                        "\\PC{0,6}",
                    ],
                    0..5,
                ),
                0..40,
            ),
        ) {
            let text: String = lines.iter().map(|words| words.join(" ") + "\n").collect();
            if let Ok(overrides) = read(&text) {
                for zones in [&overrides.node, &overrides.pods] {
                    proptest::prop_assert!(zones.is_empty() || zones.contains_key(".") && zones.contains_key(CLUSTER_ZONE));
                    proptest::prop_assert!(zones.keys().all(|zone| local_dns::is_zone(zone)));
                }
            }
        }
    }
}
