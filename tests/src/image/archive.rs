//! A file tree, written as the `newc` archive that Linux unpacks at boot.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::NewcBuilder;
use cpio::newc::ModeFileType;

/// Where the bytes of a file come from.
#[derive(Clone, Debug)]
enum Content {
    Bytes(Vec<u8>),
    HostFile(PathBuf),
}

#[derive(Clone, Debug)]
enum Node {
    Directory,
    File { content: Content, mode: u32 },
    Symlink(String),
    CharDevice { major: u32, minor: u32 },
}

/// A file tree in the making. Folders appear as they are needed.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// An empty tree, apart from `/dev/console`, which the kernel opens for its first process.
    #[must_use]
    pub fn new() -> Self {
        let mut archive = Self::default();
        archive.add("dev/console", Node::CharDevice { major: 5, minor: 1 });
        archive
    }

    /// A file with these bytes. The mode holds permission bits only.
    pub fn bytes(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.add(
            path,
            Node::File {
                content: Content::Bytes(bytes.into()),
                mode,
            },
        );
    }

    /// A copy of a file of the host. It is read when the archive is written.
    pub fn host_file(&mut self, path: &str, mode: u32, source: impl Into<PathBuf>) {
        self.add(
            path,
            Node::File {
                content: Content::HostFile(source.into()),
                mode,
            },
        );
    }

    /// An empty folder.
    pub fn directory(&mut self, path: &str) {
        self.add(path, Node::Directory);
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, Node::Symlink(target.to_owned()));
    }

    /// Debian's static busybox with a link for every applet.
    ///
    /// # Errors
    /// There is no busybox that runs.
    pub fn busybox(&mut self) -> Result<()> {
        let busybox = Path::new("/bin/busybox");
        let list = crate::process::text(std::process::Command::new(busybox).arg("--list"))?;
        self.host_file("bin/busybox", 0o755, busybox);
        for applet in list.lines().filter(|&applet| applet != "busybox") {
            self.symlink(&format!("bin/{applet}"), "busybox");
        }
        Ok(())
    }

    fn add(&mut self, path: &str, node: Node) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..at].to_owned())
                .or_insert(Node::Directory);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// A file of the host cannot be read, or the archive cannot be written.
    pub fn write(&self, to: &mut dyn Write) -> Result<()> {
        let mut to = io::BufWriter::new(to);
        // A parent sorts before what is in it, and so it is made first.
        for (ino, (path, node)) in (1..).zip(&self.nodes) {
            let builder = NewcBuilder::new(path).ino(ino);
            write_node(&mut to, builder, node)
                .with_context(|| format!("cannot put /{path} into an initial RAM file system"))?;
        }
        cpio::newc::trailer(&mut to)?;
        to.flush()?;
        Ok(())
    }
}

fn write_node(to: &mut dyn Write, builder: NewcBuilder, node: &Node) -> Result<()> {
    let (builder, bytes) = match node {
        Node::Directory => (
            builder
                .mode(0o755)
                .nlink(2)
                .set_mode_file_type(ModeFileType::Directory),
            Vec::new(),
        ),
        Node::Symlink(target) => {
            let builder = builder
                .mode(0o777)
                .set_mode_file_type(ModeFileType::Symlink);
            (builder, target.clone().into_bytes())
        }
        Node::CharDevice { major, minor } => {
            let builder = builder.mode(0o600).rdev_major(*major).rdev_minor(*minor);
            (builder.set_mode_file_type(ModeFileType::Char), Vec::new())
        }
        Node::File { content, mode } => {
            let bytes = match content {
                Content::Bytes(bytes) => bytes.clone(),
                Content::HostFile(path) => {
                    fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
                }
            };
            (
                builder
                    .mode(*mode)
                    .set_mode_file_type(ModeFileType::Regular),
                bytes,
            )
        }
    };
    let length = u32::try_from(bytes.len()).context("it has 4 GiB or more")?;
    let mut entry = builder.write(to, length);
    entry.write_all(&bytes)?;
    entry.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.bytes("/a/b/init", 0o755, "hello");
        archive.symlink("a/link", "b/init");
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn parents_come_first_and_contents_survive() {
        let bytes = sample();
        let mut rest = bytes.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let name = reader.entry().name().to_owned();
            let mut content = String::new();
            io::Read::read_to_string(&mut reader, &mut content).unwrap();
            rest = reader.finish().unwrap();
            seen.push((name, content));
        }
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["a", "a/b", "a/b/init", "a/link", "dev", "dev/console"]
        );
        assert_eq!(seen[2].1, "hello");
        assert_eq!(seen[3].1, "b/init");
    }
}
