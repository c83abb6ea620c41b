//! Files and functions that one can read in one go.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::ratchet;
use crate::source::{Source, rust, tree};

/// Most lines of a source file, and of a function from its signature to its end.
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;

/// Files that are longer, with their length now.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions that are longer, as `FILE: NAME`, with their length now.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

#[test]
fn files_are_short() {
    let found: Vec<_> = tree()
        .into_iter()
        .filter(Source::is_code)
        .map(|source| (source.name, source.text.lines().count()))
        .collect();
    ratchet(
        &found,
        FILE_LINES,
        LONG_FILES,
        "split it by what its parts are for",
    );
}

/// Collects functions with their sizes.
struct Functions<'a> {
    file: &'a str,
    found: Vec<(String, usize)>,
}

impl Functions<'_> {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (start, end) = (signature.span().start().line, block.span().end().line);
        let name = format!("{}: {}", self.file, signature.ident);
        self.found.push((name, end - start + 1));
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

fn functions(source: &Source) -> Vec<(String, usize)> {
    let mut functions = Functions {
        file: &source.name,
        found: Vec::new(),
    };
    functions.visit_file(&source.parse());
    functions.found
}

#[test]
fn functions_are_short() {
    let found: Vec<_> = rust().flat_map(|source| functions(&source)).collect();
    assert!(found.len() > 100, "only {} functions found", found.len());
    ratchet(
        &found,
        FUNCTION_LINES,
        LONG_FUNCTIONS,
        "give its parts names of their own",
    );
}

#[test]
fn a_function_is_measured_from_its_signature() {
    let source =
        Source::sample("trait T {\n    #[must_use]\n    fn f() {\n    }\n    fn g();\n}\n");
    assert_eq!(functions(&source), [("sample.rs: f".to_owned(), 2)]);
}
