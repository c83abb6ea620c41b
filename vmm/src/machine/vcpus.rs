//! A machine's vCPUs: which of them KVM has, and which of those have a thread.
//!
//! KVM cannot destroy a vCPU and makes each id once only, so that a vCPU's descriptor is kept as long as the
//! machine lives, by its thread or here.

use crate::arch::cpuid::{self, Topology};
use crate::arch::regs;
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::hotplug::view::{ThreadView, VcpuRef};
use crate::kvm::Vm;
use crate::tally::Tally;
use crate::vcpu::{Handle, Made, PATIENCE, Reports, Spec};
use kvm_bindings::CpuId;
use kvm_ioctls::VcpuFd;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tracing::warn;
use vm_device::device_manager::IoManager;

/// What all vCPUs of a machine are made from.
pub(super) struct Model {
    pub(super) vm: Arc<Vm>,
    pub(super) bus: Arc<IoManager>,
    pub(super) reports: Arc<dyn Reports>,
    pub(super) tally: Arc<Tally>,
    pub(super) leaves: CpuId,
    pub(super) topology: Topology,
    pub(super) generation: u64,
}

impl Model {
    fn vcpu(&self, id: u32) -> VcpuRef {
        VcpuRef {
            id,
            generation: self.generation,
        }
    }

    /// Puts a vCPU as KVM makes it into the state of one that waits for INIT.
    fn configure(&self, id: u32, fd: &VcpuFd) -> Result<()> {
        let own = cpuid::for_vcpu(&self.leaves, id, self.topology);
        failpoint!(SetCpuid, fd.set_cpuid2(&own)).map_err(|e| Error::kvm("set CPUID", e))?;
        regs::set_msrs(fd)?;
        // KVM makes its map of APIC ids while the vCPU that it creates is not in its list yet, and anew only when
        // some local APIC changes. A vCPU that is created while the others run would get no INIT until then.
        let lapic =
            failpoint!(GetLapic, fd.get_lapic()).map_err(|e| Error::kvm("get local APIC", e))?;
        failpoint!(SetLapic, fd.set_lapic(&lapic)).map_err(|e| Error::kvm("set local APIC", e))
    }
}

/// What there is of a vCPU.
enum Body {
    /// Nothing.
    Nothing,
    /// KVM has it, and there is nothing to run it by.
    Made(Made),
    /// KVM has it, and no thread runs it.
    Idle(VcpuFd, State),
    /// It has a thread.
    Thread(Handle),
    /// Its thread was told to end.
    Ending {
        handle: Handle,
        /// It is to run again, in a new thread.
        next: Option<u64>,
    },
}

impl Body {
    fn handle(&self) -> Option<&Handle> {
        match self {
            Self::Thread(handle) | Self::Ending { handle, .. } => Some(handle),
            Self::Nothing | Self::Made(_) | Self::Idle(..) => None,
        }
    }
}

/// The state of a vCPU that no thread runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// As KVM makes it.
    Raw,
    /// As it is to start.
    New,
    /// As the guest left it.
    Used,
}

/// The vCPUs, by id.
pub(super) struct Vcpus {
    // Threads first: they use the rest.
    bodies: Vec<Body>,
    /// Those that KVM has, but for one that was not opened yet.
    made: Vec<Made>,
    /// How fast their time-stamp counters count.
    tsc_khz: Option<u32>,
    /// The run that each was last told of.
    runs: Vec<u64>,
    /// The number of the pause, if there is one.
    pause: Option<u64>,
    model: Model,
}

impl Vcpus {
    pub(super) fn new(model: Model, max: u32) -> Self {
        Self {
            bodies: (0..max).map(|_| Body::Nothing).collect(),
            made: Vec::new(),
            tsc_khz: None,
            runs: vec![0; max as usize],
            pause: None,
            model,
        }
    }

    /// Makes KVM's vCPU and its thread, parked. `state` gives it a state other than that of one that waits for
    /// INIT.
    pub(super) fn make(
        &mut self,
        id: u32,
        state: impl FnOnce(&VcpuFd) -> Result<()>,
    ) -> Result<()> {
        self.create(id)?;
        if let Body::Idle(fd, _) = &self.bodies[id as usize] {
            state(fd)?;
        }
        self.spawn(id, true)
    }

    /// Makes KVM's vCPU, in the state of one that waits for INIT, as far as that is not done already. What a
    /// failure leaves is kept: KVM makes each vCPU once.
    fn create(&mut self, id: u32) -> Result<()> {
        let body = &mut self.bodies[id as usize];
        let vm = self.model.vm.fd();
        if let Body::Nothing = body {
            *body = Body::Made(Made::new(vm, id)?);
        }
        if let Body::Made(made) = body {
            let raw = Body::Idle(made.open(vm)?, State::Raw);
            if let Body::Made(made) = std::mem::replace(body, raw) {
                self.made.push(made);
            }
        }
        if let Body::Idle(fd, state @ State::Raw) = body {
            self.model.configure(id, fd)?;
            // All alike; a host whose own is not steady does not say it.
            let khz = failpoint!(GetTscKhz, fd.get_tsc_khz());
            self.tsc_khz = self.tsc_khz.or(khz.ok());
            *state = State::New;
        }
        Ok(())
    }

    /// Gives a vCPU that has none a thread, parked.
    fn spawn(&mut self, id: u32, boots: bool) -> Result<()> {
        let body = &mut self.bodies[id as usize];
        let (fd, state) = match std::mem::replace(body, Body::Nothing) {
            Body::Idle(fd, state) => (fd, state),
            other => {
                *body = other;
                return Ok(());
            }
        };
        let spec = Spec {
            vcpu: self.model.vcpu(id),
            fd,
            fresh: state == State::New,
            boots,
            pause: self.pause,
            vm: self.model.vm.clone(),
            bus: self.model.bus.clone(),
            reports: self.model.reports.clone(),
            tally: self.model.tally.vcpu_tally(id),
        };
        match Handle::spawn(spec) {
            Ok(handle) => {
                *body = Body::Thread(handle);
                Ok(())
            }
            Err((error, fd)) => {
                *body = Body::Idle(fd, state);
                Err(error)
            }
        }
    }

    /// Has a vCPU run for the n-th time, n being `run`, and makes whatever it lacks for that.
    pub(super) fn run(&mut self, id: u32, run: u64) -> Result<()> {
        self.runs[id as usize] = run;
        if let Body::Ending { next, .. } = &mut self.bodies[id as usize] {
            *next = Some(run);
            return Ok(());
        }
        self.create(id)?;
        self.spawn(id, false)?;
        if let Body::Thread(handle) = &mut self.bodies[id as usize] {
            handle.run(run);
        }
        Ok(())
    }

    /// Has a vCPU's thread leave the guest.
    pub(super) fn park(&mut self, id: u32) {
        let run = self.runs[id as usize];
        match &mut self.bodies[id as usize] {
            Body::Thread(handle) => handle.park(run),
            // It was to run in a thread that does not exist yet, or cannot be had: it never left for the guest.
            Body::Ending { next, .. } => {
                *next = None;
                self.model.reports.parked(self.model.vcpu(id), run);
            }
            Body::Nothing | Body::Made(_) | Body::Idle(..) => {
                self.model.reports.parked(self.model.vcpu(id), run);
            }
        }
    }

    /// Ends a vCPU's parked thread.
    pub(super) fn end_thread(&mut self, id: u32) {
        let body = &mut self.bodies[id as usize];
        *body = match std::mem::replace(body, Body::Nothing) {
            Body::Thread(handle) if !handle.is_running() => {
                handle.end();
                Body::Ending { handle, next: None }
            }
            other => other,
        };
    }

    /// Takes note that a vCPU's thread has ended; returns whether it was told to while the machine goes on.
    pub(super) fn thread_ended(&mut self, id: u32) -> bool {
        let body = &mut self.bodies[id as usize];
        if !matches!(body, Body::Ending { .. }) {
            return false;
        }
        let Body::Ending { mut handle, next } = std::mem::replace(body, Body::Nothing) else {
            return false;
        };
        if let Some(fd) = handle.finish(Instant::now() + PATIENCE) {
            self.bodies[id as usize] = Body::Idle(fd, State::Used);
        }
        if let Some(run) = next
            && let Err(why) = self.run(id, run)
        {
            let vcpu = self.model.vcpu(id);
            self.model.reports.not_ready(vcpu, run, why);
        }
        true
    }

    /// A vCPU's thread.
    pub(super) fn thread(&self, id: u32) -> Option<ThreadView> {
        match &self.bodies[id as usize] {
            Body::Thread(handle) => Some(ThreadView {
                name: handle.name(),
                tid: handle.tid(),
                running: handle.is_running(),
            }),
            Body::Nothing | Body::Made(_) | Body::Idle(..) | Body::Ending { .. } => None,
        }
    }

    /// The vCPUs that have threads.
    pub(super) fn with_threads(&self) -> impl Iterator<Item = u32> {
        let bodies = (0u32..).zip(&self.bodies);
        bodies
            .filter(|(_, body)| matches!(body, Body::Thread(_) | Body::Ending { .. }))
            .map(|(id, _)| id)
    }

    /// Tells every thread to end, but for these, which leave the guest and stay.
    pub(super) fn stop(&mut self, stay: &BTreeSet<u32>) {
        for (id, body) in (0..).zip(&mut self.bodies) {
            match body {
                Body::Thread(handle) if stay.contains(&id) => handle.park(self.runs[id as usize]),
                body => body.handle().into_iter().for_each(Handle::end),
            }
        }
    }

    /// Tells one to end.
    pub(super) fn stop_one(&self, id: u32) {
        let handle = self.bodies.get(id as usize).and_then(Body::handle);
        handle.into_iter().for_each(Handle::end);
    }

    /// Has every thread stay out of the guest for the pause with this number, those included that are yet to be
    /// made.
    pub(super) fn hold(&mut self, pause: u64) {
        self.pause = Some(pause);
        self.handles().for_each(|handle| handle.hold(pause));
    }

    /// Kicks the threads of these vCPUs.
    pub(super) fn kick(&self, ids: &BTreeSet<u32>) {
        for id in ids {
            if let Some(handle) = self.bodies.get(*id as usize).and_then(Body::handle) {
                handle.kick();
            }
        }
    }

    /// How fast their time-stamp counters count, in kHz.
    pub(super) fn tsc_khz(&self) -> Option<u32> {
        self.tsc_khz
    }

    /// Puts all of their time-stamp counters back by so many ticks, also of those that the guest does not have: KVM
    /// gives those that it makes later the counter of the others, and derives the guest's clock from the TSC only as
    /// long as all are alike. No thread is in the guest. All or none: where one cannot be, those before it are put forward
    /// again.
    pub(super) fn put_back(&self, ticks: u64) -> Result<()> {
        let unopened = self.bodies.iter().filter_map(|body| match body {
            Body::Made(made) => Some(made),
            _ => None,
        });
        let all: Vec<&Made> = self.made.iter().chain(unopened).collect();
        for (done, vcpu) in all.iter().enumerate() {
            let Err(error) = vcpu.put_back(ticks) else {
                continue;
            };
            for before in &all[..done] {
                if let Err(error) = before.put_forward(ticks) {
                    warn!("the guest's CPUs have different times now: {error}");
                }
            }
            return Err(error);
        }
        Ok(())
    }

    /// Lets every thread go on.
    pub(super) fn release(&mut self) {
        self.pause = None;
        self.handles().for_each(Handle::release);
    }

    fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.bodies.iter().filter_map(Body::handle)
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        // All at once, and one deadline for all.
        self.stop(&BTreeSet::new());
        let deadline = Instant::now() + PATIENCE;
        for body in &mut self.bodies {
            if let Body::Thread(handle) | Body::Ending { handle, .. } = body {
                handle.finish(deadline);
            }
        }
    }
}
