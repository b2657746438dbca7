//! A dummy network interface with addresses, and a default route, asked of the kernel over rtnetlink.
//!
//! Four kinds of messages, each a header and a few attributes. The crate for it, rtnetlink 0.24, brings five (itself, netlink-proto,
//! netlink-packet-core, netlink-packet-route, netlink-sys) with a connection as a task and a parser of everything; `ip` is not in every
//! image, and what it says is text. What would change our mind: a need to read them. Source: rtnetlink(7).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use thiserror::Error;
use tracing::warn;

use crate::routes::DefaultRoute;

/// Why the addresses are not there.
#[derive(Debug, Error)]
#[error("cannot {action} {what}")]
pub struct NetlinkError {
    /// What was tried.
    pub action: &'static str,
    /// With what.
    pub what: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Numbers of the kernel's interface. Source: include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,if}.h.
mod number {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const NEW_ROUTE: u16 = 24;
    pub(super) const REQUEST_AND_ACKNOWLEDGE: u16 = 0x5;
    pub(super) const CREATE_NEW: u16 = 0x600;
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFLA_LINKINFO: u16 = 18;
    pub(super) const IFLA_INFO_KIND: u16 = 1;
    pub(super) const IFA_ADDRESS: u16 = 1;
    pub(super) const IFA_LOCAL: u16 = 2;
    pub(super) const IFF_UP: u32 = 1;
    pub(super) const RTA_OIF: u16 = 4;
    pub(super) const RTA_GATEWAY: u16 = 5;
    pub(super) const RTA_PRIORITY: u16 = 6;
    pub(super) const TABLE_MAIN: u8 = 254;
    pub(super) const PROTOCOL_STATIC: u8 = 4;
    pub(super) const UNICAST: u8 = 1;
    pub(super) const SCOPE_LINK: u8 = 253;
    pub(super) const ERROR: u16 = 2;
}

/// Makes the interface, brings it up and gives it the addresses; what is there already is fine. A kernel without dummy interfaces gets
/// the addresses on loopback, where they work as well and are only harder to see.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn ensure_addresses(interface: &str, addresses: &[Ipv4Addr]) -> Result<(), NetlinkError> {
    let kernel = Kernel::connect()?;
    let made = kernel.ask(number::NEW_LINK, number::CREATE_NEW, &new_link(interface));
    let interface = match made {
        Ok(()) | Err(Errno::EEXIST) => interface,
        Err(Errno::EOPNOTSUPP) => {
            warn!(interface, "the kernel has no dummy interfaces; loopback gets the addresses");
            "lo"
        }
        Err(errno) => return Err(failed("make the interface", interface, errno)),
    };
    let index = if_nametoindex(interface).map_err(|errno| failed("find the interface", interface, errno))?;
    let up = kernel.ask(number::NEW_LINK, 0, &link_header(index));
    up.map_err(|errno| failed("bring up", interface, errno))?;
    for address in addresses {
        match kernel.ask(number::NEW_ADDRESS, number::CREATE_NEW, &new_address(index, *address)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed("give the interface the address", &address.to_string(), errno)),
        }
    }
    Ok(())
}

/// Adds it to the main table; one that is there already is fine.
///
/// # Errors
/// When the interface is gone, or the kernel refuses, as it does for a gateway that is on none of the interface's networks.
pub(crate) fn add_default_route(route: &DefaultRoute) -> Result<(), NetlinkError> {
    let DefaultRoute { interface, gateway, metric } = route;
    let index = if_nametoindex(interface.as_str()).map_err(|errno| failed("find the interface", interface, errno))?;
    match Kernel::connect()?.ask(number::NEW_ROUTE, number::CREATE_NEW, &new_default_route(index, *gateway, *metric)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(failed("add the default route by", &gateway.to_string(), errno)),
    }
}

fn failed(action: &'static str, what: &str, errno: Errno) -> NetlinkError {
    NetlinkError { action, what: what.to_owned(), source: errno.into() }
}

/// `struct ifinfomsg`: an interface that is up; index 0 for one to be made.
fn link_header(index: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for field in [index, number::IFF_UP, number::IFF_UP] {
        bytes.extend(field.to_ne_bytes());
    }
    bytes
}

fn new_link(name: &str) -> Vec<u8> {
    let kind = attribute(number::IFLA_INFO_KIND, b"dummy");
    let name = attribute(number::IFLA_IFNAME, format!("{name}\0").as_bytes());
    [link_header(0), name, attribute(number::IFLA_LINKINFO, &kind)].concat()
}

/// `struct ifaddrmsg` and the address: /32, and of this link alone, so that the kernel takes it for no other connection's source.
fn new_address(index: u32, address: Ipv4Addr) -> Vec<u8> {
    let family = u8::try_from(AddressFamily::Inet as i32).expect("AF_INET is 2");
    let mut bytes = vec![family, 32, 0, number::SCOPE_LINK];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(attribute(number::IFA_LOCAL, &address.octets()));
    bytes.extend(attribute(number::IFA_ADDRESS, &address.octets()));
    bytes
}

/// `struct rtmsg` and its attributes: to everywhere, by this gateway.
fn new_default_route(index: u32, gateway: Ipv4Addr, metric: u32) -> Vec<u8> {
    let family = u8::try_from(AddressFamily::Inet as i32).expect("AF_INET is 2");
    let mut bytes = vec![family, 0, 0, 0, number::TABLE_MAIN, number::PROTOCOL_STATIC, 0, number::UNICAST];
    bytes.extend([0; 4]);
    bytes.extend(attribute(number::RTA_GATEWAY, &gateway.octets()));
    bytes.extend(attribute(number::RTA_OIF, &index.to_ne_bytes()));
    bytes.extend(attribute(number::RTA_PRIORITY, &metric.to_ne_bytes()));
    bytes
}

/// Length, kind, value, and zeros to the next multiple of 4.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("our attributes are short");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

struct Kernel(OwnedFd);

impl Kernel {
    fn connect() -> Result<Self, NetlinkError> {
        let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        let socket = socket(kind.0, kind.1, kind.2, kind.3);
        socket.map(Self).map_err(|errno| failed("open", "a netlink socket", errno))
    }

    /// One request, one acknowledgement. The kernel answers while it takes the request, so nothing waits here.
    fn ask(&self, kind: u16, flags: u16, payload: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(16 + payload.len()).expect("our messages are short");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((flags | number::REQUEST_AND_ACKNOWLEDGE).to_ne_bytes());
        message.extend([0; 8]); // sequence and port: one request at a time
        message.extend(payload);
        let fd = self.0.as_raw_fd();
        sendto(fd, &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(fd, &mut answer, MsgFlags::empty())?;
        acknowledged(&answer[..length])
    }
}

/// What the acknowledgement says: `struct nlmsgerr` after the header.
fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(number::ERROR), Some(0)) => Ok(()),
        (Some(number::ERROR), Some(code)) => Err(Errno::from_raw(-code)),
        _ => Err(Errno::EPROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!(attribute(1, b"dummy").len(), 12, "9 bytes and padding");
        assert_eq!(link_header(7).len(), 16);
        let address = new_address(1, Ipv4Addr::new(169, 254, 10, 10));
        assert_eq!((address.len(), &address[12..16]), (24, &[169, 254, 10, 10][..]));
        let route = new_default_route(2, Ipv4Addr::new(10, 0, 4, 1), 100);
        assert_eq!((route.len(), &route[16..20]), (36, &[10, 0, 4, 1][..]));
    }

    #[test]
    fn an_acknowledgement_is_success_only_with_a_zero() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0; 20];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..].copy_from_slice(&code.to_ne_bytes());
            acknowledged(&bytes)
        };
        assert_eq!(answer(2, 0), Ok(()));
        assert_eq!(answer(2, -17), Err(Errno::EEXIST));
        assert_eq!(answer(16, 0), Err(Errno::EPROTO));
        assert_eq!(acknowledged(&[0; 3]), Err(Errno::EPROTO));
    }
}
