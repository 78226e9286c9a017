//! Somebody else at charon: a connection of ours loaded once more, with other terms, as `swanctl --load-conns` would.
//! It has the name of ours and so has its child: the agent takes it for its own.

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::observe::Tunnel;
use routemesh_tests::lab::topology::{CONTROLLER, Gateway};
use routemesh_tests::lab::vici::Word;

/// What is otherwise; what is not is as the agent has it.
#[derive(Default)]
pub(super) struct Terms {
    pub(super) ike: Option<&'static str>,
    pub(super) esp: Option<&'static str>,
    pub(super) remote_id: Option<&'static str>,
    pub(super) local_ts: Option<&'static str>,
    pub(super) remote_ts: Option<&'static str>,
    /// A certificate, and its key.
    pub(super) shows: Option<[String; 2]>,
}

/// Loads the connection of a tunnel's end, and closes the SA that was made before.
pub(super) fn loads(
    lab: &Lab,
    mesh: &Mesh<'_>,
    (tunnel, at): (Tunnel, Gateway),
    terms: &Terms,
) -> Result<()> {
    let (charon, far) = (lab.charon(at), tunnel.peer(at));
    let name = format!("{}-{}", tunnel.interface(), far.name());
    let loaded = charon.loaded()?;
    let child = loaded.iter().find(|(connection, _)| *connection == name);
    let (_, child) = child.ok_or_else(|| LabError::Unexpected(format!("no {name} is loaded")))?;
    let read = |file: &str| {
        let read = std::fs::read_to_string(mesh.identity_dir(at).join(file));
        read.map_err(LabError::io(format!("{file} of {}", at.name())))
    };
    let (own, authority) = (read("cert.pem")?, read("ca.pem")?);
    let certificate = match &terms.shows {
        None => &own,
        Some([certificate, key]) => {
            let words = [Word::Text("type", "any"), Word::Text("data", key)];
            charon.order("load-key", &words)?;
            certificate
        }
    };
    let [local, remote] = [at, far].map(Gateway::name);
    let [local_address, remote_address] = [at, far].map(Gateway::public);
    let if_id = format!("{:#x}", 0x5200_0000 + tunnel.number);
    let all = "0.0.0.0/0,::/0";
    use Word::{Close, List, Open, Text};
    let words = [
        Open(&name),
        Text("version", "2"),
        List("local_addrs", &local_address),
        List("remote_addrs", &remote_address),
        List(
            "proposals",
            terms.ike.unwrap_or("aes256gcm16-prfsha384-ecp384"),
        ),
        Text("mobike", "no"),
        Text("unique", "never"),
        Text("send_certreq", "no"),
        Text("send_cert", "always"),
        Open("local"),
        Text("auth", "pubkey"),
        Text("id", &local),
        List("certs", certificate),
        Close,
        Open("remote"),
        Text("auth", "pubkey"),
        Text("id", terms.remote_id.unwrap_or(&remote)),
        List("cacerts", &authority),
        Close,
        Open("children"),
        Open(child),
        List("local_ts", terms.local_ts.unwrap_or(all)),
        List("remote_ts", terms.remote_ts.unwrap_or(all)),
        List("esp_proposals", terms.esp.unwrap_or("aes256gcm16-ecp384")),
        Text("if_id_in", &if_id),
        Text("if_id_out", &if_id),
        Close,
        Close,
        Close,
    ];
    charon.order("load-conn", &words)?;
    // The far end may have closed it already.
    let _ = charon.terminate(&name);
    Ok(())
}

/// A certificate of nobody's authority for a gateway's name, and its key.
pub(super) fn unknown_certificate(lab: &Lab, gateway: Gateway) -> Result<[String; 2]> {
    let name = gateway.name();
    openssl(
        lab,
        &format!("req -x509 -days 9 {NEW_KEY} -keyout key -out cert {SUBJECT}"),
        &name,
    )?;
    made(lab)
}

/// One of the mesh's authority that is valid from years to come, as for a host whose clock was wrong.
pub(super) fn early_certificate(
    lab: &Lab,
    mesh: &Mesh<'_>,
    gateway: Gateway,
) -> Result<[String; 2]> {
    let config = "[ca]\ndefault_ca=a\n[a]\nnew_certs_dir=.\ndatabase=index\nrand_serial=yes\ndefault_md=sha384\n\
                  policy=p\ncopy_extensions=copy\n[p]\ncommonName=supplied\n";
    let dir = lab.host(CONTROLLER).dir();
    for (file, text) in [("config", config), ("index", "")] {
        std::fs::write(dir.join(file), text).map_err(LabError::io(file))?;
    }
    let (name, ca) = (gateway.name(), mesh.controller_dir());
    openssl(
        lab,
        &format!("req -new {NEW_KEY} -keyout key -out csr {SUBJECT}"),
        &name,
    )?;
    let ca = ca.display();
    openssl(
        lab,
        &format!(
            "ca -batch -notext -config config -cert {ca}/ca.pem -keyfile {ca}/ca-key.pem -in csr -out cert \
             -startdate 20400101000000Z -enddate 20410101000000Z"
        ),
        &name,
    )?;
    made(lab)
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes";
const SUBJECT: &str = "-subj /CN=NAME -addext subjectAltName=DNS:NAME";

fn openssl(lab: &Lab, words: &str, name: &str) -> Result<()> {
    let host = lab.host(CONTROLLER);
    let words = words.replace("NAME", name);
    let script = format!("cd {} && openssl {words}", host.dir().display());
    host.run(&["sh", "-c", &script]).map(drop)
}

fn made(lab: &Lab) -> Result<[String; 2]> {
    let dir = lab.host(CONTROLLER).dir();
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).map_err(LabError::io(file));
    Ok([read("cert")?, read("key")?])
}
