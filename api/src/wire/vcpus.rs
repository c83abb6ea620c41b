//! vCPUs: what they are, and what they are to become.

use hotvisor_vmm::hotplug::view::{self, ThreadView, VcpuView, View};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::time::Duration;
use utoipa::ToSchema;

/// vCPU 0 runs the firmware's part of the boot, and is never ejected.
const BOOT_CPU: u32 = 0;

/// All vCPUs that the machine can have. Desired, plugged and online are three numbers, never one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Vcpus {
    /// How many were asked for last.
    pub(crate) desired: u32,
    /// How many are there, as the guest's firmware tables say.
    pub(crate) plugged: u32,
    /// How many of those the guest has started.
    pub(crate) online: u32,
    /// How many the guest can ever have.
    pub(crate) max: u32,
    /// Every possible vCPU, by id.
    pub(crate) vcpus: Vec<Vcpu>,
}

/// A vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Vcpu {
    pub(crate) id: u32,
    /// Id of its local APIC.
    pub(crate) apic_id: u32,
    /// Name of its phase: absent, dormant, starting, announced, plugged, online, draining, notifying, overdue,
    /// syncing or stopping.
    #[schema(value_type = String)]
    pub(crate) phase: Cow<'static, str>,
    /// What it is to become.
    pub(crate) target: Target,
    /// Counts how often it was plugged.
    pub(crate) generation: u64,
    /// Whether it is the boot CPU, which is never ejected.
    pub(crate) boot: bool,
    /// Its thread, if it has one now.
    #[schema(required)]
    pub(crate) thread: Option<Thread>,
    /// The last operation that it was part of.
    #[schema(required)]
    pub(crate) last_operation: Option<u64>,
}

/// A vCPU's thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Thread {
    pub(crate) name: String,
    /// Its id on the host; null in the moment before it runs.
    #[schema(required)]
    pub(crate) tid: Option<i32>,
    /// Whether it runs the guest; otherwise it is parked.
    pub(crate) running: bool,
}

/// A vCPU with its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct VcpuDetail {
    #[serde(flatten)]
    pub(crate) vcpu: Vcpu,
    /// How long its thread has run so far, in microseconds; null where the vCPU is on its way out or gone.
    #[schema(required)]
    pub(crate) run_time_us: Option<u64>,
    pub(crate) timeline: Timelines,
}

/// How its last plug and its last unplug went; null where there was none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Timelines {
    #[schema(required)]
    pub(crate) plug: Option<Timeline>,
    #[schema(required)]
    pub(crate) unplug: Option<Timeline>,
}

/// The phases that a plug or an unplug went through, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Timeline {
    /// For which operation.
    pub(crate) operation: u64,
    /// In microseconds.
    pub(crate) total_us: u64,
    pub(crate) phases: Vec<Step>,
}

/// A phase, or a part of one, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = TimelineStep)]
pub(crate) struct Step {
    #[schema(value_type = String)]
    pub(crate) phase: Cow<'static, str>,
    /// In microseconds.
    pub(crate) us: u64,
}

/// What a vCPU is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// Plugged, and started by the guest.
    Online,
    /// Ejected by the guest, with its thread parked.
    Offline,
}

/// What `PUT /api/v1/vcpus/{id}` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VcpuChange)]
pub(crate) struct ChangeOne {
    pub(crate) target: Target,
}

impl From<&View> for Vcpus {
    fn from(view: &View) -> Self {
        Self {
            desired: view.desired,
            plugged: view.plugged,
            online: view.online,
            max: view.max,
            vcpus: view.vcpus.iter().map(|vcpu| Vcpu::from(&**vcpu)).collect(),
        }
    }
}

impl From<&VcpuView> for Vcpu {
    fn from(view: &VcpuView) -> Self {
        let thread = |thread: &ThreadView| Thread {
            name: thread.name.clone(),
            tid: thread.tid,
            running: thread.running,
        };
        Self {
            id: view.id,
            apic_id: view.id,
            phase: view.phase.into(),
            target: view.target.into(),
            generation: view.generation,
            boot: view.id == BOOT_CPU,
            thread: view.thread.as_ref().map(thread),
            last_operation: view.last_operation,
        }
    }
}

impl From<&VcpuView> for VcpuDetail {
    fn from(view: &VcpuView) -> Self {
        Self {
            vcpu: Vcpu::from(view),
            run_time_us: view.run_time().ok().flatten().map(us),
            timeline: Timelines {
                plug: view.last_plug.as_ref().map(Timeline::from),
                unplug: view.last_unplug.as_ref().map(Timeline::from),
            },
        }
    }
}

/// In whole microseconds.
pub(crate) fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl From<&view::Timeline> for Timeline {
    fn from(view: &view::Timeline) -> Self {
        let step = |(phase, time): &(&'static str, Duration)| Step {
            phase: (*phase).into(),
            us: us(*time),
        };
        Self {
            operation: view.operation,
            total_us: us(view.phases.iter().map(|(_, time)| *time).sum()),
            phases: view.phases.iter().map(step).collect(),
        }
    }
}

impl From<view::Target> for Target {
    fn from(target: view::Target) -> Self {
        match target {
            view::Target::Online => Self::Online,
            view::Target::Offline => Self::Offline,
        }
    }
}

impl From<Target> for view::Target {
    fn from(target: Target) -> Self {
        match target {
            Target::Online => Self::Online,
            Target::Offline => Self::Offline,
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By way of a string, because a derived enum calls a number a syntax error.
        match &*String::deserialize(deserializer)? {
            "online" => Ok(Self::Online),
            "offline" => Ok(Self::Offline),
            other => Err(D::Error::unknown_variant(other, &["online", "offline"])),
        }
    }
}
