//! In a cloud that nobody has heard of, a boot contacts nobody but what its configuration names.
//!
//! The whole world of the test is on the loopback of a network namespace of its own, whose default route leads into an interface where
//! every packet is caught.

use std::io::Read;

use nap_e2e::network::in_own_network;
use nap_e2e::node::{Node, api_options, text};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::json;

/// A way out that leads nowhere, caught on the way. 10.200.0.0/24 exists only in the namespace.
const WAY_OUT: &str = "ip link set lo up && ip link add out type veth peer name gone && ip link set gone up && ip addr add 10.200.0.2/24 dev out && \
                       sysctl -q -w net.ipv6.conf.out.disable_ipv6=1 && ip link set out up && ip route add default via 10.200.0.1";

#[test]
fn a_boot_in_a_made_up_cloud_contacts_no_public_host() {
    in_own_network("a_boot_in_a_made_up_cloud_contacts_no_public_host", WAY_OUT, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(inside());
    });
}

async fn inside() {
    let capture = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
    let mut capture = std::fs::File::from(capture);
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["cloud"]["environment"] = json!("NapMadeUpCloud");
    document["containerd"]["sandboxImage"] = json!("registry.made-up.example/pause:1");
    document["registries"]["dnsSuffix"] = json!(".registry.made-up.example");
    node.hand_over(document.to_string().as_bytes());
    let boot = node.agent(&["boot"]).await;
    assert_eq!(boot.status.code(), Some(0), "{}", text(&boot));
    assert_eq!(caught(&mut capture), 0, "packets left for somewhere: {}", text(&boot));

    // The capture does catch what leaves: one datagram into the void asks for the gateway's hardware address.
    std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "192.0.2.1:9").unwrap();
    assert!(caught(&mut capture) > 0, "the capture sees nothing");
}

/// How many frames of IPv4 or ARP passed any interface but loopback since the last look.
fn caught(capture: &mut std::fs::File) -> usize {
    let mut frame = [0; 2048];
    let mut count = 0;
    while let Ok(length) = capture.read(&mut frame) {
        // A frame of loopback has no hardware addresses.
        let (addresses, kind) = (&frame[..12.min(length)], &frame[12..14]);
        let is_loopback = addresses.iter().all(|byte| *byte == 0);
        count += usize::from(!is_loopback && matches!(kind, [8, 0 | 6]));
    }
    count
}
