//! A change of vCPUs that may be about all of them.

use hotvisor_vmm::hotplug::client::Want;
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, SchemaType};
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// What `PUT /api/v1/vcpus` takes: so many, or exactly these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "Either")]
pub(crate) enum Change {
    /// So many, whichever.
    Desired(u32),
    /// Exactly these; vCPU 0 must be one of them.
    Online(BTreeSet<u32>),
}

impl From<Change> for Want {
    fn from(change: Change) -> Self {
        match change {
            Change::Desired(count) => Self::Count(count),
            Change::Online(set) => Self::Set(set),
        }
    }
}

/// Not derived, because what else may not stand there would be left out.
impl PartialSchema for Change {
    fn schema() -> RefOr<Schema> {
        let only = |name: &str, what: Schema| {
            ObjectBuilder::new()
                .property(name, what)
                .required(name)
                .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        let whole = || {
            ObjectBuilder::new()
                .schema_type(SchemaType::new(Type::Integer))
                .minimum(Some(0))
                .maximum(Some(u32::MAX))
        };
        let count = whole().description(Some("So many, whichever."));
        let ids = ArrayBuilder::new().items(whole()).unique_items(true);
        let ids = ids.description(Some("Exactly these; vCPU 0 must be one of them."));
        let either = OneOfBuilder::new()
            .item(only("desired", count.into()))
            .item(only("online", ids.into()))
            .description(Some("So many vCPUs, or exactly these."));
        either.into()
    }
}

impl ToSchema for Change {
    fn name() -> Cow<'static, str> {
        "VcpusChange".into()
    }
}

/// [`Change`] before it is known to be one of the two: a derived enum would call both of them, or neither, a
/// syntax error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Either {
    #[serde(default, deserialize_with = "there")]
    desired: Option<Whole>,
    #[serde(default, deserialize_with = "there")]
    online: Option<Vec<Whole>>,
}

/// A field that may be left out and must not be null.
fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl TryFrom<Either> for Change {
    type Error = Cow<'static, str>;

    fn try_from(either: Either) -> Result<Self, Self::Error> {
        match (either.desired, either.online) {
            (Some(Whole(count)), None) => Ok(Self::Desired(count)),
            (None, Some(ids)) => {
                let mut set = BTreeSet::new();
                match ids.into_iter().find(|Whole(id)| !set.insert(*id)) {
                    Some(Whole(id)) => Err(format!("vCPU {id} is there twice").into()),
                    None => Ok(Self::Online(set)),
                }
            }
            (None, None) => Err("neither `desired` nor `online`".into()),
            (Some(_), Some(_)) => Err("both `desired` and `online`".into()),
        }
    }
}

/// A whole number that is not negative. It says so itself, in words, when it is something else.
struct Whole(u32);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 0 to {}", u32::MAX)
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Whole, E> {
                u32::try_from(number)
                    .map(Whole)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            /// To JSON Schema, and to many who write JSON, 3.0 is a whole number.
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Whole, E> {
                let whole = number.to_string().parse();
                whole
                    .map(Whole)
                    .map_err(|_| E::invalid_value(Unexpected::Float(number), &self))
            }
        }
        deserializer.deserialize_u32(Digits)
    }
}
