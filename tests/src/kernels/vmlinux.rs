//! Takes `vmlinux` out of a bzImage, by the fields of the boot protocol's set-up header.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Linux `Documentation/arch/x86/boot.rst`: offsets in the set-up header.
mod header {
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
    pub(super) const END: usize = 0x250;
}

/// First protocol version that has the payload fields.
const PAYLOAD_FIELDS: u16 = 0x0208;

/// Compressions: name of the tool, first bytes, and whether the build appends the uncompressed
/// size behind the stream (gzip has it inside).
const COMPRESSIONS: &[(&str, &[u8], bool)] = &[
    ("lz4", &[0x02, 0x21, 0x4c, 0x18], true),
    ("xz", &[0xfd, b'7', b'z', b'X', b'Z'], true),
    ("zstd", &[0x28, 0xb5, 0x2f, 0xfd], true),
    ("gzip", &[0x1f, 0x8b], false),
];

pub(super) fn extract(bzimage: &Path) -> Result<Vec<u8>> {
    let image = fs::read(bzimage).with_context(|| format!("cannot read {}", bzimage.display()))?;
    let elf = payload(&image)
        .and_then(decompress)
        .with_context(|| format!("no vmlinux can be taken out of {}", bzimage.display()))?;
    ensure!(
        elf.starts_with(b"\x7fELF"),
        "{} holds no ELF file",
        bzimage.display()
    );
    Ok(elf)
}

fn payload(image: &[u8]) -> Result<&[u8]> {
    ensure!(
        image.len() > header::END,
        "it is too short for a kernel: {} bytes",
        image.len()
    );
    ensure!(
        &image[header::MAGIC..][..4] == b"HdrS",
        "it has no set-up header"
    );
    let version = u16::from_le_bytes([image[header::VERSION], image[header::VERSION + 1]]);
    ensure!(
        version >= PAYLOAD_FIELDS,
        "its boot protocol is too old: {version:#x}"
    );
    // Zero stands for four; the boot sector itself comes on top.
    let sectors = match image[header::SETUP_SECTS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + word(image, header::PAYLOAD_OFFSET)?;
    let length = word(image, header::PAYLOAD_LENGTH)?;
    image
        .get(start..)
        .and_then(|rest| rest.get(..length))
        .with_context(|| {
            format!(
                "its payload, {length} bytes at {start:#x}, is not inside its {} bytes",
                image.len()
            )
        })
}

fn word(image: &[u8], at: usize) -> Result<usize> {
    let bytes: [u8; 4] = image[at..at + 4].try_into()?;
    Ok(usize::try_from(u32::from_le_bytes(bytes))?)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let known = COMPRESSIONS
        .iter()
        .find(|(_, magic, _)| payload.starts_with(magic));
    let Some(&(tool, _, size_appended)) = known else {
        bail!(
            "its compression is unknown: the first bytes are {:02x?}",
            &payload[..8]
        );
    };
    let end = payload.len() - if size_appended { 4 } else { 0 };
    pipe(tool, &payload[..end])
}

fn pipe(tool: &str, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(tool)
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{tool}`; install the Debian package of it"))?;
    let mut stdin = child
        .stdin
        .take()
        .context("the child has no standard input")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        bail!(
            "`{tool} -d` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused_with_a_reason() {
        let error = |image: &[u8]| payload(image).unwrap_err().to_string();
        assert!(error(&[0; 16]).contains("too short"));
        assert!(error(&[0; 1024]).contains("no set-up header"));
    }

    #[test]
    fn the_payload_is_found_behind_the_setup_sectors() {
        let mut image = vec![0; 4096];
        image[header::SETUP_SECTS] = 1;
        image[header::MAGIC..][..4].copy_from_slice(b"HdrS");
        image[header::VERSION..][..2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[header::PAYLOAD_OFFSET..][..4].copy_from_slice(&16_u32.to_le_bytes());
        image[header::PAYLOAD_LENGTH..][..4].copy_from_slice(&3_u32.to_le_bytes());
        image[1040..1043].copy_from_slice(b"abc");
        assert_eq!(payload(&image).unwrap(), b"abc");
        image[header::PAYLOAD_LENGTH..][..4].copy_from_slice(&9999_u32.to_le_bytes());
        assert!(
            payload(&image)
                .unwrap_err()
                .to_string()
                .contains("not inside")
        );
    }
}
