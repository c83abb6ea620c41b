//! A vCPU's registers, for people.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use std::fmt;

/// A vCPU's registers. On AMD, KVM resets a CPU that shut down before it tells us.
///
/// Boxed: they travel inside of messages that are small otherwise.
#[derive(Clone, Debug, Default)]
pub struct Registers(Box<(kvm_regs, kvm_sregs)>);

impl Registers {
    /// Reads them; what cannot be read is zero.
    #[must_use]
    pub fn read(vcpu: &VcpuFd) -> Self {
        Self(Box::new((
            vcpu.get_regs().unwrap_or_default(),
            vcpu.get_sregs().unwrap_or_default(),
        )))
    }
}

fn segment(f: &mut fmt::Formatter<'_>, name: &str, s: &kvm_segment) -> fmt::Result {
    write!(
        f,
        "{name:<3} {:04x} base {:016x} limit {:08x} type {:x} s {} dpl {} present {} l {} db {} g {}",
        s.selector, s.base, s.limit, s.type_, s.s, s.dpl, s.present, s.l, s.db, s.g
    )
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (g, s) = &*self.0;
        let rows = [
            [
                ("rax", g.rax),
                ("rbx", g.rbx),
                ("rcx", g.rcx),
                ("rdx", g.rdx),
            ],
            [
                ("rsi", g.rsi),
                ("rdi", g.rdi),
                ("rbp", g.rbp),
                ("rsp", g.rsp),
            ],
            [("r8", g.r8), ("r9", g.r9), ("r10", g.r10), ("r11", g.r11)],
            [
                ("r12", g.r12),
                ("r13", g.r13),
                ("r14", g.r14),
                ("r15", g.r15),
            ],
            [
                ("rip", g.rip),
                ("rfl", g.rflags),
                ("cr0", s.cr0),
                ("cr2", s.cr2),
            ],
            [
                ("cr3", s.cr3),
                ("cr4", s.cr4),
                ("cr8", s.cr8),
                ("efr", s.efer),
            ],
        ];
        for row in rows {
            for (name, value) in row {
                write!(f, "{name:<3} {value:016x}  ")?;
            }
            writeln!(f)?;
        }
        for (name, s) in [
            ("cs", &s.cs),
            ("ds", &s.ds),
            ("es", &s.es),
            ("ss", &s.ss),
            ("tr", &s.tr),
        ] {
            segment(f, name, s)?;
            writeln!(f)?;
        }
        writeln!(f, "gdt base {:016x} limit {:04x}", s.gdt.base, s.gdt.limit)?;
        write!(f, "idt base {:016x} limit {:04x}", s.idt.base, s.idt.limit)
    }
}
