//! The values of options, in Cloud Hypervisor's spelling: `key=value,key=value`, sizes with a unit.

use crate::server::Place;
use hotvisor_vmm::config::{Cpus, GuestEject, Serial, Vsock};
use hotvisor_vmm::isolation::confinement::{Grant, Landlock};
use hotvisor_vmm::isolation::seccomp::Seccomp;
use hotvisor_vmm::{Error, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Keys that an option knows, and those of Cloud Hypervisor's that it does not serve.
struct Keys {
    option: &'static str,
    known: &'static [&'static str],
    unserved: &'static [&'static str],
}

const CPUS: Keys = Keys {
    option: "--cpus",
    known: &["boot", "max"],
    unserved: &[
        "affinity",
        "core_scheduling",
        "features",
        "kvm_hyperv",
        "max_phys_bits",
        "nested",
        "topology",
    ],
};

const LANDLOCK_RULES: Keys = Keys {
    option: "--landlock-rules",
    known: &["path", "access"],
    unserved: &[],
};

const MEMORY: Keys = Keys {
    option: "--memory",
    known: &["size"],
    unserved: &[
        "hotplug_method",
        "hotplug_size",
        "hotplugged_size",
        "hugepage_size",
        "hugepages",
        "mergeable",
        "prefault",
        "shared",
        "thp",
    ],
};

const VSOCK: Keys = Keys {
    option: "--vsock",
    known: &["cid", "socket"],
    unserved: &["id", "iommu", "pci_device_id", "pci_segment"],
};

/// The one of `known` that is closest to what was written, if any is close at all.
fn closest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    const CLOSE: f64 = 0.7;
    known
        .iter()
        .map(|word| (strsim::jaro_winkler(written, word), *word))
        .filter(|(score, _)| *score >= CLOSE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// How to go on after a word that is none of `known`.
fn suggestion(written: &str, known: &[&str]) -> String {
    match closest(written, known) {
        Some(word) => format!("did you mean {word:?}?"),
        None => format!("use {}", known.join(", ")),
    }
}

impl Keys {
    /// Takes `text` apart.
    fn pairs<'a>(&self, text: &'a str) -> Result<Vec<(&'static str, &'a str)>> {
        let asked = format!("{} {text}", self.option);
        let mut pairs: Vec<(&'static str, &str)> = Vec::new();
        for part in text.split(',') {
            let Some((key, value)) = part.split_once('=') else {
                let found = format!("{part:?} is not of the form KEY=VALUE");
                return Err(Error::input(
                    asked,
                    found,
                    format!("use {}=…", self.known.join("=…, ")),
                ));
            };
            let Some(key) = self.known.iter().find(|known| **known == key) else {
                let (found, remedy) = if self.unserved.contains(&key) {
                    (
                        format!("{key:?} is not served by Hotvisor"),
                        "leave it out".to_owned(),
                    )
                } else {
                    (format!("there is no {key:?}"), suggestion(key, self.known))
                };
                return Err(Error::input(asked, found, remedy));
            };
            if pairs.iter().any(|(seen, _)| seen == key) {
                return Err(Error::input(
                    asked,
                    format!("{key:?} is there twice"),
                    "give it once",
                ));
            }
            pairs.push((key, value));
        }
        Ok(pairs)
    }
}

/// `boot=N,max=M`; either may be left out: one CPU at boot, and as many possible ones as at boot.
pub(super) fn cpus(text: &str) -> Result<Cpus> {
    let (mut boot, mut max) = (None, None);
    for (key, value) in CPUS.pairs(text)? {
        let count: u32 = value.parse().map_err(|_| {
            let found = format!("{value:?} is not a number of CPUs");
            Error::input(
                format!("--cpus {text}"),
                found,
                "give a whole number, as in boot=2,max=8",
            )
        })?;
        *if key == "boot" { &mut boot } else { &mut max } = Some(count);
    }
    let boot = boot.unwrap_or(1);
    Ok(Cpus {
        boot,
        max: max.unwrap_or(boot),
    })
}

/// `size=SIZE`.
pub(super) fn memory(text: &str) -> Result<u64> {
    match MEMORY.pairs(text)?.first() {
        Some((_, value)) => size(value).ok_or_else(|| {
            Error::input(
                format!("--memory {text}"),
                format!("{value:?} is not a size"),
                "give a whole number of bytes, or one with K, M, G or T, as in size=512M",
            )
        }),
        None => Err(Error::input(
            format!("--memory {text}"),
            "no size",
            "use size=512M",
        )),
    }
}

/// Bytes: a whole number, with a binary unit or without.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return None,
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `tty`, `file=PATH`, `socket=PATH`, `null`, `off`.
pub(super) fn serial(text: &str) -> Result<Serial> {
    let asked = || format!("--serial {text}");
    let path = |value: &str| {
        if value.is_empty() {
            return Err(Error::input(
                asked(),
                "no path",
                "name one, as in file=/tmp/console",
            ));
        }
        Ok(PathBuf::from(value))
    };
    match text.split_once('=') {
        None if text == "tty" => Ok(Serial::Tty),
        None if text == "null" => Ok(Serial::Null),
        None if text == "off" => Ok(Serial::Off),
        Some(("file", value)) => path(value).map(Serial::File),
        Some(("socket", value)) => path(value).map(Serial::Socket),
        _ => {
            let word = text.split('=').next().unwrap_or(text);
            let known = ["tty", "file=PATH", "socket=PATH", "null", "off"];
            Err(Error::input(
                asked(),
                "no such kind of serial port",
                suggestion(word, &known),
            ))
        }
    }
}

/// `cid=N,socket=PATH`, both of which must be there.
pub(super) fn vsock(text: &str) -> Result<Vsock> {
    let asked = || format!("--vsock {text}");
    let (mut cid, mut socket) = (None, None);
    for (key, value) in VSOCK.pairs(text)? {
        *if key == "cid" { &mut cid } else { &mut socket } = Some(value);
    }
    let (Some(cid), Some(socket)) = (cid, socket) else {
        let remedy = "give both, as in cid=3,socket=/run/vm.vsock";
        return Err(Error::input(asked(), "no cid, or no socket", remedy));
    };
    let cid = cid.parse().map_err(|_| {
        let found = format!("{cid:?} is not a context id");
        Error::input(asked(), found, "give a whole number, 3 or more")
    })?;
    let socket = PathBuf::from(socket);
    Ok(Vsock { cid, socket })
}

/// `PATH`, or `path=PATH` and `fd=N` as Cloud Hypervisor also spells them.
pub(super) fn api_socket(text: &Path) -> Result<Place> {
    let bytes = text.as_os_str().as_bytes();
    if let Some(number) = bytes.strip_prefix(b"fd=") {
        let number = str::from_utf8(number).ok();
        let number = number.and_then(|number| number.parse().ok());
        return number.map(Place::Passed).ok_or_else(|| {
            let asked = format!("--api-socket {}", text.display());
            let found = "that is not the number of a descriptor";
            Error::input(asked, found, "give a whole number, as in fd=3")
        });
    }
    let path = bytes.strip_prefix(b"path=").unwrap_or(bytes);
    Ok(Place::Path(PathBuf::from(OsStr::from_bytes(path))))
}

/// The one of `choices` that `text` names, each of which is a `what`.
fn choice<T: Copy>(option: &str, what: &str, text: &str, choices: &[(&str, T)]) -> Result<T> {
    let named = choices.iter().find(|(word, _)| *word == text);
    named.map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let (asked, found) = (format!("{option} {text}"), format!("no such {what}"));
        Error::input(asked, found, suggestion(text, &words))
    })
}

/// `honour` or `ignore`.
pub(super) fn guest_eject(text: &str) -> Result<GuestEject> {
    let choices = [
        ("honour", GuestEject::Honour),
        ("ignore", GuestEject::Ignore),
    ];
    choice("--guest-eject", "policy", text, &choices)
}

/// `true`, `log` or `false`.
pub(super) fn seccomp(text: &str) -> Result<Seccomp> {
    let choices = [
        ("true", Seccomp::Enforce),
        ("log", Seccomp::Log),
        ("false", Seccomp::Off),
    ];
    choice("--seccomp", "choice", text, &choices)
}

/// `auto`, `true` or `false`.
pub(super) fn landlock(text: &str) -> Result<Landlock> {
    let choices = [
        ("auto", Landlock::Auto),
        ("true", Landlock::Required),
        ("false", Landlock::Off),
    ];
    choice("--landlock", "choice", text, &choices)
}

/// `path=PATH,access=r|w|rw`, both of which must be there.
pub(super) fn landlock_rule(text: &str) -> Result<Grant> {
    let asked = || format!("--landlock-rules {text}");
    let (mut path, mut access) = (None, None);
    for (key, value) in LANDLOCK_RULES.pairs(text)? {
        *if key == "path" {
            &mut path
        } else {
            &mut access
        } = Some(value);
    }
    let (Some(path), Some(access)) = (path, access) else {
        let remedy = "give both, as in path=/srv/vm,access=rw";
        return Err(Error::input(asked(), "no path, or no access", remedy));
    };
    let (read, write) = match access {
        "r" => (true, false),
        "w" => (false, true),
        "rw" | "wr" => (true, true),
        _ => {
            let remedy = "use r, w or rw";
            return Err(Error::input(asked(), "no such access", remedy));
        }
    };
    if let Err(e) = Path::new(path).metadata() {
        return Err(Error::input(asked(), e, "name a path that is there"));
    }
    Ok(Grant::beneath(path, read, write))
}

/// Seconds, or `never`.
pub(super) fn dormant_timeout(text: &str) -> Result<Option<Duration>> {
    if text == "never" {
        return Ok(None);
    }
    let seconds: u32 = text.parse().map_err(|_| {
        Error::input(
            format!("--dormant-timeout {text}"),
            "not a number of seconds",
            "give a whole number, or never",
        )
    })?;
    Ok(Some(Duration::from_secs(seconds.into())))
}

/// `off` is all there is: the machine has no console but its serial port.
pub(super) fn console(text: &str) -> Result<()> {
    match text {
        "off" => Ok(()),
        other => Err(Error::input(
            format!("--console {other}"),
            "there is no virtio console",
            "use --console off, and --serial for a console",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_in_all_spellings() {
        assert_eq!(cpus("boot=2,max=8"), Ok(Cpus { boot: 2, max: 8 }));
        assert_eq!(cpus("max=8,boot=2"), Ok(Cpus { boot: 2, max: 8 }));
        assert_eq!(cpus("boot=4"), Ok(Cpus { boot: 4, max: 4 }));
        assert_eq!(cpus("max=4"), Ok(Cpus { boot: 1, max: 4 }));
    }

    #[test]
    fn the_closest_right_key_is_named() {
        let refused = |text| cpus(text).unwrap_err().to_string();
        assert!(refused("boots=2").contains("did you mean \"boot\"?"));
        assert!(refused("maxx=2").contains("did you mean \"max\"?"));
        assert!(refused("topology=1:1:1:1").contains("not served"));
        assert!(refused("boot=2,boot=3").contains("twice"));
        assert!(refused("2").contains("KEY=VALUE"));
        assert!(refused("boot=two").contains("\"two\""));
        assert!(refused("boot=99999999999").contains("not a number"));
        assert!(
            serial("ttyy")
                .unwrap_err()
                .to_string()
                .contains("did you mean \"tty\"?")
        );
        assert!(serial("file=").unwrap_err().to_string().contains("no path"));
        assert!(serial("tty=1").is_err());
    }

    #[test]
    fn rules_of_paths() {
        let grant = |read, write| Ok(Grant::beneath("/tmp", read, write));
        let rule = landlock_rule;
        assert_eq!(rule("path=/tmp,access=r"), grant(true, false));
        assert_eq!(rule("access=w,path=/tmp"), grant(false, true));
        assert_eq!(rule("path=/tmp,access=rw"), grant(true, true));
        for (bad, words) in [
            ("path=/tmp", "give both"),
            ("access=r", "give both"),
            ("path=/tmp,access=x", "use r, w or rw"),
            ("path=/tmp,acces=r", "did you mean \"access\"?"),
            ("path=/no/such,access=r", "name a path that is there"),
        ] {
            let said = rule(bad).unwrap_err().to_string();
            assert!(said.contains(words), "{bad}: {said}");
        }
    }

    #[test]
    fn socket_devices() {
        let device = |cid, socket: &str| {
            let socket = socket.into();
            Ok(Vsock { cid, socket })
        };
        assert_eq!(vsock("cid=3,socket=/run/v"), device(3, "/run/v"));
        assert_eq!(vsock("socket=a=b,cid=9"), device(9, "a=b"));
        for (bad, words) in [
            ("cid=3", "give both"),
            ("socket=/run/v", "give both"),
            ("cid=x,socket=/run/v", "is not a context id"),
            ("cid=-1,socket=/run/v", "is not a context id"),
            ("cid=4294967296,socket=/run/v", "is not a context id"),
            ("cid=3,sock=/run/v", "did you mean \"socket\"?"),
            ("cid=3,socket=/run/v,id=x", "not served"),
        ] {
            let said = vsock(bad).unwrap_err().to_string();
            assert!(said.contains(words), "{bad}: {said}");
        }
    }

    #[test]
    fn sockets_in_all_spellings() {
        let place = |text: &str| api_socket(Path::new(text));
        let path = |text: &str| Ok(Place::Path(PathBuf::from(text)));
        assert_eq!(place("/run/vm.sock"), path("/run/vm.sock"));
        assert_eq!(place("path=/run/vm.sock"), path("/run/vm.sock"));
        assert_eq!(place("path=path=x"), path("path=x"));
        assert_eq!(place("path=fd=3"), path("fd=3"));
        assert_eq!(place("fd=3"), Ok(Place::Passed(3)));
        for bad in ["fd=", "fd=x", "fd=3,4", "fd=4294967296", "fd= 3"] {
            let said = place(bad).unwrap_err().to_string();
            assert!(said.contains("give a whole number"), "{bad}: {said}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(memory("size=512M"), Ok(512 << 20));
        assert_eq!(memory("size=1048576"), Ok(1 << 20));
        assert_eq!(memory("size=4G"), Ok(4 << 30));
        for bad in [
            "",
            "M",
            "-1G",
            "1.5G",
            "1GB",
            "99999999999999999999",
            "20000000T",
            "0x10",
            "+1",
        ] {
            let refused = memory(&format!("size={bad}")).unwrap_err().to_string();
            assert!(refused.contains("is not a size"), "{bad}: {refused}");
        }
    }
}
