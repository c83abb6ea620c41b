//! Kernel images that are nearly right: a header as it should be, and any of its fields as it should not.

use arbitrary::{Arbitrary, Unstructured};

/// A number of a header: most are of a size that makes sense.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Number {
    Small(u8),
    Pages(u16),
    Word(u32),
    Any(u64),
    /// Just below or at the end of all numbers.
    Last(u8),
}

impl Number {
    pub(crate) fn value(self) -> u64 {
        match self {
            Self::Small(n) => n.into(),
            Self::Pages(n) => u64::from(n) * 4096,
            Self::Word(n) => n.into(),
            Self::Any(n) => n,
            Self::Last(n) => u64::MAX - u64::from(n),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any half will do")]
    fn half(self) -> u32 {
        self.value() as u32
    }
}

/// What is as it should be, seven times of eight: an image with many parts is to get past the first check now and then.
#[derive(Clone, Debug)]
pub(crate) struct Seldom<T>(Option<T>);

impl<'a, T: Arbitrary<'a>> Arbitrary<'a> for Seldom<T> {
    fn arbitrary(source: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let wrong = source.arbitrary::<u8>()? >= 224;
        let value = wrong.then(|| T::arbitrary(source)).transpose()?;
        Ok(Self(value))
    }
}

impl Seldom<Number> {
    fn value(&self, right: u64) -> u64 {
        self.0.map_or(right, Number::value)
    }

    fn half(&self, right: u32) -> u32 {
        self.0.map_or(right, Number::half)
    }
}

impl<T> Seldom<Vec<T>> {
    fn items(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Bytes of an image.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Image {
    Raw(Vec<u8>),
    Elf(Elf),
    BzImage(BzImage),
}

impl Image {
    /// An ELF kernel of which nothing is to be loaded.
    #[cfg(test)]
    pub(crate) fn without_a_part() -> Self {
        let nothing = Number::Small(0);
        let segment = Segment {
            kind: 0,
            offset: None,
            physical: nothing,
            high: false,
            in_file: nothing,
            in_memory: nothing,
        };
        Self::Elf(Elf {
            i386: false,
            first: Seldom(Some(segment)),
            others: Seldom(None),
            notes: Seldom(None),
            entry: Seldom(None),
            tail: Vec::new(),
            patches: Seldom(None),
            cut: Seldom(None),
        })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Raw(bytes) => bytes.clone(),
            Self::Elf(elf) => elf.bytes(),
            Self::BzImage(image) => image.bytes(),
        }
    }
}

/// Something written over the image in the end: where, and what.
type Patch = (u16, u8);

fn patched(mut bytes: Vec<u8>, patches: &Seldom<Vec<Patch>>, cut: &Seldom<u16>) -> Vec<u8> {
    for &(at, byte) in patches.items() {
        if let Some(place) = bytes.get_mut(usize::from(at)) {
            *place = byte;
        }
    }
    if let Some(cut) = cut.0 {
        bytes.truncate(cut.into());
    }
    bytes
}

/// A segment that names a part of the file.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Segment {
    kind: u8,
    /// Where in the file: in its tail, or anywhere.
    offset: Option<Number>,
    physical: Number,
    /// Loaded from here on if it is a number of pages.
    high: bool,
    in_file: Number,
    in_memory: Number,
}

/// Where a kernel is loaded to, if nothing else is said: 1 MiB.
const PLACE: u32 = 0x10_0000;

impl Segment {
    fn put(self, bytes: &mut Vec<u8>, tail_at: u64) {
        let kind = [1, 4, 1, 2, u32::from(self.kind)][usize::from(self.kind) % 5];
        let offset = self.offset.map_or(tail_at, Number::value);
        let base = if self.high { PLACE.into() } else { 0 };
        let physical = self.physical.value().wrapping_add(base);
        let sizes = (self.in_file.value(), self.in_memory.value());
        program(bytes, kind, offset, physical, sizes);
    }
}

/// An ELF image with a PVH note (Xen, `docs/misc/pvh.pandoc`; System V ABI, "Program Header").
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Elf {
    i386: bool,
    /// The segment that the kernel is in: all of the tail, at [`PLACE`].
    first: Seldom<Segment>,
    others: Seldom<Vec<Segment>>,
    /// Sizes of a note's name and description, and its type; none if they are right.
    notes: Seldom<Vec<Option<(Number, Number, u32)>>>,
    entry: Seldom<Number>,
    tail: Vec<u8>,
    patches: Seldom<Vec<Patch>>,
    cut: Seldom<u16>,
}

const HEADER: usize = 64;
const PROGRAM: usize = 56;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;
/// More are not worth their bytes.
const MOST: usize = 8;

impl Elf {
    fn bytes(&self) -> Vec<u8> {
        let others = self.others.items();
        let others = &others[..others.len().min(MOST)];
        let notes = self.note_bytes();
        let count = others.len() + 2;
        let tail_at = HEADER + count * PROGRAM;
        let mut bytes = self.header(count);
        let size = self.tail.len() as u64;
        match self.first.0 {
            None => program(
                &mut bytes,
                1,
                tail_at as u64,
                PLACE.into(),
                (size, size + 4096),
            ),
            Some(segment) => segment.put(&mut bytes, tail_at as u64),
        }
        for segment in others {
            segment.put(&mut bytes, tail_at as u64);
        }
        let notes_at = tail_at + self.tail.len();
        let size = notes.len() as u64;
        program(&mut bytes, 4, notes_at as u64, 0, (size, size));
        bytes.extend(&self.tail);
        bytes.extend(notes);
        patched(bytes, &self.patches, &self.cut)
    }

    fn header(&self, count: usize) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        let machine: u16 = if self.i386 { 3 } else { 62 };
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(machine.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(self.entry.value(PLACE.into()).to_le_bytes());
        bytes.extend((HEADER as u64).to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(64_u16.to_le_bytes());
        bytes.extend(56_u16.to_le_bytes());
        bytes.extend(u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend([0; 6]);
        bytes
    }

    fn note_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let one = [None];
        let notes = self.notes.0.as_deref().unwrap_or(&one);
        for note in notes.iter().take(MOST) {
            let right = (4, 4, PHYS32_ENTRY);
            let (name, description, kind) = note.map_or(right, |(name, description, kind)| {
                (name.half(), description.half(), kind)
            });
            for word in [name, description, kind] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(b"Xen\0");
            bytes.extend(self.entry.half(PLACE).to_le_bytes());
        }
        bytes
    }
}

fn program(bytes: &mut Vec<u8>, kind: u32, offset: u64, physical: u64, sizes: (u64, u64)) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend(7_u32.to_le_bytes());
    for word in [offset, physical, physical, sizes.0, sizes.1, 4096] {
        bytes.extend(word.to_le_bytes());
    }
}

/// A bzImage (Linux, Documentation/arch/x86/boot.rst).
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct BzImage {
    setup_sectors: u8,
    version: Seldom<u8>,
    syssize: Seldom<Number>,
    code32_start: Seldom<Number>,
    /// For the loader to fill in.
    ramdisk: Number,
    initrd_addr_max: Seldom<Number>,
    cmdline_size: Seldom<Number>,
    pref_address: Seldom<Number>,
    init_size: Seldom<Number>,
    payload: Vec<u8>,
    patches: Seldom<Vec<Patch>>,
    cut: Seldom<u16>,
}

impl BzImage {
    fn bytes(&self) -> Vec<u8> {
        let sectors = usize::from(self.setup_sectors % 8);
        let setup = (if sectors == 0 { 4 } else { sectors } + 1) * 512;
        let mut bytes = vec![0; setup.max(0x270)];
        let paragraphs = u32::try_from(self.payload.len() / 16).unwrap_or(u32::MAX);
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0x1f1, &[self.setup_sectors % 8]);
        put(0x1f4, &self.syssize.half(paragraphs).to_le_bytes());
        put(0x1fe, &[0x55, 0xaa]);
        put(0x202, b"HdrS");
        put(0x206, &[self.version.0.unwrap_or(0x0f), 2]);
        put(0x211, &[1]);
        put(0x214, &self.code32_start.half(PLACE).to_le_bytes());
        put(0x218, &self.ramdisk.half().to_le_bytes());
        put(0x21c, &self.ramdisk.half().to_le_bytes());
        put(0x22c, &self.initrd_addr_max.half(0x7fff_ffff).to_le_bytes());
        put(0x236, &[1, 0]);
        put(0x238, &self.cmdline_size.half(2047).to_le_bytes());
        put(0x258, &self.pref_address.value(PLACE.into()).to_le_bytes());
        put(0x260, &self.init_size.half(0x1000).to_le_bytes());
        bytes.extend(&self.payload);
        patched(bytes, &self.patches, &self.cut)
    }
}
