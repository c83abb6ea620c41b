//! CPU time that was promised to tasks (`SCHED_DEADLINE`, `Documentation/scheduler/sched-deadline.rst`).

use hotvisor_protocol::DeadlineBandwidth;

use crate::cpus;
use crate::root::Root;
use crate::tasks::Task;

/// A whole CPU.
const PPM: u64 = 1_000_000;

/// What was promised to one task, in millionths of a CPU. The kernel counts runtime by period; the file has runtime and deadline,
/// and no period: where that is longer than the deadline, this is more than was promised. `None` where the kernel does not say
/// (before 6.15 without `CONFIG_SCHED_DEBUG`).
fn promised(root: &Root, task: &Task) -> Option<u64> {
    let path = format!("proc/{}/task/{}/sched", task.pid, task.tid);
    let (mut runtime, mut deadline) = (None, None);
    for line in root.lines(&path).ok()? {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            "dl.runtime" => runtime = value.trim().parse::<u64>().ok(),
            "dl.deadline" => deadline = value.trim().parse::<u64>().ok(),
            _ => {}
        }
    }
    runtime?.saturating_mul(PPM).checked_div(deadline?)
}

/// The share of a CPU that may be promised, in millionths; `None` where there is no limit.
fn limit(root: &Root) -> Option<u64> {
    let number = |name: &str| {
        let text = root.read(&format!("proc/sys/kernel/sched_rt_{name}_us"));
        text.ok()?.parse::<i64>().ok()
    };
    let runtime = number("runtime").unwrap_or(950_000);
    let period = number("period").and_then(|period| u64::try_from(period).ok());
    let runtime = u64::try_from(runtime).ok()?;
    runtime
        .saturating_mul(PPM)
        .checked_div(period.unwrap_or(PPM))
}

/// What was promised to these tasks, all of this policy, and what there is room for without a CPU; `None` if there are none.
/// The second is how many tasks the kernel does not say it of.
#[must_use]
pub fn without(root: &Root, cpu: u32, tasks: &[Task]) -> Option<(DeadlineBandwidth, u32)> {
    if tasks.is_empty() {
        return None;
    }
    let shares: Vec<u64> = tasks
        .iter()
        .filter_map(|task| promised(root, task))
        .collect();
    let others = u64::from(cpus::set(root, "online").without(cpu).len());
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let bandwidth = DeadlineBandwidth {
        tasks: count(tasks.len()),
        promised_ppm: shares
            .iter()
            .fold(0, |sum, share| sum.saturating_add(*share)),
        room_ppm: limit(root).map_or(u64::MAX, |limit| others.saturating_mul(limit)),
    };
    Some((bandwidth, count(tasks.len() - shares.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;
    use crate::tasks;

    fn promise(picture: &Picture, tid: u32, runtime: u64) {
        picture.task(tid, tid, "video", 0, tasks::DEADLINE, 0, "0-1");
        let path = format!("proc/{tid}/task/{tid}/sched");
        let text = format!("policy  :  6\ndl.runtime   :   {runtime}\ndl.deadline  :  1000000\n");
        picture.file(&path, &text);
    }

    fn of(picture: &Picture) -> Option<(DeadlineBandwidth, u32)> {
        let all: Vec<Task> = tasks::all(picture.root()).collect();
        without(picture.root(), 1, &all)
    }

    #[test]
    fn two_promises_of_sixty_percent_do_not_fit_on_one_cpu() {
        let picture = Picture::of_cpus(2);
        assert_eq!(of(&picture), None);
        picture.file("proc/sys/kernel/sched_rt_runtime_us", "950000\n");
        picture.file("proc/sys/kernel/sched_rt_period_us", "1000000\n");
        promise(&picture, 5, 600_000);
        promise(&picture, 6, 600_000);
        let expected = DeadlineBandwidth {
            tasks: 2,
            promised_ppm: 1_200_000,
            room_ppm: 950_000,
        };
        assert_eq!(of(&picture), Some((expected, 0)));
        picture.file("proc/sys/kernel/sched_rt_runtime_us", "-1\n");
        assert_eq!(of(&picture).unwrap().0.room_ppm, u64::MAX);
    }

    #[test]
    fn a_kernel_that_does_not_say_is_told_of() {
        let picture = Picture::of_cpus(2);
        picture.task(5, 5, "video", 0, tasks::DEADLINE, 0, "0-1");
        let (bandwidth, unknown) = of(&picture).unwrap();
        assert_eq!(
            (bandwidth.tasks, bandwidth.promised_ppm, unknown),
            (1, 0, 1)
        );
    }
}
