//! A world with something wrong in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use hotvisor_vmm::hotplug::gate::Gate;
use hotvisor_vmm::hotplug::machinery::Machinery;
use hotvisor_vmm::hotplug::view::{VcpuView, View};

use super::World;
use crate::shape::Act;

/// What is wrong, of vCPU 1 unless another one is named.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spoilt {
    /// It is told to leave the guest: as it is, with a user inside alone, with the guest running it alone.
    Parked,
    ParkedUnderAUser,
    ParkedUnderTheGuest,
    BootCpuParked,
    StartedTwice,
    EndedWhileItRuns,
    /// It is shown to the guest, or there already, and has no thread.
    ShownWithoutAThread,
    ThreadIsGone,
    /// It is said to be online, and nobody has started it.
    NeverStarted,
    /// It is said to be at rest, and the guest was asked to eject it.
    StillAsked,
    /// It is said to be overdue, and the guest has answered.
    Overdue,
    /// Its gate says that it is not there.
    GateShut,
    /// The notifier has let go of it.
    LetGo,
    /// The guest does not run it; somebody has asked for one more.
    NotRun,
    NotDesired,
    /// The machine goes, with a user inside; or nobody says that there is none any more.
    GoneUnderAUser,
    NeverLeft,
    /// It is there again, and the request to unplug it is said to have succeeded.
    NotUnplugged,
}

impl World {
    fn vcpu(&mut self, change: impl Fn(&mut VcpuView)) {
        change(Arc::make_mut(&mut self.view.vcpus[1]));
    }

    /// Makes it so, and says what is found.
    pub(crate) fn spoilt(mut self, how: Spoilt) -> String {
        let number = self.generation;
        match how {
            Spoilt::Parked => self.machine.park(1),
            Spoilt::ParkedUnderAUser => {
                self.guest.runs.clear();
                self.machine.parked.push(1);
            }
            Spoilt::ParkedUnderTheGuest => self.machine.parked.push(1),
            Spoilt::BootCpuParked => self.machine.park(0),
            Spoilt::StartedTwice => drop(self.machine.start(1, number)),
            Spoilt::EndedWhileItRuns => self.machine.end_thread(1),
            Spoilt::ShownWithoutAThread => {
                self.machine.threads[1].running = None;
                self.machine.insert(1);
            }
            Spoilt::ThreadIsGone => self.machine.threads[1].running = None,
            Spoilt::NeverStarted => drop(self.guest.started.remove(&1)),
            Spoilt::StillAsked => {
                let insertion = (1, self.machine.plugs[1]);
                self.guest.ignored.insert(insertion);
            }
            Spoilt::Overdue => self.vcpu(|vcpu| vcpu.phase = "overdue"),
            Spoilt::GateShut => self.vcpu(|vcpu| vcpu.gate = Gate::new(|_| {}).entrance()),
            Spoilt::LetGo => drop(self.waits.lock().gone.insert(1)),
            Spoilt::NotRun => drop(self.guest.runs.remove(&1)),
            Spoilt::NotDesired => self.view.desired += 1,
            Spoilt::GoneUnderAUser => {
                self.act(&Act::Reboot);
                self.stopping = Some(BTreeSet::new());
                self.restart_if_left();
            }
            Spoilt::NeverLeft => {
                self.act(&Act::Reboot);
                self.act(&Act::User(0));
                while self.queue.pop().is_some() {}
            }
            Spoilt::NotUnplugged => {
                self.machine.present[1] = true;
                self.look_at_outcomes(&View::default());
            }
        }
        self.look();
        self.wrong
            .clone()
            .or_else(|| self.unrest())
            .unwrap_or_default()
    }
}
