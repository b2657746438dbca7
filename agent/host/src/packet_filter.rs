//! The packet filter in the kernel: loading our table, and seeing that it is still the one we loaded.
//!
//! Loading is one run of `nft -f`: it parses, resolves and commits in one transaction. There is no library for it that we would
//! take (looked up on crates.io): `rustables` is GPL; `nftnl` binds the C libraries libnftnl and libmnl; `nftables` starts `nft` itself;
//! `netlink-packet-netfilter` (MIT, maintained) has had nftables messages since 0.3 of August 2026, but neither a rule language nor
//! all expressions (`notrack` is none of its kinds), so we would write nft's compiler on top. What would change our mind: a
//! library that takes the text.
//!
//! Looking happens twice a minute and starts no program. It asks the kernel over netlink for our table, its chains and its rules,
//! and digests what it gets. After a load of our own that digest is kept in a stamp, beside the digest of the text; later looks
//! compare. So whatever somebody adds, deletes or changes in our table is seen without understanding a single rule. What is not seen:
//! a change in the milliseconds between our load and our first look, and the same rules loaded again. Numbers that the kernel gives
//! out anew at each load are left out of the digest: handles, positions, use counts. The stamp is in `/run`, which a reboot empties
//! together with the kernel's tables.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nap_model::os::NFT;
use nap_model::plan::{AbsPath, Digest, PACKET_FILTER_TABLE, packet_filter_rules};
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use thiserror::Error;

use crate::cmd::{Cmd, CmdError};
use crate::root::{FileError, Root};

/// What was loaded: the digest of the text, a blank, the digest of what the kernel made of it.
const STAMP: &str = "/run/nap-agent/stamps/packet-filter";

/// A few rules take milliseconds; another program's transaction may be in the way.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// Why the packet filter is not as wanted, or cannot be looked at.
#[derive(Debug, Error)]
pub enum PacketFilterError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// nft did not do it.
    #[error("cannot load the packet filter")]
    Load(#[source] CmdError),
    /// Below a directory there is no kernel to load rules into.
    #[error("only a running machine has a packet filter; {0} is a directory")]
    NoMachine(String),
    /// The file to load is another one than planned.
    #[error("{0} does not hold the planned rules; nothing was loaded")]
    OtherRules(AbsPath),
    /// The kernel refuses to show its tables.
    #[error("the kernel shows its packet filter only to a process with CAP_NET_ADMIN")]
    NotPermitted,
    /// The kernel has no nf_tables.
    #[error("this kernel has no nf_tables (CONFIG_NF_TABLES), or its module cannot be loaded")]
    NoNfTables,
    /// The kernel did not answer.
    #[error("cannot ask the kernel for its packet filter")]
    Ask(#[source] io::Error),
    /// The kernel's answer is not what nf_tables sends.
    #[error("the kernel's packet filter cannot be read: {0}")]
    Malformed(&'static str),
    /// Tables changed during every attempt.
    #[error("the kernel's packet filter changed each of {ATTEMPTS} times while it was read")]
    KeepsChanging,
}

/// How the kernel's packet filter differs from these rules, in one line.
pub(crate) fn difference(root: &Root, rules: &str) -> Result<Option<String>, PacketFilterError> {
    let load = |why: &str| Some(format!("load {}: {why}", packet_filter_rules()));
    if !root.is_machine() {
        // As for units: what boots from this directory will have to load it.
        return Ok(load("a directory has no packet filter of its own"));
    }
    let Some(in_kernel) = in_kernel()? else {
        return Ok(load(&format!("there is no table inet {PACKET_FILTER_TABLE}")));
    };
    let stamp = root.read_text(STAMP)?;
    Ok(match stamp.as_deref().and_then(|stamp| stamp.split_once(' ')) {
        None => load("nobody noted what was loaded"),
        Some((text, _)) if text != Digest::of_parts([rules]).as_str() => load("other rules were loaded"),
        Some((_, loaded)) if loaded != in_kernel.as_str() => {
            load(&format!("somebody changed table inet {PACKET_FILTER_TABLE}"))
        }
        Some(_) => None,
    })
}

/// Loads the rules from their file and notes what the kernel made of them.
pub(crate) async fn load(root: &Root, rules: &str) -> Result<(), PacketFilterError> {
    if !root.is_machine() {
        return Err(PacketFilterError::NoMachine(root.outside("").display().to_string()));
    }
    let path = packet_filter_rules();
    if root.read(path.as_str())?.as_deref() != Some(rules.as_bytes()) {
        return Err(PacketFilterError::OtherRules(path));
    }
    let nft = Cmd::new(root.outside(NFT), &["-f", path.as_str()], LOAD_LIMIT);
    nft.output().await.map_err(PacketFilterError::Load)?;
    // Killed here, the next run finds no fitting stamp and loads again, which is harmless.
    crate::checkpoint::pass("packet filter loaded");
    let Some(in_kernel) = in_kernel()? else { return Ok(()) }; // the check that follows says that it is gone
    let stamp = format!("{} {}", Digest::of_parts([rules]).as_str(), in_kernel.as_str());
    Ok(root.write(&AbsPath::literal(STAMP), stamp.as_bytes(), 0o644)?)
}

/// Digest of our table, its chains and its rules as the kernel has them; nothing when there is no such table.
fn in_kernel() -> Result<Option<Digest>, PacketFilterError> {
    for _ in 0..ATTEMPTS {
        match dump() {
            Ok(dump) if dump.table => return Ok(Some(Digest::of_parts(dump.parts))),
            Ok(_) => return Ok(None),
            Err(DumpError::Interrupted) => {}
            Err(DumpError::Malformed(what)) => return Err(PacketFilterError::Malformed(what)),
            Err(DumpError::Refused(Errno::EPERM)) => return Err(PacketFilterError::NotPermitted),
            // Without nf_tables nobody is registered for its messages; without netfilter there is no such protocol.
            Err(DumpError::Refused(Errno::EINVAL | Errno::EPROTONOSUPPORT)) => {
                return Err(PacketFilterError::NoNfTables);
            }
            Err(DumpError::Refused(errno)) => return Err(PacketFilterError::Ask(errno.into())),
        }
    }
    Err(PacketFilterError::KeepsChanging)
}

/// How often a look is begun anew because somebody changed any table meanwhile; kube-proxy may, many times a second.
const ATTEMPTS: usize = 16;

/// How long the kernel may take for one answer. It answers within the call that asks; this is for a kernel that does not.
const ANSWER_SECONDS: i64 = 5;

/// Largest datagram. Source: netlink_recvmsg, a dump's buffer is 32 KiB at most.
const MAX_DATAGRAM_BYTES: usize = 64 * 1024;

/// Most bytes of our table that are looked at. Ours has a few thousand; somebody who adds so much has changed it.
const MAX_TABLE_BYTES: usize = 1024 * 1024;

// Source of the numbers below: include/uapi/linux/netlink.h, netfilter/nfnetlink.h, netfilter/nf_tables.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_HEADER_BYTES: usize = 16;
const NFGEN_HEADER_BYTES: usize = 4;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Flags in the upper bits of an attribute's type.
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// NFNL_SUBSYS_NFTABLES, in the upper byte of a message's type.
const NF_TABLES: u16 = 10 << 8;
const NFPROTO_INET: u8 = 1;
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE.
const TABLE: u16 = 1;

/// What is asked for, in this order.
const KINDS: [Kind; 3] = [
    // NFTA_TABLE_USE, _HANDLE, _PAD
    Kind { get: 1, new: 0, left_out: &[3, 4, 5] },
    // NFTA_CHAIN_HANDLE, _USE, _PAD
    Kind { get: 4, new: 3, left_out: &[2, 6, 9] },
    // NFTA_RULE_HANDLE, _POSITION, _PAD
    Kind { get: 7, new: 6, left_out: &[3, 6, 8] },
];

/// One of the things that a table is made of.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// NFT_MSG_GET*.
    get: u16,
    /// NFT_MSG_NEW*, the kernel's answer.
    new: u16,
    /// Attributes that differ after each load.
    left_out: &'static [u16],
}

/// What the kernel has of our table.
#[derive(Debug, Default, PartialEq)]
struct Dump {
    table: bool,
    parts: Vec<Vec<u8>>,
    bytes: usize,
    /// The generation of the rule set, as all messages of one look must have it.
    generation: Option<[u8; 2]>,
}

#[derive(Debug, PartialEq)]
enum DumpError {
    /// Somebody changed tables meanwhile.
    Interrupted,
    /// Bytes that nf_tables does not send.
    Malformed(&'static str),
    /// The kernel says no.
    Refused(Errno),
}

impl From<Errno> for DumpError {
    fn from(errno: Errno) -> Self {
        // A lost datagram is like a change: ask again.
        if errno == Errno::ENOBUFS { Self::Interrupted } else { Self::Refused(errno) }
    }
}

fn dump() -> Result<Dump, DumpError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
    let mut dump = Dump::default();
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    for kind in KINDS {
        sendto(socket.as_raw_fd(), &request(kind), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        while dump.take(kind, receive(&socket, &mut buffer)?)? == Progress::More {
            if dump.bytes > MAX_TABLE_BYTES {
                return Ok(dump);
            }
        }
    }
    Ok(dump)
}

/// The next datagram of the kernel, which is the port 0; nobody else is listened to.
fn receive<'b>(socket: &OwnedFd, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    loop {
        match recvfrom::<NetlinkAddr>(socket.as_raw_fd(), buffer) {
            Ok((length, Some(sender))) if sender.pid() == 0 => return Ok(&buffer[..length]),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Asks for everything of a kind in tables of the family `inet`. Only rules can be asked for by table.
fn request(kind: Kind) -> Vec<u8> {
    let name = [PACKET_FILTER_TABLE.as_bytes(), &[0]].concat();
    let attribute_bytes = ATTRIBUTE_HEADER_BYTES + name.len();
    let length = NLMSG_HEADER_BYTES + NFGEN_HEADER_BYTES + attribute_bytes.next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).expect("a request is short").to_ne_bytes());
    message.extend((NF_TABLES | kind.get).to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: one question at a time on a socket of its own
    message.extend([NFPROTO_INET, 0, 0, 0]);
    message.extend(u16::try_from(attribute_bytes).expect("a name is short").to_ne_bytes());
    message.extend(TABLE.to_ne_bytes());
    message.extend(name);
    message.resize(length, 0);
    message
}

#[derive(Debug, PartialEq)]
enum Progress {
    Done,
    More,
}

impl Dump {
    /// Takes what a datagram says of our table.
    fn take(&mut self, kind: Kind, mut datagram: &[u8]) -> Result<Progress, DumpError> {
        while !datagram.is_empty() {
            let message = Message::first(datagram).ok_or(DumpError::Malformed("a message is cut off"))?;
            datagram = datagram.get(message.length.next_multiple_of(4)..).unwrap_or_default();
            if message.flags & NLM_F_DUMP_INTR != 0 {
                return Err(DumpError::Interrupted);
            }
            match message.kind {
                NLMSG_DONE | NLMSG_ERROR => return message.end(),
                _ => self.take_message(kind, &message)?,
            }
        }
        Ok(Progress::More)
    }

    fn take_message(&mut self, kind: Kind, message: &Message<'_>) -> Result<(), DumpError> {
        if message.kind != NF_TABLES | kind.new {
            return Err(DumpError::Malformed("a message of another kind"));
        }
        let (&[family, _, generation @ ..], attributes) =
            message.body.split_first_chunk::<NFGEN_HEADER_BYTES>().ok_or(DumpError::Malformed("a short header"))?;
        if *self.generation.get_or_insert(generation) != generation {
            return Err(DumpError::Interrupted);
        }
        let attributes = parse_attributes(attributes)?;
        let name = [PACKET_FILTER_TABLE.as_bytes(), &[0]].concat();
        let ours = attributes.iter().any(|(number, value)| *number == TABLE && *value == name.as_slice());
        if family != NFPROTO_INET || !ours {
            return Ok(());
        }
        self.table = true;
        self.parts.push(kind.new.to_le_bytes().to_vec());
        for (number, value) in attributes.into_iter().filter(|(number, _)| !kind.left_out.contains(number)) {
            let part = [&number.to_le_bytes(), value].concat();
            self.bytes += part.len();
            self.parts.push(part);
        }
        Ok(())
    }
}

/// One netlink message.
#[derive(Debug)]
struct Message<'b> {
    /// Header included, padding not.
    length: usize,
    kind: u16,
    flags: u16,
    body: &'b [u8],
}

impl<'b> Message<'b> {
    /// The first message of a datagram, when all of it is there.
    fn first(datagram: &'b [u8]) -> Option<Self> {
        let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*datagram.get(4..)?.first_chunk()?);
        let flags = u16::from_ne_bytes(*datagram.get(6..)?.first_chunk()?);
        // Shorter than its header, it would be read for ever.
        let body = datagram.get(NLMSG_HEADER_BYTES..length)?;
        Some(Self { length, kind, flags, body })
    }

    /// The end of a dump: its number is 0 when it is whole, else a negative errno.
    fn end(&self) -> Result<Progress, DumpError> {
        let number = self.body.first_chunk().ok_or(DumpError::Malformed("an end without a number"))?;
        match i32::from_ne_bytes(*number) {
            0 => Ok(Progress::Done),
            number => match Errno::from_raw(number.saturating_neg()) {
                Errno::EINTR | Errno::EAGAIN => Err(DumpError::Interrupted),
                errno => Err(DumpError::Refused(errno)),
            },
        }
    }
}

/// Attributes by number. Those inside others are not looked into.
fn parse_attributes(mut bytes: &[u8]) -> Result<Vec<(u16, &[u8])>, DumpError> {
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let (attribute, length) = first_attribute(bytes).ok_or(DumpError::Malformed("an attribute is cut off"))?;
        attributes.push(attribute);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(attributes)
}

fn first_attribute(bytes: &[u8]) -> Option<((u16, &[u8]), usize)> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let number = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & ATTRIBUTE_TYPE;
    Some(((number, bytes.get(ATTRIBUTE_HEADER_BYTES..length)?), length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Kind = KINDS[2];

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let length = NLMSG_HEADER_BYTES + body.len();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
        let length = ATTRIBUTE_HEADER_BYTES + value.len();
        let mut bytes = u16::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(number.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn rule(family: u8, generation: u8, table: &str, handle: u8, expressions: &[u8]) -> Vec<u8> {
        let table = format!("{table}\0");
        let attributes =
            [attribute(TABLE, table.as_bytes()), attribute(3, &[handle; 8]), attribute(0x8000 | 4, expressions)];
        message(NF_TABLES | RULES.new, 2, &[&[family, 0, 0, generation], attributes.concat().as_slice()].concat())
    }

    fn done(number: i32) -> Vec<u8> {
        message(NLMSG_DONE, 2, &number.to_ne_bytes())
    }

    fn digest(datagrams: &[Vec<u8>]) -> Result<Digest, DumpError> {
        let mut dump = Dump::default();
        for datagram in datagrams {
            if dump.take(RULES, datagram)? == Progress::Done {
                return Ok(Digest::of_parts(dump.parts));
            }
        }
        panic!("no end in {datagrams:?}")
    }

    #[test]
    fn a_digest_follows_our_rules_and_nothing_else() {
        let ours = digest(&[rule(NFPROTO_INET, 7, PACKET_FILTER_TABLE, 1, b"drop"), done(0)]);
        assert!(ours.is_ok());
        let same = [
            vec![rule(NFPROTO_INET, 9, PACKET_FILTER_TABLE, 2, b"drop"), done(0)],
            vec![
                [rule(NFPROTO_INET, 7, "foreign", 1, b"x"), rule(NFPROTO_INET, 7, PACKET_FILTER_TABLE, 1, b"drop")]
                    .concat(),
                done(0),
            ],
            vec![
                rule(2, 7, PACKET_FILTER_TABLE, 1, b"x"),
                [rule(NFPROTO_INET, 7, PACKET_FILTER_TABLE, 1, b"drop"), done(0)].concat(),
            ],
        ];
        for datagrams in same {
            assert_eq!(digest(&datagrams), ours);
        }
        let others = [
            vec![done(0)],
            vec![rule(NFPROTO_INET, 7, PACKET_FILTER_TABLE, 1, b"pass"), done(0)],
            vec![
                rule(NFPROTO_INET, 7, PACKET_FILTER_TABLE, 1, b"drop"),
                rule(NFPROTO_INET, 7, PACKET_FILTER_TABLE, 1, b"drop"),
                done(0),
            ],
        ];
        for datagrams in others {
            assert_ne!(digest(&datagrams), ours);
        }
    }

    #[test]
    fn a_change_in_between_asks_again_and_a_refusal_tells_why() {
        let changed = [
            vec![
                rule(NFPROTO_INET, 7, PACKET_FILTER_TABLE, 1, b"x"),
                rule(NFPROTO_INET, 8, PACKET_FILTER_TABLE, 1, b"x"),
                done(0),
            ],
            vec![message(NLMSG_DONE, 2 | NLM_F_DUMP_INTR, &[0; 4])],
        ];
        for datagrams in changed {
            assert_eq!(digest(&datagrams), Err(DumpError::Interrupted));
        }
        let refused = message(NLMSG_ERROR, 0, &(-1_i32).to_ne_bytes());
        assert_eq!(digest(&[refused]), Err(DumpError::Refused(Errno::EPERM)));
        assert_eq!(digest(&[done(i32::MIN)]), Err(DumpError::Refused(Errno::UnknownErrno)));
    }

    #[test]
    fn below_a_directory_nothing_is_loaded_and_the_kernel_is_not_asked() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let would = difference(&root, "x").unwrap();
        assert_eq!(
            would.as_deref(),
            Some("load /etc/nap-agent/packet-filter.nft: a directory has no packet filter of its own")
        );
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(matches!(runtime.block_on(load(&root, "x")), Err(PacketFilterError::NoMachine(_))));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for kind in KINDS {
                let mut dump = Dump::default();
                let _ = dump.take(kind, &bytes); // that it comes back is what is tested
                prop_assert!(dump.bytes <= bytes.len());
            }
        }

        #[test]
        fn a_dump_with_a_hostile_byte_is_taken_or_refused(at in 0..100_usize, byte in any::<u8>()) {
            let mut bytes = [rule(NFPROTO_INET, 7, PACKET_FILTER_TABLE, 1, b"drop"), done(0)].concat();
            let at = at % bytes.len();
            bytes[at] = byte;
            let mut dump = Dump::default();
            let _ = dump.take(RULES, &bytes); // that it comes back is what is tested
            prop_assert!(dump.bytes <= bytes.len());
        }
    }
}
