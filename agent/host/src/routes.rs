//! Default routes: what there is, what there was, and putting it back.
//!
//! Read from `/proc`, for which the kernel takes no lock that a driver may hold; the answer to a request over netlink waits for such a one.

use std::net::Ipv4Addr;

use nap_model::plan::AbsPath;
use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::root::{FileError, Root};
use crate::{chain, netlink};

/// What was seen last, for this boot of the machine.
const SEEN: &str = "/run/nap-agent/default-routes.json";

/// `RTF_REJECT`. Source: the kernel's include/uapi/linux/route.h.
const REJECT: u32 = 0x0200;

/// An IPv4 default route by one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DefaultRoute {
    pub(crate) interface: String,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) metric: u32,
}

/// Whether the default route that was there still is.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// As they were last; read from an earlier run's record when they are first looked at.
    last: Option<Vec<DefaultRoute>>,
    had_6: bool,
}

impl Routes {
    /// Nothing where there never was one, or the kernel does not say. A router may announce IPv6 that nobody uses, and stop: it counts
    /// where there was no other.
    pub(crate) fn look(&mut self, root: &Root) -> Option<bool> {
        let (routes, has_6) = look(root)?;
        let last = self.last.get_or_insert_with(|| seen(root));
        if !routes.is_empty() && routes != *last {
            if let Err(error) = keep(root, &routes) {
                debug!(error = chain(&error), "default routes are not kept; one that goes cannot be put back");
            }
            last.clone_from(&routes);
        }
        self.had_6 |= has_6;
        match (last.is_empty(), self.had_6) {
            (false, _) => Some(!routes.is_empty()),
            (true, true) => Some(has_6),
            (true, false) => None,
        }
    }
}

/// The default routes in IPv4, and whether there is one in IPv6. Nothing when the kernel does not say.
/// Source: net/ipv4/fib_trie.c (`fib_route_seq_show`) and net/ipv6/route.c (`rt6_info_route`).
fn look(root: &Root) -> Option<(Vec<DefaultRoute>, bool)> {
    let four = root.read_text("/proc/net/route").ok()??;
    let six = root.read_text("/proc/net/ipv6_route").ok()?.unwrap_or_default(); // a kernel without IPv6
    // The one that rejects everything is at lo.
    let is_default_6 = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let is_all = fields.first().is_some_and(|to| to.bytes().all(|digit| digit == b'0'));
        is_all && fields.get(1) == Some(&"00") && fields.last().is_some_and(|device| *device != "lo")
    };
    Some((four.lines().filter_map(default_route).collect(), six.lines().any(is_default_6)))
}

/// `eth0 00000000 0104000A 0003 0 0 100 00000000 0 0 0`: addresses as numbers of this machine, which has them in the network's order.
fn default_route(line: &str) -> Option<DefaultRoute> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let [interface, to, gateway, flags, _, _, metric, mask, ..] = fields[..] else { return None };
    let hexadecimal = |text| u32::from_str_radix(text, 16).ok();
    let is_default = hexadecimal(to)? == 0 && hexadecimal(mask)? == 0 && hexadecimal(flags)? & REJECT == 0;
    is_default.then_some(())?;
    let gateway = Ipv4Addr::from(hexadecimal(gateway)?.to_ne_bytes());
    Some(DefaultRoute { interface: interface.to_owned(), gateway, metric: metric.parse().ok()? })
}

/// The routes that were seen last in this boot; none when none was.
pub(crate) fn seen(root: &Root) -> Vec<DefaultRoute> {
    let text = root.read(SEEN).ok().flatten().unwrap_or_default(); // not seen yet, or not to be read: as if new
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Keeps them for a later [`put_back`], also by another process.
fn keep(root: &Root, routes: &[DefaultRoute]) -> Result<(), FileError> {
    let text = serde_json::to_vec(routes).expect("routes are texts and numbers");
    root.write(&AbsPath::literal(SEEN), &text, 0o600)
}

/// Adds these. What is there already stays as it is.
pub(crate) fn put_back(routes: &[DefaultRoute]) -> Result<(), String> {
    if routes.is_empty() {
        return Err("no IPv4 default route was seen in this boot, so nobody knows what it was".to_owned());
    }
    let refused: Vec<_> = routes.iter().filter_map(|route| netlink::add_default_route(route).err()).collect();
    match refused.first() {
        Some(error) if refused.len() == routes.len() => Err(chain(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others_and_from_those_that_reject() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let gateway = u32::from_ne_bytes([10, 0, 4, 1]);
        let default = format!("eth0\t00000000\t{gateway:08X}\t0003\t0\t0\t100\t00000000\t0\t0\t0\n");
        let near = "eth0\t0004000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let reject = "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n";
        let zeros = "0".repeat(32);
        let six = |device| format!("{zeros} 00 {zeros} 00 fe80 00000400 1 0 00000003     {device}\n");
        let route = DefaultRoute { interface: "eth0".to_owned(), gateway: Ipv4Addr::new(10, 0, 4, 1), metric: 100 };
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(look(&root), None, "it was not looked at");
        std::fs::create_dir_all(directory.path().join("proc/net")).unwrap();
        let put =
            |file: &str, text: String| std::fs::write(directory.path().join("proc/net").join(file), text).unwrap();
        put("route", format!("{head}{near}{reject}{default}"));
        assert_eq!(look(&root), Some((vec![route.clone()], false)), "without IPv6");
        put("route", format!("{head}{near}{reject}"));
        put("ipv6_route", six("lo"));
        assert_eq!(look(&root), Some((Vec::new(), false)));
        put("ipv6_route", six("eth0"));
        assert_eq!(look(&root), Some((Vec::new(), true)));

        assert!(put_back(&seen(&root)).unwrap_err().contains("nobody knows"));
        let mut routes = Routes::default();
        assert_eq!(routes.look(&root), Some(true), "IPv6 alone");
        put("route", format!("{head}{near}{default}"));
        assert_eq!(routes.look(&root), Some(true));
        assert_eq!(seen(&root), [route]);
        put("route", format!("{head}{near}"));
        for mut routes in [routes, Routes::default()] {
            assert_eq!(routes.look(&root), Some(false), "also for one that was started since");
        }
    }
}
