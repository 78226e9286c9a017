//! Generations in etcd.

use super::api::{Blob, Head, Kept, KeyValue};
use super::client::{Client, delete, name, put, unchanged};
use super::{ATTEMPTS, Etcd, OPERATIONS, Whom, encode_ids, encode_retired, millis, time};
use crate::drain::Drain;
use crate::store::StoreError;
use crate::store::revision::{Change, KEPT, KEPT_BYTES, Kind, Revision, Revisions};
use prost::Message;
use routemesh_proto::{Canary, Secret};
use std::collections::BTreeSet;

/// A generation's key: in order, as text.
fn key(generation: u64) -> String {
    format!("revision/{generation:020}")
}

impl Etcd {
    /// What is in force, and the revision of its key in etcd.
    pub(super) fn head(&self) -> Result<Option<(Head, i64)>, StoreError> {
        let Some(kv) = self.get("head".to_owned())? else {
            return Ok(None);
        };
        Ok(Some((self.decode("head", &kv.value)?, kv.mod_revision)))
    }

    fn kept(&self, kv: &KeyValue) -> Result<Kept, StoreError> {
        self.decode(name(kv), &kv.value)
    }

    fn revision_as(kept: Kept, text: Secret, canary: Option<Canary>) -> Revision {
        Revision {
            generation: kept.generation,
            file: kept.file,
            text,
            operator: kept.operator,
            at: time(kept.at),
            kind: Kind::named(&kept.kind),
            summary: kept.summary,
            drains: kept
                .drains
                .iter()
                .map(|it| Drain::from(it.as_str()))
                .collect(),
            canary,
        }
    }

    fn revision_of(&self, whom: Whom, generation: u64) -> Result<Option<Revision>, StoreError> {
        let key = key(generation);
        let get = |client: Client| {
            let key = key.clone();
            async move { client.get(&key).await }
        };
        let Some(kv) = self.read(whom, get)? else {
            return self.missing(whom);
        };
        let kept = self.kept(&kv)?;
        // It may be forgotten just now.
        let Some(text) = self.get_blob(whom, kept.text.as_ref())? else {
            return self.missing(whom);
        };
        let text = String::from_utf8(text);
        let text = text.map_err(|_| self.damaged(format!("generation {generation}: no text")))?;
        let canary = match self.get_blob(whom, kept.canary.as_ref())? {
            Some(bytes) => Some(self.decode("a trial", &bytes)?),
            None if kept.canary.is_some() => return self.missing(whom),
            None => None,
        };
        Ok(Some(Self::revision_as(kept, text.into(), canary)))
    }

    /// Deletes what is not kept any more, and what attempts left behind that came to nothing: whoever
    /// wrote before the head that this one followed cannot name it any more.
    fn forget(&self, head: &Head, before: i64) -> Result<(), StoreError> {
        let mut kept = Vec::new();
        for kv in self.list("revision/")? {
            kept.push(self.kept(&kv)?);
        }
        kept.sort_by_key(|it| std::cmp::Reverse(it.generation));
        let mut bytes = 0;
        let name_of = |blob: Option<&Blob>| blob.map(|it| it.name.clone()).unwrap_or_default();
        let mut named = BTreeSet::from([&head.ids, &head.retired].map(|it| name_of(it.as_ref())));
        let mut operations = Vec::new();
        for (place, it) in (1..).zip(&kept) {
            let parts = [&it.text, &it.canary].map(|it| name_of(it.as_ref()));
            bytes += it.text.as_ref().map_or(0, |text| text.bytes);
            if place > 1 && (place > KEPT || bytes > KEPT_BYTES) {
                operations.push(delete(&key(it.generation)));
            } else {
                named.extend(parts);
            }
        }
        let blobs = self.call(|client| async move { client.list("blob/", true).await })?;
        for kv in blobs {
            let blob = name(&kv).split('/').nth(1).unwrap_or_default();
            if kv.mod_revision < before && !named.contains(blob) {
                operations.push(delete(name(&kv)));
            }
        }
        for some in operations.chunks(OPERATIONS) {
            let some = some.to_vec();
            self.call(|client| async move { client.commit(Vec::new(), some).await })?;
        }
        Ok(())
    }

    /// Whether a commit whose answer was lost has been made after all.
    fn was_made(&self, generation: u64, text: Option<&Blob>) -> Result<bool, StoreError> {
        let kv = self.get(key(generation))?;
        let kept = kv.map(|kv| self.kept(&kv)).transpose()?;
        Ok(kept.is_some_and(|kept| kept.text.as_ref() == text))
    }
}

impl Revisions for Etcd {
    fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.head()?.map_or(0, |(head, _)| head.generation))
    }

    fn current(&self) -> Result<Option<Revision>, StoreError> {
        // So many may come in between that it is forgotten already.
        for _ in 0..ATTEMPTS {
            let Some((head, _)) = self.head()? else {
                return Ok(None);
            };
            if let Some(revision) = self.revision_of(Whom::Quorum, head.generation)? {
                return Ok(Some(revision));
            }
        }
        Err(self.damaged("what is in force: not all of it is there"))
    }

    fn revision(&self, generation: u64) -> Result<Option<Revision>, StoreError> {
        self.revision_of(Whom::Anyone, generation)
    }

    fn history(&self, limit: u32) -> Result<Vec<Revision>, StoreError> {
        let last = |client: Client| async move { client.last("revision/", limit).await };
        let kept = self.read(Whom::Anyone, last)?.into_iter();
        let kept = kept.map(|kv| Ok(Self::revision_as(self.kept(&kv)?, Secret::default(), None)));
        kept.collect()
    }

    fn save(&mut self, expected: u64, change: &Change) -> Result<u64, StoreError> {
        let before = self.head()?;
        let found = before.as_ref().map_or(0, |(head, _)| head.generation);
        if found != expected {
            return Err(StoreError::Moved { expected, found });
        }
        let mod_revision = before.as_ref().map_or(0, |(_, revision)| *revision);
        let head = self.put_head((expected, expected + 1), mod_revision, change)?;
        // What fails here is done by the next.
        let _ = self.forget(&head, mod_revision);
        Ok(head.generation)
    }

    fn import(&mut self, change: &Change) -> Result<(), StoreError> {
        let before = self.head()?;
        let found = before.as_ref().map_or(0, |(head, _)| head.generation);
        let mod_revision = before.as_ref().map_or(0, |(_, revision)| *revision);
        let generation = change.revision.generation;
        let head = self.put_head((found, generation), mod_revision, change);
        head.map(drop)
    }
}

impl Etcd {
    /// Keeps a generation, if the head is as it was.
    fn put_head(
        &self,
        (expected, generation): (u64, u64),
        mod_revision: i64,
        change: &Change,
    ) -> Result<Head, StoreError> {
        let Revision {
            generation: _,
            file,
            text,
            operator,
            at,
            kind,
            summary,
            drains,
            canary,
        } = &change.revision;
        let text = text.expose().as_bytes();
        let kept = Kept {
            generation,
            file: file.clone(),
            operator: operator.clone(),
            at: millis(*at),
            kind: kind.to_string(),
            summary: summary.clone(),
            drains: drains.iter().map(ToString::to_string).collect(),
            canary: match canary {
                Some(canary) => Some(self.put_blob(&canary.encode_to_vec())?),
                None => None,
            },
            text: Some(self.put_blob(text)?),
        };
        let head = Head {
            generation,
            ids: Some(self.put_blob(&encode_ids(change.ids))?),
            retired: Some(self.put_blob(&encode_retired(change.retired))?),
        };
        let compare = vec![unchanged("head", mod_revision)];
        let operations = vec![
            put("head", head.encode_to_vec()),
            put(&key(generation), kept.encode_to_vec()),
        ];
        let made = || self.was_made(generation, kept.text.as_ref());
        if !self.commit(compare, operations, made)? {
            for blob in [&kept.text, &kept.canary, &head.ids, &head.retired] {
                let _ = self.delete_blob(blob.as_ref());
            }
            let found = self.generation()?;
            return Err(StoreError::Moved { expected, found });
        }
        Ok(head)
    }
}
