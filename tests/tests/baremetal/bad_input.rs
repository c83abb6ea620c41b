//! Bad input: one clear sentence, exit code 2, and nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, anyhow, ensure};
use hotvisor_tests::harness::{Context, Test};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, chroot, mkfifo};

use crate::guest::{IMAGE, test};

/// Exit code of bad input.
const BAD_INPUT: i32 = 2;
/// A user and group that own nothing.
const NOBODY: u32 = 65534;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("bad_input::table", table),
        test("bad_input::unknown_options", unknown_options),
        test("bad_input::no_kvm", no_kvm),
        test("bad_input::no_permission", no_permission),
    ]
}

/// A folder with the files that the cases name, in which the VMM is started.
struct Folder {
    dir: tempfile::TempDir,
    hotvisor: PathBuf,
    _in_use: UnixListener,
    _datagrams: UnixDatagram,
}

/// A bzImage's first sectors: the header says 64-bit and `paragraphs` times 16 bytes of kernel.
fn bzimage(version: u16, xloadflags: u16, paragraphs: u32, len: usize) -> Vec<u8> {
    let mut image = vec![0; len.max(0x400)];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &paragraphs.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &version.to_le_bytes());
    put(0x236, &xloadflags.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x100_0000u32.to_le_bytes());
    image.truncate(len);
    image
}

impl Folder {
    fn new(context: &Context) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bad-input-").tempdir()?;
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes);
        write("guest.elf", IMAGE)?;
        write("empty", b"")?;
        write("text", &b"no kernel at all\n".repeat(100))?;
        write("short.elf", &IMAGE[..100])?;
        write("cut.elf", &IMAGE[..IMAGE.len() / 2])?;
        let mut other = IMAGE.to_vec();
        other[18] = 0xb7;
        write("arm.elf", &other)?;
        other[5] = 2;
        write("big-endian.elf", &other)?;
        write("no-pvh.elf", &with_headers(4, |header| header[0] = 0))?;
        write("nothing.elf", &with_headers(1, |header| header[0] = 0))?;
        write("low.elf", &with_low_part())?;
        write("short.bz", &bzimage(0x20f, 1, 0x1000, 0x204))?;
        write("cut.bz", &bzimage(0x20f, 1, 0x1000, 0x2000))?;
        write("old.bz", &bzimage(0x204, 0, 0x100, 0x2000))?;
        write("32-bit.bz", &bzimage(0x20f, 0, 0x100, 0x2000))?;
        write("big", &vec![b'x'; 40 << 20])?;
        fs::create_dir(dir.path().join("folder"))?;
        mkfifo(&dir.path().join("fifo"), Mode::from_bits_truncate(0o600))?;
        let datagrams = UnixDatagram::bind(dir.path().join("datagrams"))?;
        let in_use = UnixListener::bind(dir.path().join("in-use"))?;
        let hotvisor = context.artifacts.hotvisor();
        Ok(Self {
            dir,
            hotvisor,
            _in_use: in_use,
            _datagrams: datagrams,
        })
    }

    fn listing(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.dir.path())? {
            let entry = entry?;
            all.push((entry.path(), entry.metadata()?.len()));
        }
        all.sort();
        Ok(all)
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("run")
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs one case and checks its sentence.
    fn refused(&self, args: &[&str], expected: &[&str]) -> Result<()> {
        let before = self.listing()?;
        let output = self.command(&self.hotvisor, args).output()?;
        check(&output, expected).with_context(|| format!("hotvisor run {}", args.join(" ")))?;
        let after = self.listing()?;
        ensure!(
            before == after,
            "{args:?} left something behind: {before:?}, then {after:?}"
        );
        Ok(())
    }
}

/// The guest's image with a change to each program header of one kind.
fn with_headers(kind: u8, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut image = IMAGE.to_vec();
    let at = |from: usize| usize::from(u16::from_le_bytes([IMAGE[from], IMAGE[from + 1]]));
    let (first, count) = (at(32), at(56));
    for header in (0..count).map(|n| first + n * 56) {
        if image[header] == kind {
            change(&mut image[header..header + 56]);
        }
    }
    image
}

/// The guest's image, to be loaded over what firmware would keep there.
fn with_low_part() -> Vec<u8> {
    with_headers(1, |header| {
        header[24..32].copy_from_slice(&0x9_f000_u64.to_le_bytes());
    })
}

/// One line on standard error with all the expected words, nothing on standard output, exit code 2.
fn check(output: &Output, expected: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let complain = |what: &str| anyhow!("{what}\nexit: {}\nstderr: {said}", output.status);
    ensure!(
        output.status.code() == Some(BAD_INPUT),
        complain("the exit code is not 2")
    );
    ensure!(
        output.stdout.is_empty(),
        complain("something on standard output")
    );
    ensure!(said.lines().count() == 1, complain("not one line"));
    ensure!(said.starts_with("hotvisor: "), complain("not our sentence"));
    // Asked, found, remedy.
    ensure!(
        said.contains(": ") && said.contains("; "),
        complain("not in three parts")
    );
    for words in expected {
        ensure!(
            said.contains(words),
            complain(&format!("{words:?} is not said"))
        );
    }
    Ok(())
}

/// Options beside `--kernel`, and what must be said of them.
const OPTIONS: &[(&[&str], &[&str])] = &[
    (&["--initramfs", "fifo"], &["not a regular file"]),
    (
        &["--serial", "file=fifo"],
        &["serial file=fifo", "No such device"],
    ),
    (
        &["--serial", "socket=datagrams"],
        &["wrong type", "no stale socket of ours"],
    ),
    (
        &["--initramfs", "nowhere"],
        &["initramfs nowhere", "No such file"],
    ),
    (
        &["--initramfs", "empty"],
        &["initramfs empty", "an empty file"],
    ),
    (
        &["--initramfs", "folder"],
        &["initramfs folder", "not a regular file"],
    ),
    (
        &["--initramfs", "big", "--memory", "size=32M"],
        &["initramfs big", "40 MiB do not fit", "more memory"],
    ),
    (
        &["--cpus", "boot=2,max=1"],
        &["boot is greater than max", "raise max to 2"],
    ),
    (&["--cpus", "boot=0"], &["a machine without a CPU"]),
    (&["--cpus", "boot=0,max=0"], &["a machine without a CPU"]),
    (&["--cpus", "boot=1,max=1025"], &["1024 is the most"]),
    (
        &["--cpus", "boot=1,max=4294967296"],
        &["\"4294967296\" is not a number"],
    ),
    (&["--cpus", "boot=-1"], &["\"-1\" is not a number"]),
    (
        &["--cpus", "boost=2"],
        &["there is no \"boost\"", "did you mean \"boot\"?"],
    ),
    (&["--cpus", "4"], &["KEY=VALUE"]),
    (&["--memory", "size=lots"], &["\"lots\" is not a size"]),
    (&["--memory", "size="], &["\"\" is not a size"]),
    (
        &["--memory", "size=0"],
        &["memory size=0", "not a size that a machine can have"],
    ),
    (
        &["--memory", "size=64"],
        &["not a size that a machine can have"],
    ),
    (&["--memory", "size=100000001"], &["whole pages"]),
    (
        &["--memory", "size=1000000T"],
        &["not a size that a machine can have"],
    ),
    (&["--memory", "size=99999999999T"], &["is not a size"]),
    (&["--memory", "shared=on"], &["\"shared\" is not served"]),
    (
        &["--serial", "file=nowhere/console"],
        &["serial file=nowhere/console", "No such file"],
    ),
    (
        &["--serial", "file=folder"],
        &["serial file=folder", "Is a directory"],
    ),
    (&["--serial", "file="], &["no path"]),
    (
        &["--serial", "socket=nowhere/console"],
        &["serial socket=nowhere/console", "No such"],
    ),
    (
        &["--serial", "socket=text"],
        &["something that is no socket"],
    ),
    (
        &["--serial", "socket=in-use"],
        &["somebody listens there already"],
    ),
    (
        &["--serial", "sockt=x"],
        &["no such kind", "did you mean \"socket=PATH\"?"],
    ),
    (&["--console", "tty"], &["no virtio console"]),
    (
        &["--api-socket", "nowhere/api"],
        &["--api-socket nowhere/api", "No such"],
    ),
    (&["--api-socket", "in-use"], &["--api-socket in-use"]),
    (&["--api-socket", "text"], &["--api-socket text"]),
    (
        &["--api-socket", "fd=0"],
        &["--api-socket fd=0", "a standard stream"],
    ),
    (
        &["--api-socket", "fd=1000000"],
        &["no such descriptor is open", "or name a path"],
    ),
    (
        &["--api-socket", "fd=three"],
        &["not the number of a descriptor"],
    ),
    // The socket is there when the console is found to be nowhere, and must go with the rest.
    (
        &["--api-socket", "api", "--serial", "file=nowhere/console"],
        &["serial file=nowhere/console", "No such file"],
    ),
    (
        &["--guest-eject", "honor"],
        &["no such policy", "did you mean \"honour\"?"],
    ),
    (
        &["--dormant-timeout", "soon"],
        &["--dormant-timeout soon", "not a number of seconds"],
    ),
    (&["--landlock", "on"], &["--landlock on", "no such choice"]),
    (
        &["--landlock-rules", "path=nowhere,access=r"],
        &["--landlock-rules path=nowhere", "No such file"],
    ),
    (
        &["--landlock-rules", "path=text"],
        &["no path, or no access", "path=/srv/vm,access=rw"],
    ),
    (
        &["--seccomp", "flase"],
        &[
            "--seccomp flase",
            "no such choice",
            "did you mean \"false\"?",
        ],
    ),
    (
        &["--log-file", "nowhere/log"],
        &["--log-file nowhere/log", "No such file"],
    ),
];

/// Kernels, and what must be said of them.
const KERNELS: &[(&str, &[&str])] = &[
    ("fifo", &["not a regular file"]),
    ("low.elf", &["a part at 0x9f000, below 1 MiB"]),
    ("nowhere", &["kernel nowhere", "No such file"]),
    ("folder", &["not a regular file"]),
    ("empty", &["neither a bzImage nor an ELF image"]),
    ("text", &["neither a bzImage nor an ELF image"]),
    ("short.elf", &["truncated ELF image"]),
    ("cut.elf", &["truncated ELF image"]),
    ("arm.elf", &["another machine (183)"]),
    ("big-endian.elf", &["not a little-endian ELF64 image"]),
    ("nothing.elf", &["nothing to load"]),
    ("no-pvh.elf", &["without a PVH entry point", "CONFIG_PVH"]),
    ("short.bz", &["neither a bzImage nor an ELF image"]),
    ("cut.bz", &["truncated bzImage: 8192 bytes of 66560"]),
    ("old.bz", &["without a 64-bit entry point"]),
    ("32-bit.bz", &["without a 64-bit entry point"]),
];

fn table(context: &Context) -> Result<()> {
    let folder = Folder::new(context)?;
    let long = "x".repeat(2048);
    let long_path = format!("socket={}", "y".repeat(120));
    for (args, expected) in OPTIONS {
        folder.refused(&[&["--kernel", "guest.elf"], *args].concat(), expected)?;
    }
    let cmdline: [&str; 2] = ["--cmdline", &long];
    let socket: [&str; 2] = ["--serial", &long_path];
    let too_long: [(&[&str], &[&str]); 2] = [
        (
            &cmdline,
            &["cmdline", "2048 bytes, and this kernel takes 2047"],
        ),
        (&socket, &["serial socket=y"]),
    ];
    for (args, expected) in too_long {
        folder.refused(&[&["--kernel", "guest.elf"], args].concat(), expected)?;
    }
    for (kernel, expected) in KERNELS {
        folder.refused(&["--kernel", kernel, "--log-file", "log"], expected)?;
    }
    Ok(())
}

/// The option parser's own answers: the closest right option, and the exit code of bad input.
fn unknown_options(context: &Context) -> Result<()> {
    let folder = Folder::new(context)?;
    let cases: &[(&[&str], &str)] = &[
        (&["--kernal", "guest.elf"], "'--kernel'"),
        (&["--kernel", "guest.elf", "--cpu", "boot=1"], "'--cpus'"),
        (&["--kernel", "guest.elf", "--no-rebot"], "'--no-reboot'"),
        (&[], "--kernel"),
    ];
    for (args, expected) in cases {
        let output = folder.command(&folder.hotvisor, args).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(BAD_INPUT),
            "{args:?}: {}\n{said}",
            output.status
        );
        ensure!(
            said.contains(expected),
            "{args:?}: {expected} is not said: {said}"
        );
    }
    Ok(())
}

/// Without a /dev there is no /dev/kvm.
fn no_kvm(context: &Context) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "this test hides /dev/kvm, and only root may: run it as root"
    );
    let folder = Folder::new(context)?;
    fs::copy(&folder.hotvisor, folder.dir.path().join("hotvisor"))?;
    let stdin = fs::File::open("/dev/null")?;
    // The thread gets a root directory of its own, and the child takes it over.
    let output = std::thread::scope(|scope| {
        let isolated = scope.spawn(|| -> Result<Output> {
            unshare(CloneFlags::CLONE_FS)?;
            chroot(folder.dir.path())?;
            std::env::set_current_dir("/")?;
            let mut command = Command::new("/hotvisor");
            Ok(command
                .args(["run", "--kernel", "guest.elf"])
                .stdin(stdin)
                .output()?)
        });
        isolated
            .join()
            .map_err(|_| anyhow!("the isolated thread panicked"))?
    })?;
    check(
        &output,
        &[
            "/dev/kvm: no such device",
            "load the module kvm_intel or kvm_amd",
        ],
    )
}

/// A user who may not use /dev/kvm, or read a file.
fn no_permission(context: &Context) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "this test becomes another user, and only root may: run it as root"
    );
    let folder = Folder::new(context)?;
    let readable = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    readable(folder.dir.path())?;
    let program = folder.dir.path().join("hotvisor");
    fs::copy(&folder.hotvisor, &program)?;
    readable(&program)?;
    let mut command = folder.command(&program, &["--kernel", "guest.elf"]);
    let output = command.uid(NOBODY).gid(NOBODY).output()?;
    check(&output, &["/dev/kvm: permission denied", "group kvm"])?;
    let secret = folder.dir.path().join("text");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let mut command = folder.command(&program, &["--kernel", "text"]);
    let output = command.uid(NOBODY).gid(NOBODY).output()?;
    check(&output, &["kernel text", "Permission denied"])
}
