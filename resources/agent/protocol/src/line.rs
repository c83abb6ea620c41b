//! One message a line.

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serializer};
use std::fmt;

use crate::LINE_MAX;
use crate::guest::{FromGuest, Stamped};
use crate::host::FromHost;

/// A message that does not fit into a line: its bounds should have kept it from that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{message}` has {length} bytes, and a line has {LINE_MAX} at most: say less")]
pub struct TooLong {
    /// The message's name.
    pub message: &'static str,
    /// Bytes of its line.
    pub length: usize,
}

/// A choice among named things, each with fields of its own: an object whose key is the name.
///
/// This could be derived, were it not for names of later versions, which are to be skipped: of the forms that serde knows,
/// those that can do this build all of an unknown value in memory first.
pub(crate) trait Named: Sized {
    /// What this is.
    fn name(&self) -> &'static str;
    /// Reads a value if its key is a name that is known here, and skips it otherwise.
    fn read<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Option<Self>, A::Error>;
    /// Writes key and value.
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;
}

/// Defines a choice, each of whose variants has the type of its own name.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $key:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant($variant),)* }

        impl crate::line::Named for $name {
            fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $key,)* }
            }

            fn read<'de, A: serde::de::MapAccess<'de>>(
                key: &str,
                map: &mut A,
            ) -> Result<Option<Self>, A::Error> {
                match key {
                    $($key => map.next_value().map(|value| Some(Self::$variant(value))),)*
                    _ => map.next_value::<serde::de::IgnoredAny>().map(|_| None),
                }
            }

            fn write<M: serde::ser::SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
                match self { $(Self::$variant(value) => map.serialize_entry($key, value),)* }
            }
        }

        impl $name {
            /// The names that it can have on the wire.
            pub const NAMES: &[&str] = &[$($key),*];

            /// Its name on the wire.
            #[must_use]
            pub fn name(&self) -> &'static str {
                crate::line::Named::name(self)
            }
        }

        $(impl From<$variant> for $name {
            fn from(value: $variant) -> Self {
                Self::$variant(value)
            }
        })*
    };
}
pub(crate) use named;

/// The key of the time at which a message of the guest was sent.
const AT_NS: &str = "at_ns";

/// Reads an object: its time, if there is one, and what it names, if that is known here.
pub(crate) struct Object<N>(pub(crate) std::marker::PhantomData<N>);

impl<'de, N: Named> Visitor<'de> for Object<N> {
    type Value = (Option<u64>, Option<N>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut at_ns, mut found) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            if key == AT_NS {
                at_ns = Some(map.next_value()?);
            } else if let Some(this) = N::read(&key, &mut map)?
                && let Some(other) = found.replace(this)
            {
                let name = other.name();
                return Err(A::Error::custom(format_args!(
                    "`{name}` and another one in one object"
                )));
            }
        }
        Ok((at_ns, found))
    }
}

/// What a line can be: [`Stamped`], which the guest sends, or [`FromHost`].
pub trait Line: Sized {
    /// Reads a line without its end; `None` where its message is not known to this version.
    ///
    /// # Errors
    /// What is wrong with it.
    fn decode(line: &[u8]) -> Result<Option<Self>, serde_json::Error>;

    /// Writes it without the line's end.
    ///
    /// # Errors
    /// Those of the writer.
    fn write<W: std::io::Write>(&self, writer: W) -> Result<(), serde_json::Error>;

    /// The message's name on the wire.
    fn name(&self) -> &'static str;
}

fn read<N: Named>(line: &[u8]) -> Result<(Option<u64>, Option<N>), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let found = deserializer.deserialize_map(Object(std::marker::PhantomData))?;
    deserializer.end()?;
    Ok(found)
}

impl Line for FromHost {
    fn decode(line: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        Ok(read(line)?.1)
    }

    fn write<W: std::io::Write>(&self, writer: W) -> Result<(), serde_json::Error> {
        let mut serializer = serde_json::Serializer::new(writer);
        let mut map = serializer.serialize_map(Some(1))?;
        Named::write(self, &mut map)?;
        map.end()
    }

    fn name(&self) -> &'static str {
        Named::name(self)
    }
}

impl Line for Stamped {
    fn decode(line: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let (at_ns, message) = read::<FromGuest>(line)?;
        let Some(message) = message else {
            return Ok(None);
        };
        let missing = || serde_json::Error::custom("`at_ns` is missing: when was this sent?");
        let at_ns = at_ns.ok_or_else(missing)?;
        Ok(Some(Self { at_ns, message }))
    }

    fn write<W: std::io::Write>(&self, writer: W) -> Result<(), serde_json::Error> {
        let mut serializer = serde_json::Serializer::new(writer);
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(AT_NS, &self.at_ns)?;
        Named::write(&self.message, &mut map)?;
        map.end()
    }

    fn name(&self) -> &'static str {
        Named::name(&self.message)
    }
}

/// Appends a message and the end of its line to `out`.
///
/// # Errors
/// [`TooLong`], and then `out` is as it was.
pub fn encode<L: Line>(message: &L, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let before = out.len();
    // A vector takes everything, and no message has a key that is no text.
    let written = message.write(&mut *out);
    let length = out.len() - before;
    if written.is_err() || length > LINE_MAX {
        out.truncate(before);
        return Err(TooLong {
            message: message.name(),
            length,
        });
    }
    out.push(b'\n');
    Ok(())
}

/// An object of which only what is named counts, as a part of a message.
pub(crate) fn read_part<'de, N: Named, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<N>, D::Error> {
    Ok(deserializer
        .deserialize_map(Object::<N>(std::marker::PhantomData))?
        .1)
}

/// The other direction of [`read_part`].
pub(crate) fn write_part<N: Named, S: Serializer>(
    part: &N,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    part.write(&mut map)?;
    map.end()
}
