//! What the guest is at while its vCPUs come and go.

use crate::kernels::Kernel;

/// A guest, its load, and what `hotvisor stress` is told of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Short name, used in names of tests and of files.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// What keeps the guest at work; see `resources/guest/load`. None in a guest without Linux.
    pub load: Option<&'static str>,
    /// How many processes do the work of the load, at least.
    pub processes: u32,
    /// How many vCPUs there can be; the guest boots with all of them.
    pub vcpus: u32,
    /// More parameters for the guest's kernel.
    pub parameters: &'static str,
    /// More options of `hotvisor stress`.
    pub options: &'static [&'static str],
    /// Whether programs that only look on come, and are killed in the midst of it.
    pub clients: bool,
    /// Whether a guest that is asked often refuses now and then.
    pub refuses: bool,
    /// How many steps the tests of every change take.
    pub steps: u64,
    /// Whether a guest takes part that is no Linux, on any KVM.
    pub bare: bool,
}

/// What a kernel complains of where its CPUs come and go by its own doing, too, as `cargo testbed stress --control` shows.
pub(super) const fn own_complaints(kernel: Kernel) -> &'static [&'static str] {
    match kernel {
        Kernel::V6_1Cloud | Kernel::V6_12Cloud => &[],
        // The interrupt thread of the serial port migrates while the CPU goes that it was on: `--control selftest`.
        Kernel::V6_1Rt => &["affine_move_task"],
    }
}

/// CPUs that are offline in the guest although they are plugged are the guest's own affair.
const THEIRS: &[&str] = &["--guest-online", "theirs"];

/// Grace periods of RCU are short, so that an unplug takes a fifth of the time.
const EXPEDITED: &str = "rcupdate.rcu_expedited=1";

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        vcpus: 8,
        parameters: EXPEDITED,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "busy",
        about: "every CPU is busy all the time",
        load: Some("busy"),
        processes: 4,
        steps: 4,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "online",
        about: "stress-ng takes CPUs offline and brings them back",
        load: Some("online"),
        processes: 2,
        options: THEIRS,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "selftest",
        about: "the kernel's own cpu-on-off-test.sh, again and again",
        load: Some("selftest"),
        processes: 1,
        options: THEIRS,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "timers",
        about: "timers, work queues and grace periods of RCU",
        load: Some("timers"),
        processes: 8,
        steps: 4,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "memory",
        about: "more memory in use than there is, and swap",
        load: Some("memory"),
        processes: 3,
        steps: 4,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "fifo",
        about: "a real-time task on each CPU that runs and sleeps",
        load: Some("fifo"),
        processes: 5,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "reboot",
        about: "the guest reboots, and clients are killed in the midst",
        options: &["--mix", "all,abandon=3,reboot=2"],
        clients: true,
        steps: 8,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "boot",
        about: "a request at every 50 ms of the guest's boot",
        options: &["--mix", "boot=1"],
        steps: 1,
        ..Scenario::PLAIN
    },
    // The last that a guest is put to: Linux loses count of what it has promised where it rebuilds its scheduling domains
    // while such a process ends, for which a CPU comes or goes. `total_bw` in /sys/kernel/debug/sched/debug is below
    // zero then, which is more than all, and every CPU stays until the next one comes.
    Scenario {
        name: "refusal",
        about: "a guest that refuses at random",
        load: Some("reserve"),
        processes: 1,
        options: &["--allow", "refused", "--mix", "all,refuse=3"],
        refuses: true,
        ..Scenario::PLAIN
    },
    Scenario {
        name: "bare-metal",
        about: "a guest without an operating system, on this machine's own KVM",
        vcpus: 8,
        bare: true,
        ..Scenario::PLAIN
    },
];

impl Scenario {
    /// A guest that boots as Debian has it, with four vCPUs and nothing to do.
    pub const PLAIN: Self = Self {
        name: "idle",
        about: "nothing to do",
        load: None,
        processes: 0,
        vcpus: 4,
        parameters: "",
        options: &[],
        clients: false,
        refuses: false,
        steps: 5,
        bare: false,
    };

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|scenario| scenario.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_one_that_the_guest_knows() {
        let script = include_str!("../../../resources/guest/load");
        for scenario in ALL {
            let Some(load) = scenario.load else { continue };
            let described = script
                .lines()
                .any(|line| line.starts_with(&format!("#   {load} ")));
            assert!(
                described,
                "resources/guest/load does not say what {load} is"
            );
        }
    }

    #[test]
    fn names_are_unique() {
        for scenario in ALL {
            assert_eq!(Scenario::named(scenario.name), Some(scenario));
        }
    }
}
