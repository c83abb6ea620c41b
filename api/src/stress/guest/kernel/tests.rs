use super::*;

fn all(text: &str) -> Vec<String> {
    let mut finder = Finder::default();
    let mut incidents: Vec<String> = text.lines().filter_map(|line| finder.line(line)).collect();
    incidents.extend(finder.close());
    incidents
}

fn heads(text: &str) -> Vec<String> {
    let head = |incident: &String| incident.lines().next().unwrap_or_default().to_owned();
    all(text).iter().map(head).collect()
}

#[test]
fn every_pattern_can_be_read() {
    assert_eq!(HEADS.len(), PATTERNS.len());
    assert_eq!(BARE_HEADS.len(), BARE.len());
    assert!(STAMP.is_some());
}

#[test]
fn complaints_are_found() {
    // Heads as kernels from 6.1 to 6.12 write them, but for one character, which would look like a tracker's numbers.
    let lines = include_str!("complaints.txt").replace('№', "#");
    for line in lines.lines() {
        for stamp in [
            "[    1.234567] ",
            "[12345.678901][  T123] ",
            "[    0.000001][    C2] ",
        ] {
            assert_eq!(all(&format!("{stamp}{line}")).len(), 1, "{line}");
        }
    }
}

#[test]
fn what_only_looks_like_a_complaint_is_none() {
    for line in [
        "[    1.234567] debug: no BUG here",
        "[    1.234567] usb 1-1: DEBUG: 7",
        "[    1.234567] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
        "[    1.234567] rcu: Hierarchical RCU implementation.",
        "[    1.234567] rcu: \tRCU CPU stall warnings timeout set to 60 (rcu_cpu_stall_timeout).",
        "[    1.234567] Kernel command line: panic=-1 oops=panic console=ttyS0",
        "[    1.234567] clocksource: Switched to clocksource kvm-clock",
        "[    1.234567] NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
        "[    1.234567] smpboot: CPU 2 is now offline",
        "[    1.234567] kvm-guest: setup PV IPIs",
        "[    1.234567] Booting Node 0 Processor 3 APIC 0x3",
        // Programs, where no time says that it is the kernel.
        "WARNING: this script is old",
        "BUG: report it",
        "stress-ng: info: Oops: nothing",
        "# echo BUG: soft lockup",
        "a panic in the kitchen",
    ] {
        assert_eq!(all(line), Vec::<String>::new(), "{line}");
    }
}

#[test]
fn a_kernel_without_times_is_read_too() {
    assert_eq!(
        all("WARNING: CPU: 2 PID: 19 at kernel/cpu.c:1 x+0x1/0x2\nCall Trace:\n <TASK>\n\nlogin:"),
        ["WARNING: CPU: 2 PID: 19 at kernel/cpu.c:1 x+0x1/0x2\nCall Trace:\n <TASK>"]
    );
    assert_eq!(heads("Kernel panic - not syncing: VFS\r\n").len(), 1);
}

const WARNING: &str = "\
[   10.000001] ------------[ cut here ]------------
[   10.000002] WARNING: CPU: 1 PID: 17 at kernel/sched/core.c:1 a+0x1/0x2
[   10.000003] Modules linked in:
[   10.000004] Call Trace:
[   10.000005]  <TASK>
a program's word
[   10.000006] WARNING: kernel stack frame pointer has bad value
[   10.000007] ---[ end trace 0000000000000000 ]---
[   10.000008] systemd[1]: fine
";

#[test]
fn an_incident_is_one_with_all_its_lines() {
    let found = all(WARNING);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].lines().count(), 6, "{found:?}");
    assert!(found[0].ends_with("]---"), "{found:?}");

    let apart =
        "[    1.000000] BUG: a \n[    1.100000] x\n[    1.700000] BUG: b\n[    9.000000] y\n";
    assert_eq!(
        all(apart),
        [
            "[    1.000000] BUG: a\n[    1.100000] x",
            "[    1.700000] BUG: b"
        ]
    );
    // Another one in the same moment is another one.
    let at_once = "[    1.000000] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:\n\
                   [    1.000001] rcu: rcu_sched kthread starved for 5 jiffies!\n\
                   [    1.000002] BUG: unable to handle page fault\n[    1.000003] Oops: 0002 [1] SMP\n";
    let found = heads(at_once);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].contains("BUG: unable"), "{found:?}");
    // A trace alone is one, too.
    assert_eq!(
        heads("[    1.000000] Call Trace:\n[    1.000001]  <TASK>\n").len(),
        1
    );
    // The guest began anew.
    assert_eq!(
        heads("[    9.000000] BUG: a\n[    0.000000] Linux version 6.1\n").len(),
        1
    );
}

#[test]
fn a_long_incident_says_how_much_more_there_is() {
    let text = "[    1.000000] BUG: soft lockup\n".to_owned() + &"[    1.000001] cpu\n".repeat(500);
    let found = all(&text);
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("… and 421 more lines"), "{}", found[0]);
}

#[test]
fn an_incident_that_two_streams_show_is_one() {
    let mut incidents = Incidents::default();
    for _ in 0..2 {
        all(WARNING)
            .into_iter()
            .for_each(|incident| incidents.add(incident));
    }
    assert_eq!(incidents.take().len(), 1);
    assert_eq!(incidents.take().len(), 0);
    let later = WARNING.replace("10.0", "11.0");
    all(&later)
        .into_iter()
        .for_each(|incident| incidents.add(incident));
    assert_eq!(incidents.take().len(), 1);
}

#[test]
fn what_each_boot_shows_is_no_news_after_a_boot() {
    let mut incidents = Incidents::default();
    incidents.add("[    0.700000] WARNING: CPU: 0 PID: 1 at arch/x86/a.c:1 b+0x1".to_owned());
    incidents.forget();
    incidents.add("[    0.800000] WARNING: CPU: 0 PID: 1 at arch/x86/a.c:1 b+0x1".to_owned());
    incidents.add("[    0.900000] WARNING: CPU: 0 PID: 1 at arch/x86/c.c:1 b+0x1".to_owned());
    incidents.forget_the_usual();
    let new = incidents.take();
    assert_eq!(new.len(), 1);
    assert!(new[0].contains("c.c"));
}
