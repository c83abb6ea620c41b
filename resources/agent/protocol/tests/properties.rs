//! What must hold whatever bytes come.

#![cfg(test)]

use hotvisor_protocol::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn cpu() -> impl Strategy<Value = ApicId> {
    (0..MAX_CPUS).prop_map(|id| ApicId::try_from(id).unwrap())
}

fn text<const MAX: usize>() -> impl Strategy<Value = Text<MAX>> {
    any::<String>().prop_map(|text| Text::new(&text))
}

fn cpus() -> impl Strategy<Value = List<ApicId, { MAX_CPUS as usize }>> {
    vec(cpu(), 0..20).prop_map(List::new)
}

fn blockers() -> impl Strategy<Value = Blockers> {
    let task = (any::<u32>(), any::<u32>(), text(), text(), 0..100u8, text());
    let task = task.prop_map(|(tid, pid, comm, policy, priority, cpus)| {
        BlockedTask {
            tid,
            pid,
            comm,
            policy,
            priority,
            cpus,
        }
        .into()
    });
    let irq = (any::<u32>(), text()).prop_map(|(irq, name)| BlockedIrq { irq, name }.into());
    let cpuset = text().prop_map(|path| BlockedCpuset { path }.into());
    let isolated = any::<bool>().prop_map(|others_too| Isolated { others_too }.into());
    let nohz_full = any::<bool>().prop_map(|others_too| NohzFull { others_too }.into());
    let deadline = (any::<u32>(), any::<u64>(), any::<u64>());
    let deadline = deadline.prop_map(|(tasks, promised_ppm, room_ppm)| {
        DeadlineBandwidth {
            tasks,
            promised_ppm,
            room_ppm,
        }
        .into()
    });
    vec(
        prop_oneof![task, irq, cpuset, isolated, nohz_full, deadline],
        0..5,
    )
    .prop_map(Blockers::new)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![Just(Event::Enter), Just(Event::Exit), Just(Event::Rollback)]
}

fn about_operations() -> impl Strategy<Value = FromGuest> {
    let id = any::<u64>;
    let moved =
        any::<[u32; 7]>().prop_map(|[tasks, irqs, workqueues, queues, cpusets, failed, left]| {
            Moved {
                tasks,
                irqs,
                workqueues,
                queues,
                cpusets,
                failed,
                left,
            }
        });
    let drained = (id(), cpu(), moved, blockers());
    let refused = (id(), cpu(), blockers());
    let answer = (id(), cpu(), blockers(), option::of(text()));
    let phase = (cpu(), id(), any::<u16>(), text(), event(), any::<i32>());
    let restored = (id(), any::<u32>(), any::<u32>());
    prop_oneof![
        drained.prop_map(|(operation, cpu, moved, blockers)| {
            Drained {
                operation,
                cpu,
                moved,
                blockers,
            }
            .into()
        }),
        refused.prop_map(|(operation, cpu, blockers)| Refused {
            operation,
            cpu,
            blockers
        }
        .into()),
        answer.prop_map(|(id, cpu, blockers, problem)| Answer {
            id,
            cpu,
            blockers,
            problem
        }
        .into()),
        phase.prop_map(|(cpu, event_ns, step, name, event, ret)| {
            Phase {
                cpu,
                event_ns,
                step,
                name,
                event,
                ret,
            }
            .into()
        }),
        restored.prop_map(|(operation, restored, kept)| Restored {
            operation,
            restored,
            kept
        }
        .into()),
    ]
}

fn about_the_guest() -> impl Strategy<Value = FromGuest> {
    let features = vec(text(), 0..4).prop_map(List::new);
    let hello = (any::<u16>(), text(), text(), features, text());
    let number = (0..MAX_CPUS).prop_map(|number| CpuNumber::try_from(number).unwrap());
    let not = (number, option::of(cpu()), text());
    let not = not.prop_map(|(number, cpu, text)| NotOnline { number, cpu, text });
    let online = (cpus(), cpus(), vec(not, 0..3).prop_map(List::new));
    let busy = (cpu(), any::<u16>()).prop_map(|(cpu, permille)| Busy { cpu, permille });
    let busy = vec(busy, 0..9).prop_map(List::new);
    let psi = (option::of(any::<u16>()), option::of(any::<u64>()));
    let pressure = (any::<u32>(), psi, any::<u16>(), busy);
    prop_oneof![
        hello.prop_map(|(version, agent, kernel, features, boot_id)| {
            Hello {
                version,
                agent,
                kernel,
                features,
                boot_id,
            }
            .into()
        }),
        online.prop_map(|(cpus, by_agent, failed)| Online {
            cpus,
            by_agent,
            failed
        }
        .into()),
        pressure.prop_map(
            |(running, (some_avg10, some_total_us), steal_permille, busy)| {
                Pressure {
                    running,
                    some_avg10,
                    some_total_us,
                    steal_permille,
                    busy,
                }
                .into()
            }
        ),
        any::<u64>().prop_map(|id| Pong { id }.into()),
        text().prop_map(|text| Problem { text }.into()),
    ]
}

fn from_guest() -> impl Strategy<Value = Stamped> {
    let message = prop_oneof![about_operations(), about_the_guest()];
    (any::<u64>(), message).prop_map(|(at_ns, message)| Stamped { at_ns, message })
}

fn from_host() -> impl Strategy<Value = FromHost> {
    let kind = prop_oneof![Just(Kind::Plug), Just(Kind::Unplug)];
    let pinned = prop_oneof![
        Just(Pinned::Break),
        Just(Pinned::Refuse),
        any::<u32>().prop_map(|ms| Pinned::Wait { ms }),
    ];
    let outcome = prop_oneof![Just(Outcome::Done), Just(Outcome::Undone)];
    let begin = (
        any::<u64>(),
        kind,
        cpus(),
        any::<bool>(),
        pinned,
        any::<bool>(),
        any::<u32>(),
    );
    prop_oneof![
        (any::<u16>(), any::<u32>(), any::<bool>()).prop_map(|(version, pressure_ms, expedite)| {
            Welcome {
                version,
                pressure_ms,
                expedite,
            }
            .into()
        }),
        begin.prop_map(
            |(operation, kind, cpus, drain, pinned, expedite, deadline_ms)| {
                Begin {
                    operation,
                    kind,
                    cpus,
                    drain,
                    pinned,
                    expedite,
                    deadline_ms,
                }
                .into()
            }
        ),
        (any::<u64>(), outcome).prop_map(|(operation, outcome)| End { operation, outcome }.into()),
        (any::<u64>(), cpu()).prop_map(|(id, cpu)| Ask { id, cpu }.into()),
        any::<u64>().prop_map(|id| Ping { id }.into()),
    ]
}

/// Bytes as a peer could send them: lines that are right, lines that are nearly right, long ones, and anything.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let right = from_guest().prop_map(|message| {
        let mut line = Vec::new();
        encode(&message, &mut line).unwrap();
        line
    });
    let right = right.boxed();
    let broken = (right.clone(), any::<prop::sample::Index>(), any::<u8>());
    let broken = broken.prop_map(|(mut line, at, byte)| {
        let at = at.index(line.len());
        line[at] = byte;
        line
    });
    let long = (LINE_MAX - 2..LINE_MAX + 3, any::<u8>(), any::<bool>());
    let long = long.prop_map(|(length, byte, ends)| {
        let mut line = vec![byte; length];
        line.extend(ends.then_some(b'\n'));
        line
    });
    let any = vec(any::<u8>(), 0..200);
    vec(
        prop_oneof![5 => right, 5 => broken, 1 => long, 3 => any],
        0..6,
    )
    .prop_map(|parts| parts.concat())
}

/// What a decoder makes of bytes that come in pieces, each as long as it is said there, over and over.
fn decode<L: Line>(bytes: &[u8], pieces: &[usize]) -> Vec<Result<L, Fault>> {
    let mut decoder = Decoder::new();
    let (mut all, mut rest) = (Vec::new(), bytes);
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() {
        let length = pieces
            .next()
            .map_or(rest.len(), |piece| (*piece).min(rest.len()));
        let (piece, others) = rest.split_at(length);
        all.extend(decoder.push(piece));
        assert!(
            decoder.kept() <= LINE_MAX,
            "{} bytes are kept",
            decoder.kept()
        );
        rest = others;
    }
    all
}

proptest! {
    #[test]
    fn any_bytes_mean_the_same_in_any_pieces(bytes in bytes(), pieces in vec(1..5000usize, 1..8)) {
        let whole = decode::<Stamped>(&bytes, &[]);
        prop_assert_eq!(&whole, &decode::<Stamped>(&bytes, &pieces));
        prop_assert_eq!(whole, decode::<Stamped>(&bytes, &[1]));
        decode::<FromHost>(&bytes, &pieces);
    }

    #[test]
    fn what_the_guest_says_arrives(messages in vec(from_guest(), 0..4), piece in 1..300usize) {
        let mut bytes = Vec::new();
        for message in &messages {
            encode(message, &mut bytes).unwrap();
        }
        let arrived: Result<Vec<Stamped>, Fault> = decode(&bytes, &[piece]).into_iter().collect();
        prop_assert_eq!(arrived.unwrap(), messages);
    }

    #[test]
    fn what_the_host_says_arrives(messages in vec(from_host(), 0..4), piece in 1..300usize) {
        let mut bytes = Vec::new();
        for message in &messages {
            encode(message, &mut bytes).unwrap();
        }
        let arrived: Result<Vec<FromHost>, Fault> = decode(&bytes, &[piece]).into_iter().collect();
        prop_assert_eq!(arrived.unwrap(), messages);
    }
}
