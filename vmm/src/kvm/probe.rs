//! What a KVM can do, found out by trying: a few instructions in each CPU mode, in a scratch VM.
//!
//! Flags do not tell. A KVM without VMX or SVM beneath it (a page-table-based one, say) reports what any
//! other does, runs guests in 16- and 32-bit mode, and never gets a 64-bit kernel to its first message.

use super::memory::Ram;
use super::{DEVICE, REQUIRED, Vm};
use crate::arch::regs::{self, Entry};
use crate::error::{Error, Result};
use crate::isolation::{Role, confine};
use crate::vcpu::kick;
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

/// How long a dozen instructions may take. An interpreting KVM needs well under a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
const REKICK: Duration = Duration::from_millis(20);

/// A CPU mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit real mode.
    Real,
    /// 32-bit protected mode without paging.
    Protected,
    /// 64-bit mode with paging and an exception.
    Long,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Real, Self::Protected, Self::Long];

    /// Bits of the mode's code.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::Real => 16,
            Self::Protected => 32,
            Self::Long => 64,
        }
    }
}

/// What a KVM can do.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Each mode, and what went wrong in it, if anything did.
    pub modes: Vec<(Mode, std::result::Result<(), String>)>,
    /// Each capability that a machine needs, what for, and whether it is there.
    pub required: Vec<(String, &'static str, bool)>,
    /// Each capability that a machine uses if it is there, what for, and whether it is.
    pub optional: Vec<(String, &'static str, bool)>,
    /// Most vCPUs of one VM.
    pub max_vcpus: usize,
}

/// Capabilities that make things better.
const OPTIONAL: [(Cap, &str); 1] = [(
    Cap::TscDeadlineTimer,
    "the local APIC timer without calibration",
)];

/// Where the code is, what it writes to, and the tables of its exception.
const CODE: u64 = 0x1000;
const HANDLER: u64 = 0x1100;
const IDTR: u64 = 0x3000;
const IDT: u64 = 0x4000;
const MEMORY: u64 = 2 << 20;
/// The port that receives the result.
const PORT: u16 = 0x80;

/// `mov ax, 0x1234; add ax, 0x1111; mov [0x2000], ax; mov bx, [0x2000]; mov ax, bx; mov dx, 0x80;
/// out dx, ax; hlt`
const REAL: &[u8] = &[
    0xb8, 0x34, 0x12, 0x05, 0x11, 0x11, 0xa3, 0x00, 0x20, 0x8b, 0x1e, 0x00, 0x20, 0x89, 0xd8, 0xba,
    0x80, 0x00, 0xef, 0xf4,
];
/// The same with 32-bit operands.
const PROTECTED: &[u8] = &[
    0xb8, 0x78, 0x56, 0x34, 0x12, 0x05, 0x11, 0x11, 0x11, 0x11, 0xa3, 0x00, 0x20, 0x00, 0x00, 0x8b,
    0x1d, 0x00, 0x20, 0x00, 0x00, 0x89, 0xd8, 0x66, 0xba, 0x80, 0x00, 0xef, 0xf4,
];
/// `mov rax, 0x1122334455667788; mov [0x2000], rax; mov rbx, cr3; mov cr3, rbx; invlpg [0x2000];
/// lidt [0x3000]; int3; cmp ecx, 0x2a; jne end; mov rax, [0x2000]; mov dx, 0x80; out dx, eax; end: hlt`
const LONG: &[u8] = &[
    0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x48, 0x89, 0x04, 0x25, 0x00, 0x20,
    0x00, 0x00, 0x0f, 0x20, 0xdb, 0x0f, 0x22, 0xdb, 0x0f, 0x01, 0x3c, 0x25, 0x00, 0x20, 0x00, 0x00,
    0x0f, 0x01, 0x1c, 0x25, 0x00, 0x30, 0x00, 0x00, 0xcc, 0x83, 0xf9, 0x2a, 0x75, 0x0d, 0x48, 0x8b,
    0x04, 0x25, 0x00, 0x20, 0x00, 0x00, 0x66, 0xba, 0x80, 0x00, 0xef, 0xf4,
];
/// `mov ecx, 0x2a; iretq`
const LONG_HANDLER: &[u8] = &[0xb9, 0x2a, 0x00, 0x00, 0x00, 0x48, 0xcf];

impl Mode {
    fn code(self) -> &'static [u8] {
        match self {
            Self::Real => REAL,
            Self::Protected => PROTECTED,
            Self::Long => LONG,
        }
    }

    /// What the code sends to [`PORT`].
    fn result(self) -> &'static [u8] {
        match self {
            Self::Real => &[0x45, 0x23],
            Self::Protected => &[0x89, 0x67, 0x45, 0x23],
            Self::Long => &[0x88, 0x77, 0x66, 0x55],
        }
    }
}

/// Tries everything.
#[must_use]
pub fn examine(kvm: &Kvm) -> Findings {
    let listed = |caps: &[(Cap, &'static str)]| {
        caps.iter()
            .map(|(cap, what)| (format!("{cap:?}"), *what, kvm.check_extension(*cap)))
            .collect()
    };
    let modes = Mode::ALL.into_iter().map(|mode| {
        let result = attempt(kvm, mode).unwrap_or_else(|error| Err(error.to_string()));
        (mode, result)
    });
    Findings {
        modes: modes.collect(),
        required: listed(&REQUIRED),
        optional: listed(&OPTIONAL),
        max_vcpus: kvm.get_max_vcpus().min(kvm.get_max_vcpu_id()),
    }
}

/// Refuses to go on where 64-bit code does not run.
///
/// # Errors
/// [`Error::Input`] saying what happened and what to do; [`Error::Host`] where not even a scratch VM can be
/// made.
pub fn require_long_mode(kvm: &Kvm) -> Result<()> {
    attempt(kvm, Mode::Long)?.map_err(|found| {
        Error::input(
            DEVICE,
            format!("it does not run 64-bit code ({found})"),
            "use a host whose KVM has VMX or SVM (`hotvisor check` lists what this one can do)",
        )
    })
}

/// Runs the code of `mode`. The inner result is about the mode, the outer about the host.
fn attempt(kvm: &Kvm, mode: Mode) -> Result<std::result::Result<(), String>> {
    kick::install()?;
    let vm = Arc::new(Vm::new(kvm, Arc::new(Ram::new(MEMORY)?))?);
    let vcpu = vm
        .fd()
        .create_vcpu(0)
        .map_err(|e| Error::kvm("create vCPU", e))?;
    write_code(&vm, mode)?;
    match set_registers(kvm, &vm, &vcpu, mode) {
        Ok(()) => run_with_deadline(vm, vcpu, mode),
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn write_code(vm: &Vm, mode: Mode) -> Result<()> {
    // An interrupt gate to the handler in slot 3: present, code segment 0x10.
    let gate = HANDLER & 0xffff | 0x10 << 16 | 0x8e << 40;
    let mut idtr = vec![0x3f, 0];
    idtr.extend(IDT.to_le_bytes());
    let writes: [(u64, &[u8]); 4] = [
        (CODE, mode.code()),
        (HANDLER, LONG_HANDLER),
        (IDTR, &idtr),
        (IDT + 3 * 16, &gate.to_le_bytes()),
    ];
    for (at, bytes) in writes {
        vm.memory()
            .write_slice(bytes, GuestAddress(at))
            .map_err(|e| Error::bug("scratch VM", e))?;
    }
    Ok(())
}

fn set_registers(kvm: &Kvm, vm: &Vm, vcpu: &VcpuFd, mode: Mode) -> Result<()> {
    vcpu.set_cpuid2(&super::supported_cpuid(kvm)?)
        .map_err(|e| Error::kvm("set CPUID", e))?;
    let at = GuestAddress(CODE);
    let entry = match mode {
        Mode::Protected => Entry::Pvh { at },
        Mode::Long => Entry::Linux64 { at },
        Mode::Real => {
            let mut sregs = vcpu
                .get_sregs()
                .map_err(|e| Error::kvm("get registers", e))?;
            (sregs.cs.base, sregs.cs.selector) = (0, 0);
            vcpu.set_sregs(&sregs)
                .map_err(|e| Error::kvm("set registers", e))?;
            let mut regs = vcpu
                .get_regs()
                .map_err(|e| Error::kvm("get registers", e))?;
            regs.rip = CODE;
            return vcpu
                .set_regs(&regs)
                .map_err(|e| Error::kvm("set registers", e));
        }
    };
    regs::write_tables(vm.memory(), entry)?;
    regs::enter(vcpu, entry, false)
}

/// Runs a vCPU on a thread of its own, which is kicked out when its time is over.
fn run_with_deadline(
    vm: Arc<Vm>,
    vcpu: VcpuFd,
    mode: Mode,
) -> Result<std::result::Result<(), String>> {
    let (done, is_done) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("probe".into())
        .spawn(move || {
            // Dropped last: memory outlives what can reach it, also where this thread is given up on.
            let _vm = vm;
            let mut vcpu = kick::arm(vcpu);
            let confined = confine(Role::Vcpu).map_err(|e| e.to_string());
            // The receiver waits for this.
            let _ = done.send(confined.and_then(|()| run(&mut vcpu, mode)));
        })
        .map_err(|e| Error::host("probe", e, "raise the limit of threads (`ulimit -u`)"))?;
    let deadline = Instant::now() + PATIENCE;
    let mut result = is_done.recv_timeout(PATIENCE);
    // A kick ends KVM_RUN, and with it the thread; one that the kernel keeps is left behind.
    while result == Err(RecvTimeoutError::Timeout) && Instant::now() < deadline + PATIENCE {
        kick::kick(&thread);
        result = is_done.recv_timeout(REKICK);
    }
    Ok(result.unwrap_or_else(|_| Err("it hangs in the kernel".into())))
}

fn run(vcpu: &mut VcpuFd, mode: Mode) -> std::result::Result<(), String> {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(PORT, data)) if data == mode.result() => Ok(()),
        Ok(VcpuExit::IoOut(port, data)) => Err(format!("wrong result {data:x?} at port {port:#x}")),
        Ok(VcpuExit::Shutdown) => Err("a triple fault".into()),
        Ok(other) => Err(format!("it ended with {other:?}")),
        Err(e) if e.errno() == libc::EINTR => {
            Err(format!("no result after {} s", PATIENCE.as_secs()))
        }
        Err(e) => Err(e.to_string()),
    }
}
