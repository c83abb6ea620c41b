//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hotvisor_protocol::{HOST_CID, PORT};
use lexopt::prelude::*;

use crate::blockers;
use crate::cpus;
use crate::guard;
use crate::link::Address;
use crate::root::Root;
use crate::run;
use crate::state::Owner;
use crate::trouble::{Result, Trouble};

/// What `--help` says.
pub const HELP: &str = "\
Hotvisor's agent in the guest: brings up CPUs that were added, moves work off
those that are to go, and says what is bound to them.

Usage: hotvisor-agent [OPTIONS] [COMMAND]

Commands:
  (none)        talk with the host until a signal ends it
  blockers CPU  show what is bound to a CPU, by Linux's number of it
  restore       put back what an agent changed that was killed

Options:
      --port PORT  where the host listens on virtio-vsock [default: 5720]
      --unix PATH  a socket to connect to instead, for tests
      --root PATH  a picture of /proc and /sys instead of the guest's, for tests
  -h, --help       this
  -V, --version    the version
";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Run(Address),
    Blockers(u32),
    Restore,
    Guard(Owner),
    Help,
    Version,
}

fn parse(arguments: Vec<OsString>) -> std::result::Result<(Root, Command), lexopt::Error> {
    let mut root = PathBuf::from("/");
    let mut address = Address::Vsock {
        cid: HOST_CID,
        port: PORT,
    };
    let mut command = None;
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => command = Some(Command::Help),
            Short('V') | Long("version") => command = Some(Command::Version),
            Long("root") => root = parser.value()?.into(),
            Long("unix") => address = Address::Unix(parser.value()?.into()),
            Long("port") => {
                let port = parser.value()?.parse()?;
                address = Address::Vsock {
                    cid: HOST_CID,
                    port,
                };
            }
            Value(name) if command.is_none() => {
                command = Some(match name.to_str() {
                    Some("blockers") => Command::Blockers(parser.value()?.parse()?),
                    Some("restore") => Command::Restore,
                    Some(guard::COMMAND) => Command::Guard(Owner {
                        pid: parser.value()?.parse()?,
                        start: parser.value()?.parse()?,
                    }),
                    _ => return Err(Value(name).unexpected()),
                });
            }
            other => return Err(other.unexpected()),
        }
    }
    let command = command.unwrap_or(Command::Run(address));
    Ok((Root::new(Path::new(&root)), command))
}

/// Does what the arguments say, and gives what is to be printed.
///
/// # Errors
/// What did not work.
pub fn main(arguments: Vec<OsString>) -> Result<String> {
    let (root, command) = parse(arguments).map_err(|error| {
        Trouble::new(
            "hotvisor-agent's arguments",
            error,
            "see `hotvisor-agent --help`",
        )
    })?;
    match command {
        Command::Run(address) => run::run(&root, address).map(|()| String::new()),
        Command::Blockers(cpu) => table(&root, cpu),
        Command::Restore => guard::put_back(&root, None).map(|done| {
            let text = if done {
                ""
            } else {
                "There is nothing to put back.\n"
            };
            text.to_owned()
        }),
        Command::Guard(owner) => {
            guard::stand(&root, owner, std::io::stdin()).map(|()| String::new())
        }
        Command::Help => Ok(HELP.to_owned()),
        Command::Version => {
            Ok(concat!("hotvisor-agent ", env!("CARGO_PKG_VERSION"), "\n").to_owned())
        }
    }
}

fn table(root: &Root, cpu: u32) -> Result<String> {
    if cpus::is_online(root, cpu).is_none() {
        let present = cpus::set(root, "present").list();
        let tried = format!("CPU {cpu}");
        return Err(Trouble::new(
            tried,
            format!("the CPUs are {present}"),
            "name one of those",
        ));
    }
    Ok(blockers::table(cpu, &blockers::find(root, cpu)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> std::result::Result<Command, String> {
        let arguments = line.split_ascii_whitespace().map(OsString::from).collect();
        parse(arguments)
            .map(|(_, command)| command)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_said_is_meant() {
        let vsock = |port| Ok(Command::Run(Address::Vsock { cid: 2, port }));
        assert_eq!(command(""), vsock(PORT));
        assert_eq!(command("--port 7"), vsock(7));
        assert_eq!(
            command("--unix=/x"),
            Ok(Command::Run(Address::Unix("/x".into())))
        );
        assert_eq!(command("blockers 3"), Ok(Command::Blockers(3)));
        assert_eq!(
            command("guard 3 4"),
            Ok(Command::Guard(Owner { pid: 3, start: 4 }))
        );
        for wrong in [
            "blockers",
            "blockers x",
            "dance",
            "--port",
            "restore restore",
        ] {
            command(wrong).unwrap_err();
        }
        assert!(HELP.contains(&format!("[default: {PORT}]")));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_told_of() {
        let picture = crate::picture::Picture::of_cpus(2);
        let error = table(picture.root(), 5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "CPU 5: the CPUs are 0-1: name one of those"
        );
    }
}
