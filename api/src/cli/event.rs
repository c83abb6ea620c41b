//! Events of the stream, read and told.

use super::text;
use crate::client::sse::Frame;
use crate::wire::events::{GapEvent, MachineEvent, OperationEvent, PhaseEvent};
use crate::wire::operations::{Operation, State};
use serde::de::IgnoredAny;
use serde_json::Value;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Phase(PhaseEvent),
    Operation(OperationEvent),
    Machine(MachineEvent),
    Gap(GapEvent),
    /// Something that this version knows nothing of.
    Other,
}

impl Event {
    pub(super) fn of(frame: &Frame) -> Self {
        let data = &*frame.data;
        let read = match &*frame.kind {
            "phase" => serde_json::from_str(data).map(Self::Phase),
            "operation" => serde_json::from_str(data).map(Self::Operation),
            "machine" => serde_json::from_str(data).map(Self::Machine),
            "gap" => serde_json::from_str(data).map(Self::Gap),
            _ => Ok(Self::Other),
        };
        read.unwrap_or(Self::Other)
    }
}

/// The event as a line for people.
pub(super) fn line(frame: &Frame) -> String {
    let (at, what) = match Event::of(frame) {
        Event::Phase(phase) => (phase.at.clone(), changed(&phase)),
        Event::Operation(change) => (change.at.clone(), told(&change.operation)),
        Event::Machine(machine) => (machine.at, format!("the machine is {}", machine.state)),
        Event::Gap(gap) => (gap.at.clone(), lost(&gap)),
        Event::Other => (String::new(), format!("{}: {}", frame.kind, frame.data)),
    };
    let id = frame.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    format!("{:<15} {id:>5}  {what}\n", text::clock(&at))
}

/// The event as a line for programs, its data as it came.
pub(super) fn json_line(frame: &Frame) -> String {
    let Frame { id, kind, data } = frame;
    let id = id.map_or_else(|| "null".to_owned(), |id| id.to_string());
    let quoted = |text: &str| Value::from(text).to_string();
    let data = match serde_json::from_str::<IgnoredAny>(data) {
        Ok(_) => data.clone(),
        Err(_) => quoted(data),
    };
    format!(
        "{{\"id\":{id},\"event\":{},\"data\":{data}}}\n",
        quoted(kind)
    )
}

/// From where to where a vCPU went, and how long it was there.
pub(super) fn changed(event: &PhaseEvent) -> String {
    let PhaseEvent {
        vcpu,
        from,
        phase,
        us,
        operation,
        ..
    } = event;
    let spent = us.map_or_else(String::new, |us| format!(" after {}", text::time(us)));
    let of = operation.map_or_else(String::new, |id| format!(" (operation {id})"));
    format!("vCPU {vcpu}: {from} -> {phase}{spent}{of}")
}

fn told(operation: &Operation) -> String {
    let Operation {
        id, state, vcpus, ..
    } = operation;
    let what = text::purpose(operation);
    let ended = vcpus.iter().filter(|part| part.outcome.is_some()).count();
    let so_far = match state {
        State::Running if ended > 0 => format!(", {ended} of {} done", vcpus.len()),
        _ => String::new(),
    };
    let details = vcpus
        .iter()
        .filter_map(|part| Some((part.id, part.outcome.as_ref()?)));
    let details: String = match state {
        State::Running | State::Succeeded => String::new(),
        _ => details
            .map(|(id, outcome)| format!("; vCPU {id}: {}", outcome.detail))
            .collect(),
    };
    let state = text::state(*state);
    format!("operation {id} ({what}): {state}{so_far}{details}")
}

fn lost(GapEvent { first, last, .. }: &GapEvent) -> String {
    match last.saturating_sub(*first) {
        0 => format!("-- event {first} was lost --"),
        _ => format!("-- events {first} to {last} were lost --"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// The frame of an event.
    pub(crate) fn frame(id: u64, kind: &str, data: &Value) -> Frame {
        Frame {
            id: Some(id),
            kind: kind.into(),
            data: data.to_string(),
        }
    }

    /// vCPU 3 comes from one phase into another.
    pub(crate) fn phase(from: &str, phase: &str, us: Option<u64>) -> Frame {
        let data = json!({
            "at": "2026-11-25T11:00:00.123456Z", "vcpu": 3, "generation": 1, "target": "offline",
            "from": from, "phase": phase, "us": us, "operation": 7,
        });
        frame(12, "phase", &data)
    }

    /// Operation 7, about vCPU 3, in this state.
    pub(crate) fn operation(state: &str) -> Value {
        let running = state == "running";
        json!({
            "id": 7, "kind": "vcpu", "desired": null, "state": state,
            "vcpus": [{
                "id": 3, "from": "online", "to": "offline", "phase": "online",
                "outcome": if running { Value::Null } else {
                    json!({"code": state, "ost": [3, 130], "detail": "why; what to do"})
                },
            }],
            "created_at": "2026-11-25T11:00:00.000000Z",
            "ended_at": (!running).then_some("2026-11-25T11:00:00.5Z"),
        })
    }

    pub(crate) fn operation_frame(state: &str) -> Frame {
        let at = "2026-11-25T11:00:00.123456Z";
        frame(
            13,
            "operation",
            &json!({"at": at, "operation": operation(state)}),
        )
    }

    #[test]
    fn every_kind_has_its_line() {
        let at = "2026-11-25T11:00:00.123456Z";
        let frames = [
            phase("online", "draining", None),
            phase("draining", "notifying", Some(1234)),
            operation_frame("running"),
            operation_frame("succeeded"),
            operation_frame("refused"),
            frame(14, "machine", &json!({"at": at, "state": "paused"})),
            frame(57, "gap", &json!({"at": at, "first": 12, "last": 57})),
            frame(58, "gap", &json!({"at": at, "first": 58, "last": 58})),
            frame(123_456, "new", &json!({"x": 1})),
            Frame {
                id: None,
                kind: "phase".into(),
                data: "no JSON".into(),
            },
        ];
        let lines: String = frames.iter().map(line).collect();
        assert_eq!(
            lines,
            "\
11:00:00.123456    12  vCPU 3: online -> draining (operation 7)
11:00:00.123456    12  vCPU 3: draining -> notifying after 1.2 ms (operation 7)
11:00:00.123456    13  operation 7 (vCPU 3 offline): running
11:00:00.123456    13  operation 7 (vCPU 3 offline): succeeded
11:00:00.123456    13  operation 7 (vCPU 3 offline): refused; vCPU 3: why; what to do
11:00:00.123456    14  the machine is paused
11:00:00.123456    57  -- events 12 to 57 were lost --
11:00:00.123456    58  -- event 58 was lost --
                123456  new: {\"x\":1}
                    -  phase: no JSON
"
        );
    }

    #[test]
    fn a_line_of_json_has_everything() {
        let line = json_line(&frame(12, "gap", &json!({"first": 1})));
        assert_eq!(
            line,
            "{\"id\":12,\"event\":\"gap\",\"data\":{\"first\":1}}\n"
        );
        let strange = Frame {
            id: None,
            kind: "a\"b".into(),
            data: "no\nJSON".into(),
        };
        let value: Value = serde_json::from_str(&json_line(&strange)).unwrap();
        let expected = json!({"id": null, "event": "a\"b", "data": "no\nJSON"});
        assert_eq!(value, expected);
    }
}
