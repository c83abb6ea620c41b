//! What the agent has changed in the guest, written down before it is changed: whoever comes after an agent that was killed puts it
//! back.

use std::fs::{self, File};
use std::io;

use serde::{Deserialize, Serialize};

use crate::drain::Ledger;
use crate::mask::Mask;
use crate::root::Root;
use crate::tasks;
use crate::trouble::{Result, Trouble};

/// The folder of what is here. It is emptied at boot, as is all that was changed.
pub const FOLDER: &str = "run/hotvisor-agent";
const FILE: &str = "run/hotvisor-agent/state.json";
const NEW: &str = "run/hotvisor-agent/state.new";
const LOCK: &str = "run/hotvisor-agent/lock";

/// An agent, by its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its id.
    pub pid: u32,
    /// When it was started, in ticks since boot: ids are used again.
    pub start: u64,
}

impl Owner {
    /// The process that asks.
    #[must_use]
    pub fn me(root: &Root) -> Self {
        let pid = std::process::id();
        let start = tasks::start_of(root, pid).unwrap_or_default();
        Self { pid, start }
    }

    fn is_alive(self, root: &Root) -> bool {
        tasks::start_of(root, self.pid) == Some(self.start)
    }
}

/// What is written down.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Whose changes these are.
    pub owner: Option<Owner>,
    /// What `rcu_expedited` was before the agent set it.
    pub expedite: Option<String>,
    /// The CPUs that were present when the agent last looked.
    pub present: Option<Mask>,
    /// What was moved off CPUs.
    pub ledger: Ledger,
}

/// The state and its file.
#[derive(Debug)]
pub struct Store {
    root: Root,
    /// What is to be written down with the next [`Store::save`].
    pub state: State,
}

/// Held while what an agent left is put back, so that its successor and its guard do not both do that at once. Whoever holds it
/// does a bounded amount of work, and waits for nobody.
fn lock(root: &Root) -> io::Result<File> {
    fs::create_dir_all(root.path(FOLDER))?;
    let file = File::create(root.path(LOCK))?;
    file.lock()?;
    Ok(file)
}

fn cannot(error: &io::Error) -> Trouble {
    Trouble::new(
        format!("/{FILE}"),
        error,
        "let the agent write there, so that what it changes can be put back if it is killed",
    )
}

impl Store {
    /// One that begins with nothing, and is written nowhere before it is saved.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        let root = root.clone();
        Self {
            root,
            state: State::default(),
        }
    }

    /// Takes over what an agent before left, has it put back by `restore`, and is the owner from then on.
    ///
    /// # Errors
    /// Where another agent runs, or nothing can be written down.
    pub fn take_over(root: &Root, restore: impl FnOnce(&mut Self)) -> Result<Self> {
        let _lock = lock(root).map_err(|error| cannot(&error))?;
        let mut store = Self::load(root);
        let me = Owner::me(root);
        if let Some(other) = store
            .state
            .owner
            .filter(|other| *other != me && other.is_alive(root))
        {
            return Err(Trouble::new(
                "starting",
                format!("an agent runs already, as process {}", other.pid),
                "stop that one, or leave it running",
            ));
        }
        store.state.owner = Some(me);
        restore(&mut store);
        store.save()?;
        Ok(store)
    }

    /// Has `restore` put back what an owner left that is gone; nothing happens if somebody else has taken over. Without an owner it
    /// is whoever wrote last, unless that one is alive. Says whether there was anything to do.
    ///
    /// # Errors
    /// Where the state can be neither locked nor written.
    pub fn after(
        root: &Root,
        owner: Option<Owner>,
        restore: impl FnOnce(&mut Self),
    ) -> Result<bool> {
        let _lock = lock(root).map_err(|error| cannot(&error))?;
        let mut store = Self::load(root);
        let wrote = store.state.owner;
        let is_gone = match owner {
            Some(owner) => wrote == Some(owner),
            None => wrote.is_some_and(|wrote| !wrote.is_alive(root)),
        };
        if !is_gone {
            return Ok(false);
        }
        restore(&mut store);
        store.save()?;
        Ok(true)
    }

    fn load(root: &Root) -> Self {
        let text = fs::read(root.path(FILE)).unwrap_or_default();
        // What cannot be read was written by another version of this program, or by nobody.
        let state = serde_json::from_slice(&text).unwrap_or_default();
        let root = root.clone();
        Self { root, state }
    }

    /// The files that this is about.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Writes the state down, whole or not at all.
    ///
    /// # Errors
    /// Those of the files.
    pub fn save(&self) -> Result<()> {
        let save = || {
            fs::create_dir_all(self.root.path(FOLDER))?;
            let mut file = io::BufWriter::new(File::create(self.root.path(NEW))?);
            serde_json::to_writer(&mut file, &self.state)?;
            file.into_inner().map_err(io::IntoInnerError::into_error)?;
            fs::rename(self.root.path(NEW), self.root.path(FILE))
        };
        save().map_err(|error| cannot(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    #[test]
    fn what_is_saved_is_taken_over() {
        let picture = Picture::of_cpus(2);
        let mut store = Store::take_over(picture.root(), |_| {}).unwrap();
        store.state.expedite = Some("0".to_owned());
        store.save().unwrap();
        let mut found = None;
        Store::take_over(picture.root(), |store| found = store.state.expedite.take()).unwrap();
        assert_eq!(found.as_deref(), Some("0"));
        assert_eq!(Store::load(picture.root()).state.expedite, None);
    }

    #[test]
    fn an_agent_that_runs_keeps_its_state() {
        let picture = Picture::of_cpus(2);
        picture.task(42, 42, "hotvisor-agent", 0, 0, 0, "0-1");
        let mut store = Store::new(picture.root());
        let owner = Owner {
            pid: 42,
            start: 420,
        };
        store.state.owner = Some(owner);
        store.save().unwrap();
        let error = Store::take_over(picture.root(), |_| panic!("restored")).unwrap_err();
        assert!(error.to_string().contains("process 42"), "{error}");
        assert_eq!(
            Store::after(picture.root(), None, |_| panic!("restored")),
            Ok(false)
        );
        picture.remove("proc/42");
        let next = Some(Owner {
            pid: 43,
            start: 430,
        });
        assert_eq!(
            Store::after(picture.root(), next, |_| panic!("restored")),
            Ok(false)
        );
        assert_eq!(Store::after(picture.root(), Some(owner), |_| {}), Ok(true));
        assert_eq!(Store::after(picture.root(), None, |_| {}), Ok(true));
        Store::take_over(picture.root(), |_| {}).unwrap();
    }

    #[test]
    fn what_nobody_can_read_is_nothing() {
        let picture = Picture::new();
        picture.file(FILE, "{\"owner\":");
        assert_eq!(Store::load(picture.root()).state, State::default());
    }
}
