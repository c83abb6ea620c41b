//! The few x86-64 instructions with which a compiler, or the C library's `memcpy`, reads or writes one
//! value in memory (Intel SDM, volume 2, `MOV` and `MOVZX`).

/// The general registers, in the order of their numbers.
pub(crate) type Registers = [u64; 16];

/// Most bytes of an instruction.
pub(crate) const LONGEST: usize = 16;

/// A move between memory and a register.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Whether it writes memory.
    pub(crate) store: bool,
    pub(crate) address: u64,
    /// Bytes in memory.
    pub(crate) width: usize,
    /// Bytes of the instruction.
    pub(crate) len: usize,
    register: usize,
    /// The register is bits 8 to 15 of its word: AH, CH, DH, BH.
    high_byte: bool,
    /// What is loaded fills the register with zeros, as `MOVZX` and every 32-bit operation do.
    extend: bool,
}

const REX: u8 = 0x40;
const REX_W: u8 = 8;
const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

/// Reads the instruction's bytes one after the other.
struct Bytes<'a> {
    code: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        self.at += 1;
        self.code.get(self.at - 1).copied()
    }

    /// A displacement of 0, 1 or 4 bytes, sign-extended.
    fn displacement(&mut self, len: usize) -> Option<u64> {
        let bytes = self.code.get(self.at..self.at + len)?;
        self.at += len;
        Some(match *bytes {
            [] => 0,
            [byte] => i64::from(byte.cast_signed()).cast_unsigned(),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])).cast_unsigned(),
            _ => return None,
        })
    }
}

impl Move {
    /// The move that `code` begins with, where `registers` are as they are.
    pub(crate) fn decode(code: &[u8], registers: &Registers) -> Option<Self> {
        let mut bytes = Bytes { code, at: 0 };
        let mut opcode = bytes.next()?;
        let half = opcode == 0x66;
        if half {
            opcode = bytes.next()?;
        }
        let rex = if opcode & 0xf0 == REX { opcode } else { 0 };
        if rex != 0 {
            opcode = bytes.next()?;
        }
        let full = match (rex & REX_W != 0, half) {
            (true, _) => 8,
            (_, true) => 2,
            _ => 4,
        };
        let (store, width, extend) = match opcode {
            0x88 => (true, 1, false),
            0x89 => (true, full, false),
            0x8a => (false, 1, false),
            0x8b => (false, full, full == 4),
            0x0f => match bytes.next()? {
                0xb6 => (false, 1, true),
                0xb7 => (false, 2, true),
                _ => return None,
            },
            _ => return None,
        };
        let modrm = bytes.next()?;
        let (register, address) = operands(modrm, rex, &mut bytes, registers)?;
        let high_byte = width == 1 && !extend && rex == 0 && register >= 4;
        Some(Self {
            store,
            address,
            width,
            len: bytes.at,
            register: if high_byte { register - 4 } else { register },
            high_byte,
            extend,
        })
    }

    /// What is stored.
    pub(crate) fn value(&self, registers: &Registers) -> [u8; 8] {
        let word = registers[self.register];
        let word = if self.high_byte { word >> 8 } else { word };
        (word & mask(self.width)).to_le_bytes()
    }

    /// Puts what was loaded into its register.
    pub(crate) fn load(&self, registers: &mut Registers, value: u64) {
        let value = value & mask(self.width);
        let word = &mut registers[self.register];
        *word = match (self.extend, self.high_byte) {
            (true, _) => value,
            (false, true) => *word & !0xff00 | value << 8,
            (false, false) => *word & !mask(self.width) | value,
        };
    }
}

fn mask(width: usize) -> u64 {
    u64::MAX >> (64 - 8 * width)
}

/// Register and address that a ModR/M byte names.
fn operands(
    modrm: u8,
    rex: u8,
    bytes: &mut Bytes<'_>,
    registers: &Registers,
) -> Option<(usize, u64)> {
    let number = |low: u8, bit: u8| usize::from(low & 7) + if rex & bit != 0 { 8 } else { 0 };
    let (mode, base) = (modrm >> 6, modrm & 7);
    // Relative to the instruction pointer, or to nothing: not how a pointer is followed.
    if mode == 3 || (mode == 0 && base == 5) {
        return None;
    }
    let mut address;
    if base == 4 {
        let sib = bytes.next()?;
        if mode == 0 && sib & 7 == 5 {
            return None;
        }
        address = registers[number(sib, REX_B)];
        let index = number(sib >> 3, REX_X);
        if index != 4 {
            address = address.wrapping_add(registers[index] << (sib >> 6));
        }
    } else {
        address = registers[number(base, REX_B)];
    }
    let displacement = bytes.displacement([0, 1, 4][usize::from(mode)])?;
    let register = number(modrm >> 3, REX_R);
    Some((register, address.wrapping_add(displacement)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTERS: Registers = [
        0x1122_3344_5566_7788,
        0x100,
        0xc2,
        3,
        0x400,
        5,
        0x600,
        0x700,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15,
    ];

    /// Direction, address, width, and what is stored or what the register is after all ones were loaded.
    fn told(code: &[u8]) -> Option<(bool, u64, usize, u64)> {
        let found = Move::decode(code, &REGISTERS)?;
        assert_eq!(found.len, code.len(), "{code:x?}");
        let value = if found.store {
            u64::from_le_bytes(found.value(&REGISTERS))
        } else {
            let mut registers = REGISTERS;
            found.load(&mut registers, u64::MAX);
            registers[found.register]
        };
        Some((found.store, found.address, found.width, value))
    }

    #[test]
    fn moves_are_read_as_the_assembler_writes_them() {
        let cases: [(&[u8], _); 12] = [
            // mov [rdi], ecx; mov [rdi+rdx], esi; mov [rdi+rdx*4-4], rax; mov [rsi+0x100], ax
            (&[0x89, 0x0f], (true, 0x700, 4, 0x100)),
            (&[0x89, 0x34, 0x17], (true, 0x7c2, 4, 0x600)),
            (
                &[0x48, 0x89, 0x44, 0x97, 0xfc],
                (true, 0xa04, 8, REGISTERS[0]),
            ),
            (&[0x66, 0x89, 0x86, 0, 1, 0, 0], (true, 0x700, 2, 0x7788)),
            // mov [rsp], al; mov [rdi], ah; mov [r9], r10b; mov [rdi], sil
            (&[0x88, 0x04, 0x24], (true, 0x400, 1, 0x88)),
            (&[0x88, 0x27], (true, 0x700, 1, 0x77)),
            (&[0x45, 0x88, 0x11], (true, 9, 1, 10)),
            (&[0x40, 0x88, 0x37], (true, 0x700, 1, 0)),
            // mov eax, [rsi]; mov al, [rsi]; movzx eax, byte [rsi]; movzx eax, word [rsi]
            (&[0x8b, 0x06], (false, 0x600, 4, 0xffff_ffff)),
            (&[0x8a, 0x06], (false, 0x600, 1, 0x1122_3344_5566_77ff)),
            (&[0x0f, 0xb6, 0x06], (false, 0x600, 1, 0xff)),
            (&[0x0f, 0xb7, 0x06], (false, 0x600, 2, 0xffff)),
        ];
        for (code, expected) in cases {
            assert_eq!(told(code), Some(expected), "{code:x?}");
        }
        // add [rdi], ecx; mov ecx, ecx; mov eax, [rip]; nothing.
        for other in [
            &[0x01, 0x0f][..],
            &[0x89, 0xc9],
            &[0x8b, 0x05, 0, 0, 0, 0],
            &[],
        ] {
            assert_eq!(told(other), None, "{other:x?}");
        }
    }
}
