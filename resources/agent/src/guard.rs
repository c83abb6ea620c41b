//! A process that puts everything back when the agent has been killed.
//!
//! It holds one end of a pipe, of which the agent holds the other, and waits for it to be closed: the kernel does that however the
//! agent ends. A signal at the parent's end (`PR_SET_PDEATHSIG`) would be lost on a child that is started just when the agent dies,
//! and the agent cannot do anything itself when it is killed. What is to be put back stands in the state's file, which the agent writes
//! before it changes anything. The guard is this same program, which is in memory already.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{SigSet, Signal};

use crate::drain;
use crate::expedite;
use crate::phases;
use crate::root::Root;
use crate::state::{Owner, Store};
use crate::trouble::{Result, Trouble};

/// The command under which this program is a guard.
pub const COMMAND: &str = "guard";

/// The agent's end of the pipe.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Starts one for the process that asks.
    ///
    /// # Errors
    /// Where no process can be started.
    pub fn start(root: &Root) -> Result<Self> {
        let owner = Owner::me(root);
        let child = Command::new("/proc/self/exe")
            .arg("--root")
            .arg(root.path(""))
            .args([COMMAND, &owner.pid.to_string(), &owner.start.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let cannot = |error: io::Error| {
            let remedy = "see why no process can be started; what the agent changes is put back when it starts again, if it is killed";
            Trouble::new("starting a guard", error, remedy)
        };
        Ok(Self(child.map_err(cannot)?))
    }

    /// Whether it is there; nothing but being killed ends it before the agent.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

/// Waits until the other end of the standard input is gone, and puts back what its owner has left. This waits for as long as an
/// agent lives.
///
/// # Errors
/// Where it cannot be put back.
pub fn stand(root: &Root, owner: Owner, mut pipe: impl Read) -> Result<()> {
    // Who ends the agent ends its guard with it, often: by a signal to the whole group.
    let all: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    // One that is ended early leaves the rest to the agent's successor.
    let _ = all.thread_block();
    let mut nothing = [0];
    while pipe.read(&mut nothing).map_or_else(
        |error| error.kind() == io::ErrorKind::Interrupted,
        |length| length > 0,
    ) {}
    put_back(root, Some(owner)).map(|_| ())
}

/// Puts back what an agent has left that is gone. Says whether there was one.
///
/// # Errors
/// Where it cannot be put back.
pub fn put_back(root: &Root, owner: Option<Owner>) -> Result<bool> {
    let mut problem = None;
    let done = Store::after(root, owner, |store| problem = restore(store))?;
    problem.map_or(Ok(done), Err)
}

/// Puts back all that can be now, and gives the first thing that went wrong.
pub fn restore(store: &mut Store) -> Option<Trouble> {
    let expedited = expedite::put_back(store).err();
    let moved = drain::restore_all(store).err();
    // Disturbs nobody, and takes the longest.
    phases::put_back(store.root());
    expedited.or(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expedite::{Expedite, Holder};
    use crate::picture::Picture;

    #[test]
    fn the_end_of_the_pipe_is_the_end_of_the_agent() {
        let picture = Picture::of_cpus(4);
        picture.file("sys/kernel/rcu_expedited", "0\n");
        picture.file("proc/irq/9/smp_affinity_list", "0-3\n");
        picture.file("proc/irq/9/disk/x", "");
        let owner = Owner {
            pid: 42,
            start: 420,
        };
        let mut store = Store::new(picture.root());
        store.state.owner = Some(owner);
        Expedite::default()
            .hold(Holder::Online, &mut store)
            .unwrap();
        drain::drain(&mut store, 2).unwrap();
        assert_eq!(picture.read("proc/irq/9/smp_affinity_list"), "0-1,3");
        // Another agent's guard leaves it alone.
        let other = Owner {
            pid: 43,
            start: 430,
        };
        stand(picture.root(), other, &b"x"[..]).unwrap();
        assert_eq!(picture.read("sys/kernel/rcu_expedited"), "1");
        stand(picture.root(), owner, &b""[..]).unwrap();
        assert_eq!(picture.read("sys/kernel/rcu_expedited"), "0");
        assert_eq!(picture.read("proc/irq/9/smp_affinity_list"), "0-3");
    }
}
