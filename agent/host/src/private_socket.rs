//! Connecting to systemd's private socket with zbus.
//!
//! Three things of the real systemd need care, each seen with systemd 252 and zbus 5.19:
//!
//! systemd writes its well-known name, `org.freedesktop.systemd1`, into the sender field of every message on this
//! socket (sd_bus_set_sender). zbus allows only unique names there and panics while it reads such a message. So the read
//! half here puts a unique name of the same length in its place before zbus sees it; nothing else is touched.
//!
//! A call that systemd reads together with the end of the authentication stays in its buffer until more bytes come, so
//! the call hangs. zbus sends both without a pause. So the authentication is done here, as systemctl does it: all of it
//! in one write, then nothing until the answer is there.
//!
//! systemd sends every signal to everybody on this socket, subscribed or not: at each reload two for each unit that it knows. To have zbus
//! read them all took a boot half of its time in a slow VM, so only those that somebody waits for are let through.
//!
//! What would change our mind: a zbus that takes any name in that field, and waits as systemctl does.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::path::Path;
use std::pin::Pin;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use zbus::connection::socket::{BoxedSplit, ReadHalf, Split};
use zbus::fdo::ConnectionCredentials;
use zbus::{Connection, Guid};

/// Length of the part of a message that says how long the rest is.
const FIXED_BYTES: usize = 16;
/// Code of the header field with the sender's name. Source: "Message Format" in the D-Bus specification.
const SENDER: u8 = 7;
/// Code of the header field with the signal's name.
const MEMBER: u8 = 3;
/// Type of a message that is a signal.
const SIGNAL: u8 = 4;
/// Largest message. Source: the D-Bus specification, 128 MiB.
const MAX_MESSAGE_BYTES: usize = 128 << 20;
/// Longest answer to the authentication that is read: `OK`, a GUID, the end of the line.
const MAX_LINE_BYTES: usize = 256;
/// How much is read at once.
const READ_BYTES: usize = 8192;

/// Connects, peer to peer, without Hello. Of the signals only those with these names are let through.
pub async fn connect(path: &Path, signals: &'static [&'static str]) -> zbus::Result<Connection> {
    let mut stream = UnixStream::connect(path).await?;
    let guid = authenticate(&mut stream).await?;
    let (read, write) = stream.into_split();
    let read: Box<dyn ReadHalf> = Box::new(Renaming { inner: read, signals, raw: Vec::new(), ready: VecDeque::new() });
    let split: BoxedSplit = Split::new(read, Box::new(write));
    zbus::connection::Builder::authenticated_socket(split, guid)?.p2p().build().await
}

/// Proves who we are, as the kernel knows it; the server's identity.
async fn authenticate(stream: &mut UnixStream) -> zbus::Result<Guid<'static>> {
    let user: String = nix::unistd::geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes()).await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE_BYTES {
            return Err(zbus::Error::Handshake("the answer does not end".to_owned()));
        }
        line.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    let guid = line.strip_prefix("OK ").ok_or_else(|| zbus::Error::Handshake(line.clone()))?;
    Guid::try_from(guid.to_owned())
}

/// A read half that makes senders' names unique and leaves signals out.
#[derive(Debug)]
struct Renaming {
    inner: tokio::net::unix::OwnedReadHalf,
    signals: &'static [&'static str],
    /// What was read and is not a whole message yet.
    raw: Vec<u8>,
    /// What zbus may have.
    ready: VecDeque<u8>,
}

type Received<'a> = Pin<Box<dyn Future<Output = io::Result<(usize, Vec<std::os::fd::OwnedFd>)>> + Send + 'a>>;
type Credentials<'a> = Pin<Box<dyn Future<Output = io::Result<ConnectionCredentials>> + Send + 'a>>;

impl ReadHalf for Renaming {
    fn recvmsg<'a, 'b, 'c>(&'a mut self, buffer: &'b mut [u8]) -> Received<'c>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            while self.ready.is_empty() {
                let mut chunk = [0; READ_BYTES];
                // Cancelled here, nothing is lost: only a finished read has taken bytes from the socket.
                let (length, files) = self.inner.recvmsg(&mut chunk).await?;
                drop(files); // nothing we ask of systemd is answered with a file
                if length == 0 {
                    return Ok((0, Vec::new()));
                }
                self.raw.extend_from_slice(&chunk[..length]);
                self.release()?;
            }
            Ok((self.ready.read(buffer)?, Vec::new()))
        })
    }

    fn peer_credentials<'a, 'b>(&'a mut self) -> Credentials<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        self.inner.peer_credentials()
    }
}

impl Renaming {
    /// Lets whole messages go.
    fn release(&mut self) -> io::Result<()> {
        while let Some(length) = whole(&self.raw)? {
            let message = &mut self.raw[..length];
            if is_wanted(message, self.signals) {
                rename(message);
                self.ready.extend(&*message);
            }
            self.raw.drain(..length);
        }
        Ok(())
    }
}

/// Length of the first message, when all of it is there.
fn whole(bytes: &[u8]) -> io::Result<Option<usize>> {
    let (Some(body), Some(fields)) = (number(bytes, 4, bytes), number(bytes, 12, bytes)) else { return Ok(None) };
    let length = (FIXED_BYTES + fields).next_multiple_of(8) + body;
    if length > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    Ok((length <= bytes.len()).then_some(length))
}

/// The 32-bit number at an offset, in the byte order of the message.
fn number(bytes: &[u8], at: usize, message: &[u8]) -> Option<usize> {
    let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    let value = if message.first() == Some(&b'B') { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) };
    usize::try_from(value).ok()
}

/// Not a signal that nobody waits for.
fn is_wanted(message: &[u8], signals: &[&str]) -> bool {
    let member = || field(message, MEMBER).and_then(|(start, length)| message.get(start..start + length));
    message.get(1) != Some(&SIGNAL) || signals.iter().any(|wanted| member() == Some(wanted.as_bytes()))
}

/// Puts a unique name in place of a sender's well-known one.
fn rename(message: &mut [u8]) {
    if let Some((start, length)) = field(message, SENDER) {
        let name = &mut message[start..start + length];
        if !name.starts_with(b":") && name.len() > 4 {
            name.fill(b'0');
            name[..3].copy_from_slice(b":0.");
        }
    }
}

/// Where the text of a header field lies, and its length. A header with a field of an unknown kind is left alone.
fn field(message: &[u8], wanted: u8) -> Option<(usize, usize)> {
    let end = FIXED_BYTES + number(message, 12, message)?;
    let mut at = FIXED_BYTES;
    while at < end {
        at = at.next_multiple_of(8);
        let (code, kind) = (*message.get(at)?, *message.get(at + 2)?);
        at += 4; // code, length of the signature, signature, its end
        match kind {
            b's' | b'o' => {
                let length = number(message, at, message)?;
                if code == wanted {
                    return (at + 4 + length <= message.len()).then_some((at + 4, length));
                }
                at += 4 + length + 1;
            }
            b'g' => at += 1 + usize::from(*message.get(at)?) + 1,
            b'u' => at += 4,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::Message;
    use zbus::names::UniqueName;

    #[test]
    fn of_the_signals_only_the_wanted_are_let_through() {
        let is_wanted = |message: &[u8]| is_wanted(message, &["JobRemoved"]);
        let signal = |member| Message::signal("/a", "b.c", member).unwrap().build(&("body",)).unwrap();
        assert!(is_wanted(signal("JobRemoved").data()));
        assert!(!is_wanted(signal("UnitNew").data()) && !is_wanted(signal("JobRemovedNot").data()));
        let call = Message::method_call("/a", "UnitNew").unwrap().build(&()).unwrap();
        assert!(is_wanted(call.data()), "no signal");
    }

    fn from_systemd(big: bool) -> Vec<u8> {
        let endian = if big { zbus::zvariant::Endian::Big } else { zbus::zvariant::Endian::Little };
        let sender = UniqueName::from_static_str_unchecked("org.freedesktop.systemd1");
        let signal = Message::signal("/a", "b.c", "D").unwrap().endian(endian).sender(sender).unwrap();
        signal.build(&("body",)).unwrap().data().to_vec()
    }

    #[test]
    fn only_the_senders_name_is_replaced_in_either_byte_order() {
        for big in [false, true] {
            let before = from_systemd(big);
            let mut after = before.clone();
            rename(&mut after);
            let at = before.windows(24).position(|w| w == b"org.freedesktop.systemd1").unwrap();
            assert_eq!(&after[at..at + 24], b":0.000000000000000000000");
            assert_eq!((&before[..at], &before[at + 24..]), (&after[..at], &after[at + 24..]));
        }
    }

    #[test]
    fn pieces_are_let_go_when_they_are_whole() {
        let message = from_systemd(false);
        for length in 0..message.len() {
            assert_eq!(whole(&message[..length]).unwrap(), None, "{length}");
        }
        assert_eq!(whole(&[message.clone(), message.clone()].concat()).unwrap(), Some(message.len()));
        assert!(whole(&[b'l', 1, 0, 1, 255, 255, 255, 127, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
