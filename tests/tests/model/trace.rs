//! What was done, in words.

use std::fmt::{self, Write};

use hotvisor_vmm::hotplug::client::Want;
use hotvisor_vmm::hotplug::guest::{About, Notice, Says, What};
use hotvisor_vmm::hotplug::machinery::Message;
use hotvisor_vmm::hotplug::view::Target;

use crate::people::Do;
use crate::shape::{Act, Shape};
use crate::world::World;

/// A line for each act, with what came of it for the phases of the vCPUs; and who waits in the end, and for what.
pub(crate) fn told(shape: Shape, acts: &[Act]) -> String {
    let mut told = String::new();
    let mut world = World::new(shape);
    for (n, act) in (1..).zip(acts) {
        let what = match (act, world.next_message()) {
            (Act::Control, Some(message)) => format!("the control thread hears that {message}"),
            (Act::User(user), _) => match world.next_of(*user) {
                Some(next) => format!("user {user} {}", does(next)),
                None => act.to_string(),
            },
            _ => act.to_string(),
        };
        let before = world.phases();
        world.act(act);
        let changed: Vec<String> = (0..)
            .zip(before.iter().zip(&world.phases()))
            .filter(|(_, (before, after))| before != after)
            .map(|(id, (before, after))| format!("vCPU {id}: {before} -> {after}"))
            .collect();
        let line = format!("{n:4}. {what:<72} {}", changed.join(", "));
        let _ = writeln!(told, "{}", line.trim_end());
    }
    for waits in world.waiting() {
        let _ = writeln!(told, "      {waits}");
    }
    told
}

/// What a user does, behind its name.
fn does(next: Do) -> String {
    match next {
        Do::Enter(vcpu, true) => format!("goes through vCPU {vcpu}'s gate, bound to it"),
        Do::Enter(vcpu, false) => format!("goes through vCPU {vcpu}'s gate, or another's"),
        Do::Leave => "leaves the vCPU".to_owned(),
        Do::Take => "takes the users' lock".to_owned(),
        Do::Release => "gives the users' lock back".to_owned(),
        Do::EnterLock => "goes through the lock of old, if there is one".to_owned(),
        Do::LeaveLock => "leaves the lock of old".to_owned(),
    }
}

/// What a message says, behind "that". Of the notifiers, these are the names.
pub(crate) fn said(message: &Message, notifiers: &[&str]) -> String {
    match message {
        Message::Notice(notice) => did(notice),
        Message::Ready(id, _) => format!("vCPU {id}'s thread is about to run it"),
        Message::NotReady(id, ..) => format!("vCPU {id}'s thread cannot run it"),
        Message::Started(id, _) => format!("the guest has started vCPU {id}"),
        Message::Parked(id, _) => format!("vCPU {id}'s thread has left the guest"),
        Message::GateEmpty(id, _) => format!("nobody is inside vCPU {id}'s gate"),
        Message::Notifier(id, _, which, answer) => {
            let name = notifiers.get(*which).unwrap_or(&"somebody unknown");
            format!("{name}, of vCPU {id}: {answer:?}")
        }
    }
}

fn did(notice: &Notice) -> String {
    let id = notice.vcpu;
    match notice.what {
        What::InsertRead => format!("the guest has read of vCPU {id}"),
        What::EjectRead(ask) => {
            format!("the guest has read that it is asked for vCPU {id} (request {ask})")
        }
        What::Said { word, kept } => {
            let about = match word.about {
                About::Insertion => "of taking",
                About::Ejection => "of ejecting",
                About::OwnEjection => "of ejecting, by itself,",
                About::Other => "of something with",
            };
            let kept = match kept {
                Some(ask) => format!(", and keeps it (request {ask})"),
                None => String::new(),
            };
            let says = match word.says {
                Says::Begun => "that it has begun",
                Says::Done => "that it is done",
                Says::No(_) => "no",
            };
            format!("the guest says {says} {about} vCPU {id}{kept}")
        }
        What::Ejected { requested: true } => format!("the guest has ejected vCPU {id}"),
        What::Ejected { requested: false } => format!("the guest has ejected vCPU {id} by itself"),
        What::SeenEmpty => format!("the guest has seen that vCPU {id} was gone"),
    }
}

fn wanted(want: &Want, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match want {
        Want::One(id, Target::Online) => write!(f, "vCPU {id} to be plugged"),
        Want::One(id, Target::Offline) => write!(f, "vCPU {id} to be unplugged"),
        other => write!(f, "{other:?}"),
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(want) => {
                f.write_str("a client asks for ")?;
                wanted(want, f)
            }
            Self::AskPatiently(want) => {
                f.write_str("a client with patience asks for ")?;
                wanted(want, f)
            }
            Self::Insist => f.write_str("the client asks again"),
            Self::Cancel(operation) => write!(f, "a client takes operation {operation} back"),
            Self::Pause => f.write_str("the machine stands still"),
            Self::Resume => f.write_str("the machine goes on"),
            Self::Remind => f.write_str("time goes by until something is done again"),
            Self::Deadline => f.write_str("the time of what is under way is over"),
            Self::Control => f.write_str("the control thread finds nothing to hear"),
            Self::Thread(id) => write!(f, "vCPU {id}'s thread gets on"),
            Self::Fill => f.write_str("the host has no room for the next thread"),
            Self::CannotRun(id) => write!(f, "vCPU {id}'s thread cannot run it"),
            Self::Scan => f.write_str("the guest looks what it is asked for"),
            Self::ScanSlowly => f.write_str("the guest begins to look what it is asked for"),
            Self::Clear => f.write_str("the guest clears what it has found"),
            Self::Obey => f.write_str("the guest does the oldest of that"),
            Self::Begin => f.write_str("the guest says that it begins with the oldest of that"),
            Self::Refuse => f.write_str("the guest says no to the oldest of that"),
            Self::Ignore => f.write_str("the guest forgets the oldest of that"),
            Self::Overtake => f.write_str("the guest takes the second oldest of that first"),
            Self::Find(id) => write!(f, "the guest finds vCPU {id} by itself"),
            Self::Look => f.write_str("the guest looks whether what it has ejected is gone"),
            Self::LastWord => f.write_str("the guest says how its ejection went"),
            Self::Start(id) => write!(f, "the guest starts vCPU {id}"),
            Self::LeaveOffline(id) => write!(f, "the guest leaves vCPU {id} offline"),
            Self::EjectUnasked(id) => write!(f, "the guest ejects vCPU {id} by itself"),
            Self::Lie(id, source, status) => {
                write!(
                    f,
                    "the guest says _OST({source:#x}, {status:#x}) of vCPU {id}"
                )
            }
            Self::Reboot => f.write_str("the guest starts again"),
            Self::Die => f.write_str("the guest dies"),
            Self::User(user) => write!(f, "user {user} does its next step"),
            Self::GiveUp(user) => write!(f, "user {user} gives up"),
            Self::Answer(id) => write!(f, "the notifier lets go of vCPU {id}"),
            Self::Veto(id) => write!(f, "the notifier does not let go of vCPU {id}"),
        }
    }
}
