//! Moves off a CPU what can run elsewhere, and puts it back when the CPU is back.
//!
//! Linux does so itself when a CPU goes: later, while others wait, and without a memory of it. What was moved here is written
//! down before, and comes back exactly as it was, unless somebody has changed it since.
//!
//! Of the CPUs that a thread is given, Linux keeps those that are online. So a thread that may use others as well, as every thread may
//! at first, could not be given back what it had, and would never run on a CPU that is added later: it is left to Linux, which
//! moves it and leaves its affinity alone.

use std::collections::BTreeSet;

use hotvisor_protocol::Moved;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::cpus;
use crate::knobs::{self, Knob};
use crate::mask::Mask;
use crate::root::Root;
use crate::state::Store;
use crate::tasks::{self, Task};
use crate::trouble::Result;

/// How often tasks are looked through: those that are started meanwhile by one that was not narrowed yet.
const PASSES: usize = 3;

/// Most threads that are moved. A thread takes 16 bytes here, and the agent is to be small.
const MOST_TASKS: usize = 32 * 1024;

/// A file that CPUs were taken out of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Narrowed {
    knob: Knob,
    /// What it said before any were.
    original: String,
    /// What the agent has left in it.
    set: Mask,
}

/// Threads that CPUs were taken from, of which all had the same before and have the same now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    original: Mask,
    set: Mask,
    /// When the first of them was narrowed, in ticks since boot. Who was started later with the same CPUs has them from one of
    /// these.
    since: u64,
    /// Each by id and start.
    tasks: BTreeSet<(u32, u64)>,
}

/// What was moved off which CPUs.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    files: Vec<Narrowed>,
    groups: Vec<Group>,
}

impl Ledger {
    /// The CPUs that something was moved off.
    #[must_use]
    pub fn cpus(&self) -> Mask {
        let files = self.files.iter().map(Narrowed::taken);
        let groups = self
            .groups
            .iter()
            .map(|group| group.original.minus(&group.set));
        let taken: Vec<Mask> = files.chain(groups).collect();
        Mask::of(taken.iter().flat_map(Mask::iter))
    }
}

impl Narrowed {
    /// The CPUs that were taken out of it.
    fn taken(&self) -> Mask {
        let original = self.knob.form.parse(&self.original);
        original.unwrap_or_default().minus(&self.set)
    }
}

/// What became of what was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Back {
    /// How many things are as they were before.
    pub restored: u32,
    /// How many were left alone, because somebody had changed them since.
    pub kept: u32,
    /// How many the kernel did not take; they stay in the ledger.
    pub failed: u32,
}

/// What is left of a set without a CPU, if something can run there now.
fn narrowed(mask: &Mask, cpu: u32, online: &Mask) -> Option<Mask> {
    let left = mask.without(cpu);
    (mask.has(cpu) && !left.and(online).is_empty()).then_some(left)
}

/// Moves off a CPU what can run elsewhere.
///
/// # Errors
/// Where it cannot be written down; nothing more is moved then.
pub fn drain(store: &mut Store, cpu: u32) -> Result<Moved> {
    let mut moved = Moved::default();
    let online = cpus::set(store.root(), "online").without(cpu);
    // Sets of CPUs first: the kernel narrows the tasks in them itself, and widens them again.
    drain_files(store, cpu, &online, &mut moved)?;
    for _ in 0..PASSES {
        if drain_tasks(store, cpu, &online, &mut moved)? == 0 {
            break;
        }
    }
    Ok(moved)
}

fn drain_files(store: &mut Store, cpu: u32, online: &Mask, moved: &mut Moved) -> Result<()> {
    let mut planned = Vec::new();
    for knob in knobs::all(store.root()) {
        let Some((text, mask)) = knob.read(store.root()) else {
            continue;
        };
        let Some(set) = narrowed(&mask, cpu, online) else {
            continue;
        };
        let files = &mut store.state.ledger.files;
        let before = files.iter().position(|file| file.knob.path == knob.path);
        // What was there before the first CPU was taken out is what comes back, if it is still what the agent left.
        let known = before
            .map(|at| files.remove(at))
            .filter(|file| file.set == mask);
        let original = known.map_or(text.clone(), |file| file.original);
        planned.push((
            text,
            Narrowed {
                knob,
                original,
                set,
            },
        ));
    }
    let ledger = &mut store.state.ledger;
    ledger
        .files
        .extend(planned.iter().map(|(_, file)| file.clone()));
    store.save()?;
    for (text, file) in &planned {
        let written = store
            .root()
            .write(&file.knob.path, &file.knob.form.write(&file.set));
        match written {
            Ok(()) => {
                *file.knob.about.count(moved) += 1;
                continue;
            }
            // The kernel manages this interrupt's affinity itself.
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {}
            Err(_) => moved.failed += 1,
        }
        undo_plan(&mut store.state.ledger, text, file);
    }
    store.save()
}

/// Takes a file that could not be written back to what the ledger had of it.
fn undo_plan(ledger: &mut Ledger, text: &str, file: &Narrowed) {
    ledger
        .files
        .retain(|other| other.knob.path != file.knob.path);
    if *text != file.original
        && let Some(set) = file.knob.form.parse(text)
    {
        ledger.files.push(Narrowed {
            set,
            ..file.clone()
        });
    }
}

/// One look through all tasks; says how many were moved.
fn drain_tasks(store: &mut Store, cpu: u32, online: &Mask, moved: &mut Moved) -> Result<u32> {
    let root = store.root().clone();
    let mut planned: Vec<(Task, Mask)> = Vec::new();
    moved.left = 0;
    for task in tasks::unbound(&root)
        .filter(Task::is_movable)
        .take(MOST_TASKS)
    {
        match narrowed(&task.allowed, cpu, online) {
            Some(set) if set.minus(online).is_empty() => planned.push((task, set)),
            Some(_) => moved.left += 1,
            None => {}
        }
    }
    if planned.is_empty() {
        return Ok(0);
    }
    let since = tasks::now(&root);
    for (task, set) in &planned {
        store.state.ledger.move_task(task, *set, since);
    }
    store.save()?;
    let mut done = 0;
    for (task, set) in &planned {
        match root.set_affinity(task.pid, task.tid, set) {
            Ok(()) => done += 1,
            Err(_) if tasks::start_of(&root, task.pid).is_none() => {}
            Err(_) => moved.failed += 1,
        }
    }
    moved.tasks += done;
    Ok(done)
}

impl Ledger {
    /// Writes down that a task gets these CPUs.
    fn move_task(&mut self, task: &Task, set: Mask, since: u64) {
        let who = (task.tid, task.start);
        let mut original = task.allowed;
        for group in &mut self.groups {
            if group.tasks.remove(&who) && group.set == task.allowed {
                original = group.original;
            }
        }
        self.groups.retain(|group| !group.tasks.is_empty());
        let mut groups = self.groups.iter_mut();
        if let Some(group) = groups.find(|group| group.original == original && group.set == set) {
            group.tasks.insert(who);
            return;
        }
        let tasks = BTreeSet::from([who]);
        self.groups.push(Group {
            original,
            set,
            since,
            tasks,
        });
    }
}

/// Puts back what was moved off a CPU, which is online. What was moved off others as well stays away from those.
///
/// # Errors
/// Where it cannot be written down.
pub fn restore(store: &mut Store, cpu: u32) -> Result<Back> {
    let mut back = Back::default();
    if !store.state.ledger.cpus().has(cpu) {
        return Ok(back);
    }
    restore_files(store, cpu, &mut back);
    restore_tasks(store, cpu, &mut back);
    store.save()?;
    Ok(back)
}

fn restore_files(store: &mut Store, cpu: u32, back: &mut Back) {
    let root = store.root().clone();
    let mut left = Vec::new();
    // Outer sets were narrowed after those in them, and have to be widened before.
    for mut file in std::mem::take(&mut store.state.ledger.files)
        .into_iter()
        .rev()
    {
        if !file.taken().has(cpu) {
            left.push(file);
            continue;
        }
        let Some((_, now)) = file.knob.read(&root) else {
            continue;
        };
        let set = file.set.with(cpu);
        if now != file.set && now != set {
            back.kept += 1;
            continue;
        }
        let whole = file.knob.form.parse(&file.original) == Some(set);
        let text = if whole {
            file.original.clone()
        } else {
            file.knob.form.write(&set)
        };
        if root.write(&file.knob.path, &text).is_err() {
            back.failed += 1;
            left.push(file);
            continue;
        }
        back.restored += 1;
        if !whole {
            file.set = set;
            left.push(file);
        }
    }
    left.reverse();
    store.state.ledger.files = left;
}

fn restore_tasks(store: &mut Store, cpu: u32, back: &mut Back) {
    let root = store.root().clone();
    let online = cpus::set(&root, "online").with(cpu);
    let groups = std::mem::take(&mut store.state.ledger.groups);
    let (mut concerned, mut left): (Vec<Group>, Vec<Group>) = groups
        .into_iter()
        .partition(|group| group.original.minus(&group.set).has(cpu));
    let mut widened: Vec<Group> = concerned.iter().map(Group::emptied).collect();
    for task in tasks::unbound(&root) {
        let who = (task.tid, task.start);
        let member = concerned
            .iter()
            .position(|group| group.tasks.contains(&who));
        let child = || {
            let mut groups = concerned.iter();
            groups.position(|group| group.set == task.allowed && task.start > group.since)
        };
        let Some(at) = member.or_else(child) else {
            continue;
        };
        let group = &mut concerned[at];
        group.tasks.remove(&who);
        let set = group.widened(cpu, &online);
        if task.allowed == group.original {
            // Linux gives some of its own threads their CPUs back itself.
            back.restored += 1;
            continue;
        }
        if ![group.set, set].contains(&task.allowed) {
            back.kept += 1;
            continue;
        }
        let to_go_on = match root.set_affinity(task.pid, task.tid, &set) {
            Ok(()) => {
                back.restored += 1;
                set != group.original
            }
            Err(_) => {
                back.failed += u32::from(tasks::start_of(&root, task.pid).is_some());
                false
            }
        };
        if to_go_on {
            widened[at].tasks.insert(who);
        }
    }
    for mut group in widened.into_iter().filter(|group| !group.tasks.is_empty()) {
        group.set = group.widened(cpu, &online);
        left.push(group);
    }
    store.state.ledger.groups = left;
}

impl Group {
    /// What it gets when a CPU is back. What went offline since Linux would leave out, so that is waited for as well.
    fn widened(&self, cpu: u32, online: &Mask) -> Mask {
        self.set.with(cpu).and(online)
    }

    fn emptied(&self) -> Self {
        let tasks = BTreeSet::new();
        Self {
            tasks,
            ..self.clone()
        }
    }
}

/// Puts back everything that was moved off CPUs that are online: what somebody left who is gone. What was moved off others
/// waits for them.
///
/// # Errors
/// Where it cannot be written down.
pub fn restore_all(store: &mut Store) -> Result<Back> {
    let mut all = Back::default();
    let online = cpus::set(store.root(), "online");
    for cpu in store.state.ledger.cpus().and(&online).iter() {
        let back = restore(store, cpu)?;
        all.restored += back.restored;
        all.kept += back.kept;
        all.failed += back.failed;
    }
    Ok(all)
}

/// Whether anything of the guest's can be moved here.
#[must_use]
pub fn is_possible(root: &Root) -> bool {
    root.has("proc/self/task") || root.has("proc/irq")
}

#[cfg(test)]
mod tests;
