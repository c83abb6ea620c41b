//! What is peculiar to x86: the memory map, CPUID, and the state in which a vCPU starts.

pub mod cpuid;
pub mod layout;
pub mod regs;
