//! Compiles etcd.proto with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=etcd.proto");
    let files = protox::compile(["etcd.proto"], ["."])?;
    tonic_prost_build::configure()
        .build_server(false)
        .skip_debug(["etcdserverpb.KeyValue", "etcdserverpb.PutRequest"])
        .compile_fds(files)?;
    Ok(())
}
