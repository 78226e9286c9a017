//! Compiles the .proto files with protox, so that no protoc is needed.

/// Fields that a config's TOML has only where they say something.
const OPTIONAL: &[&str] = &[
    "Config.bfd",
    "Router.bfd",
    "Site.barred",
    "Router.address",
    "Router.interface",
    "Router.range",
    "Router.password",
    "Router.ttl_security",
    "Router.role",
    "Router.max_prefixes",
    "Router.import",
    "Router.export",
    "Router.add_path",
    "Router.long_lived",
    "Term.prefixes",
    "Term.family",
    "Config.drain",
    "Config.table",
    "Config.metric",
    "Tunnel.drain",
    "Term.communities",
    "Term.origin_as",
    "Term.through_as",
    "Term.neighbour_as",
    "Term.longest_path",
    "Term.set_preference",
    "Term.set_med",
    "Term.add_med",
    "Term.clear_communities",
    "Term.remove_communities",
    "Term.add_communities",
    "Term.set_weight",
    "Term.prepend",
    "Term.reason",
    "Tunnel.ike",
    "Tunnel.esp",
    "Tunnel.foreign",
    "Tunnel.behind_here",
    "Tunnel.behind_there",
    "Config.identity",
    "Tunnel.peer_identity",
    "Tunnel.wireguard",
    "WireGuard.public_key",
    "Foreign.local_selectors",
    "Foreign.remote_selectors",
    "Foreign.prefix_length",
    "Foreign.max_prefixes",
    "Foreign.hold_time",
    "IkeOptions.rekey_time",
    "IkeOptions.reauth_time",
    "IkeOptions.over_time",
    "IkeOptions.dpd_delay",
    "IkeOptions.mobike",
    "EspOptions.rekey_time",
    "EspOptions.over_time",
    "EspOptions.replay_window",
    "EspOptions.hw_offload",
    "EspOptions.policies_fwd_out",
    "EspOptions.mode",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 4] = [
        "routemesh.proto",
        "trust.proto",
        "controllers.proto",
        "ask.proto",
    ];
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let files = protox::compile(FILES, ["."])?;
    // For whoever asks the controller what calls there are.
    let mut described = protox::Compiler::new(["."])?;
    let described = described.include_imports(true).open_files(FILES)?;
    let path = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("routemesh.bin");
    std::fs::write(path, described.encode_file_descriptor_set())?;
    let mut build = tonic_prost_build::configure();
    // What a router, a term or a tunnel does not need is not written down in a config.
    for field in OPTIONAL {
        let path = format!("routemesh.v1.{field}");
        build = build.field_attribute(path, "#[serde(skip_serializing_if = \"crate::unset\")]");
    }
    build
        // An error about a password must not show it.
        .field_attribute(
            "routemesh.v1.Router.password",
            "#[serde(deserialize_with = \"crate::secret::text\")]",
        )
        .field_attribute(
            "routemesh.v1.Foreign.psk",
            "#[serde(deserialize_with = \"crate::secret::text\")]",
        )
        // A Config is also a TOML file, and whatever meshctl shows is also JSON.
        .message_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(default, deny_unknown_fields)]")
        .enum_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        // They hold secrets: their Debug is in src/secret.rs.
        .skip_debug([
            "routemesh.v1.Router",
            "routemesh.v1.Foreign",
            "routemesh.v1.ApplyRequest",
            "routemesh.v1.PlanRequest",
            "routemesh.v1.BackupPiece",
            "routemesh.v1.Piece",
            "routemesh.v1.CapturePiece",
            "routemesh.v1.EnrollRequest",
            "routemesh.v1.Token",
            "routemesh.v1.CreateTokenReply",
        ])
        .compile_fds(files)?;
    Ok(())
}
