//! OSPF in the sites, as in the reference lab: BIRD on every gateway, with the configuration that we
//! give to users, and on every site's router, instead of BGP between the two.

use super::Lab;
use super::bird::Bird;
use super::error::Result;
use super::topology::{Gateway, private4, private6};

/// BIRD's configuration on V1-1.
const ON_V1_1: &str = include_str!("../../../examples/bird-ospf.conf");

impl Lab {
    /// Starts BIRD on the gateways, and configures that of the routers anew. `more` is what a
    /// router has besides.
    pub fn speak_ospf(&mut self, more: impl Fn(usize) -> String) -> Result<()> {
        for site in self.topology().site_numbers() {
            let text = of_router(site) + &more(site);
            self.bird(site).configure(self.router(site), &text)?;
        }
        for gateway in self.topology().gateways() {
            let mut bird = Bird::start(self.overlay(gateway), &of_gateway(gateway))?;
            bird.wait()?;
            self.birds.insert(gateway.overlay(), bird);
        }
        Ok(())
    }

    /// The BIRD of a host, if it has one.
    pub fn bird_on(&self, host: &str) -> Option<&Bird> {
        self.birds.get(host)
    }
}

fn of_gateway(gateway: Gateway) -> String {
    let id = format!("172.16.{}.{}", gateway.site, gateway.member);
    ON_V1_1.replacen("172.16.1.1", &id, 1)
}

fn of_router(site: usize) -> String {
    let mut text = format!("log stderr all; router id 172.16.{site}.254; protocol device {{ }}\n");
    for (family, version, source) in [
        ("ipv6", "v3", private6(site)),
        ("ipv4", "v2", private4(site)),
    ] {
        text += &format!(
            r#"
protocol kernel {{
    {family} {{
        import none;
        export filter {{
            if source !~ [RTS_OSPF_EXT1, RTS_OSPF_EXT2] then reject;
            krt_prefsrc = {source};
            accept;
        }};
    }};
}}
protocol ospf {version} private_{family} {{
    {family} {{ import all; export none; }};
    merge external yes;
    area 0 {{
        interface "lan" {{ hello 1; dead count 4; }};
        interface "net0" {{ stub; }};
    }};
}}
"#
        );
    }
    text
}
