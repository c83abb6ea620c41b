//! Everything that can happen is made to happen, and what has happened is looked at.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use stateright::{Checker, Model, Property};

use crate::shape::{Act, Shape};
use crate::trace;
use crate::world::World;

/// More than anybody has to do about all that is asked in any shape: whatever goes on for longer does so for ever, and
/// only looks different each time because somebody counts.
const LONG: usize = 200;

/// The last thing that was done, and those before.
pub(crate) struct Done {
    act: Act,
    before: Option<Arc<Self>>,
}

type Way = Option<Arc<Done>>;

/// What was done, in order.
fn acts(way: &Way) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut done = way.as_ref();
    while let Some(last) = done {
        acts.push(last.act.clone());
        done = last.before.as_ref();
    }
    acts.reverse();
    acts
}

fn world(shape: Shape, way: &Way) -> World {
    let mut world = World::new(shape);
    acts(way).iter().for_each(|act| world.act(act));
    world
}

/// What was done, and what became of it.
#[derive(Clone)]
struct State {
    way: Way,
    length: usize,
    looks: String,
    due: usize,
    acts: Vec<Act>,
    wrong: Option<String>,
}

impl State {
    fn of(world: &World, way: Way, length: usize) -> Self {
        let mut acts = world.due();
        let due = acts.len();
        let looks = format!("{world:?}");
        // Looks at what the guest sees, which leaves traces.
        let unrest = if due == 0 { world.unrest() } else { None };
        let endless = (length > LONG).then(|| format!("no rest after {LONG} acts"));
        acts.extend(world.possible());
        Self {
            way,
            length,
            looks,
            due,
            acts,
            wrong: world.wrong.clone().or(unrest).or(endless),
        }
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.looks.hash(&mut hasher);
        hasher.finish()
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.looks == other.looks
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.looks.hash(state);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.looks)
    }
}

/// Something that was due, from one state to another, with the way to the former.
struct Step {
    from: u64,
    act: Act,
    to: u64,
}

/// The states that have something due, with a way to each, and what leads from one to the other.
#[derive(Default)]
struct Steps {
    ways: HashMap<u64, Way>,
    steps: Vec<Step>,
}

/// A shape, and what was seen of its states.
struct Explored {
    shape: Shape,
    seen: Arc<Mutex<Steps>>,
}

impl Model for Explored {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![State::of(&World::new(self.shape), None, 0)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Act>) {
        // Behind what is wrong there is nothing to be learnt.
        if state.wrong.is_none() {
            actions.extend(state.acts.iter().cloned());
        }
    }

    fn next_state(&self, last: &State, act: Act) -> Option<State> {
        let mut world = world(self.shape, &last.way);
        world.act(&act);
        let is_due = last.acts[..last.due].contains(&act);
        let done = Done {
            act: act.clone(),
            before: last.way.clone(),
        };
        let next = State::of(&world, Some(Arc::new(done)), last.length + 1);
        if is_due {
            let (from, to) = (last.key(), next.key());
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.ways.entry(from).or_insert_with(|| last.way.clone());
            seen.steps.push(Step { from, act, to });
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing is wrong", |_, state: &State| {
            state.wrong.is_none()
        })]
    }
}

impl Steps {
    /// What goes round for ever though everybody gets their turn, if anything does: states that lead to one another by what
    /// is due, where whatever is due in all of them is done in one. The way there, and once round.
    fn round(&self, shape: Shape) -> Option<(Vec<Act>, Vec<Act>)> {
        let steps = self.steps.iter();
        let graph: DiGraphMap<u64, ()> = steps.map(|step| (step.from, step.to)).collect();
        let rounds = tarjan_scc(&graph);
        let mut rounds = rounds
            .iter()
            .filter(|states| states.len() > 1 || graph.contains_edge(states[0], states[0]));
        let round = rounds.find(|states| {
            let inside = |step: &&Step| states.contains(&step.from) && states.contains(&step.to);
            let done: Vec<&Act> = self.steps.iter().filter(inside).map(|s| &s.act).collect();
            let mut due = states
                .iter()
                .map(|state| world(shape, &self.ways[state]).due());
            let first = due.next().unwrap_or_default();
            let always = due.fold(first, |always, due| {
                always.into_iter().filter(|act| due.contains(act)).collect()
            });
            always.iter().all(|act| done.contains(&act))
        })?;
        let way = acts(self.ways.get(&round[0])?);
        Some((way, self.back(round)))
    }

    /// The shortest way from the first of these states back to it, which does not leave them.
    fn back(&self, states: &[u64]) -> Vec<Act> {
        let mut ways = HashMap::from([(states[0], Vec::new())]);
        let mut queue = VecDeque::from([states[0]]);
        while let Some(from) = queue.pop_front() {
            for step in self.steps.iter().filter(|step| step.from == from) {
                let mut way: Vec<Act> = ways[&from].clone();
                way.push(step.act.clone());
                if step.to == states[0] {
                    return way;
                }
                if states.contains(&step.to) && !ways.contains_key(&step.to) {
                    ways.insert(step.to, way);
                    queue.push_back(step.to);
                }
            }
        }
        Vec::new()
    }
}

/// What the checker has found wrong, with the way there, and how many states there are.
pub(crate) fn check(shape: Shape) -> (Option<String>, usize) {
    let seen = Arc::<Mutex<Steps>>::default();
    let explored = Explored {
        shape,
        seen: seen.clone(),
    };
    let checker = explored.checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    let wrong = checker.discovery("nothing is wrong").map(|path| {
        let last = path.last_state();
        let wrong = last.wrong.as_deref();
        let wrong = wrong.unwrap_or("it is not so when it is played again");
        format!("{wrong}:\n{}", trace::told(shape, &acts(&last.way)))
    });
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let found = wrong.or_else(|| {
        let (way, round) = seen.round(shape)?;
        let length = round.len();
        let told = trace::told(shape, &[way, round].concat());
        Some(format!("the last {length} can go round for ever:\n{told}"))
    });
    (found, states)
}
