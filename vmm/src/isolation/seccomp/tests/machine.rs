//! What runs in the kernel: the little of classic BPF that our filters consist of (`seccomp(2)`,
//! `Documentation/networking/filter.rst`).

use seccompiler::sock_filter;

/// `struct seccomp_data`, which is all that a program sees of a system call, in the pieces in which it loads it.
pub(super) type Words = [u32; 16];

/// `AUDIT_ARCH_X86_64`.
pub(super) const X86_64: u32 = 0xc000_003e;

pub(super) fn words(arch: u32, number: u32, args: [u64; 6]) -> Words {
    let mut words = [number, arch, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (halves, arg) in words[4..].chunks_exact_mut(2).zip(args) {
        halves.copy_from_slice(&[low(arg), low(arg >> 32)]);
    }
    words
}

fn low(arg: u64) -> u32 {
    u32::try_from(arg & u64::from(u32::MAX)).expect("32 bits")
}

pub(super) fn args(words: &Words) -> [u64; 6] {
    let half = |at: usize| u64::from(words[at]);
    std::array::from_fn(|arg| half(4 + 2 * arg) | half(5 + 2 * arg) << 32)
}

enum Step {
    Load(usize),
    And(u32),
    Skip(usize),
    IfEqual(u32, usize, usize),
    Return(u32),
}

fn step(of: &sock_filter) -> Step {
    let k = of.k as usize;
    match u32::from(of.code) {
        code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
            assert_eq!(k % 4, 0, "the kernel takes whole words alone");
            Step::Load(k / 4)
        }
        code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => Step::And(of.k),
        code if code == libc::BPF_JMP | libc::BPF_JA => Step::Skip(k),
        code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
            Step::IfEqual(of.k, of.jt.into(), of.jf.into())
        }
        code if code == libc::BPF_RET | libc::BPF_K => Step::Return(of.k),
        code => panic!("an instruction that no filter has had so far ({code:#x}): teach it here"),
    }
}

/// What a program answers, and at which of its instructions it came by.
pub(super) fn run(program: &[sock_filter], words: &Words, mut seen: impl FnMut(usize)) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        seen(at);
        let of = step(&program[at]);
        at += 1;
        match of {
            Step::Load(word) => accumulator = words[word],
            Step::And(bits) => accumulator &= bits,
            Step::Skip(by) => at += by,
            Step::IfEqual(value, yes, no) => at += if accumulator == value { yes } else { no },
            Step::Return(answer) => return answer,
        }
    }
}

/// For each way through a program a call that goes it: so that what a program allows beyond the rules is found, whatever
/// it is.
pub(super) fn ways(program: &[sock_filter]) -> Vec<Words> {
    /// A way so far: where it is, what it loaded last, and which bits of that it still looks at.
    struct Way {
        at: usize,
        loaded: (usize, u32),
        words: Words,
    }
    let start = |filler| Way {
        at: 0,
        loaded: (0, 0),
        words: [filler; 16],
    };
    let mut open = vec![start(0), start(u32::MAX)];
    let mut ends = Vec::new();
    while let Some(mut way) = open.pop() {
        let of = step(&program[way.at]);
        way.at += 1;
        match of {
            Step::Load(word) => way.loaded = (word, u32::MAX),
            Step::And(bits) => way.loaded.1 &= bits,
            Step::Skip(by) => way.at += by,
            Step::IfEqual(value, yes, no) => {
                let (word, bits) = way.loaded;
                let mut words = way.words;
                words[word] = words[word] & !bits | value;
                open.push(Way {
                    at: way.at + yes,
                    words,
                    ..way
                });
                way.at += no;
            }
            Step::Return(_) => {
                ends.push(way.words);
                continue;
            }
        }
        open.push(way);
    }
    ends
}
