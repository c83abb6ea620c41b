//! What the kernel tells of CPUs that come and go (`lib/kobject_uevent.c`, `Documentation/ABI/testing/sysfs-uevent`).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};

/// The group of the kernel's own messages; udev's are in another one.
const KERNEL: u32 = 1;

/// Most bytes of a message (`UEVENT_BUFFER_SIZE` and its head).
const LONGEST: usize = 4096;

/// What has happened to a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It is there, and offline.
    Added,
    /// It is gone.
    Removed,
    /// It runs.
    Online,
    /// It does not run any more.
    Offline,
    /// The kernel had more to tell than there was room for.
    Missed,
}

/// What the kernel says of one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uevent {
    /// Linux's number of it; 0 for [`Happened::Missed`].
    pub cpu: u32,
    /// What.
    pub happened: Happened,
}

/// Reads a message; `None` where it is not of a CPU, or was made by hand.
#[must_use]
pub fn parse(message: &[u8]) -> Option<Uevent> {
    let message = std::str::from_utf8(message).ok()?;
    let mut parts = message.split('\0');
    let (action, path) = parts.next()?.split_once('@')?;
    let cpu = path.strip_prefix("/devices/system/cpu/cpu")?.parse().ok()?;
    // `udevadm trigger`, and udev when it starts, have the kernel say `add` of what has been there all along. A CPU that an
    // administrator has taken offline would come up again.
    if parts.any(|part| part.starts_with("SYNTH_UUID=")) {
        return None;
    }
    let happened = match action {
        "add" => Happened::Added,
        "remove" => Happened::Removed,
        "online" => Happened::Online,
        "offline" => Happened::Offline,
        _ => return None,
    };
    Some(Uevent { cpu, happened })
}

/// Where the kernel tells it.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Begins to listen.
    ///
    /// # Errors
    /// Those of netlink(7).
    pub fn open() -> nix::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// The next of what has happened; `None` where that is all for now.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn next(&self) -> nix::Result<Option<Uevent>> {
        let mut buffer = [0; LONGEST];
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                // Only the kernel sends from address 0.
                Ok((length, Some(from))) if from.pid() == 0 => {
                    if let Some(event) = parse(&buffer[..length]) {
                        return Ok(Some(event));
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::ENOBUFS) => {
                    let happened = Happened::Missed;
                    return Ok(Some(Uevent { cpu: 0, happened }));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: &str = "add@/devices/system/cpu/cpu12\0ACTION=add\0DEVPATH=/devices/system/cpu/cpu12\0\
                       SUBSYSTEM=cpu\0MODALIAS=cpu:type:x86\0SEQNUM=1600\0";

    #[test]
    fn what_happens_to_cpus_is_heard() {
        let added = Uevent {
            cpu: 12,
            happened: Happened::Added,
        };
        assert_eq!(parse(ADD.as_bytes()), Some(added));
        let offline = ADD.replacen("add@", "offline@", 1);
        assert_eq!(
            parse(offline.as_bytes()).unwrap().happened,
            Happened::Offline
        );
    }

    #[test]
    fn what_is_made_by_hand_or_is_no_cpu_is_not() {
        assert_eq!(parse(format!("{ADD}SYNTH_UUID=0\0").as_bytes()), None);
        assert_eq!(parse(b"add@/devices/system/cpu/cpuidle\0"), None);
        assert_eq!(parse(b"add@/devices/system/memory/memory3\0"), None);
        assert_eq!(parse(b"change@/devices/system/cpu/cpu3\0"), None);
        assert_eq!(parse(b"\xff\0"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn there_is_nothing_to_hear_at_first() {
        let uevents = Uevents::open().unwrap();
        assert!(!matches!(
            uevents.next(),
            Ok(Some(Uevent {
                happened: Happened::Missed,
                ..
            })) | Err(_)
        ));
    }
}
