//! Which of BIRD's sessions go through tunnels, and which to routers on the LAN.

use super::super::{Connection, Host, Neighbour, Note};
use super::own_as;

/// The session through a connection's tunnel: it is on the interface of the connection's number, as vti5 or
/// xfrm42 is.
pub(super) fn over<'h>(host: &'h Host, connection: &Connection) -> Option<&'h Neighbour> {
    let neighbours = &host.bird.as_ref()?.neighbours;
    neighbours.iter().find(|it| is_over(it, connection))
}

fn is_over(neighbour: &Neighbour, connection: &Connection) -> bool {
    let Some(interface) = &neighbour.interface else {
        return false;
    };
    let begin = interface.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = interface
        .strip_prefix(begin)
        .and_then(|digits| digits.parse().ok());
    let tunnel = ["vti", "xfrm", "ipsec", "tun"]
        .iter()
        .any(|it| begin.starts_with(it));
    tunnel && number.is_some() && connection.children.iter().any(|it| it.number == number)
}

/// Routers on a gateway's LAN: whoever is spoken to other than through tunnels.
pub(super) fn routers(own: usize, hosts: &[Host], notes: &mut Vec<Note>) -> Vec<Neighbour> {
    let Some(host) = hosts.get(own) else {
        return Vec::new();
    };
    let neighbours = host.bird.iter().flat_map(|bird| &bird.neighbours);
    let on_lan = neighbours.filter(|it| !through_a_tunnel(it, own, hosts));
    let mut routers = Vec::new();
    for neighbour in on_lan {
        let Neighbour {
            name, file, line, ..
        } = neighbour;
        let mut note = |text: String| {
            notes.push(Note {
                file: file.clone(),
                line: *line,
                text,
            });
        };
        if neighbour.asn.is_none() || (neighbour.address.is_none() && neighbour.interface.is_none())
        {
            note(format!(
                "{name} is left out: no line of it says whom it speaks to, or which AS that is"
            ));
            continue;
        }
        note(format!("{name} is taken for a router on the LAN"));
        if neighbour.password {
            note(format!(
                "the password of {name} is not carried over: write it into the draft"
            ));
        }
        if neighbour.filtered {
            note(format!(
                "the filters of {name} are not carried over: docs/policy.md has terms"
            ));
        }
        routers.push(neighbour.clone());
    }
    routers
}

/// It is on a tunnel's interface, or with a gateway's own end of a session, or with the AS of another site.
fn through_a_tunnel(neighbour: &Neighbour, own: usize, hosts: &[Host]) -> bool {
    let connections = hosts
        .get(own)
        .into_iter()
        .flat_map(|host| &host.connections);
    if connections.into_iter().any(|it| is_over(neighbour, it)) {
        return true;
    }
    let mut others = hosts
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != own)
        .map(|(_, host)| host);
    others.any(|host| {
        let ends = host.bird.iter().flat_map(|bird| &bird.neighbours);
        let far_end = ends
            .into_iter()
            .any(|it| it.local.is_some() && it.local == neighbour.address);
        let own = hosts.get(own).and_then(own_as);
        far_end
            || (neighbour.asn.is_some() && neighbour.asn != own && neighbour.asn == own_as(host))
    })
}
