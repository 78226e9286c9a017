//! Renders and encodes the config of every gateway of a mesh of so many, two to a site, and prints how
//! many seconds that took. Nothing is kept but lengths, as the controller keeps nothing.

use prost::Message;
use routemesh_controller::ids::{self, Ids};
use routemesh_controller::mesh::Mesh;
use routemesh_controller::render::render;
use routemesh_controller::spec;
use std::error::Error;
use std::fmt::Write;
use std::time::Instant;

fn text(gateways: usize) -> Result<String, std::fmt::Error> {
    let mut text = String::from("[mesh]\nas = 65000\ninterconnect = \"fd00:ff::/64\"\n");
    for gateway in 0..gateways {
        let site = gateway / 2;
        if gateway % 2 == 0 {
            let (high, low) = (site / 256, site % 256);
            writeln!(
                text,
                "[sites.site-{site}]\nprefixes = [\"10.{high}.{low}.0/24\"]"
            )?;
        }
        let endpoint = gateway + 1;
        writeln!(
            text,
            "[sites.site-{site}.gateways.gw-{gateway}]\nendpoints = [\"2001:db8:2::{endpoint:x}\"]\noverlay = \"private\""
        )?;
    }
    Ok(text)
}

fn main() -> Result<(), Box<dyn Error>> {
    let gateways = std::env::args().nth(1).ok_or("how many gateways?")?;
    let text = text(gateways.parse()?)?;
    let began = Instant::now();
    let spec = spec::parse("mesh.toml", &text)?;
    let parsed = began.elapsed();
    let ids = ids::assign(&Ids::default(), &spec).map_err(|_| "no ids")?;
    let mesh = Mesh::new(1, text.into(), spec, ids);
    let began = Instant::now();
    let names: Vec<&str> = mesh
        .spec
        .gateways()
        .map(|(_, it)| it.name.as_str())
        .collect();
    let configs = names.iter().filter_map(|name| render(&mesh, name));
    let octets: usize = configs.map(|config| config.encode_to_vec().len()).sum();
    let took = began.elapsed().as_secs_f64();
    eprintln!("parsed in {parsed:.1?}, {octets} octets of configs");
    println!("{took:.3}");
    Ok(())
}
