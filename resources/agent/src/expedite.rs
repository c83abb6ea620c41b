//! Grace periods of RCU in a hurry, for the length of an operation.
//!
//! Most of the time that Linux takes to bring a CPU up or down it waits for grace periods. `rcu_expedited` makes them short, at
//! the price of an interrupt to every CPU for each, so it is on only while an operation is under way.

use std::collections::BTreeSet;

use crate::root::Root;
use crate::state::Store;
use crate::trouble::{Result, Trouble};

const FILE: &str = "sys/kernel/rcu_expedited";
const ON: &str = "1";

/// For what grace periods are short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// An operation of the host.
    Operation(u64),
    /// A CPU that the agent brings up.
    Online,
}

/// Those for whom grace periods are short: operations may overlap, and the last one puts back what was there before the first.
#[derive(Debug, Default)]
pub struct Expedite {
    holders: BTreeSet<Holder>,
}

fn cannot(error: &std::io::Error) -> Trouble {
    Trouble::new(
        format!("/{FILE}"),
        error,
        "run the agent as root, with sysfs writable; until then operations take as long as without it",
    )
}

/// Whether the guest's kernel can do this at all.
#[must_use]
pub fn is_possible(root: &Root) -> bool {
    root.has(FILE)
}

impl Expedite {
    /// Makes grace periods short until this holder lets go.
    ///
    /// # Errors
    /// Where the kernel does not take it; they are as before then.
    pub fn hold(&mut self, holder: Holder, store: &mut Store) -> Result<()> {
        if self.holders.is_empty() {
            let before = store.root().read(FILE).map_err(|error| cannot(&error))?;
            // Somebody else has it on, and shall find it like that.
            if before == "0" {
                store.state.expedite = Some(before);
                store.save()?;
                if let Err(error) = store.root().write(FILE, ON) {
                    store.state.expedite = None;
                    store.save()?;
                    return Err(cannot(&error));
                }
            }
        }
        self.holders.insert(holder);
        Ok(())
    }

    /// Lets go; who does not hold does nothing.
    ///
    /// # Errors
    /// Where the value before cannot be put back.
    pub fn release(&mut self, holder: Holder, store: &mut Store) -> Result<()> {
        if self.holders.remove(&holder) && self.holders.is_empty() {
            return put_back(store);
        }
        Ok(())
    }

    /// Lets go for everybody.
    ///
    /// # Errors
    /// Where the value before cannot be put back.
    pub fn release_all(&mut self, store: &mut Store) -> Result<()> {
        self.holders.clear();
        put_back(store)
    }
}

/// Puts back the value from before, unless somebody has set another one since.
///
/// # Errors
/// Where it cannot be put back; it stays written down then.
pub fn put_back(store: &mut Store) -> Result<()> {
    let Some(before) = store.state.expedite.clone() else {
        return Ok(());
    };
    let now = store.root().read(FILE).map_err(|error| cannot(&error))?;
    if now == ON {
        store
            .root()
            .write(FILE, &before)
            .map_err(|error| cannot(&error))?;
    }
    store.state.expedite = None;
    store.save()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    const A: Holder = Holder::Operation(1);
    const B: Holder = Holder::Operation(2);

    fn begin(value: &str) -> (Picture, Store, Expedite) {
        let picture = Picture::of_cpus(2);
        picture.file(FILE, value);
        let store = Store::new(picture.root());
        (picture, store, Expedite::default())
    }

    #[test]
    fn the_last_of_overlapping_operations_puts_back() {
        let (picture, mut store, mut expedite) = begin("0\n");
        expedite.hold(A, &mut store).unwrap();
        expedite.hold(B, &mut store).unwrap();
        expedite.hold(B, &mut store).unwrap();
        assert_eq!(picture.read(FILE), "1");
        expedite.release(A, &mut store).unwrap();
        expedite.release(A, &mut store).unwrap();
        assert_eq!(picture.read(FILE), "1");
        expedite.release(B, &mut store).unwrap();
        assert_eq!(picture.read(FILE), "0");
        assert_eq!(store.state.expedite, None);
    }

    #[test]
    fn what_others_have_set_stays() {
        let (picture, mut store, mut expedite) = begin("1\n");
        expedite.hold(A, &mut store).unwrap();
        expedite.release_all(&mut store).unwrap();
        assert_eq!(picture.read(FILE), "1");

        let (picture, mut store, mut expedite) = begin("0\n");
        expedite.hold(A, &mut store).unwrap();
        picture.file(FILE, "2\n");
        expedite.release(A, &mut store).unwrap();
        assert_eq!(picture.read(FILE), "2");
    }

    #[test]
    fn a_successor_puts_back() {
        let (picture, mut store, mut expedite) = begin("0\n");
        expedite.hold(A, &mut store).unwrap();
        drop((store, expedite));
        let mut store = Store::take_over(picture.root(), |store| put_back(store).unwrap()).unwrap();
        assert_eq!(picture.read(FILE), "0");
        put_back(&mut store).unwrap();
    }

    #[test]
    fn a_kernel_that_cannot_is_named() {
        let picture = Picture::of_cpus(2);
        let mut store = Store::new(picture.root());
        let error = Expedite::default().hold(A, &mut store).unwrap_err();
        assert!(error.to_string().contains("rcu_expedited"), "{error}");
        assert!(!is_possible(picture.root()));
    }
}
