//! Who is who: tokens, certificates, revocation, and who did what.

use crate::client::{CallError, Client};
use crate::failure::Failure;
use crate::output::{Output, print, show};
use crate::table::{self, Look};
use clap::{ArgGroup, Args, Subcommand};
use routemesh_proto::{
    AuditRequest, CreateTokenRequest, Identity, KeyKind, RenewRequest, Request, RevokeRequest,
    Token, enroll as ask,
};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

#[derive(Subcommand)]
pub(crate) enum Tokens {
    /// Make a token with which a gateway or a person enrolls, once.
    ///
    /// `mesh-agent enroll` or `meshctl enroll` makes a key where it is run, and gets a certificate for it. Until
    /// then, the token is a secret: whoever has it is who it names.
    Create(Create),
}

#[derive(Args)]
#[command(group = ArgGroup::new("whose").required(true))]
pub(crate) struct Create {
    /// For this gateway, as it is called in the specification.
    #[arg(long, value_name = "NAME", group = "whose")]
    gateway: Option<String>,
    /// For one who sees everything.
    #[arg(long, value_name = "NAME", group = "whose")]
    viewer: Option<String>,
    /// For one who also applies specifications, and drains.
    #[arg(long, value_name = "NAME", group = "whose")]
    operator: Option<String>,
    /// For one who also says who is who.
    #[arg(long, value_name = "NAME", group = "whose")]
    admin: Option<String>,
    /// For how long it is good; at most seven days.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Where the controller is, as seen by whoever enrolls; several are tried in turn. Without it, where it is
    /// for you.
    #[arg(long, value_name = "URL")]
    address: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Enroll {
    /// The token; - for standard input, which no other user of this host sees.
    token: String,
    /// What kind of key to make: ecdsa-p384 or ed25519.
    #[arg(long, default_value_t)]
    key: KeyKind,
}

#[derive(Args)]
pub(crate) struct Revoke {
    /// The gateway, or the person.
    name: String,
    /// It is a person, in whatever role.
    #[arg(long)]
    person: bool,
}

#[derive(Args)]
pub(crate) struct Audit {
    /// At most so many lines.
    #[arg(long, short = 'n', default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

impl Create {
    fn whose(&self) -> Option<(&'static str, &str)> {
        let all = [
            ("gateway", &self.gateway),
            ("viewer", &self.viewer),
            ("operator", &self.operator),
            ("admin", &self.admin),
        ];
        let mut all = all.into_iter();
        all.find_map(|(role, name)| Some((role, name.as_deref()?)))
    }
}

pub(crate) async fn token(client: &Client, args: Create) -> Result<(), Failure> {
    let (role, name) = args.whose().ok_or(Failure::Usage("for whom?"))?;
    let request = CreateTokenRequest {
        role: role.to_owned(),
        name: name.to_owned(),
        lifetime: args.ttl.as_secs(),
    };
    let reply = client.create_token(request).await?;
    if !reply.known {
        let _ = writeln!(
            io::stderr(),
            "meshctl: there is no gateway {name} in the mesh yet: the token is good all the same"
        );
    }
    let controllers = match args.address.as_slice() {
        [] => vec![client.address().to_owned()],
        given => given.to_vec(),
    };
    let token = Token {
        controllers,
        authority: reply.authority,
        role: role.to_owned(),
        name: name.to_owned(),
        secret: reply.secret,
    };
    print(&format!("{}\n", token.expose()))
}

pub(crate) async fn enroll(identity: Option<&Path>, args: Enroll) -> Result<(), Failure> {
    let dir = identity.ok_or(Failure::Usage(
        "where to? Give --identity DIR or set MESHCTL_IDENTITY: the directory is made",
    ))?;
    if dir.join("cert.pem").exists() {
        return Err(Failure::Usage(
            "there is an identity already: give another --identity DIR, or remove that one",
        ));
    }
    let text = match args.token.as_str() {
        "-" => {
            let mut text = String::new();
            io::stdin().lock().take(8192).read_to_string(&mut text)?;
            text
        }
        given => given.to_owned(),
    };
    let token: Token = text.parse()?;
    Identity::probe(dir).map_err(CallError::from)?;
    let new = ask(&token, args.key).await?;
    new.save(dir).map_err(CallError::from)?;
    print(&format!("enrolled as {token}: {}\n", dir.display()))
}

/// Gets another certificate, for a new key.
pub(crate) async fn renew(client: &Client, identity: Option<&Path>) -> Result<(), Failure> {
    let dir = identity.ok_or(Failure::Usage("whose? Give --identity DIR"))?;
    let old = Identity::load(dir).map_err(CallError::from)?;
    let request = Request::renewing(&old).map_err(CallError::from)?;
    let asked = RenewRequest {
        request: request.der().to_vec(),
    };
    let answer = client.renew(asked).await?;
    let new = request.answered(answer).map_err(CallError::from)?;
    new.save(dir).map_err(CallError::from)?;
    print(&format!("{} has a new certificate\n", dir.display()))
}

pub(crate) async fn revoke(client: &Client, args: Revoke) -> Result<(), Failure> {
    let Revoke { name, person } = args;
    let reply = client.revoke(RevokeRequest { name, person }).await?;
    let unchanged = if reply.unchanged { "unchanged, " } else { "" };
    print(&format!("{unchanged}generation {}\n", reply.generation))
}

pub(crate) async fn audit(client: &Client, args: Audit, look: Look) -> Result<(), Failure> {
    let audit = client.audit(AuditRequest { limit: args.limit }).await?;
    show(args.output.output, &audit, |audit| {
        table::audit(audit, look)
    })
}
