//! Makes a filter shorter, and no other: the kernel compiles one for each thread that is born, in time that grows with it.
//!
//! The compiler of filters gives each rule a way of its own, over jumps to jumps and to the same answers again. Here each
//! branch leads to where it ends up, equal answers are one where a branch reaches that far, and what nobody comes to any more
//! is left out. `vmm/src/isolation/seccomp/tests.rs` has each filter answer all that the rules speak of.

use seccompiler::sock_filter;
use std::error::Error;

/// `BPF_JMP`, its form without a condition, and `BPF_RET` (linux/bpf_common.h).
const CLASS: u16 = 0x07;
const JUMP: u16 = 0x05;
const ALWAYS: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Where a branch may lead to, at the most: it counts in a byte.
const FAR: usize = 255;

/// An instruction, and where it goes on.
enum Step {
    /// There, or there, by a condition.
    Branch(usize, usize),
    Answer,
    /// With what is behind it.
    On,
}

fn is_jump(one: &sock_filter) -> bool {
    one.code == ALWAYS
}

/// What is done at this place: behind all jumps from there, the last answer of the same kind that a branch reaches.
fn end(program: &[sock_filter], from: usize, to: usize) -> Result<usize, Box<dyn Error>> {
    let mut at = to;
    while let Some(one) = program.get(at).filter(|one| is_jump(one)) {
        at += 1 + usize::try_from(one.k)?;
    }
    let target = program.get(at).ok_or("a branch leads out of the filter")?;
    let reached = &program[..program.len().min(from + FAR)];
    let same = |one: &sock_filter| one.code & CLASS == RETURN && one.k == target.k;
    let last = reached.iter().rposition(same).filter(|last| *last > at);
    Ok(match target.code & CLASS {
        RETURN => last.unwrap_or(at),
        _ => at,
    })
}

fn step(program: &[sock_filter], at: usize) -> Result<Step, Box<dyn Error>> {
    let one = &program[at];
    let to = |by: u8| end(program, at, at + 1 + usize::from(by));
    Ok(match one.code & CLASS {
        JUMP if !is_jump(one) => Step::Branch(to(one.jt)?, to(one.jf)?),
        RETURN => Step::Answer,
        _ => Step::On,
    })
}

/// The same filter, shorter.
pub(crate) fn shrunk(program: &[sock_filter]) -> Result<Vec<sock_filter>, Box<dyn Error>> {
    let steps: Vec<Step> = (0..program.len())
        .map(|at| step(program, at))
        .collect::<Result<_, _>>()?;
    let mut reached = vec![false; program.len()];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    // All ways lead forward.
    for at in 0..program.len() {
        let next: &[usize] = match steps[at] {
            _ if !reached[at] => &[],
            Step::Branch(yes, no) => &[yes, no],
            Step::Answer => &[],
            Step::On if is_jump(&program[at]) => &[at + 1 + usize::try_from(program[at].k)?],
            Step::On => &[at + 1],
        };
        for &next in next {
            *reached
                .get_mut(next)
                .ok_or("a way leads out of the filter")? = true;
        }
    }
    let place = |at: usize| reached[..at].iter().filter(|reached| **reached).count();
    let by = |from: usize, to: usize| u8::try_from(place(to) - place(from) - 1);
    let mut short = Vec::new();
    for (at, one) in program.iter().enumerate().filter(|(at, _)| reached[*at]) {
        let mut one = one.clone();
        match steps[at] {
            Step::Branch(yes, no) => (one.jt, one.jf) = (by(at, yes)?, by(at, no)?),
            Step::On if is_jump(&one) => {
                let to = at + 1 + usize::try_from(one.k)?;
                one.k = u32::try_from(place(to) - place(at) - 1)?;
            }
            Step::On | Step::Answer => {}
        }
        short.push(one);
    }
    Ok(short)
}
