//! Real etcds on this host, with ports of their own, and an authority for them that is none of ours.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Members of one cluster.
pub struct Cluster {
    dir: TempDir,
    members: Vec<Member>,
    options: Vec<String>,
}

struct Member {
    name: String,
    client: String,
    peer: String,
    process: Option<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A way to etcd that loses all answers for so long, once a request with all of these words has gone through.
pub fn losing(to: &str, words: &'static [&'static str], lost: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let to = to.trim_start_matches("http://").to_owned();
    let since: Arc<Mutex<Option<Instant>>> = Arc::default();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
            let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let noted = since.clone();
            thread::spawn(move || ask(from, into, words, &noted));
            let since = since.clone();
            thread::spawn(move || answer(server, client, lost, &since));
        }
    });
    url
}

/// A way to etcd whose answers wait for as long as it is shut.
pub fn waiting(to: &str, shut: &Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (to, shut) = (to.trim_start_matches("http://").to_owned(), shut.clone());
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let Ok(mut server) = TcpStream::connect(&to) else {
                return;
            };
            let mut from = client.try_clone().unwrap();
            let mut into = server.try_clone().unwrap();
            thread::spawn(move || std::io::copy(&mut from, &mut into));
            let shut = shut.clone();
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                while let Ok(read @ 1..) = server.read(&mut buffer) {
                    while shut.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(10));
                    }
                    if client.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

fn ask(mut from: TcpStream, mut into: TcpStream, words: &[&str], since: &Mutex<Option<Instant>>) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let octets = &buffer[..read];
        let has = |word: &&str| octets.windows(word.len()).any(|it| it == word.as_bytes());
        if words.iter().all(has) {
            since.lock().unwrap().get_or_insert_with(Instant::now);
        }
        if into.write_all(octets).is_err() {
            return;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
}

fn answer(
    mut from: TcpStream,
    mut into: TcpStream,
    lost: Duration,
    since: &Mutex<Option<Instant>>,
) {
    let tick = Duration::from_millis(20);
    from.set_read_timeout(Some(tick)).unwrap();
    let (mut buffer, mut spoiled) = (vec![0; 1 << 20], false);
    loop {
        let read = match from.read(&mut buffer) {
            Ok(read @ 1..) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            _ => break,
        };
        let loses = since.lock().unwrap().is_some_and(|it| it.elapsed() < lost);
        spoiled |= loses && read > 0;
        if !loses && (spoiled || into.write_all(&buffer[..read]).is_err()) {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
}

impl Cluster {
    pub fn start(members: usize) -> Self {
        Self::new(members, "http", &[])
    }

    /// With TLS for clients.
    pub fn start_with(members: usize, options: &[(&str, String)]) -> Self {
        Self::new(members, "https", options)
    }

    fn new(members: usize, scheme: &str, options: &[(&str, String)]) -> Self {
        let member = |number| Member {
            name: format!("m{number}"),
            client: format!("{scheme}://127.0.0.1:{}", free_port()),
            peer: format!("http://127.0.0.1:{}", free_port()),
            process: None,
        };
        let options = options.iter();
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            members: (0..members).map(member).collect(),
            options: options
                .map(|(name, value)| format!("--{name}={value}"))
                .collect(),
        };
        (0..members).for_each(|member| cluster.revive(member));
        for member in &cluster.members {
            let (_, address) = member.client.split_once("://").unwrap();
            let up = || TcpStream::connect(address).is_ok();
            let mut waits = (0..600).map(|_| std::thread::sleep(Duration::from_millis(50)));
            assert!(waits.any(|()| up()), "etcd listens at {address}");
        }
        cluster
    }

    /// All members' addresses.
    pub fn urls(&self) -> String {
        let urls = self.members.iter().map(|it| it.client.as_str());
        urls.collect::<Vec<_>>().join(",")
    }

    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn revive(&mut self, member: usize) {
        let all = self
            .members
            .iter()
            .map(|it| format!("{}={}", it.name, it.peer));
        let all = all.collect::<Vec<_>>().join(",");
        let it = &mut self.members[member];
        let options = [
            ("name", &it.name),
            ("listen-client-urls", &it.client),
            ("advertise-client-urls", &it.client),
            ("listen-peer-urls", &it.peer),
            ("initial-advertise-peer-urls", &it.peer),
            ("initial-cluster", &all),
        ];
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path().join(&it.name))
            .args(["--logger", "zap", "--log-level", "error"])
            .args(options.map(|(name, value)| format!("--{name}={value}")))
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        it.process = Some(process.expect("etcd, of etcd-server, is installed"));
    }
}

/// An authority for etcd, which is none of ours.
pub struct Certificates {
    dir: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            dir: tempfile::tempdir().unwrap(),
            ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    /// What etcd needs to be spoken to over TLS, by whoever has a certificate.
    pub fn options(&self) -> [(&'static str, String); 4] {
        let server = self.issue("etcd");
        let path = |file: &str| server.join(file).to_str().unwrap().to_owned();
        [
            ("cert-file", path("cert.pem")),
            ("key-file", path("key.pem")),
            ("trusted-ca-file", path("ca.pem")),
            ("client-cert-auth", "true".to_owned()),
        ]
    }

    /// A directory with what is certified to this user.
    pub fn issue(&self, user: &str) -> PathBuf {
        let dir = self.dir.path().join(user);
        if dir.exists() {
            return dir;
        }
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("ca.pem"), self.ca.pem()).unwrap();
        std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
        let path = dir.join("key.pem");
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        dir
    }
}
