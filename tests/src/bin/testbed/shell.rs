//! `cargo testbed shell`.

use std::io::{IsTerminal, Stdin, stdin};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use hotvisor_tests::artifacts::{Artifacts, IN_L1, Image};
use hotvisor_tests::host;
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::nested::{self, Clock, Input, Job, peer_qemu_files};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::inner::{self, Need};
use crate::progress::Step;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run this line instead of an interactive shell.
    #[arg(short = 'c', value_name = "LINE")]
    line: Option<String>,
    /// Let time pass with the instructions executed, as `bench` does, on one CPU.
    #[arg(long)]
    instructions: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.line.is_none() && !stdin().is_terminal() {
        bail!("a shell needs a terminal; to run one line use `cargo testbed shell -c LINE`");
    }
    host::ensure(host::BED)?;
    let images = Image::all_bzimages();
    let artifacts = {
        let _step = Step::begin("building Hotvisor, fetching Debian's kernels");
        Artifacts::prepare(&images)?
    };
    if !args.instructions && inner::is_here(&artifacts) {
        return here(args, &artifacts);
    }
    let job = job(args)?;
    if args.line.is_none() {
        eprintln!("{}\n`exit` ends the shell", hint(IN_L1));
    }
    let clock = if args.instructions {
        Clock::Instructions { seed: 1 }
    } else {
        Clock::Wall
    };
    let raw = match args.line {
        Some(_) => None,
        None => Some(RawTerminal::enter()?),
    };
    let input = if raw.is_some() {
        Input::Inherited
    } else {
        Input::Nothing
    };
    let need = Need {
        artifacts: &artifacts,
        images: &images,
        files: peer_qemu_files()?,
        clock,
        alone: false,
        input,
    };
    let outcome = inner::run(job, need);
    drop(raw);
    Ok(nested::exit_code(outcome?.status))
}

fn job(args: &Args) -> Result<Job> {
    let arguments = match &args.line {
        Some(line) => ["-c", line].map(str::to_owned).to_vec(),
        None => vec!["-i".to_owned()],
    };
    let mut job = Job::new("/bin/sh", arguments)?;
    job.terminal = args.line.is_none();
    job.env.push(Artifacts::variable());
    if let Ok(terminal) = std::env::var("TERM") {
        job.env.push(("TERM".to_owned(), terminal));
    }
    Ok(job)
}

fn hint(artifacts: &str) -> String {
    let dir = format!("{artifacts}/{}", Kernel::V6_1Cloud.name());
    format!(
        "a guest with a shell:\n  hotvisor run --kernel {dir}/vmlinuz --initramfs {dir}/initramfs \\\n    \
         --cmdline 'console=ttyS0 quiet hotvisor.action=shell' --cpus boot=4,max=8 \\\n    \
         --memory size=512M --serial tty --console off"
    )
}

/// The host's KVM is enough: a shell with the same programs in its path.
fn here(args: &Args, artifacts: &Artifacts) -> Result<ExitCode> {
    let hotvisor = artifacts.hotvisor();
    let dir = hotvisor.parent().context("the artifacts have a folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("/bin/sh");
    shell
        .env("PATH", format!("{}:{path}", dir.display()))
        .current_dir(dir);
    if let Some(line) = &args.line {
        shell.args(["-c", line]);
    } else {
        eprintln!("{}", hint(&dir.display().to_string()));
    }
    let status = shell.status().context("cannot start /bin/sh")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The host's terminal passes every key on; dropping this restores it.
struct RawTerminal {
    terminal: Stdin,
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Result<Self> {
        let terminal = stdin();
        let before = tcgetattr(&terminal).context("the standard input is no terminal")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSANOW, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}
