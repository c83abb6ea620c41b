//! Each filter, as the product loads it, against the rules that it was made from: every system call, and with every rule
//! arguments that are just as it says, and that are not in one thing.
//!
//! Nothing of this asks the kernel, so that all of it can be tried. That the kernel does the same with what it is given is
//! tried in `vmm/tests/forbidden`.

mod machine;
mod rules;

use super::{Seccomp, programs};
use crate::isolation::Role;
use machine::{Words, X86_64, run, ways, words};
use rules::{Condition, Rule, allow};
use seccompiler::{BpfProgram, sock_filter};
use std::iter;
use syscalls::Sysno;

// `linux/seccomp.h`.
const KILL: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// `AUDIT_ARCH_I386`: what a program of 64 bits comes to by `int 0x80`.
const I386: u32 = 0x4000_0003;
/// `__X32_SYSCALL_BIT`, in the numbers of the third ABI of such a machine.
const X32: u32 = 0x4000_0000;

/// More than there are, and what a number must not be taken for.
fn numbers() -> impl Iterator<Item = u32> {
    let x32 = (0..=600).map(|number| number | X32);
    let odd = [X32 - 1, i32::MAX as u32, 1 << 31, u32::MAX - 1, u32::MAX];
    (0..=600).chain(x32).chain(odd)
}

/// What arguments are where no rule looks at them.
const FILLERS: [u64; 3] = [0, u64::MAX, 0xa5a5_5a5a_c3c3_3c3c];

/// Calls of this number: with any arguments, with such as each of its rules wants, and those that differ from these in one
/// bit or by one, or have the right thing in the wrong place.
fn calls(rules: &[Rule], number: u32) -> Vec<Words> {
    let mut all: Vec<[u64; 6]> = FILLERS.map(|filler| [filler; 6]).to_vec();
    for rule in rules.iter().filter(|rule| rule.number == number) {
        for filler in FILLERS {
            let mut right = [filler; 6];
            for one in &rule.conditions {
                one.satisfy(&mut right);
            }
            all.push(right);
            for index in rule.conditions.iter().map(|one| one.index) {
                let was = right[index];
                let bits = (0..64).map(|bit| was ^ 1 << bit);
                let near = [was.wrapping_add(1), was.wrapping_sub(1)];
                for wrong in bits.chain(near).chain(FILLERS) {
                    let mut args = right;
                    args[index] = wrong;
                    all.push(args);
                }
                for other in 0..6 {
                    let mut args = right;
                    args.swap(index, other);
                    all.push(args);
                }
            }
        }
    }
    let of = |args| words(X86_64, number, args);
    all.into_iter().map(of).collect()
}

/// A filter, and the rules that it should be.
#[derive(Clone)]
struct Filter {
    role: Role,
    seccomp: Seccomp,
    programs: Vec<BpfProgram>,
    rules: Vec<Rule>,
}

impl Filter {
    fn new(seccomp: Seccomp, role: Role) -> Self {
        Self {
            role,
            seccomp,
            programs: programs(seccomp, role),
            rules: rules::of(role),
        }
    }

    /// What the kernel does: of the answers of all programs, the one that lets through least.
    fn answer(&self, call: &Words) -> u32 {
        let answers = self
            .programs
            .iter()
            .map(|program| run(program, call, |_| ()));
        let least = answers.min_by_key(|answer| (answer & 0xffff_0000).cast_signed());
        least.expect("a program")
    }

    /// What it should do.
    fn expected(&self, call: &Words) -> u32 {
        let [number, arch, ..] = *call;
        if arch != X86_64 {
            KILL
        } else if self.role == Role::Vmm && number == Sysno::clone3 as u32 {
            ERRNO | libc::ENOSYS as u32
        } else if allow(&self.rules, number, &machine::args(call)) {
            ALLOW
        } else if self.seccomp == Seccomp::Log {
            LOG
        } else {
            TRAP
        }
    }

    /// What is wrong with it, if anything is that these calls show.
    fn difference(&self, calls: impl IntoIterator<Item = Words>) -> Option<String> {
        let mut calls = calls.into_iter();
        calls.find_map(|call| {
            let (answer, expected) = (self.answer(&call), self.expected(&call));
            let known = Sysno::new(call[0] as usize);
            (answer != expected).then(|| {
                format!(
                    "{:?}, {:?}: {} ({:#x}) with {:x?}: its rules say {expected:#x}, its filter says {answer:#x}",
                    self.role,
                    self.seccomp,
                    known.map_or("no system call", |call| call.name()),
                    call[0],
                    machine::args(&call),
                )
            })
        })
    }

    /// All that its rules and its programs give reason to try.
    fn worth_trying(&self) -> impl Iterator<Item = Words> {
        let by_rules = numbers().flat_map(|number| calls(&self.rules, number));
        by_rules.chain(self.programs.iter().flat_map(|program| ways(program)))
    }
}

#[test]
fn every_call_comes_to_what_the_rules_say() {
    for seccomp in [Seccomp::Enforce, Seccomp::Log] {
        for role in Role::ALL {
            let filter = Filter::new(seccomp, role);
            assert_eq!(filter.difference(filter.worth_trying()), None);
        }
    }
}

/// Another ABI has other numbers: they end the process, also where the rest is only logged.
#[test]
fn calls_of_another_abi_are_none_of_any_rule() {
    for seccomp in [Seccomp::Enforce, Seccomp::Log] {
        for role in Role::ALL {
            let filter = Filter::new(seccomp, role);
            for arch in [I386, X86_64 ^ 1, 0, u32::MAX] {
                let foreign = filter.worth_trying().map(|call| {
                    let [number, ..] = call;
                    words(arch, number, machine::args(&call))
                });
                assert_eq!(filter.difference(foreign), None);
            }
        }
    }
}

/// It begins under the filter of the thread that makes it, and stays under it.
#[test]
fn what_a_vcpu_may_the_thread_that_makes_it_may() {
    let vmm = Filter::new(Seccomp::Enforce, Role::Vmm);
    let vcpu = Filter::new(Seccomp::Enforce, Role::Vcpu);
    let calls = vcpu.worth_trying();
    for call in calls.filter(|call| vcpu.answer(call) == ALLOW) {
        assert_eq!(vmm.answer(&call), ALLOW, "{call:x?}");
    }
}

/// What somebody could get wrong in a rule: that it is there at all, or with one of its conditions; that one is of another
/// argument, of another value, of a bit less or of all bits.
fn mistakes(rule: &Rule) -> Vec<Option<Rule>> {
    let mut all = vec![None];
    let mut with = |change: &dyn Fn(&mut Vec<Condition>)| {
        let mut changed = rule.clone();
        change(&mut changed.conditions);
        all.push(Some(changed));
    };
    for (which, one) in rule.conditions.iter().enumerate() {
        let highest = 1 << one.mask.ilog2();
        with(&|all| {
            all.remove(which);
        });
        for index in (0..6).filter(|index| *index != one.index) {
            with(&|all| all[which].index = index);
        }
        with(&|all| all[which].value ^= highest);
        with(&|all| {
            all[which].mask ^= highest;
            all[which].value &= !highest;
        });
        if one.mask != u64::MAX {
            with(&|all| all[which].mask = u64::MAX);
        }
    }
    all
}

/// Here the rules are wrong and the filter is right, which is as good as the other way round, and needs no compiler.
#[test]
fn a_rule_that_is_missing_too_wide_or_of_another_argument_is_noticed() {
    for role in Role::ALL {
        let filter = Filter::new(Seccomp::Enforce, role);
        let by_programs: Vec<Words> = filter.programs.iter().flat_map(|p| ways(p)).collect();
        for (at, rule) in filter.rules.iter().enumerate() {
            // On the control thread it is answered before it comes to its rule.
            if rule.number == Sysno::clone3 as u32 {
                continue;
            }
            for mistake in mistakes(rule) {
                let mut changed = filter.clone();
                changed.rules.splice(at..=at, mistake.clone());
                let by_rule = calls(mistake.as_slice(), rule.number);
                let by_programs = by_programs.iter().filter(|call| call[0] == rule.number);
                let noticed = changed.difference(by_rule.into_iter().chain(by_programs.copied()));
                assert!(
                    noticed.is_some(),
                    "{role:?}: {rule:?} could as well be {mistake:?}"
                );
            }
        }
    }
}

/// What could be wrong with an instruction.
fn corrupted(of: &sock_filter) -> impl Iterator<Item = sock_filter> {
    let with_k = |k| sock_filter { k, ..of.clone() };
    let is_load = u32::from(of.code) == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let is_jump = u32::from(of.code) == libc::BPF_JMP | libc::BPF_JA;
    let is_return = u32::from(of.code) == libc::BPF_RET | libc::BPF_K;
    let other_k = match of.k {
        k if is_load => with_k((k + 4) % 64),
        _ if is_jump => with_k(0),
        ALLOW if is_return => with_k(TRAP),
        _ if is_return => with_k(ALLOW),
        k => with_k(k ^ 1),
    };
    let swapped = sock_filter {
        jt: of.jf,
        jf: of.jt,
        ..of.clone()
    };
    iter::once(other_k).chain((of.jt != of.jf).then_some(swapped))
}

#[test]
fn no_instruction_of_a_filter_could_be_another() {
    for role in Role::ALL {
        let filter = Filter::new(Seccomp::Enforce, role);
        let program = filter.programs.last().expect("a program");
        let foreign = words(I386, 0, [0; 6]);
        let calls: Vec<Words> = filter.worth_trying().chain([foreign]).collect();
        let mut met = vec![Vec::new(); program.len()];
        let answer = |call: &Words, at: &mut dyn FnMut(usize)| run(program, call, at);
        let answers: Vec<u32> = (calls.iter().enumerate())
            .map(|(which, call)| answer(call, &mut |at| met[at].push(which)))
            .collect();
        for (at, met) in met.iter().enumerate() {
            let was = &program[at];
            // What nobody comes to is left out (`vmm/build/shrink.rs`).
            assert!(!met.is_empty(), "{role:?}: {at}: no call comes to {was:?}");
            for instruction in corrupted(was) {
                let mut other = program.clone();
                other[at] = instruction;
                let differs = |&which: &usize| run(&other, &calls[which], |_| ()) != answers[which];
                let is = &other[at];
                assert!(
                    met.iter().any(differs),
                    "{role:?}: {at}: {is:?} is as good as {was:?}"
                );
            }
        }
    }
}
