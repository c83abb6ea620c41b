//! Hotplug: taking vCPUs away from a running guest and giving them back.
//!
//! The order is that of Linux's own CPU hotplug since it learnt to avoid its deadlocks: send elsewhere who can
//! go elsewhere, notify, and *only then* keep users out and wait for those inside ([`gate`]); take the vCPU
//! down; clean up; keep what is cheap to keep. A vCPU's way through it is [`phase`], the steps and what undoes
//! them are in `step`, and the [`coordinator`] carries them out.
//!
//! # For another VMM
//!
//! Gate and coordinator know no hypervisor and no firmware interface. What is under them is a [`machinery::Machinery`], what a
//! guest does is said in the words of [`guest`], and
//! `examples/fake_backend.rs` is the smallest there is: threads that count, and a guest of ten lines. It runs as a test.
//!
//! **One thread owns the coordinator.** It alone calls it and the machinery, and no call waits. Everybody else posts it
//! [`machinery::Message`]s, those about one vCPU in the order in which it happened. One turn of it is:
//!
//! 1. [`message`](coordinator::Coordinator::message) for each message, [`change`](coordinator::Coordinator::change) and
//!    [`cancel`](coordinator::Coordinator::cancel) for requests, [`tick`](coordinator::Coordinator::tick) when
//!    [`next_tick`](coordinator::Coordinator::next_tick) is due;
//! 2. one notification of the guest for all that the machinery was told to tell it;
//! 3. [`take_view`](coordinator::Coordinator::take_view), to be published, before
//!    [`take_news`](coordinator::Coordinator::take_news) and the answers to requests: they are about what the view shows.
//!
//! **What is called is answered**, at any later time, by these:
//!
//! | call | answer |
//! |---|---|
//! | `start(vcpu, run)` that returns `Ok` | `Ready(vcpu, run)` or `NotReady(vcpu, run, why)`, once |
//! | `park(vcpu)` | `Parked(vcpu, run)` with the run that was started last, also where nothing runs; from then on nothing runs it |
//! | `insert(vcpu)`, which returns a number | [`guest::Notice`]s with that number, for all that the guest does about it: it reads, it says something, it ejects |
//! | `request_eject(vcpu)`, which returns a number | the same, and `EjectRead` with this number; `kept` with the last one, when the guest has answered all that it has read; `Ejected` is posted when the guest has no way to the vCPU any more, and not before |
//! | a gate that was closed with users inside | `GateEmpty(vcpu, closing)`, which the coordinator has each gate post itself |
//! | a [`notifier::Notifier`]'s `prepare` | its [`notifier::Done`] |
//!
//! `Started(vcpu, run)` comes without being asked for, when the guest has the vCPU run. The numbers tell late answers
//! apart: one about an earlier run, insertion, request, closing or attempt has no effect.
//!
//! **Three calls decide a race with the guest**, and so under the lock that its accesses take: `withdraw_insert` and
//! `withdraw_eject` take a request back only if the guest has not noticed it, and then it never will; `discard` a vCPU only if
//! its no was the answer to the last announcement. Everything that can be undone rests on that.
//!
//! **A machine's life** is [`describe`](coordinator::Coordinator::describe), which says how many vCPUs there can be;
//! [`wanted`](coordinator::Coordinator::wanted), the ones to start it with, and
//! [`restarted`](coordinator::Coordinator::restarted) once it has them, again after each reset of the guest, before which
//! [`retire`](coordinator::Coordinator::retire) says for whom the machine has to wait;
//! [`pause`](coordinator::Coordinator::pause) and [`resume`](coordinator::Coordinator::resume), between which no time passes
//! for anybody; [`stopped`](coordinator::Coordinator::stopped); [`ended`](coordinator::Coordinator::ended).
//!
//! **Whoever uses a vCPU from outside** does so inside its gate, which the view has for each; whoever has to let go of
//! something first is a [`notifier::Notifier`].

pub mod client;
pub mod coordinator;
pub mod gate;
pub mod guest;
pub mod machinery;
pub mod notifier;
mod operation;
pub mod phase;
mod slot;
mod step;
mod target;
pub mod view;
