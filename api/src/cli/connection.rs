//! The way to a running VM, and what becomes of a command that went it.

use super::say;
use crate::client::{Client, Failure, Said};
use crate::wire::operations::{Code, State};
use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::runtime;

/// What names the socket where no option does.
const VARIABLE: &str = "HOTVISOR_SOCKET";

/// What `--help` of a command ends with that only reads.
pub(super) const READS: &str = "\
Exit codes:
  0  done            1  the VM could not be reached            2  bad input";

/// What `--help` of a command ends with that waits for operations.
pub(super) const CHANGES: &str = "\
Ctrl-C ends the waiting and nothing else: the operation goes on.

Exit codes:
  0  it is as asked for               4  timed out: somebody did not answer
  1  the VM could not be reached      5  cancelled, or superseded by a later request
  2  bad input: refused at once       6  Hotvisor or the host failed
  3  the guest or a policy refused    7  nobody waits any longer, and it goes on

Of several operations the worst counts.";

/// How a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    Done,
    Cancelled,
    Refused,
    TimedOut,
    Failed,
    Running,
    BadInput,
    Unreachable,
}

impl Exit {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unreachable => 1,
            Self::BadInput => 2,
            Self::Refused => 3,
            Self::TimedOut => 4,
            Self::Cancelled => 5,
            Self::Failed => 6,
            Self::Running => 7,
        }
    }
}

impl From<State> for Exit {
    fn from(state: State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Succeeded => Self::Done,
            State::Refused => Self::Refused,
            State::TimedOut => Self::TimedOut,
            State::Cancelled | State::Superseded => Self::Cancelled,
            State::Failed => Self::Failed,
        }
    }
}

impl From<Code> for Exit {
    fn from(code: Code) -> Self {
        State::from(code).into()
    }
}

impl From<&Failure> for Exit {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Input(_) => Self::BadInput,
            Failure::Reach(_) => Self::Unreachable,
            Failure::Said(Said { problem, .. }) => match problem.status {
                500 => Self::Failed,
                501.. => Self::Unreachable,
                _ => Self::BadInput,
            },
        }
    }
}

/// Which VM it is about.
#[derive(Debug, clap::Args)]
pub(super) struct Connection {
    /// Unix socket of the VM's API; without it, the one that HOTVISOR_SOCKET names
    #[arg(long, value_name = "PATH")]
    api_socket: Option<PathBuf>,
}

impl Connection {
    /// Connects, does `job` and says what went wrong. With `json`, an answer that says no is printed as it came.
    pub(super) fn run<F: Future<Output = Result<Exit, Failure>>>(
        &self,
        json: bool,
        job: impl FnOnce(Client) -> F,
    ) -> ExitCode {
        let job = async {
            let path = socket(self.api_socket.clone(), std::env::var_os(VARIABLE))?;
            job(Client::connect(&path).await?).await
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build();
        let done = match runtime {
            Ok(runtime) => runtime.block_on(job),
            Err(e) => {
                say(&format_args!("no way to wait for answers: {e}"));
                return ExitCode::from(Exit::Unreachable.code());
            }
        };
        let exit = done.unwrap_or_else(|failure| {
            complain(&failure, json);
            Exit::from(&failure)
        });
        ExitCode::from(exit.code())
    }
}

/// Says what went wrong; to a program in the API's own words.
pub(super) fn complain(failure: &Failure, json: bool) {
    match failure {
        Failure::Said(said) if json => {
            print_bytes(&said.body);
        }
        _ => say(failure),
    }
}

/// The socket that `option` names, or else `variable`: a path, or `path=PATH`.
fn socket(option: Option<PathBuf>, variable: Option<OsString>) -> Result<PathBuf, Failure> {
    let (asked, named) = match (option, variable.filter(|value| !value.is_empty())) {
        (Some(path), _) => ("--api-socket", path.into_os_string()),
        (None, Some(path)) => (VARIABLE, path),
        (None, None) => {
            let found = "neither --api-socket PATH nor the environment's HOTVISOR_SOCKET names one";
            let remedy = "name the socket that `hotvisor run --api-socket PATH` was given";
            return Err(Failure::input("API socket", found, remedy));
        }
    };
    let path = match named.as_bytes().strip_prefix(b"path=") {
        Some(path) => OsString::from_vec(path.to_vec()),
        None => named,
    };
    if path.is_empty() {
        return Err(Failure::input(asked, "no path", "name one"));
    }
    Ok(path.into())
}

/// Prints on standard output; a reader that has gone away has seen enough. Whether it is still there.
pub(super) fn print(text: &str) -> bool {
    print_bytes(text.as_bytes())
}

/// As [`print`].
pub(super) fn print_bytes(bytes: &[u8]) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(option: Option<&str>, variable: Option<&str>) -> Result<PathBuf, Failure> {
        socket(option.map(PathBuf::from), variable.map(OsString::from))
    }

    #[test]
    fn the_option_comes_before_the_variable() {
        let path = |path: &str| Ok(PathBuf::from(path));
        assert_eq!(named(Some("a"), Some("b")), path("a"));
        assert_eq!(named(None, Some("b")), path("b"));
        assert_eq!(named(Some("path=a"), None), path("a"));
        assert_eq!(named(None, Some("path=/b")), path("/b"));
        assert_eq!(named(Some("path=path=a"), None), path("path=a"));
    }

    #[test]
    fn without_a_socket_both_ways_to_name_one_are_named() {
        for (option, variable) in [(None, None), (None, Some(""))] {
            let said = named(option, variable).unwrap_err().to_string();
            assert!(said.contains("--api-socket PATH"), "{said}");
            assert!(said.contains("HOTVISOR_SOCKET"), "{said}");
        }
        let said = named(Some("path="), None).unwrap_err().to_string();
        assert_eq!(said, "--api-socket: no path; name one");
    }

    #[test]
    fn codes_are_those_of_the_help() {
        let all = [
            (State::Succeeded, "0  it is as asked for"),
            (State::Refused, "3  the guest or a policy refused"),
            (State::TimedOut, "4  timed out"),
            (State::Cancelled, "5  cancelled, or superseded"),
            (State::Superseded, "5  cancelled, or superseded"),
            (State::Failed, "6  Hotvisor or the host failed"),
            (State::Running, "7  nobody waits any longer"),
        ];
        for (state, words) in all {
            let code = Exit::from(state).code();
            assert!(words.starts_with(&code.to_string()), "{state:?}: {code}");
            assert!(CHANGES.contains(words), "{words}");
        }
    }
}
