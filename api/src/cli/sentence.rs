//! What became of it, in a sentence for each vCPU. What is said about the reason is the API's own; only the
//! specification's name of the guest's status is added.

use super::text;
use crate::wire::operations::{Code, Kind, Operation, Outcome, Part};
use crate::wire::vcpus::Target;

/// Source events that are about an ejection: asked for by the host, begun by the guest.
const EJECTION: [u32; 2] = [3, 0x103];

/// What a status is called that says no (ACPI 6.3, section 6.3.5).
fn name([source, status]: [u32; 2]) -> Option<&'static str> {
    let ejection = EJECTION.contains(&source);
    Some(match status {
        0x01 => "non-specific failure",
        0x02 => "unrecognized notify code",
        0x80 if ejection => "ejection not supported",
        0x81 if ejection => "device in use by application",
        0x82 if ejection => "device busy",
        0x83 if ejection => "ejection dependency is busy",
        0x81 => "driver load failure",
        0x82 => "insertion not supported",
        _ => return None,
    })
}

/// A vCPU's part of an ended operation. `us` is how long its plug or unplug took, where that is known.
pub(super) fn part(part: &Part, outcome: &Outcome, us: Option<u64>) -> String {
    let Part { id, phase, to, .. } = part;
    let Outcome { code, ost, detail } = outcome;
    let to_be = text::target(*to);
    let said = match ost {
        Some([source, status]) => format!(" (_OST {source:#x}, {status:#x})"),
        None => String::new(),
    };
    match code {
        Code::Succeeded => {
            let after = us.map_or_else(String::new, |us| format!(" after {}", text::time(us)));
            format!("vCPU {id} is {to_be}{after}: {detail}")
        }
        Code::Refused => {
            let stands = match to {
                Target::Offline => "stays",
                Target::Online => "does not come",
            };
            match ost.and_then(|ost| Some((name(ost)?, ost[1]))) {
                Some((name, status)) => {
                    format!("vCPU {id} {stands}: the guest refused: {name} ({status:#x}); {detail}")
                }
                None => format!("vCPU {id} {stands}: {detail}{said}"),
            }
        }
        Code::TimedOut => {
            format!("vCPU {id} is not {to_be} in time (now {phase}): {detail}{said}")
        }
        Code::Cancelled => format!("vCPU {id} is {phase}, cancelled: {detail}"),
        Code::Superseded => format!("vCPU {id} is {phase}, superseded: {detail}"),
        Code::Failed => format!("vCPU {id} is not {to_be} (now {phase}): {detail}{said}"),
    }
}

/// An operation that has changed nothing, because all was as it wants it. `asked` is which vCPU it was asked for.
pub(super) fn unchanged(operation: &Operation, asked: Option<(u32, Target)>) -> String {
    match (operation.kind, asked, operation.desired) {
        (Kind::Vcpu, Some((id, target)), _) => {
            format!("vCPU {id} is {} already", text::target(target))
        }
        (_, _, Some(1)) => "the VM has 1 vCPU already".to_owned(),
        (_, _, Some(desired)) => format!("the VM has {desired} vCPUs already"),
        _ => format!("operation {} had nothing to change", operation.id),
    }
}

/// An operation that goes on without anybody who waits here.
pub(super) fn goes_on(operation: &Operation) -> String {
    let id = operation.id;
    let what = text::purpose(operation);
    format!(
        "operation {id} ({what}) goes on: `hotvisor wait {id}` follows it, `hotvisor cancel {id}` takes it back"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(to: Target, phase: &str, code: Code, ost: Option<[u32; 2]>, detail: &str) -> String {
        let outcome = Outcome {
            code,
            ost,
            detail: detail.into(),
        };
        let changed = Part {
            id: 3,
            from: "online".into(),
            to,
            phase: phase.to_owned().into(),
            outcome: None,
        };
        part(&changed, &outcome, Some(17_349))
    }

    #[test]
    fn good_news_has_its_time() {
        let parked = said(
            Target::Offline,
            "dormant",
            Code::Succeeded,
            Some([3, 0]),
            "it let go",
        );
        assert_eq!(parked, "vCPU 3 is offline after 17.3 ms: it let go");
        let started = said(Target::Online, "online", Code::Succeeded, None, "started");
        assert_eq!(started, "vCPU 3 is online after 17.3 ms: started");
    }

    #[test]
    fn a_refusal_has_the_guests_code() {
        let stays = |ost, detail| said(Target::Offline, "online", Code::Refused, ost, detail);
        for (said, expected) in [
            (
                stays(Some([3, 0x82]), "it could not; do this"),
                "vCPU 3 stays: the guest refused: device busy (0x82); it could not; do this",
            ),
            (
                stays(Some([3, 0]), "it has not ejected it"),
                "vCPU 3 stays: it has not ejected it (_OST 0x3, 0x0)",
            ),
            (
                stays(None, "disk refused: busy"),
                "vCPU 3 stays: disk refused: busy",
            ),
            (
                said(
                    Target::Online,
                    "syncing",
                    Code::Refused,
                    Some([1, 0x81]),
                    "undone",
                ),
                "vCPU 3 does not come: the guest refused: driver load failure (0x81); undone",
            ),
        ] {
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn other_news_says_where_the_vcpu_is() {
        use Target::{Offline, Online};
        for (said, expected) in [
            (
                said(
                    Offline,
                    "overdue",
                    Code::TimedOut,
                    Some([3, 0x84]),
                    "it is stuck",
                ),
                "vCPU 3 is not offline in time (now overdue): it is stuck (_OST 0x3, 0x84)",
            ),
            (
                said(Online, "plugged", Code::TimedOut, None, "nobody starts it"),
                "vCPU 3 is not online in time (now plugged): nobody starts it",
            ),
            (
                said(Offline, "online", Code::Cancelled, None, "taken back"),
                "vCPU 3 is online, cancelled: taken back",
            ),
            (
                said(
                    Offline,
                    "notifying",
                    Code::Superseded,
                    None,
                    "9 wants it online",
                ),
                "vCPU 3 is notifying, superseded: 9 wants it online",
            ),
            (
                said(Online, "dormant", Code::Failed, None, "no memory"),
                "vCPU 3 is not online (now dormant): no memory",
            ),
        ] {
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn statuses_that_say_yes_or_not_yet_have_no_name_here() {
        for ost in [[3, 0], [3, 0x84], [1, 0], [1, 0x80], [3, 0x99]] {
            assert_eq!(name(ost), None, "{ost:?}");
        }
    }
}
