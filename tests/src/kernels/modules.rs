//! Kernel modules with their dependencies. An unpacked package has no `modules.dep` (depmod makes
//! it at installation), so the order comes from each module's own `depends=` note.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// A module, ready for `finit_module`.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The uncompressed object file.
    pub object: Vec<u8>,
}

pub(super) fn in_order(dir: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    collect(&dir.join("kernel"), &mut files)?;
    let builtin = fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<String> = builtin
        .lines()
        .map(|line| module_name(Path::new(line)))
        .collect();
    let mut resolver = Resolver {
        files,
        builtin,
        modules: Vec::new(),
    };
    for name in names {
        resolver.add(&name.replace('-', "_"))?;
    }
    Ok(resolver.modules)
}

struct Resolver {
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
    modules: Vec<Module>,
}

impl Resolver {
    fn add(&mut self, name: &str) -> Result<()> {
        let known = self.modules.iter().any(|module| module.name == name);
        if known || self.builtin.iter().any(|builtin| builtin == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("this kernel has no module {name}, neither as a file nor built in");
        };
        let object = load(path)?;
        for dependency in dependencies(&object) {
            self.add(&dependency)?;
        }
        self.modules.push(Module {
            name: name.to_owned(),
            object,
        });
        Ok(())
    }
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(dir).with_context(|| format!("cannot read the folder {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.insert(module_name(&entry.path()), entry.path());
        }
    }
    Ok(())
}

/// `kvm_amd` for `arch/x86/kvm/kvm-amd.ko.xz`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
    file.split(".ko")
        .next()
        .unwrap_or_default()
        .replace('-', "_")
}

fn load(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        return process::output(
            Command::new("xz")
                .args(["--decompress", "--stdout"])
                .arg(path),
        );
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The names after `depends=` in the section `.modinfo`, a list of NUL-terminated notes.
fn dependencies(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &object[at + KEY.len()..];
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_underscores_and_no_suffix() {
        assert_eq!(module_name(Path::new("a/b/kvm-amd.ko.xz")), "kvm_amd");
        assert_eq!(module_name(Path::new("button.ko")), "button");
    }

    #[test]
    fn dependencies_come_from_the_note() {
        assert_eq!(
            dependencies(b"x\0depends=kvm,ccp\0intree=Y\0"),
            ["kvm", "ccp"]
        );
        assert!(dependencies(b"x\0depends=\0intree=Y\0").is_empty());
        assert!(dependencies(b"nothing").is_empty());
    }
}
