//! Who is who: tokens, certificates, revocation, and who did what.

use crate::client::{CallError, Client};
use crate::context::{Context, Entry, Home, is_name};
use crate::failure::Failure;
use crate::output::{Format, Output, print, show};
use crate::renewal;
use crate::table::{self, Look};
use clap::{ArgGroup, Args, Subcommand};
use routemesh_proto::{
    AuditRequest, CreateTokenRequest, Identity, KeyKind, RevokeRequest, Token, enroll as ask,
};
use serde::Serialize;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Subcommand)]
pub(crate) enum Trust {
    /// Give out tokens with which gateways and people enroll.
    #[command(subcommand)]
    Token(Tokens),
    /// Make a key here, and get a certificate for it with a token, into the directory of --identity.
    ///
    /// With --context NAME, of a mesh that has no context yet, it makes that: with the directory NAME beside the
    /// file of contexts, and used from then on where no other is.
    Enroll(Enroll),
    /// Get another certificate, for a new key, before the one that you have runs out.
    Renew(Output),
    /// Let no certificate of a gateway or a person be good any more. A new token lets it enroll again.
    ///
    /// Every other gateway takes down its tunnels to the one that is revoked, and its routes, at once.
    Revoke(Revoke),
    /// Show who did what, the latest first, and what was refused.
    Audit(Audit),
}

impl Trust {
    pub(crate) async fn run(self, context: &Context, look: Look) -> Result<ExitCode, Failure> {
        match self {
            Self::Token(Tokens::Create(args)) => token(&context.client()?, args).await?,
            Self::Enroll(args) => enroll(context, args).await?,
            Self::Renew(output) => renew(&context.client()?, context.identity(), output).await?,
            Self::Revoke(args) => revoke(&context.client()?, args).await?,
            Self::Audit(args) => audit(&context.client()?, args, look).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

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
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Enroll {
    /// The token; - for standard input, which no other user of this host sees.
    token: String,
    /// What kind of key to make: ecdsa-p384 or ed25519.
    #[arg(long, default_value_t)]
    key: KeyKind,
    #[command(flatten)]
    output: Output,
}

/// What `token create` shows.
#[derive(Serialize)]
struct Made {
    /// A secret, until it is used.
    token: String,
    role: &'static str,
    name: String,
    controllers: Vec<String>,
    /// The mesh has the gateway.
    known: bool,
}

/// What `enroll` shows.
#[derive(Serialize)]
struct Enrolled {
    role: String,
    name: String,
    identity: PathBuf,
    /// The context that was made.
    context: Option<String>,
}

/// What `renew` shows.
#[derive(Serialize)]
struct Renewed {
    identity: PathBuf,
}

#[derive(Args)]
pub(crate) struct Revoke {
    /// The gateway, or the person.
    name: String,
    /// It is a person, in whatever role.
    #[arg(long)]
    person: bool,
    #[command(flatten)]
    output: Output,
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

async fn token(client: &Client, args: Create) -> Result<(), Failure> {
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
        [] => {
            let all = client.address().split(',');
            all.map(|one| one.trim().to_owned()).collect()
        }
        given => given.to_vec(),
    };
    let token = Token {
        controllers,
        authority: reply.authority,
        role: role.to_owned(),
        name: name.to_owned(),
        secret: reply.secret,
    };
    let made = Made {
        token: token.expose(),
        role,
        name: token.name,
        controllers: token.controllers,
        known: reply.known,
    };
    show(args.output.output, &made, |made| {
        format!("{}\n", made.token)
    })
}

async fn enroll(context: &Context, args: Enroll) -> Result<(), Failure> {
    let named = match &context.unknown {
        Some(name) if !is_name(name) => {
            return Err(Failure::Usage(
                "the name of a context has letters, digits, '-', '_' and '.' only",
            ));
        }
        Some(name) => Home::find().map(|home| (name.as_str(), home)),
        None => None,
    };
    let own = named.as_ref().map(|(name, home)| home.identity(name));
    let dir = context.identity().or(own.as_deref()).ok_or(Failure::Usage(
        "where to? Give --context NAME, --identity DIR or set MESHCTL_IDENTITY: the directory is made",
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
    // What follows may fail, and the identity is there.
    if args.output.output == Format::Table {
        print(&format!("enrolled as {token}: {}\n", dir.display()))?;
    }
    let mut made = None;
    if let Some((name, home)) = named {
        let mut contexts = home.read()?;
        let entry = Entry {
            controller: token.controllers.join(","),
            identity: std::path::absolute(dir)?,
        };
        contexts.contexts.insert(name.to_owned(), entry);
        contexts.context.get_or_insert_with(|| name.to_owned());
        home.write(&contexts)?;
        made = Some((name.to_owned(), home.file()));
    }
    let enrolled = Enrolled {
        role: token.role,
        name: token.name,
        identity: dir.to_owned(),
        context: made.as_ref().map(|(name, _)| name.clone()),
    };
    show(args.output.output, &enrolled, |_| match &made {
        Some((name, file)) => format!("context {name}: {}\n", file.display()),
        None => String::new(),
    })
}

/// Gets another certificate, for a new key.
async fn renew(client: &Client, identity: Option<&Path>, output: Output) -> Result<(), Failure> {
    let dir = identity.ok_or(Failure::Usage("whose? Give --identity DIR"))?;
    let old = Identity::load(dir).map_err(CallError::from)?;
    renewal::renew(client, dir, &old).await?;
    let renewed = Renewed {
        identity: dir.to_owned(),
    };
    show(output.output, &renewed, |it| {
        format!("{} has a new certificate\n", it.identity.display())
    })
}

async fn revoke(client: &Client, args: Revoke) -> Result<(), Failure> {
    let Revoke {
        name,
        person,
        output,
    } = args;
    let reply = client.revoke(RevokeRequest { name, person }).await?;
    show(output.output, &reply, |reply| {
        let unchanged = if reply.unchanged { "unchanged, " } else { "" };
        format!("{unchanged}generation {}\n", reply.generation)
    })
}

async fn audit(client: &Client, args: Audit, look: Look) -> Result<(), Failure> {
    let audit = client.audit(AuditRequest { limit: args.limit }).await?;
    show(args.output.output, &audit, |audit| {
        table::audit(audit, look)
    })
}
