//! Tokens, and who was revoked, in etcd.

use super::api::{KeptAdmission, KeptDeed, KeptToken, RequestOp};
use super::client::{self, Client, delete, name, none_since, put, unchanged};
use super::{ATTEMPTS, Etcd, OPERATIONS, Whom, millis, time};
use crate::admission::{Admission, Admissions, Kind};
use crate::ca::Role;
use crate::store::StoreError;
use crate::store::trust::{DEEDS, Deed, REMEMBERED, Token, Trust, kind};
use prost::Message;
use std::time::SystemTime;

fn key(digest: &[u8; 32]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("token/{hex}")
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..64).step_by(2).map(byte).collect();
    bytes?.try_into().ok()
}

fn admission_key(role: Role, name: &str) -> String {
    format!("admission/{}/{name}", kind(role.into()))
}

pub(super) fn admission(kept: &KeptAdmission) -> Admission {
    Admission {
        number: kept.number,
        revoked: kept.revoked,
    }
}

impl Etcd {
    fn kept_token(&self, digest: &[u8; 32]) -> Result<Option<(KeptToken, i64)>, StoreError> {
        let Some(kv) = self.get(key(digest))? else {
            return Ok(None);
        };
        Ok(Some((self.decode("a token", &kv.value)?, kv.mod_revision)))
    }

    /// How a deed is noted.
    fn noted(&self, deed: &Deed) -> Result<RequestOp, StoreError> {
        let kept = KeptDeed {
            at: millis(deed.at),
            who: deed.who.clone(),
            what: deed.what.clone(),
            detail: deed.detail.clone(),
        };
        let own = format!("deed/{:020}-{}", kept.at, self.random()?);
        Ok(put(&own, kept.encode_to_vec()))
    }

    /// Forgets the oldest of many deeds; what fails here is done by the next.
    fn forget_deeds(&self) {
        let names = self.call(|client| async move { client.list("deed/", true).await });
        let names = names.unwrap_or_default();
        let over = names.len().saturating_sub(DEEDS.unsigned_abs() as usize);
        let oldest = names.iter().take(over.min(OPERATIONS));
        let oldest: Vec<_> = oldest.map(|kv| delete(name(kv))).collect();
        if !oldest.is_empty() {
            let _ = self.call(|client| async move { client.commit(Vec::new(), oldest).await });
        }
    }

    fn token_of(&self, digest: [u8; 32], kept: KeptToken) -> Result<Token, StoreError> {
        let role = kept.role.parse();
        Ok(Token {
            digest,
            role: role.map_err(|reason| self.damaged(format!("a token: {reason}")))?,
            name: kept.name,
            expires: time(kept.expires),
            used: kept.used.map(time),
        })
    }
}

impl Trust for Etcd {
    fn add_token(&mut self, token: &Token, now: SystemTime) -> Result<(), StoreError> {
        let mut operations = Vec::new();
        for kv in self.list("token/")? {
            let kept: KeptToken = self.decode("a token", &kv.value)?;
            let old = now.checked_sub(REMEMBERED).map_or(0, millis);
            if kept.expires < old && operations.len() < OPERATIONS {
                operations.push(delete(name(&kv)));
            }
        }
        let kept = KeptToken {
            role: token.role.to_string(),
            name: token.name.clone(),
            expires: millis(token.expires),
            used: token.used.map(millis),
            user: String::new(),
        };
        let key = key(&token.digest);
        operations.push(put(&key, kept.encode_to_vec()));
        let compare = vec![unchanged(&key, 0)];
        // Another of the same digest is refused; whoever asked for it makes one anew.
        let made = || Ok(false);
        match self.commit(compare, operations, made)? {
            true => Ok(()),
            false => Err(StoreError::Overtaken),
        }
    }

    fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let mut tokens = Vec::new();
        for kv in self.list("token/")? {
            let Some(digest) = name(&kv).strip_prefix("token/").and_then(digest) else {
                continue;
            };
            tokens.push(self.token_of(digest, self.decode("a token", &kv.value)?)?);
        }
        Ok(tokens)
    }

    fn token(&self, digest: &[u8; 32]) -> Result<Option<Token>, StoreError> {
        let kept = self.kept_token(digest)?;
        kept.map(|(kept, _)| self.token_of(*digest, kept))
            .transpose()
    }

    fn use_token(&mut self, token: &Token, deed: &Deed) -> Result<bool, StoreError> {
        let user = self.random()?;
        let made = || {
            let kept = self.kept_token(&token.digest)?;
            Ok(kept.is_some_and(|(kept, _)| kept.user == user))
        };
        let noted = self.noted(deed)?;
        let admission = admission_key(token.role, &token.name);
        // Whoever comes between two steps makes both begin anew; of two with one token, one wins.
        for _ in 0..ATTEMPTS {
            let Some((kept, revision)) = self.kept_token(&token.digest)? else {
                return Ok(false);
            };
            if kept.used.is_some() {
                return Ok(false);
            }
            let used = KeptToken {
                used: Some(millis(deed.at)),
                user: user.clone(),
                ..kept
            };
            let own = key(&token.digest);
            let before = self.get(admission.clone())?;
            let mut operations = vec![put(&own, used.encode_to_vec()), noted.clone()];
            if let Some(kv) = &before {
                let kept: KeptAdmission = self.decode("an admission", &kv.value)?;
                let kept = KeptAdmission {
                    revoked: false,
                    ..kept
                };
                operations.push(put(&admission, kept.encode_to_vec()));
            }
            let compare = vec![
                unchanged(&own, revision),
                unchanged(&admission, before.map_or(0, |kv| kv.mod_revision)),
            ];
            if self.commit(compare, operations, made)? {
                self.forget_deeds();
                return Ok(true);
            }
        }
        Err(StoreError::Overtaken)
    }

    fn note(&mut self, deed: &Deed) -> Result<(), StoreError> {
        let noted = self.noted(deed)?;
        self.call(|client| async move { client.commit(Vec::new(), vec![noted]).await })?;
        self.forget_deeds();
        Ok(())
    }

    fn deeds(&self, limit: u32) -> Result<Vec<Deed>, StoreError> {
        let last = |client: Client| async move { client.last("deed/", limit).await };
        let deeds = self.read(Whom::Anyone, last)?.into_iter().map(|kv| {
            let kept: KeptDeed = self.decode("a deed", &kv.value)?;
            Ok(Deed {
                at: time(kept.at),
                who: kept.who,
                what: kept.what,
                detail: kept.detail,
            })
        });
        deeds.collect()
    }

    fn admissions(&self) -> Result<Admissions, StoreError> {
        let mut all = Admissions::default();
        for kv in self.list("admission/")? {
            let mut parts = name(&kv).splitn(3, '/').skip(1);
            let (Some(kind), Some(holder)) = (parts.next(), parts.next()) else {
                continue;
            };
            let kind = match kind {
                "gateway" => Kind::Gateway,
                _ => Kind::Person,
            };
            let kept: KeptAdmission = self.decode("an admission", &kv.value)?;
            all.insert(kind, holder.to_owned(), admission(&kept));
        }
        Ok(all)
    }

    fn save_admission(
        &mut self,
        role: Role,
        name: &str,
        before: Admission,
        after: Admission,
        deed: Option<&Deed>,
    ) -> Result<(), StoreError> {
        let own = admission_key(role, name);
        let of_gateway = role == Role::Gateway;
        let noted = deed.map(|deed| self.noted(deed)).transpose()?;
        let made = || {
            let Some(kv) = self.get(own.clone())? else {
                return Ok(false);
            };
            Ok(admission(&self.decode("an admission", &kv.value)?) == after)
        };
        for _ in 0..ATTEMPTS {
            let kept = match self.get(own.clone())? {
                Some(kv) => Some((self.decode("an admission", &kv.value)?, kv.mod_revision)),
                None => None,
            };
            let found = kept.as_ref().map(|(it, _)| admission(it));
            if found.unwrap_or_default() != before {
                return Err(StoreError::Overtaken);
            }
            let kept_after = KeptAdmission {
                number: after.number,
                revoked: after.revoked,
            };
            let mut compare = vec![unchanged(&own, kept.map_or(0, |(_, revision)| revision))];
            let mut operations = vec![put(&own, kept_after.encode_to_vec())];
            operations.extend(noted.clone());
            if after.revoked {
                let (tokens, revision) =
                    self.call(|client| async move { client.list_at("token/", false).await })?;
                compare.push(none_since("token/", revision));
                for kv in &tokens {
                    let token: KeptToken = self.decode("a token", &kv.value)?;
                    let same = token.name == name && (token.role == "gateway") == of_gateway;
                    if same && token.used.is_none() {
                        operations.push(delete(client::name(kv)));
                    }
                }
                if of_gateway {
                    operations.push(delete(&format!("wireguard/{name}")));
                }
            }
            // More than fit go before, and are gone at the next attempt.
            let fits = operations.len() <= OPERATIONS;
            if !fits {
                operations.truncate(OPERATIONS);
                operations.drain(..=usize::from(noted.is_some()));
            }
            if self.commit(compare, operations, made)? && fits {
                self.forget_deeds();
                return Ok(());
            }
        }
        Err(StoreError::Overtaken)
    }
}
