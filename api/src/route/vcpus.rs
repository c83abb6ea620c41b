//! `/api/v1/vcpus`: what the vCPUs are, and what they are to become.

use super::input::{self, Query, Whole};
use super::trouble::{Trouble, problem};
use super::{operations, reply};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::get;
use hotvisor_vmm::hotplug::client::{self, Client, Want};
use hotvisor_vmm::hotplug::view::{self, OperationId, ThreadView, VcpuView, View};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// vCPU 0 runs the firmware's part of the boot, and is never ejected.
const BOOT_CPU: u32 = 0;

pub(super) fn routes() -> Router<Client> {
    Router::new()
        .route("/api/v1/vcpus", get(list).put(set))
        .route("/api/v1/vcpus/{id}", get(show).put(set_one))
}

#[derive(Serialize)]
struct List<'a> {
    desired: u32,
    plugged: u32,
    online: u32,
    max: u32,
    vcpus: Vec<Vcpu<'a>>,
}

#[derive(Serialize)]
struct Vcpu<'a> {
    id: u32,
    apic_id: u32,
    phase: &'static str,
    target: &'static str,
    generation: u64,
    boot: bool,
    thread: Option<Thread<'a>>,
    last_operation: Option<OperationId>,
}

#[derive(Serialize)]
struct Thread<'a> {
    name: &'a str,
    tid: Option<i32>,
    running: bool,
}

/// A vCPU with its history.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    vcpu: Vcpu<'a>,
    /// How long its thread has run so far; null where the vCPU is on its way out or gone.
    run_time_us: Option<u64>,
    timeline: Timelines,
}

#[derive(Serialize)]
struct Timelines {
    plug: Option<Timeline>,
    unplug: Option<Timeline>,
}

#[derive(Serialize)]
struct Timeline {
    operation: OperationId,
    total_us: u64,
    phases: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    phase: &'static str,
    us: u64,
}

impl<'a> From<&'a VcpuView> for Vcpu<'a> {
    fn from(view: &'a VcpuView) -> Self {
        let thread = |thread: &'a ThreadView| Thread {
            name: &thread.name,
            tid: thread.tid,
            running: thread.running,
        };
        Self {
            id: view.id,
            apic_id: view.id,
            phase: view.phase,
            target: view.target.name(),
            generation: view.generation,
            boot: view.id == BOOT_CPU,
            thread: view.thread.as_ref().map(thread),
            last_operation: view.last_operation,
        }
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl From<&view::Timeline> for Timeline {
    fn from(view: &view::Timeline) -> Self {
        let step = |(phase, time): &(&'static str, Duration)| Step {
            phase,
            us: us(*time),
        };
        Self {
            operation: view.operation,
            total_us: us(view.phases.iter().map(|(_, time)| *time).sum()),
            phases: view.phases.iter().map(step).collect(),
        }
    }
}

async fn list(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    Query::of(&uri, &[])?;
    let view = client.view();
    let list = List {
        desired: view.desired,
        plugged: view.plugged,
        online: view.online,
        max: view.max,
        vcpus: view.vcpus.iter().map(|vcpu| Vcpu::from(&**vcpu)).collect(),
    };
    Ok(reply(StatusCode::OK, &list))
}

/// The vCPU whose id `uri` ends with.
fn named<'a>(view: &'a View, uri: &Uri) -> Result<&'a VcpuView, Trouble> {
    let vcpu = input::id(uri).and_then(|id: u32| view.vcpus.iter().find(|vcpu| vcpu.id == id));
    vcpu.map(|vcpu| &**vcpu).ok_or_else(|| {
        let asked = format!("vCPU {}", uri.path().rsplit('/').next().unwrap_or_default());
        let found = format!(
            "there is none: this machine can have {}, counted from 0",
            view.max
        );
        let remedy = "see /api/v1/vcpus for those that there are";
        Trouble::Unknown(problem(asked, found, remedy))
    })
}

async fn show(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    let view = client.view();
    let vcpu = named(&view, &uri)?;
    Query::of(&uri, &[])?;
    let detail = Detail {
        vcpu: Vcpu::from(vcpu),
        run_time_us: vcpu.run_time().ok().flatten().map(us),
        timeline: Timelines {
            plug: vcpu.last_plug.as_ref().map(Timeline::from),
            unplug: vcpu.last_unplug.as_ref().map(Timeline::from),
        },
    };
    Ok(reply(StatusCode::OK, &detail))
}

/// What `PUT /api/v1/vcpus` takes: one of the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    desired: Option<Whole>,
    online: Option<Vec<Whole>>,
}

impl Change {
    const REMEDY: &'static str = r#"send {"desired":3} or {"online":[0,2,5]}"#;

    fn want(self) -> Result<Want, Trouble> {
        let invalid = |found: String| {
            let asked = "PUT /api/v1/vcpus";
            Trouble::Invalid(problem(asked, found, Self::REMEDY))
        };
        match (self.desired, self.online) {
            (Some(Whole(count)), None) => Ok(Want::Count(count)),
            (None, Some(ids)) => {
                let mut set = BTreeSet::new();
                match ids.into_iter().find(|Whole(id)| !set.insert(*id)) {
                    Some(Whole(id)) => Err(invalid(format!("vCPU {id} is there twice"))),
                    None => Ok(Want::Set(set)),
                }
            }
            (None, None) => Err(invalid("neither `desired` nor `online`".into())),
            (Some(_), Some(_)) => Err(invalid("both `desired` and `online`".into())),
        }
    }
}

async fn set(State(client): State<Client>, request: Request) -> Result<Response, Trouble> {
    let query = Query::of(request.uri(), &["wait", "timeout"])?;
    let change: Change = input::object(request, Change::REMEDY).await?;
    ask(&client, change.want()?, query).await
}

/// What `PUT /api/v1/vcpus/{id}` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeOne {
    target: Target,
}

struct Target(view::Target);

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By way of a string, because a derived enum calls a number a syntax error.
        match &*String::deserialize(deserializer)? {
            "online" => Ok(Self(view::Target::Online)),
            "offline" => Ok(Self(view::Target::Offline)),
            other => Err(D::Error::unknown_variant(other, &["online", "offline"])),
        }
    }
}

async fn set_one(State(client): State<Client>, request: Request) -> Result<Response, Trouble> {
    let id = named(&client.view(), request.uri())?.id;
    let query = Query::of(request.uri(), &["wait", "timeout"])?;
    let remedy = r#"send {"target":"online"} or {"target":"offline"}"#;
    let change: ChangeOne = input::object(request, remedy).await?;
    ask(&client, Want::One(id, change.target.0), query).await
}

/// Asks for a change, and answers with the operation.
async fn ask(client: &Client, want: Want, query: Query) -> Result<Response, Trouble> {
    let timeout = query.timeout;
    let id = client.change(client::Request { want, timeout }).await?;
    operations::started(client, id, query.wait).await
}
