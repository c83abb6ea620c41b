//! `hotvisor completions` and `hotvisor man`: what a shell and `man` know of the command line.

use super::Cli;
use super::connection::{Exit, complain, print_bytes};
use crate::client::Failure;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, roman};
use std::process::ExitCode;

const NAME: &str = "hotvisor";

/// Print the completions for a shell
///
/// For bash: hotvisor completions bash > /usr/share/bash-completion/completions/hotvisor
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

/// Print the manual page of hotvisor, or of one of its commands
///
/// To read it: hotvisor man unplug | man -l -
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Which command
    command: Option<String>,
}

impl Completions {
    pub(super) fn run(&self) -> ExitCode {
        print_bytes(&completions(self.shell));
        ExitCode::SUCCESS
    }
}

impl Man {
    pub(super) fn run(&self) -> ExitCode {
        let wanted = match &self.command {
            Some(command) => format!("hotvisor-{command}.1"),
            None => "hotvisor.1".to_owned(),
        };
        match pages().into_iter().find(|(name, _)| *name == wanted) {
            Some((_, page)) => {
                print_bytes(&page);
                ExitCode::SUCCESS
            }
            None => {
                let asked = format!("man {}", self.command.as_deref().unwrap_or_default());
                let remedy = "name one that `hotvisor help` lists";
                let failure = Failure::input(&asked, "there is no such command", remedy);
                complain(&failure, false);
                ExitCode::from(Exit::from(&failure).code())
            }
        }
    }
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    script
}

/// The page of the program and that of each command, each with the name of its file.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let commands = program.get_subcommands().cloned();
    std::iter::once(program.clone())
        .chain(commands)
        .map(page)
        .collect()
}

fn page(command: Command) -> (String, Vec<u8>) {
    let help = command.get_after_help().map(ToString::to_string);
    let has_commands = command.has_subcommands();
    let man = clap_mangen::Man::new(command)
        .source(concat!("hotvisor ", env!("CARGO_PKG_VERSION")))
        .manual("Hotvisor");
    let mut page = Vec::new();
    // A vector takes everything.
    let _ = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page));
    if has_commands {
        let _ = man.render_subcommands_section(&mut page);
    }
    let _ = ending(&help.unwrap_or_default()).to_writer(&mut page);
    (man.get_filename(), page)
}

/// What `--help` ends with, as sections: `Title:` begins one, and its lines stay as they are.
fn ending(help: &str) -> Roff {
    let mut roff = Roff::new();
    let mut begun = false;
    for line in help.lines() {
        let title = line
            .strip_suffix(':')
            .filter(|title| !title.starts_with(' '));
        match title {
            Some(title) => {
                if std::mem::replace(&mut begun, true) {
                    roff.control("fi", []);
                }
                roff.control("SH", [&*title.to_uppercase()]);
                roff.control("nf", []);
            }
            None => {
                if !begun && !line.is_empty() {
                    roff.control("SH", ["NOTES"]);
                    roff.control("nf", []);
                    begun = true;
                }
                roff.text([roman(line)]);
            }
        }
    }
    if begun {
        roff.control("fi", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    /// Set, it has the tests write what they would otherwise compare.
    const BLESS: &str = "HOTVISOR_BLESS";

    /// What the program prints, and where it is kept.
    fn all() -> Vec<(String, Vec<u8>)> {
        let scripts = [
            (Shell::Bash, "completions/hotvisor.bash"),
            (Shell::Zsh, "completions/_hotvisor"),
            (Shell::Fish, "completions/hotvisor.fish"),
        ];
        let scripts = scripts.map(|(shell, name)| (name.to_owned(), completions(shell)));
        let pages = pages();
        let pages = pages
            .into_iter()
            .map(|(name, page)| (format!("man/{name}"), page));
        scripts.into_iter().chain(pages).collect()
    }

    #[test]
    fn the_copies_are_what_the_program_prints() {
        let resources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources");
        let bless = std::env::var_os(BLESS).is_some();
        let mut names = BTreeSet::new();
        for (name, text) in all() {
            let path = resources.join(&name);
            if bless {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, &text).unwrap();
            }
            assert!(
                fs::read(&path).is_ok_and(|kept| kept == text),
                "resources/{name} is not what the program prints: run `{BLESS}=1 cargo test -p hotvisor --lib pages`, \
                 and look at the difference"
            );
            names.insert(path);
        }
        for folder in ["completions", "man"] {
            for entry in fs::read_dir(resources.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                assert!(names.contains(&path), "{} is of no use", path.display());
            }
        }
    }

    #[test]
    fn a_page_says_what_the_help_says() {
        let pages = pages();
        let page = |name: &str| {
            let page = pages.iter().find(|(page, _)| page == name);
            String::from_utf8(page.unwrap().1.clone()).unwrap()
        };
        let unplug = page("hotvisor-unplug.1");
        for words in [
            ".SH \"EXIT CODES\"\n.nf\n",
            "3  the guest or a policy refused",
            "api\\-socket",
        ] {
            assert!(unplug.contains(words), "{words}: {unplug}");
        }
        assert!(page("hotvisor.1").contains("hotvisor\\-unplug(1)"));
        assert_eq!(unplug.matches(".nf").count(), unplug.matches(".fi").count());
    }
}
