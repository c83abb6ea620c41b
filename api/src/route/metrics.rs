//! `/metrics`, at the root where scrapers look: what is counted and what there is, in Prometheus' text format.
//!
//! Everything is read where it stands, from atomics and the published view; a scrape keeps nobody waiting but the
//! other requests of this thread. Durations are counted when they are over. The names and labels are for good:
//! dashboards hold them. A label's values are as many as there are names for in this program, and never what a guest
//! or a client may choose; `vcpu` is the only one that has many, up to 1,024, and only those that there ever were.

use super::input::Query;
use super::openapi::{Always, Failed};
use super::trouble::Trouble;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::view::Target;
use hotvisor_vmm::tally::{BOUNDS, Durations};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::{self, CONTENT_TYPE as TEXT};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new().routes(routes!(show))
}

/// What goes on on the socket.
#[derive(Debug)]
pub(super) struct Traffic {
    /// How many requests were answered, by status code.
    requests: Mutex<BTreeMap<u16, u64>>,
    /// How many connections there are; the server's.
    connections: Arc<AtomicU64>,
}

impl Traffic {
    pub(super) fn new(connections: Arc<AtomicU64>) -> Self {
        Self {
            requests: Mutex::default(),
            connections,
        }
    }

    fn count(&self, status: StatusCode) {
        let mut counts = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(status.as_u16()).or_default() += 1;
    }

    fn requests(&self) -> BTreeMap<u16, u64> {
        let counts = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}

/// Counts a request by its answer.
pub(super) async fn count(
    State(traffic): State<Arc<Traffic>>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    traffic.count(response.status());
    response
}

/// Show what is counted
///
/// In Prometheus' text format, version 0.0.4.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "showMetrics",
    tag = "events",
    responses(
        (status = 200, description = "What is counted.", body = String, content_type = "text/plain"),
        Always,
        Failed
    )
)]
async fn show(
    State(client): State<Client>,
    Extension(traffic): Extension<Arc<Traffic>>,
    uri: Uri,
) -> Result<Response, Trouble> {
    Query::of(&uri, &[])?;
    let mut registry = Registry::with_prefix("hotvisor");
    registry.register_collector(Box::new(Scrape { client, traffic }));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).map_err(|e| {
        Trouble::Failed(Problem::new(
            "GET /metrics",
            e,
            "this is a bug: please report it",
        ))
    })?;
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static(TEXT);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// All of it, as it is at one moment.
struct Scrape {
    client: Client,
    traffic: Arc<Traffic>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.machine(&mut to)?;
        self.durations(&mut to)?;
        self.outcomes(&mut to)?;
        self.vcpus(&mut to)?;
        self.api(&mut to)
    }
}

/// The labels of what there is one of.
const ALONE: [(&str, &str); 0] = [];

/// What a plug or an unplug is called.
fn direction(target: Target) -> &'static str {
    match target {
        Target::Online => "plug",
        Target::Offline => "unplug",
    }
}

fn gauge(mut metric: MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_gauge(&value)
}

fn counter(
    metric: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: u64,
) -> fmt::Result {
    let mut metric = metric.encode_family(labels)?;
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn histogram(
    metric: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    times: &Durations,
) -> fmt::Result {
    let bounds = BOUNDS.iter().map(|bound| bound.as_secs_f64());
    let bounds = bounds.chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(times.buckets).collect();
    let mut metric = metric.encode_family(labels)?;
    metric.encode_histogram::<NoLabelSet>(times.sum.as_secs_f64(), times.count(), &buckets, None)
}

/// A number that ACPI defines, as it is written there.
fn code(number: Option<u32>) -> String {
    match number {
        Some(number @ 0..10) => number.to_string(),
        Some(number) => format!("{number:#x}"),
        None => "other".to_owned(),
    }
}

impl Scrape {
    fn machine(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The version of Hotvisor that this is";
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut metric = to.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        gauge(metric.encode_family(&version)?, 1)?;
        let view = self.client.view();
        let running = view
            .operations
            .values()
            .filter(|o| o.ended.is_none())
            .count() as u64;
        let numbers = [
            (
                "vcpus_desired",
                "vCPUs that were asked for last",
                view.desired.into(),
            ),
            (
                "vcpus_plugged",
                "vCPUs that the guest's firmware tables hold",
                view.plugged.into(),
            ),
            (
                "vcpus_online",
                "vCPUs that the guest has started",
                view.online.into(),
            ),
            (
                "vcpus_max",
                "vCPUs that the guest can ever have",
                view.max.into(),
            ),
            (
                "operations_running",
                "Operations that have not ended",
                running,
            ),
        ];
        for (name, help, value) in numbers {
            gauge(
                to.encode_descriptor(name, help, None, MetricType::Gauge)?,
                value,
            )?;
        }
        Ok(())
    }

    /// Those that never were are left out: most phases are no part of most ways.
    fn durations(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (tally, unit, kind) = (
            self.client.tally(),
            Some(&Unit::Seconds),
            MetricType::Histogram,
        );
        let help = "How long a vCPU that was being plugged or unplugged was in each phase, or in a part of one";
        let mut metric = to.encode_descriptor("phase_duration", help, unit, kind)?;
        for (target, stage, times) in tally.stages().filter(|(.., times)| times.count() > 0) {
            let labels = [("direction", direction(target)), ("phase", stage)];
            histogram(&mut metric, &labels, &times)?;
        }
        let help = "How long a whole plug or unplug of a vCPU took, by how it ended";
        let mut metric = to.encode_descriptor("hotplug_duration", help, unit, kind)?;
        for (target, code, times) in tally.attempts().filter(|(.., times)| times.count() > 0) {
            let labels = [("direction", direction(target)), ("outcome", code.name())];
            histogram(&mut metric, &labels, &times)?;
        }
        let gates = tally.gates();
        let waits = [
            (
                "gate_close_wait",
                "How long the closed gate of a vCPU waited for its users to leave",
                &gates.closing,
            ),
            (
                "gate_user_wait",
                "How long a user of a vCPU waited at its closed gate",
                &gates.users,
            ),
        ];
        for (name, help, waits) in waits {
            let mut metric = to.encode_descriptor(name, help, unit, kind)?;
            histogram(&mut metric, &ALONE, &waits.read())?;
        }
        Ok(())
    }

    fn outcomes(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (tally, kind) = (self.client.tally(), MetricType::Counter);
        let help = "Operations that have ended, by what they were made for and how they ended";
        let mut metric = to.encode_descriptor("operations", help, None, kind)?;
        for (kind, code, count) in tally.operations() {
            counter(
                &mut metric,
                &[("kind", kind), ("state", code.name())],
                count,
            )?;
        }
        let help = "Parts of operations that have ended, one for each vCPU, by what it was to become and how it ended";
        let mut metric = to.encode_descriptor("vcpu_changes", help, None, kind)?;
        for (target, code, count) in tally.parts() {
            let labels = [("target", target.name()), ("outcome", code.name())];
            counter(&mut metric, &labels, count)?;
        }
        let help = "What the guest said by _OST of CPUs, by source event and status";
        let mut metric = to.encode_descriptor("guest_ost", help, None, kind)?;
        for (source, status, count) in tally.statuses().filter(|(.., count)| *count > 0) {
            let labels = [("source", code(source)), ("status", code(status))];
            counter(&mut metric, &labels, count)?;
        }
        Ok(())
    }

    fn vcpus(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (tally, kind) = (self.client.tally(), MetricType::Counter);
        let help =
            "Exits of a vCPU from the guest to Hotvisor, by kind; KVM handles most by itself";
        let mut metric = to.encode_descriptor("vcpu_exits", help, None, kind)?;
        for (id, vcpu) in tally.vcpus() {
            let id = id.to_string();
            for (kind, count) in vcpu.exits() {
                counter(&mut metric, &[("vcpu", &*id), ("kind", kind.name())], count)?;
            }
        }
        let help = "CPU time of a vCPU's threads, in the guest and out of it";
        let mut metric = to.encode_descriptor("vcpu_run", help, Some(&Unit::Seconds), kind)?;
        for (id, vcpu) in tally.vcpus() {
            let labels = [("vcpu", id)];
            let mut metric = metric.encode_family(&labels)?;
            let seconds = vcpu.run_time().as_secs_f64();
            metric.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        Ok(())
    }

    fn api(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = MetricType::Counter;
        let help = "Requests to the API that were answered, by status code";
        let mut metric = to.encode_descriptor("api_requests", help, None, kind)?;
        for (status, count) in self.traffic.requests() {
            counter(&mut metric, &[("status", u32::from(status))], count)?;
        }
        let help = "Connections to the API";
        let metric = to.encode_descriptor("api_connections", help, None, MetricType::Gauge)?;
        gauge(metric, self.traffic.connections.load(Ordering::Relaxed))?;
        let help = "Events that have happened, as /api/v1/events streams them";
        let mut metric = to.encode_descriptor("events", help, None, kind)?;
        counter(&mut metric, &ALONE, self.client.events().newest())
    }
}
