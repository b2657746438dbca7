//! CoreDNS' configuration, as far as nap-agent writes it, read as strictly as CoreDNS 1.10 does: what it refuses is refused here, and so
//! is whatever we never write. Source: coredns.io/manual/configuration and the pages of the plugins.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail, ensure};

/// One zone on some addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// The zone, without a dot at its end; empty for the root.
    pub zone: String,
    /// Where it listens, port 53.
    pub addresses: Vec<IpAddr>,
    /// Where it says that it is ready.
    pub ready: Option<SocketAddr>,
    /// Whether it answers by itself.
    pub whoami: bool,
    /// Addresses or a resolver file to which it forwards.
    pub forward: Vec<String>,
}

/// Most destinations of a forward.
const MAX_DESTINATIONS: usize = 15;

/// Reads a Corefile.
///
/// # Errors
/// The first thing that CoreDNS would refuse, with its line.
pub fn read(text: &str) -> anyhow::Result<Vec<Server>> {
    let mut lines = Lines { lines: text.lines().enumerate(), number: 0 };
    let mut servers: Vec<Server> = Vec::new();
    let mut seen = BTreeSet::new();
    while let Some(words) = lines.next() {
        let server = block(&words, &mut lines).with_context(|| format!("Corefile:{}", lines.number))?;
        for address in &server.addresses {
            let key = (server.zone.clone(), *address);
            ensure!(seen.insert(key), "cannot serve {:?} on {address} twice", server.zone);
        }
        servers.push(server);
    }
    ensure!(!servers.is_empty(), "no server block");
    Ok(servers)
}

struct Lines<'t> {
    lines: std::iter::Enumerate<std::str::Lines<'t>>,
    number: usize,
}

impl<'t> Iterator for Lines<'t> {
    type Item = Vec<&'t str>;

    /// The next line that says something.
    fn next(&mut self) -> Option<Vec<&'t str>> {
        loop {
            let (index, line) = self.lines.next()?;
            self.number = index + 1;
            let words: Vec<_> = line.split_ascii_whitespace().take_while(|word| !word.starts_with('#')).collect();
            if !words.is_empty() {
                return Some(words);
            }
        }
    }
}

fn block(head: &[&str], lines: &mut Lines<'_>) -> anyhow::Result<Server> {
    let [key, "{"] = head else { bail!("want ZONE:53 {{, found {head:?}") };
    let zone = key.strip_suffix(":53").with_context(|| format!("{key}: want port 53"))?;
    let mut server = Server { zone: normal(zone)?, ..Server::default() };
    let mut seen = BTreeSet::new();
    loop {
        let words = lines.next().context("unexpected end of the file: a block is open")?;
        if words == ["}"] {
            break;
        }
        let (plugin, arguments) = words.split_first().context("an empty line")?;
        ensure!(seen.insert(plugin.to_owned()), "{plugin} twice in one block");
        read_plugin(&mut server, plugin, arguments, lines).with_context(|| format!("plugin/{plugin}"))?;
    }
    ensure!(!server.addresses.is_empty(), "a server that listens everywhere");
    ensure!(server.whoami || !server.forward.is_empty(), "a server that knows no answer");
    Ok(server)
}

fn read_plugin(server: &mut Server, plugin: &str, arguments: &[&str], lines: &mut Lines<'_>) -> anyhow::Result<()> {
    match (plugin, arguments) {
        ("errors" | "log" | "loop", []) => {}
        ("whoami", []) => server.whoami = true,
        ("bind", [_, ..]) => server.addresses = addresses(arguments)?,
        ("prometheus", [address]) => drop(address.rsplit_once(':').context("want ADDRESS:PORT")?.1.parse::<u16>()?),
        ("ready", [address]) => server.ready = Some(address.parse().context("want ADDRESS:PORT")?),
        ("cache", ["{"]) => options(lines, cache_option)?,
        ("forward", [".", to @ .., "{"]) => {
            ensure!((1..=MAX_DESTINATIONS).contains(&to.len()), "{} destinations", to.len());
            let known = |to: &&str| to.starts_with('/') || to.parse::<IpAddr>().is_ok();
            ensure!(to.iter().all(known), "not an IP address or file: {to:?}");
            server.forward = to.iter().map(|to| (*to).to_owned()).collect();
            options(lines, forward_option)?;
        }
        _ => bail!("unknown directive, or wrong arguments: {arguments:?}"),
    }
    Ok(())
}

/// Lines up to the closing brace, each option once.
fn options(lines: &mut Lines<'_>, read: fn(&str, &[&str]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    loop {
        let words = lines.next().context("unexpected end of the file: options are open")?;
        if words == ["}"] {
            return Ok(());
        }
        let (option, arguments) = words.split_first().context("an empty line")?;
        ensure!(seen.insert(option.to_owned()), "{option} twice");
        read(option, arguments).with_context(|| format!("option {option}"))?;
    }
}

fn cache_option(option: &str, arguments: &[&str]) -> anyhow::Result<()> {
    match (option, arguments) {
        ("success" | "denial", [capacity, seconds]) => {
            capacity.parse::<u32>()?;
            ensure!(seconds.parse::<u32>()? > 0, "cache TTL can not be zero or negative");
        }
        ("serve_stale", [duration, "immediate" | "verify"]) => {
            duration.strip_suffix('s').context("want seconds")?.parse::<u32>()?;
        }
        _ => bail!("unknown, or wrong arguments: {arguments:?}"),
    }
    Ok(())
}

fn forward_option(option: &str, arguments: &[&str]) -> anyhow::Result<()> {
    match (option, arguments) {
        ("policy", ["sequential" | "round_robin" | "random"]) | ("prefer_udp" | "force_tcp", []) => {}
        ("max_concurrent", [most]) => drop(most.parse::<u32>()?),
        _ => bail!("unknown, or wrong arguments: {arguments:?}"),
    }
    Ok(())
}

fn addresses(arguments: &[&str]) -> anyhow::Result<Vec<IpAddr>> {
    arguments.iter().map(|address| address.parse().with_context(|| format!("{address} is no address"))).collect()
}

/// The zone as CoreDNS compares it.
fn normal(zone: &str) -> anyhow::Result<String> {
    let relative = zone.strip_suffix('.').unwrap_or(zone);
    ensure!(zone == "." || !relative.is_empty(), "an empty zone");
    ensure!(relative.len() <= 253 && relative.split('.').all(|label| zone == "." || (1..=63).contains(&label.len())));
    ensure!(!zone.contains(['{', '}', '$', '%', '/', ':']), "{zone} is more than a zone");
    Ok(relative.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# x\na.b:53 {\n bind 1.2.3.4\n forward . /f 1.1.1.1 {\n policy random\n }\n}\n";

    #[test]
    fn what_coredns_would_refuse_is_refused() {
        assert_eq!(read(GOOD).unwrap()[0].forward, ["/f", "1.1.1.1"]);
        for (found, instead) in [
            ("a.b:53", "a.b"),
            ("policy random", "policy any"),
            ("bind 1.2.3.4", "bind x"),
            ("bind 1.2.3.4", "bind 1.2.3.4\n cache {\n success 1 0\n }"),
            ("bind 1.2.3.4", "bind 1.2.3.4\n hosts"),
            ("bind 1.2.3.4", "bind 1.2.3.4\n bind 1.2.3.4"),
            (" }\n}", " }\n"),
            ("/f", "f"),
        ] {
            assert!(read(&GOOD.replace(found, instead)).is_err(), "{instead}");
        }
        assert!(read(&format!("{GOOD}{}", GOOD.replace("a.b:53", "A.b.:53"))).is_err(), "a zone twice");
    }
}
