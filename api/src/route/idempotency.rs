//! `Idempotency-Key`: a change that is asked for again, because its answer was lost, is the same operation.
//!
//! Of the IETF's draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header) this
//! follows: the header's name; a key belongs to one request, known by a fingerprint, and with another one it is
//! refused with 422; a request that was refused is not remembered. It differs where an operation makes it simpler:
//!
//! - A key is any visible ASCII, quoted as the draft has it or not; quotes are part of it.
//! - The fingerprint is what was asked for, and not the bytes that said so: vCPUs, target and `?timeout`. `?wait`
//!   belongs to each request by itself.
//! - The answer is the operation as it is now, not a copy of the first answer.
//! - Whoever comes while the first is being worked on gets the same operation, where the draft has 409.
//! - No request has to have a key.
//!
//! A key is remembered for as long as its operation is, and the last [`KEYS`] of them.

use super::trouble::Trouble;
use axum::http::HeaderMap;
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::{Client, Refused, Request};
use hotvisor_vmm::hotplug::view::{OperationId, View};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// The header's name.
pub(super) const HEADER: &str = "idempotency-key";
/// Longest key, in bytes.
pub(super) const KEY_BYTES: usize = 255;
/// Most keys that are remembered.
const KEYS: usize = 1024;

/// A key that a client has chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(Box<str>);

impl Key {
    /// The key of a request, if it has one.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Trouble> {
        let malformed = |found: &str| {
            let remedy = format!(
                "give one key of 1 to {KEY_BYTES} visible ASCII characters, a UUID for instance, or none"
            );
            Err(Trouble::Malformed(Problem::new(
                "Idempotency-Key",
                found,
                remedy,
            )))
        };
        let mut values = headers.get_all(HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return malformed("it is there twice");
        }
        match value.as_bytes() {
            [] => malformed("it is empty"),
            bytes if bytes.len() > KEY_BYTES => malformed("it is too long"),
            bytes if !bytes.iter().all(u8::is_ascii_graphic) => {
                malformed("it has characters that no key can have")
            }
            _ => Ok(value.to_str().ok().map(|text| Self(text.into()))),
        }
    }
}

/// What is remembered of a key.
struct Entry {
    request: Request,
    /// Empty until the control thread has answered, and for ever if it has refused. Shared with those who wait
    /// for it.
    operation: Arc<OnceCell<OperationId>>,
}

impl Entry {
    fn is_needed(&self, view: &View) -> bool {
        match self.operation.get() {
            Some(id) => view.operations.contains_key(id),
            None => Arc::strong_count(&self.operation) > 1,
        }
    }
}

/// The keys that are remembered.
#[derive(Default)]
pub(super) struct Keys(Mutex<HashMap<Key, Entry>>);

impl Keys {
    /// Asks for a change, unless it was asked for with this key before; the operation is what it then became.
    pub(super) async fn change(
        &self,
        client: &Client,
        key: Key,
        request: Request,
    ) -> Result<OperationId, Trouble> {
        let cell = self.claim(&client.view(), key, &request)?;
        let client = client.clone();
        // By itself, because whoever asks may leave before the operation is known, and then ask again.
        let asking = tokio::spawn(async move {
            let ask = || client.change(request);
            cell.get_or_try_init(ask).await.copied()
        });
        Ok(asking.await.unwrap_or(Err(Refused::Gone))?)
    }

    /// Where the operation of this key is, or will be.
    fn claim(
        &self,
        view: &View,
        key: Key,
        request: &Request,
    ) -> Result<Arc<OnceCell<OperationId>>, Trouble> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, entry| entry.is_needed(view));
        if let Some(entry) = keys.get(&key) {
            if entry.request == *request {
                return Ok(entry.operation.clone());
            }
            let asked = format!("Idempotency-Key {}", key.0);
            let found = "something else was asked for with this key";
            return Err(Trouble::Reused(Problem::new(
                asked,
                found,
                "take a new key",
            )));
        }
        if keys.len() >= KEYS {
            // The lowest is the oldest; one that has no operation yet is the youngest.
            let age = |entry: &Entry| entry.operation.get().copied().unwrap_or(OperationId::MAX);
            let oldest = keys.iter().min_by_key(|(_, entry)| age(entry));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                keys.remove(&oldest);
            }
        }
        let operation = Arc::default();
        let entry = Entry {
            request: request.clone(),
            operation: Arc::clone(&operation),
        };
        keys.insert(key, entry);
        Ok(operation)
    }
}
