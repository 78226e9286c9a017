//! Compiles routemesh.proto with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=routemesh.proto");
    let files = protox::compile(["routemesh.proto"], ["."])?;
    tonic_prost_build::configure()
        // A Config is also a TOML file, and whatever meshctl shows is also JSON.
        .message_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(default, deny_unknown_fields)]")
        .enum_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .compile_fds(files)?;
    Ok(())
}
