//! Programs that look on while vCPUs come and go, and are killed without a warning.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::vm::Vm;

/// What looks on: it reads, and changes nothing.
const CLIENTS: &[&[&str]] = &[&["events"], &["watch"], &["events", "--json"]];

/// How long one may look on. Most see something before that, and are gone with it.
const SPAN: Duration = Duration::from_secs(2);

/// Starts one after the other, and kills each when it has printed something, which is when something happens. Returns
/// how many it were.
pub(super) fn come_and_go(vm: &Vm, over: &AtomicBool) -> Result<u64> {
    let mut number = 0;
    for client in CLIENTS.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let cli = vm.start_cli(client)?;
        // It is as well if it printed nothing.
        let _ = cli.stdout.wait_for("\n", 0, Instant::now() + SPAN);
        if !cli.is_running() {
            // None that was killed, and none that looked on.
            let came = cli.end()?;
            bail!("`hotvisor {}` ended by itself: {came:?}", client.join(" "));
        }
        // Kills it.
        drop(cli);
        number += 1;
    }
    Ok(number)
}
