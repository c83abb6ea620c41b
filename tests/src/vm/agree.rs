//! Whether the API, the guest and the host say the same of the vCPUs.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::time::Instant;

use anyhow::Result;

use super::api::{Target, Vcpus};
use super::{SOON, Thread, Vm};

/// Lines whose order [`Guest::parse`] knows. The third gives the ids of the online CPUs' local APICs: the numbers
/// that Linux gives CPUs depend on which of them it was booted with. A line follows for each CPU that is on its way:
/// Linux calls one online before tasks may run there, and for a while after that. The boot CPU never is, and 6.1 has
/// no target for it.
const ASK_GUEST: &str = "cd /sys/devices/system/cpu; cat present online; \
                         sed -n 's/^apicid.*: //p' /proc/cpuinfo | xargs; \
                         for cpu in cpu[1-9]*; do { read -r state <$cpu/hotplug/state; \
                         read -r target <$cpu/hotplug/target; } 2>/dev/null; \
                         [ \"$state\" = \"$target\" ] || echo \"$cpu: $state of $target\"; done";

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Guest {
    present: BTreeSet<u32>,
    online: BTreeSet<u32>,
    apic_ids: BTreeSet<u32>,
    on_their_way: Vec<String>,
}

impl Guest {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut ids = |separator| parse_ids(lines.next()?, separator);
        Some(Self {
            present: ids(',')?,
            online: ids(',')?,
            apic_ids: ids(' ')?,
            on_their_way: lines.map(str::to_owned).collect(),
        })
    }
}

/// `0-2,5` or `0 1 2`.
fn parse_ids(text: &str, separator: char) -> Option<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for word in text.trim().split(separator).filter(|word| !word.is_empty()) {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        ids.extend(first..=last);
    }
    Some(ids)
}

/// What the three say at one moment.
struct Views {
    api: Vcpus,
    guest: String,
    threads: Vec<Thread>,
}

impl Views {
    /// All that contradicts that exactly these vCPUs are plugged and online.
    fn contradictions(&self, expected: &BTreeSet<u32>) -> Vec<String> {
        let mut found = Vec::new();
        self.check_api(expected, &mut found);
        self.check_guest(expected, &mut found);
        self.check_host(expected, &mut found);
        found
    }

    fn check_api(&self, expected: &BTreeSet<u32>, found: &mut Vec<String>) {
        let api = &self.api;
        for (what, number) in [
            ("desired", api.desired),
            ("plugged", api.plugged),
            ("online", api.online),
        ] {
            if number as usize != expected.len() {
                found.push(format!("the API says {what} {number}"));
            }
        }
        for vcpu in &api.vcpus {
            let online = expected.contains(&vcpu.id);
            if (vcpu.target == Target::Online) != online {
                found.push(format!("the API's target is wrong: {vcpu:?}"));
            }
            let running = vcpu.thread.as_ref().is_some_and(|thread| thread.running);
            if running != online {
                found.push(format!("the API's thread is wrong: {vcpu:?}"));
            }
        }
    }

    fn check_guest(&self, expected: &BTreeSet<u32>, found: &mut Vec<String>) {
        let Some(guest) = Guest::parse(&self.guest) else {
            found.push(format!("the guest says {:?}", self.guest));
            return;
        };
        if guest.present.len() != expected.len() {
            found.push(format!("the guest has these present: {:?}", guest.present));
        }
        if guest.online.len() != expected.len() || guest.apic_ids != *expected {
            found.push(format!(
                "the guest has these online: {:?}, with the APIC ids {:?}",
                guest.online, guest.apic_ids
            ));
        }
        for cpu in &guest.on_their_way {
            found.push(format!("the guest's is on its way, {cpu}"));
        }
    }

    fn check_host(&self, expected: &BTreeSet<u32>, found: &mut Vec<String>) {
        for vcpu in &self.api.vcpus {
            let thread = of_vcpu(&self.threads, vcpu.id);
            let in_guest = thread.is_some_and(Thread::is_in_guest);
            if in_guest != expected.contains(&vcpu.id) {
                found.push(match thread {
                    Some(thread) => format!("the thread is wrong: {thread}"),
                    None => format!("vCPU {} has no thread", vcpu.id),
                });
            }
        }
    }
}

impl Display for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vcpus {
            desired,
            plugged,
            online,
            max,
            ..
        } = self.api;
        write!(
            f,
            "--- the API: desired {desired}, plugged {plugged}, online {online}, max {max} ---"
        )?;
        for vcpu in &self.api.vcpus {
            write!(f, "\n{vcpu:?}")?;
        }
        let guest = &self.guest;
        write!(
            f,
            "\n--- the guest: present, online, APIC ids ---\n{guest}\n--- the host ---"
        )?;
        for thread in &self.threads {
            write!(f, "\n{thread}")?;
        }
        Ok(())
    }
}

fn of_vcpu(threads: &[Thread], id: u32) -> Option<&Thread> {
    let name = format!("vcpu-{id}");
    threads.iter().find(|thread| thread.name == name)
}

impl Vm {
    /// Waits until API, guest and host agree that exactly these vCPUs are plugged and online. They need a
    /// moment: the VMM knows that a CPU has started before the guest's kernel has entered it everywhere.
    ///
    /// # Errors
    /// They do not in time; the error holds what each of them says.
    pub fn agree(&self, online: &[u32]) -> Result<()> {
        let expected: BTreeSet<u32> = online.iter().copied().collect();
        let end = Instant::now() + SOON;
        loop {
            let views = Views {
                api: self.api().vcpus()?,
                guest: self.sh_ok(ASK_GUEST)?,
                threads: self.threads()?,
            };
            let contradictions = views.contradictions(&expected);
            if contradictions.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(self.evidence(format!(
                    "waited {SOON:?} for the vCPUs {expected:?} to be plugged and online:\n{}\n{views}",
                    contradictions.join("\n")
                )));
            }
        }
    }

    /// The thread of a vCPU, if it has one.
    ///
    /// # Errors
    /// The VMM has ended.
    pub fn vcpu_thread(&self, id: u32) -> Result<Option<Thread>> {
        Ok(of_vcpu(&self.threads()?, id).cloned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// vCPUs 0 and 1 run, 2 is parked, 3 has never been.
    fn views() -> Views {
        let vcpu = |id: u32, target: &str, thread: serde_json::Value| {
            json!({
                "id": id, "apic_id": id, "phase": "x", "target": target, "generation": 1,
                "boot": id == 0, "thread": thread, "last_operation": null,
            })
        };
        let running = |id: u32| json!({"name": format!("vcpu-{id}"), "running": true});
        let parked = json!({"name": "vcpu-2", "running": false});
        let api = json!({
            "desired": 2, "plugged": 2, "online": 2, "max": 4,
            "vcpus": [
                vcpu(0, "online", running(0)), vcpu(1, "online", running(1)),
                vcpu(2, "offline", parked), vcpu(3, "offline", json!(null)),
            ],
        });
        let thread = |id: u32, state, syscall: &str| Thread {
            id: 100 + id,
            name: format!("vcpu-{id}"),
            state,
            sleeps_in: String::new(),
            syscall: syscall.to_owned(),
        };
        Views {
            api: serde_json::from_value(api).unwrap(),
            guest: "0-1\n0-1\n0 1".to_owned(),
            threads: vec![
                thread(0, 'R', "running"),
                thread(1, 'S', "16 0xc 0xae80 0x0 0x0 0x0 0x0 0x7f 0x7f"),
                thread(2, 'S', "202 0x7f 0x189 0x0 0x0 0x0 0x0 0x7f 0x7f"),
            ],
        }
    }

    #[test]
    fn views_that_agree_are_no_contradiction() {
        let expected = BTreeSet::from([0, 1]);
        assert_eq!(views().contradictions(&expected), Vec::<String>::new());
    }

    #[test]
    fn each_view_alone_can_contradict() {
        let expected = BTreeSet::from([0, 1]);
        let said = |views: &Views| views.contradictions(&expected).join("; ");

        let mut wrong = views();
        wrong.api.online = 1;
        assert_eq!(said(&wrong), "the API says online 1");

        let mut wrong = views();
        wrong.guest = "0-1\n0\n0".to_owned();
        assert!(
            said(&wrong).contains("these online: {0}"),
            "{}",
            said(&wrong)
        );

        let mut wrong = views();
        wrong.guest.push_str("\ncpu1: 151 of 236");
        assert_eq!(said(&wrong), "the guest's is on its way, cpu1: 151 of 236");

        let mut wrong = views();
        wrong.threads[2].syscall = wrong.threads[1].syscall.clone();
        assert!(said(&wrong).contains("vcpu-2"), "{}", said(&wrong));

        let mut wrong = views();
        wrong.threads.remove(1);
        assert_eq!(said(&wrong), "vCPU 1 has no thread");
    }

    #[test]
    fn lists_of_cpus_are_read() {
        let ids = |text, separator| parse_ids(text, separator).map(Vec::from_iter);
        assert_eq!(ids("0-2,5", ','), Some(vec![0, 1, 2, 5]));
        assert_eq!(ids("0 10\n", ' '), Some(vec![0, 10]));
        assert_eq!(ids("x", ','), None);
    }
}
