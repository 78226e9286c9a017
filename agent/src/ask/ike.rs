//! Whether anybody answers to IKE at an address and a UDP port.
//!
//! A message of a version that there is not is answered by a notification INVALID_MAJOR_VERSION, and nothing
//! comes of it besides (RFC 7296 sections 1.5 and 2.5): no state, no keys, and no matter which identities and
//! proposals there are. So it tells a filter on the way from a far end that refuses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Of all that there may be, the last.
const VERSION: u8 = 0xf0;
const SA_INIT: u8 = 34;
const INITIATOR: u8 = 0x08;
/// An IKE header: two SPIs, next payload, version, exchange, flags, message id, length.
const HEADER: usize = 28;
/// At port 4500 these come before IKE, so that it is no ESP (RFC 3948 section 2.2).
const MARKER: [u8; 4] = [0; 4];
const WITH_MARKER: u16 = 4500;
const TRIES: usize = 3;
const APART: Duration = Duration::from_millis(400);

/// Asks from an address of ours, and another port than IKE's own.
pub(super) async fn answers(local: IpAddr, remote: IpAddr, port: u16) -> io::Result<bool> {
    let mut spi = [0; 8];
    getrandom::fill(&mut spi).map_err(io::Error::other)?;
    // It is never 0.
    spi[0] |= 1;
    let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await?;
    socket.connect(SocketAddr::new(remote, port)).await?;
    let request = request(spi, port);
    for _ in 0..TRIES {
        // An ICMP error that came meanwhile fails this, and the next tells more.
        let _ = socket.send(&request).await;
        if timeout(APART, answer(&socket, spi)).await.is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn request(spi: [u8; 8], port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    if port == WITH_MARKER {
        packet.extend(MARKER);
    }
    packet.extend(spi);
    packet.extend([0; 8]);
    packet.extend([0, VERSION, SA_INIT, INITIATOR]);
    packet.extend([0; 4]);
    packet.extend((HEADER as u32).to_be_bytes());
    packet
}

async fn answer(socket: &UdpSocket, spi: [u8; 8]) {
    let mut buffer = [0; 256];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) if is_answer(buffer.get(..length).unwrap_or_default(), spi) => return,
            Ok(_) => {}
            // Refused: there is nobody.
            Err(_) => tokio::time::sleep(APART).await,
        }
    }
}

/// Any message of IKE that is about our SPI.
fn is_answer(packet: &[u8], spi: [u8; 8]) -> bool {
    let packet = packet.strip_prefix(&MARKER).unwrap_or(packet);
    packet.len() >= HEADER && packet.starts_with(&spi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_header_of_a_version_that_there_is_not() {
        let spi = [1, 2, 3, 4, 5, 6, 7, 8];
        let plain = request(spi, 500);
        assert_eq!(plain.len(), HEADER);
        assert_eq!(&plain[..8], &spi);
        assert_eq!(plain[17] >> 4, 15);
        assert_eq!(plain[24..], [0, 0, 0, 28]);
        let marked = request(spi, 4500);
        assert_eq!((&marked[..4], &marked[4..]), (&MARKER[..], &plain[..]));
        assert!(is_answer(&marked, spi) && is_answer(&plain, spi));
        assert!(!is_answer(&plain, [9; 8]) && !is_answer(&plain[..20], spi));
    }

    #[tokio::test]
    async fn somebody_answers_or_nobody_does() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let far = UdpSocket::bind((local, 0)).await.unwrap();
        let port = far.local_addr().unwrap().port();
        let mut mute = Box::pin(answers(local, local, port));
        assert!(!(&mut mute).await.unwrap(), "nobody has read it yet");
        let responder = async {
            let mut buffer = [0; 64];
            loop {
                let (length, from) = far.recv_from(&mut buffer).await.unwrap();
                far.send_to(&buffer[..length], from).await.unwrap();
            }
        };
        tokio::select! {
            answered = answers(local, local, port) => assert!(answered.unwrap()),
            () = responder => {}
        }
    }
}
