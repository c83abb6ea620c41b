//! Runs a table of tests wherever they can run.
//!
//! If the host's own KVM is enough, or this process is in L1 already, the tests run here. Otherwise
//! L1s are booted with this executable in them, which gets the same arguments there. So `cargo
//! test`, `cargo test NAME` and `cargo nextest` work from outside, and listing boots nothing.

mod beds;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

pub use crate::host::Requirement;

use crate::artifacts::{Artifacts, Image};
use crate::host;
use crate::kernels::Kernel;
use crate::nested;
use crate::nested::Job;
use crate::vm::{Builder, Vm};

/// `qemu` runs tests that hold for any VMM against Debian's QEMU, to know that a test is right.
const VMM_VARIABLE: &str = "HOTVISOR_TEST_VMM";

/// What a test does.
pub type Body = Arc<dyn Fn(&Context) -> Result<()> + Send + Sync>;

/// Where a test can run, and why not elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever there is KVM enough.
    Any,
    /// Not in L1.
    Host(&'static str),
    /// In L1 alone.
    Bed(&'static str),
}

impl Place {
    /// Why it cannot run in this process.
    fn objection(self) -> Option<&'static str> {
        match self {
            Self::Host(why) if Job::is_running() => Some(why),
            Self::Bed(why) if !Job::is_running() => Some(why),
            Self::Any | Self::Host(_) | Self::Bed(_) => None,
        }
    }
}

/// One test.
#[derive(Clone)]
pub struct Test {
    /// Its name: groups and the kernel are separated by `::`.
    pub name: String,
    /// The kernels that it boots.
    pub images: Vec<Image>,
    /// Where it can run; elsewhere it is skipped.
    pub place: Place,
    /// What it does.
    pub run: Body,
}

impl Test {
    /// A test that boots one kernel, whose name comes last in the test's name.
    pub fn with_image(
        name: &str,
        image: Image,
        run: impl Fn(&Context, Kernel) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: format!("{name}::{}", image.kernel().name()),
            images: vec![image],
            place: Place::Any,
            run: Arc::new(move |context| {
                let context = Context {
                    image: Some(image),
                    ..context.clone()
                };
                run(&context, image.kernel())
            }),
        }
    }
}

/// A table of tests.
pub struct Suite {
    /// What they need of KVM.
    pub requirement: Requirement,
    /// Debian packages that the host must have beside the bed's own.
    pub packages: &'static [&'static str],
    /// More files for L1, each with its place there.
    pub files: fn() -> Result<Vec<(PathBuf, String)>>,
    /// The tests.
    pub tests: Vec<Test>,
}

/// What a test gets.
#[derive(Clone, Debug)]
pub struct Context {
    /// The VMM, kernels and guest images.
    pub artifacts: Artifacts,
    /// The test's image, if it has one.
    pub image: Option<Image>,
}

impl Context {
    fn new(artifacts: Artifacts) -> Self {
        Self {
            artifacts,
            image: None,
        }
    }

    /// A VM under Hotvisor with a kernel, in the form that the test's image has it, its guest image, and one vCPU.
    #[must_use]
    pub fn vm(&self, kernel: Kernel) -> Builder {
        let image = self.image.filter(|image| image.kernel() == kernel);
        let image = image.unwrap_or(Image::BzImage(kernel));
        let vm = if std::env::var(VMM_VARIABLE).is_ok_and(|vmm| vmm == "qemu") {
            Vm::peer_qemu()
        } else {
            Vm::hotvisor(self.artifacts.vmm(image))
        };
        vm.kernel(self.artifacts.kernel(image))
            .initramfs(self.artifacts.initramfs(kernel))
    }
}

/// The `main` of a test executable without the standard harness.
#[must_use]
pub fn main(suite: Suite) -> ExitCode {
    nested::run_if_first_process();
    let arguments = Arguments::from_args();
    match run(suite, &arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(suite: Suite, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        return Ok(run_here(suite.tests, arguments, None));
    }
    if Job::is_running() {
        let context = Context::new(Artifacts::open()?);
        let tests = beds::share_of_this_one(suite.tests);
        return Ok(run_here(tests, arguments, Some(context)));
    }
    let Some(images) = selected_images(&suite.tests, arguments) else {
        return Ok(run_here(suite.tests, arguments, None));
    };
    host::ensure(suite.packages)?;
    host::ensure(host::BED)?;
    let artifacts = Artifacts::prepare(&images)?;
    if suite.requirement.met_here(&artifacts.hotvisor()) {
        return Ok(run_here(
            suite.tests,
            arguments,
            Some(Context::new(artifacts)),
        ));
    }
    let selected = suite
        .tests
        .into_iter()
        .filter(|test| is_selected(test, arguments));
    beds::run(&artifacts, suite.files, selected.collect())
}

/// The kernels that the selected tests boot, or nothing if no test is selected.
fn selected_images(tests: &[Test], arguments: &Arguments) -> Option<Vec<Image>> {
    let mut selected = tests
        .iter()
        .filter(|test| is_selected(test, arguments))
        .peekable();
    selected.peek()?;
    let images: BTreeSet<Image> = selected
        .flat_map(|test| test.images.iter().copied())
        .collect();
    Some(images.into_iter().collect())
}

fn is_selected(test: &Test, arguments: &Arguments) -> bool {
    let trial = Trial::test(test.name.clone(), || Ok(()));
    !arguments.is_filtered_out(&trial)
}

/// Runs the tests in this process, one at a time: they measure, and the machine is small.
fn run_here(tests: Vec<Test>, arguments: &Arguments, context: Option<Context>) -> ExitCode {
    let context = context.map(Arc::new);
    let trials = tests
        .into_iter()
        .map(|test| {
            let context = context.clone();
            let objection = test.place.objection();
            let trial = Trial::test(test.name, move || {
                if let Some(why) = objection {
                    // Somebody asks for those that are ignored as well.
                    return Err(format!("it cannot run here: {why}").into());
                }
                let context = context.ok_or("this test has nothing to run with")?;
                (test.run)(&context).map_err(|error| format!("{error:#}").into())
            });
            match objection {
                // Whoever lists them from outside may have it run in a bed.
                Some(why) if !arguments.list => trial.with_kind(why).with_ignored_flag(true),
                _ => trial,
            }
        })
        .collect();
    let arguments = Arguments {
        test_threads: Some(1),
        ..arguments.clone()
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}
