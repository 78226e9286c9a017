//! The commands.

use super::definition::{CHILD_SEPARATOR, Definition};
use super::error::{Call, Error};
use super::fence::Connection;
use super::message::Message;
use super::sas::{self, IkeSa};
use crate::state;
use routemesh_proto as proto;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long charon may take for a command, unless told otherwise.
const LIMIT: Duration = Duration::from_secs(10);

/// A private key. It has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides it.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// Shows it, to whoever asks in so many words.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What charon says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `charon`, `charon-systemd`, …
    pub daemon: String,
    /// strongSwan's version.
    pub version: String,
}

/// charon's commands, over one connection and one at a time, as there are no sequence numbers.
///
/// The connection is opened when it is needed, and dropped when a call is not answered in time, is
/// cancelled or fails: what comes over it afterwards could belong to another call.
#[derive(Clone)]
pub struct Vici {
    socket: PathBuf,
    limit: Duration,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Vici {
    /// charon at that socket, usually `/run/charon.vici`. Connects later.
    pub fn new(socket: PathBuf) -> Vici {
        Vici {
            socket,
            limit: LIMIT,
            connection: Arc::default(),
        }
    }

    /// With another limit to how long charon may take for a command.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Vici {
        Vici { limit, ..self }
    }

    /// Which charon it is.
    pub async fn version(&self) -> Result<Version, Error> {
        let answer = self.ask(&self.call("version", ""), &Message::new()).await?;
        let text = |name| answer.get_text(name).unwrap_or_default().to_owned();
        Ok(Version {
            daemon: text("daemon"),
            version: text("version"),
        })
    }

    /// The plugins that are loaded.
    pub async fn plugins(&self) -> Result<Vec<String>, Error> {
        let answer = self.ask(&self.call("stats", ""), &Message::new()).await?;
        Ok(answer.get_list("plugins").to_vec())
    }

    /// The connections of ours that are loaded. One whose children are not named as ours are has an
    /// empty digest, so that it differs from every one that is wanted.
    pub async fn connections(&self) -> Result<BTreeMap<String, state::Connection>, Error> {
        let list = self.list(&self.call("list-conns", ""), "list-conn").await?;
        let named = list
            .iter()
            .flat_map(Message::sections)
            .filter(|(name, _)| sas::is_ours(name));
        let loaded = named.map(|(name, section)| {
            let children = section.get_section("children").into_iter();
            let children = children.flat_map(Message::sections);
            let children: Vec<&str> = children.map(|(name, _)| name).collect();
            (name.to_owned(), connection(&children))
        });
        Ok(loaded.collect())
    }

    /// Loads a connection, or replaces the one of that name. Living SAs stay.
    pub async fn load(&self, name: &str, definition: &Definition) -> Result<(), Error> {
        self.order(&self.call("load-conn", name), &definition.to_vici(name))
            .await
            .map(drop)
    }

    /// Forgets a connection. Living SAs stay. Well if it is not loaded.
    pub async fn unload(&self, name: &str) -> Result<(), Error> {
        let call = self.call("unload-conn", name);
        match self.order(&call, &Message::new().text("name", name)).await {
            Err(Error::Refused { .. }) if !self.connections().await?.contains_key(name) => Ok(()),
            result => result.map(drop),
        }
    }

    /// The IKE_SAs of ours, with their children.
    ///
    /// charon waits for SAs that are being worked on, so this can take as long as a DNS server
    /// takes for the host name of a peer; without waiting it would leave those SAs out.
    pub async fn sas(&self) -> Result<Vec<IkeSa>, Error> {
        Ok(self.all_sas().await?.0)
    }

    /// The same, and the SPIs of all other CHILD_SAs.
    pub async fn all_sas(&self) -> Result<(Vec<IkeSa>, BTreeSet<u32>), Error> {
        let listed = self.list(&self.call("list-sas", ""), "list-sa").await?;
        Ok((sas::from_list(&listed), sas::others(&listed)))
    }

    /// Starts to bring a child up, and does not wait: [`Vici::sas`] and the events tell.
    pub async fn initiate(&self, connection: &str, child: &str) -> Result<(), Error> {
        let arguments = Message::new()
            .text("ike", connection)
            .text("child", child)
            .text("timeout", "-1");
        self.order(&self.call("initiate", connection), &arguments)
            .await
            .map(drop)
    }

    /// Starts to close an IKE_SA and its children, and does not wait. Well if there is none.
    pub async fn terminate(&self, unique_id: u32) -> Result<(), Error> {
        self.close("ike-id", unique_id).await
    }

    /// Starts to close a CHILD_SA, and does not wait. Well if there is none.
    pub async fn terminate_child(&self, unique_id: u32) -> Result<(), Error> {
        self.close("child-id", unique_id).await
    }

    async fn close(&self, what: &str, unique_id: u32) -> Result<(), Error> {
        let call = self.call("terminate", &format!("{what} {unique_id}"));
        let arguments = Message::new()
            .text(what, unique_id.to_string())
            .text("timeout", "-1");
        let answer = self.ask(&call, &arguments).await?;
        if answer.get_text("matches") == Some("0") {
            return Ok(());
        }
        success(&call, answer).map(drop)
    }

    /// Loads a private key (PEM, not encrypted) and gives the id that charon knows it by.
    pub async fn load_key(&self, pem: &Secret) -> Result<String, Error> {
        let call = self.call("load-key", "");
        let answer = self
            .order(
                &call,
                &Message::new()
                    .text("type", "any")
                    .text("data", pem.expose()),
            )
            .await?;
        match answer.get_text("id") {
            Some(id) => Ok(id.to_owned()),
            None => Err(Error::Unexpected {
                call,
                reason: "no id".into(),
            }),
        }
    }

    /// The ids of the private keys that were loaded over VICI, by whomever.
    ///
    /// If ours is missing, load it and every connection again: `swanctl --load-creds` forgets keys
    /// that are not in its files, and with `--clear` also the certificates of our connections.
    pub async fn keys(&self) -> Result<BTreeSet<String>, Error> {
        let answer = self
            .ask(&self.call("get-keys", ""), &Message::new())
            .await?;
        Ok(answer.get_list("keys").iter().cloned().collect())
    }

    /// Forgets a private key. Well if it is not loaded.
    pub async fn unload_key(&self, id: &str) -> Result<(), Error> {
        let call = self.call("unload-key", id);
        match self.order(&call, &Message::new().text("id", id)).await {
            Err(Error::Refused { .. }) if !self.keys().await?.contains(id) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Loads a pre-shared key for IKE with that identity, or replaces the one of that id. It is not noted
    /// for our own identity as well: charon takes a key if either of both has it, and so would take each
    /// peer's key from every other.
    pub async fn load_shared(
        &self,
        id: &str,
        key: &proto::Secret,
        owner: &str,
    ) -> Result<(), Error> {
        let arguments = Message::new()
            .text("id", id)
            .text("type", "IKE")
            .text("data", key.expose())
            .list("owners", [owner]);
        self.order(&self.call("load-shared", id), &arguments)
            .await
            .map(drop)
    }

    /// The ids of the pre-shared keys of ours that are loaded.
    pub async fn shared(&self) -> Result<BTreeSet<String>, Error> {
        let call = self.call("get-shared", "");
        let answer = self.ask(&call, &Message::new()).await?;
        let ids = answer.get_list("keys").iter();
        Ok(ids.filter(|id| sas::is_ours(id)).cloned().collect())
    }

    /// Forgets a pre-shared key. Well if it is not loaded.
    pub async fn unload_shared(&self, id: &str) -> Result<(), Error> {
        let call = self.call("unload-shared", id);
        match self.order(&call, &Message::new().text("id", id)).await {
            Err(Error::Refused { .. }) if !self.shared().await?.contains(id) => Ok(()),
            result => result.map(drop),
        }
    }

    fn call(&self, command: &'static str, object: &str) -> Call {
        Call {
            socket: self.socket.clone(),
            command,
            object: object.to_owned(),
        }
    }

    /// A command that says whether it succeeded.
    async fn order(&self, call: &Call, arguments: &Message) -> Result<Message, Error> {
        success(call, self.ask(call, arguments).await?)
    }

    /// A command and its answer, whatever it says.
    async fn ask(&self, call: &Call, arguments: &Message) -> Result<Message, Error> {
        arguments
            .check(call.command)
            .map_err(|field| Error::TooLong {
                call: call.clone(),
                field,
            })?;
        let mut slot = self.connection.lock().await;
        // Taken out, and put back only if all went well: so it is dropped on cancellation too.
        let mut connection = self.open(call, slot.take()).await?;
        let answer = connection.request(call, arguments, self.limit).await?;
        *slot = Some(connection);
        Ok(answer)
    }

    /// A command that is answered by a stream.
    async fn list(&self, call: &Call, event: &str) -> Result<Vec<Message>, Error> {
        let mut slot = self.connection.lock().await;
        let mut connection = self.open(call, slot.take()).await?;
        let list = connection
            .list(call, event, &Message::new(), self.limit)
            .await?;
        *slot = Some(connection);
        Ok(list)
    }

    /// The connection there is, if charon has not closed it meanwhile, or another one.
    async fn open(&self, call: &Call, connection: Option<Connection>) -> Result<Connection, Error> {
        match connection.filter(|connection| !connection.ended()) {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.socket, self.limit)
                .await
                .map_err(|source| Error::Connect {
                    call: call.clone(),
                    source,
                }),
        }
    }
}

/// What is loaded by the names of its children: a digest, and that with the number of a tunnel for
/// each of the others.
fn connection(children: &[&str]) -> state::Connection {
    let is_first = |name: &&&str| !name.contains(CHILD_SEPARATOR);
    let digest = children.iter().find(is_first).copied();
    let number = |name: &&str| {
        let (of, number) = name.split_once(CHILD_SEPARATOR)?;
        number.parse().ok().filter(|_| Some(of) == digest)
    };
    let more: BTreeSet<u32> = children.iter().filter_map(number).collect();
    let known = more.len() + 1 == children.len();
    state::Connection {
        digest: digest.filter(|_| known).unwrap_or_default().to_owned(),
        more,
    }
}

/// Whether the answer says that it was done.
fn success(call: &Call, answer: Message) -> Result<Message, Error> {
    let call = call.clone();
    match answer.get_text("success") {
        Some("yes") => Ok(answer),
        Some(_) => {
            let reason = answer
                .get_text("errmsg")
                .unwrap_or("no reason given")
                .to_owned();
            Err(Error::Refused { call, reason })
        }
        None => Err(Error::Unexpected {
            call,
            reason: "it does not say whether it succeeded".into(),
        }),
    }
}
