//! The tree's files, and their tokens.

use std::fs;
use std::path::Path;

use hotvisor_tests::paths;
use proc_macro2::{Spacing, TokenStream, TokenTree};

/// A text file of the tree.
pub(crate) struct Source {
    /// From the root of the tree.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// A file for a test of a rule: a rule that finds nothing anywhere might as well be blind.
    pub(crate) fn sample(text: &str) -> Self {
        Self {
            name: "sample.rs".to_owned(),
            text: text.to_owned(),
        }
    }

    fn is_rust(&self) -> bool {
        self.name.ends_with(".rs")
    }

    pub(crate) fn is_code(&self) -> bool {
        [".rs", ".c", ".h", ".S", ".sh", ".py"]
            .iter()
            .any(|end| self.name.ends_with(end))
    }

    /// Whether it is compiled into tests only.
    pub(crate) fn is_test(&self) -> bool {
        self.name.ends_with("/tests.rs") || self.name.split('/').any(|part| part == "tests")
    }

    pub(crate) fn parse(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|error| {
            let line = error.span().start().line;
            panic!("{}:{line}: not Rust: {error}", self.name)
        })
    }

    /// Names and signs, in order, from all depths, macros included; comments are not among them.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let stream = self.text.parse().unwrap_or_else(|error| {
            panic!("{}: not Rust: {error}", self.name);
        });
        flatten(stream)
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// All text files, without build output and hidden folders other than cargo's.
pub(crate) fn tree() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(paths::workspace(), paths::workspace(), &mut sources);
    assert!(sources.iter().any(|source| source.name == "Cargo.toml"));
    sources
}

fn collect(root: &Path, dir: &Path, sources: &mut Vec<Source>) {
    let entries =
        fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot read {}: {e}", dir.display()));
    for entry in entries {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let hidden = name.starts_with('.') && name != ".cargo";
        let build_output = path.join("CACHEDIR.TAG").exists() || name == "target";
        if kind.is_dir() && !hidden && !build_output {
            collect(root, &path, sources);
        } else if let (true, Ok(text)) = (kind.is_file(), fs::read_to_string(&path)) {
            sources.push(Source { name, text });
        }
    }
}

pub(crate) fn rust() -> impl Iterator<Item = Source> {
    tree().into_iter().filter(Source::is_rust)
}

fn flatten(stream: TokenStream) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut joint = false;
    for tree in stream {
        let line = tree.span().start().line;
        let joined = std::mem::take(&mut joint);
        let text = match tree {
            TokenTree::Group(group) => {
                tokens.push(Token {
                    text: format!("{:?}", group.delimiter()),
                    line,
                });
                tokens.extend(flatten(group.stream()));
                continue;
            }
            TokenTree::Punct(punct) => {
                joint = punct.spacing() == Spacing::Joint;
                punct.to_string()
            }
            TokenTree::Ident(name) => name.to_string(),
            TokenTree::Literal(_) => "literal".to_owned(),
        };
        match tokens.last_mut() {
            Some(Token { text: last, .. }) if joined && text == ":" => last.push(':'),
            _ => tokens.push(Token { text, line }),
        }
    }
    tokens
}
