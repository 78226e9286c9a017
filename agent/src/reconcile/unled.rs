//! Whether packets get to the table of the mesh's routes: what is looked up, and what to say where no
//! rule leads there.

use crate::config::{Config, Overlay};
use crate::kernel::Lookup;
use crate::problem::remark;
use crate::state::ours;
use routemesh_bgp::wire::Family;
use routemesh_proto::Problem;

/// What a rule must lead to; `None` where the kernel looks by itself.
pub(super) fn lookup(config: &Config) -> Option<Lookup> {
    match (&config.overlay, config.place.table) {
        (Overlay::Vrf(_), _) => Some(Lookup::Vrf),
        (_, ours::TABLE) => None,
        (_, table) => Some(Lookup::Table(table)),
    }
}

/// No rule of these families leads there; `None` if there are none of them.
pub(super) fn unled(overlay: &Overlay, lookup: Lookup, families: &[Family]) -> Option<Problem> {
    if families.is_empty() {
        return None;
    }
    let name = |family: &Family| match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    };
    let names: Vec<&str> = families.iter().map(name).collect();
    let none = format!("no {} rule leads", names.join(" and no "));
    Some(match lookup {
        Lookup::Table(table) => remark(
            format!("table {table}"),
            &format!(
                "{none} there: add one, like `ip rule add lookup {table}`; what was in another table stays there until then"
            ),
        ),
        Lookup::Vrf => remark(
            overlay,
            &format!(
                "{none} to the tables of VRFs, and what it forwards goes by the main one: `ip rule add l3mdev pref 1000`, and with -6; did somebody flush the rules?"
            ),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_which_rule_is_wanted() {
        let vrf = Overlay::Vrf("blue".to_owned());
        let both = [Family::Ipv4, Family::Ipv6];
        let table = [
            (&Overlay::Own, Lookup::Table(77), &both[..0], None),
            (
                &Overlay::Own,
                Lookup::Table(77),
                &both[1..],
                Some("table 77: no IPv6 rule leads there: add one, like `ip rule add lookup 77`"),
            ),
            (
                &vrf,
                Lookup::Vrf,
                &both[..],
                Some("blue: no IPv4 and no IPv6 rule leads to the tables of VRFs"),
            ),
        ];
        for (overlay, lookup, families, expected) in table {
            let told = unled(overlay, lookup, families);
            let told = told.map(|it| format!("{}: {}", it.object, it.reason));
            match expected {
                None => assert_eq!(told, None),
                Some(expected) => assert!(
                    told.as_ref().is_some_and(|it| it.contains(expected)),
                    "{told:?}"
                ),
            }
        }
    }
}
