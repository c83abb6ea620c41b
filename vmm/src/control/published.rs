//! What everybody may read, and the order in which it is let out.

use crate::events::{News, Writer};
use crate::hotplug::view::View;
use crate::tally::Tally;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// Where the view is shown.
pub(super) trait Shows {
    /// Shows it from now on, in place of the one before.
    fn show(&self, view: View);
}

impl Shows for watch::Sender<Arc<View>> {
    fn show(&self, view: View) {
        self.send_if_modified(|shown| {
            let awaited = view.is_awaited_after(shown);
            *shown = Arc::new(view);
            awaited
        });
    }
}

/// What everybody may read.
#[derive(Default)]
pub(super) struct Published<V = watch::Sender<Arc<View>>> {
    pub(super) view: V,
    pub(super) events: Writer,
    pub(super) tally: Arc<Tally>,
}

impl<V: Shows> Published<V> {
    /// Shows a view, if there is a new one, and then tells what has happened: who is told finds it there.
    pub(super) fn publish(&mut self, view: Option<View>, news: Vec<(SystemTime, News)>) {
        if let Some(view) = view {
            self.view.show(view);
        }
        self.events.write(news);
    }
}

/// The view and the events with a reader in all their interleavings (loom).
#[cfg(test)]
#[cfg(feature = "loom")]
mod interleaved {
    use super::*;
    use crate::events::Read;
    use crate::sync::{check, complaint};
    use loom::sync::RwLock;
    use loom::thread;

    /// What `watch` promises: a lock around the last view.
    #[derive(Clone)]
    struct Shown(Arc<RwLock<Arc<View>>>);

    impl Shows for Shown {
        fn show(&self, view: View) {
            *self.0.write().unwrap() = Arc::new(view);
        }
    }

    /// Turns of the control thread; after the n-th, n operations have ended.
    const TURNS: u64 = 2;

    /// How often a thread gives way to the other without having to.
    const SWITCHES: Option<usize> = Some(3);

    fn turn(n: u64) -> (View, Vec<(SystemTime, News)>) {
        let view = View {
            ended: n,
            ..View::default()
        };
        (
            view,
            vec![(SystemTime::UNIX_EPOCH, News::Machine("running"))],
        )
    }

    /// A reader follows the events, and looks at the view after each.
    fn follow(publish: fn(&mut Published<Shown>, u64)) {
        let shown = Shown(Arc::new(RwLock::new(Arc::default())));
        let mut published = Published {
            view: shown.clone(),
            events: Writer::new(3, 100),
            tally: Arc::default(),
        };
        let mut cursor = published.events.events().after(0);
        let reader = thread::spawn(move || {
            while let Some(read) = cursor.take() {
                let Read::Event(event) = read else {
                    panic!("{read:?}")
                };
                let ended = shown.0.read().unwrap().ended;
                assert!(
                    ended >= event.id,
                    "event {} comes before its view",
                    event.id
                );
            }
        });
        (1..=TURNS).for_each(|n| publish(&mut published, n));
        reader.join().unwrap();
    }

    #[test]
    fn who_is_told_of_something_finds_it_in_the_view() {
        check(SWITCHES, || {
            follow(|published, n| {
                let (view, news) = turn(n);
                published.publish(Some(view), news);
            });
        });
    }

    #[test]
    fn an_event_that_is_let_out_first_comes_before_its_view() {
        let found = complaint(SWITCHES, || {
            follow(|published, n| {
                let (view, news) = turn(n);
                published.publish(None, news);
                published.publish(Some(view), Vec::new());
            });
        });
        assert!(found.contains("comes before its view"), "{found}");
    }
}
