//! The header of a packet (section 5.10.6, `struct virtio_vsock_hdr`).

/// The host's context id.
pub const HOST_CID: u64 = 2;
/// Bytes of a header.
pub const LEN: usize = 44;

/// What a packet is for (section 5.10.6, `op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// To open a connection.
    Request = 1,
    /// A connection is open.
    Response = 2,
    /// There is no such connection, or not any more.
    Reset = 3,
    /// The sender will not receive, or not send, any more.
    Shutdown = 4,
    /// Data.
    Data = 5,
    /// How much the sender has room for.
    CreditUpdate = 6,
    /// How much does the receiver have room for?
    CreditRequest = 7,
}

/// Flag of [`Op::Shutdown`]: the sender will not receive any more.
pub(super) const NO_RECEIVE: u32 = 1 << 0;
/// Flag of [`Op::Shutdown`]: the sender will not send any more.
pub(super) const NO_SEND: u32 = 1 << 1;

/// What kind of a socket it is about (section 5.10.6, `type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A stream.
    Stream,
    /// One that this device does not have.
    Other(u16),
}

const STREAM: u16 = 1;

/// A packet's header. An operation without a name is kept as its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Context id of the sender.
    pub src_cid: u64,
    /// Context id of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of data that follow.
    pub len: u32,
    /// Kind of the socket.
    pub kind: Kind,
    /// What it is for.
    pub op: Result<Op, u16>,
    /// Its flags.
    pub flags: u32,
    /// Bytes of all the room that the sender has on this connection.
    pub buf_alloc: u32,
    /// Bytes that have left that room so far, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Op {
    fn from_number(number: u16) -> Result<Self, u16> {
        Ok(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            other => return Err(other),
        })
    }
}

impl Header {
    /// Reads a header.
    #[must_use]
    pub fn read(bytes: &[u8; LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            src_cid: u64::from_le_bytes(fields.next()),
            dst_cid: u64::from_le_bytes(fields.next()),
            src_port: u32::from_le_bytes(fields.next()),
            dst_port: u32::from_le_bytes(fields.next()),
            len: u32::from_le_bytes(fields.next()),
            kind: match u16::from_le_bytes(fields.next()) {
                STREAM => Kind::Stream,
                other => Kind::Other(other),
            },
            op: Op::from_number(u16::from_le_bytes(fields.next())),
            flags: u32::from_le_bytes(fields.next()),
            buf_alloc: u32::from_le_bytes(fields.next()),
            fwd_cnt: u32::from_le_bytes(fields.next()),
        }
    }

    /// Writes it.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Stream => STREAM,
            Kind::Other(other) => other,
        };
        let op = self.op.map_or_else(|other| other, |op| op as u16);
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.src_port.to_le_bytes());
        bytes.extend(self.dst_port.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(op.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buf_alloc.to_le_bytes());
        bytes.extend(self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// The fields of a header, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes; a header has exactly those that are asked for.
    fn next<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}
