//! What the agent does about what the host says.

use std::collections::BTreeMap;

use super::*;

impl Agent {
    pub(super) fn welcomed(&mut self, welcome: Welcome, now_ns: u64) -> bool {
        if !(OLDEST_VERSION..=VERSION).contains(&welcome.version) {
            let found = format!("the host wants version {} of the protocol", welcome.version);
            self.complain(&Trouble::new(
                "talking with the host",
                found,
                "use an agent of the host's age",
            ));
            return false;
        }
        self.pressure_at = pressure::period_ns(welcome.pressure_ms).map(|period| now_ns + period);
        self.sampler.sample(&self.root, &self.names);
        self.welcome = Some(welcome);
        self.tell_online();
        // To make one takes longer than an unplug, and to remove it longer yet: so it is made once.
        if self.tracer.is_none() && phases::is_possible(&self.root) {
            let tracer = Tracer::start(&self.root);
            self.tracer = self.check(tracer);
        }
        true
    }

    pub(super) fn begin(&mut self, begin: &Begin, now_ns: u64) {
        if self.operations.len() >= MOST_OPERATIONS
            || self.operations.contains_key(&begin.operation)
        {
            let found = format!("{} are under way", self.operations.len());
            let tried = format!("beginning operation {}", begin.operation);
            self.complain(&Trouble::new(tried, found, "end one, and begin each once"));
            return;
        }
        if begin.expedite {
            let held = self
                .expedite
                .hold(Holder::Operation(begin.operation), &mut self.store);
            self.check(held);
        }
        if let Some(tracer) = &mut self.tracer {
            tracer.begin();
        }
        self.names.refresh(&self.root);
        let mut cpus = BTreeMap::new();
        for cpu in &begin.cpus {
            match self.names.number(*cpu) {
                Some(number) => {
                    cpus.insert(number.into(), *cpu);
                }
                // One that is plugged for the first time has no number yet.
                None if begin.kind == Kind::Plug => {}
                None => self.complain(&unknown(*cpu)),
            }
        }
        let mut operation = Operation::new(begin, cpus, now_ns);
        let said = operation.start(&mut self.store, now_ns);
        if begin.kind == Kind::Unplug && begin.drain {
            let numbers = operation
                .cpus
                .keys()
                .map(|number| (*number, begin.operation));
            self.drained_for.extend(numbers);
        }
        self.operations.insert(begin.operation, operation);
        let said = self.check(said).unwrap_or_default();
        self.said.extend(said);
    }

    /// An operation has ended, as the host says. What has become of its CPUs, the guest knows itself: what was moved off one that
    /// is online goes back now, and what was moved off another one when that comes back.
    pub(super) fn finish(&mut self, end: &End) {
        self.trace_ready();
        let Some(operation) = self.operations.remove(&end.operation) else {
            return;
        };
        let released = self
            .expedite
            .release(Holder::Operation(end.operation), &mut self.store);
        self.check(released);
        for number in operation.cpus.keys() {
            if cpus::is_online(&self.root, *number) == Some(true) {
                self.put_back(*number);
            }
        }
    }

    pub(super) fn answer(&mut self, ask: &Ask) {
        self.names.refresh(&self.root);
        let Ask { id, cpu } = *ask;
        let (blockers, problem) = match self.names.number(cpu) {
            Some(number) => {
                let found = blockers::find(&self.root, number.into());
                (Blockers::new(found.blockers), found.problem)
            }
            None => (Blockers::default(), Some(unknown(cpu).to_string())),
        };
        let problem = problem.map(|problem| Text::new(&problem));
        self.said.push(
            Answer {
                id,
                cpu,
                blockers,
                problem,
            }
            .into(),
        );
    }
}

fn unknown(cpu: ApicId) -> Trouble {
    Trouble::new(
        format!("looking for the CPU with APIC id {cpu}"),
        "the guest has never had it online",
        "name one that `online` has",
    )
}
