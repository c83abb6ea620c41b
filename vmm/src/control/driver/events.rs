//! What the control thread waits for, and who is told of it.

use super::*;

impl MutEventSubscriber for Driver {
    fn init(&mut self, ops: &mut EventOps) {
        let queue = Events::with_data(self.queue.wake(), TOKEN_QUEUE, EventSet::IN);
        let signals = Events::with_data(self.signals.fd(), TOKEN_SIGNALS, EventSet::IN);
        for events in [queue, signals] {
            if let Err(error) = ops.add(events) {
                return self.finish(End::Failed(event_failed(&error)));
            }
        }
        heap::trim();
        if self.vm.is_none() {
            return info!("waiting for a machine to be created");
        }
        self.vm.iter_mut().for_each(|vm| vm.start_console(ops));
        match self.run_machine() {
            Ok(()) => self.say_running(),
            Err(error) => self.finish(End::Failed(error)),
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            TOKEN_QUEUE => {
                for posted in self.queue.take() {
                    self.posted(posted, ops);
                }
            }
            TOKEN_SIGNALS => {
                for signal in self.signals.read() {
                    self.step(lifecycle::Event::Terminate(signal), ops);
                }
            }
            console::TOKEN_IN | console::TOKEN_OUT | console::TOKEN_LISTEN => {
                self.console(|console, port, output| console.ready(events, port, output, ops));
            }
            token => error!(token, "an event of nobody"),
        }
    }
}
