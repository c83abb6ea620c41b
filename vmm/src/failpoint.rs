//! Places at which a test has a system call fail that hotplug needs.
//!
//! They exist with the feature `failpoints`, which no release build can have. Without it [`failpoint!`] is the call that
//! it is given, and nothing else. Deadlines have no system call of their own: they are the time limit of the control
//! thread's wait. Nor has parking, which is a wait on a condition variable, nor the GED, which is the interrupt. Where this
//! process gets no memory for itself, it ends, as all Rust programs do; what memory the kernel needs for a vCPU is among
//! these calls.

/// Makes a call, unless a test has it fail: `failpoint!(Kick, thread.kill(signal))`. The call's error must be one of the
/// operating system's.
#[cfg(feature = "failpoints")]
macro_rules! failpoint {
    ($point:ident, $call:expr) => {
        $crate::failpoint::pass($crate::failpoint::Point::$point, || $call)
    };
}

/// See the one with the feature `failpoints`: the call.
#[cfg(not(feature = "failpoints"))]
macro_rules! failpoint {
    ($point:ident, $call:expr) => {
        $call
    };
}

pub(crate) use failpoint;

#[cfg(feature = "failpoints")]
pub(crate) use armed::pass;
#[cfg(feature = "failpoints")]
pub use armed::{Count, Point, counts, misbehave, misdeeds, set};

#[cfg(feature = "failpoints")]
mod armed {
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, PoisonError};
    use std::thread;

    #[cfg(not(debug_assertions))]
    compile_error!("the feature `failpoints` is for tests: build without `--release`");

    macro_rules! points {
        ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
            /// A call that can be made to fail.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Point { $($(#[$doc])* $point,)* }

            impl Point {
                /// All of them.
                pub const ALL: &[Self] = &[$(Self::$point,)*];

                /// Its name for [`set`].
                #[must_use]
                pub const fn name(self) -> &'static str {
                    match self { $(Self::$point => $name,)* }
                }
            }
        };
    }

    points! {
        /// `KVM_CREATE_VCPU`.
        CreateVcpu = "create-vcpu",
        /// The mapping of a vCPU's page.
        MapVcpu = "map-vcpu",
        /// `KVM_SET_CPUID2`.
        SetCpuid = "set-cpuid",
        /// `KVM_GET_MSRS`.
        GetMsrs = "get-msrs",
        /// `KVM_SET_MSRS`.
        SetMsrs = "set-msrs",
        /// `KVM_GET_LAPIC`.
        GetLapic = "get-lapic",
        /// `KVM_SET_LAPIC`.
        SetLapic = "set-lapic",
        /// The second descriptor of a vCPU.
        Duplicate = "duplicate-descriptor",
        /// `rt_sigaction(2)`, for the signal that has a thread leave the guest.
        InstallHandler = "install-handler",
        /// The thread.
        Spawn = "spawn-thread",
        /// `seccomp(2)`, by which a thread is put under its filter.
        Confine = "confine-thread",
        /// `KVM_GET_MP_STATE` before a vCPU runs again.
        GetMpState = "get-mp-state",
        /// `KVM_GET_VCPU_EVENTS`.
        GetEvents = "get-vcpu-events",
        /// `KVM_SET_VCPU_EVENTS`.
        SetEvents = "set-vcpu-events",
        /// `KVM_SET_MSRS`, for the page attributes.
        SetPat = "set-pat",
        /// `KVM_SET_MP_STATE`.
        SetMpState = "set-mp-state",
        /// `KVM_GET_MP_STATE` where it proves that the guest has started a vCPU.
        SeeStart = "see-start",
        /// `KVM_GET_CLOCK`, as a pause begins and ends.
        GetClock = "get-clock",
        /// `KVM_SET_CLOCK`, as a pause ends.
        SetClock = "set-clock",
        /// `KVM_GET_DEVICE_ATTR`, for a time-stamp counter.
        GetTscOffset = "get-tsc-offset",
        /// `KVM_SET_DEVICE_ATTR`, for a time-stamp counter.
        SetTscOffset = "set-tsc-offset",
        /// `KVM_GET_TSC_KHZ`.
        GetTscKhz = "get-tsc-khz",
        /// `KVM_KVMCLOCK_CTRL`, as a pause begins.
        KvmclockCtrl = "kvmclock-ctrl",
        /// The signal that has a thread leave the guest.
        Kick = "kick",
        /// `KVM_SIGNAL_MSI`, by which the guest is told of anything.
        Interrupt = "interrupt",
    }

    const COUNT: usize = Point::ALL.len();
    static PASSED: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];
    static FAILED: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];

    /// How often a call was made, and how often it was made to fail.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Count {
        /// Its name.
        pub name: &'static str,
        /// Calls that were made.
        pub passed: u64,
        /// Calls that were not.
        pub failed: u64,
    }

    /// What has come of each.
    #[must_use]
    pub fn counts() -> Vec<Count> {
        let count = |point: &Point| Count {
            name: point.name(),
            passed: PASSED[*point as usize].load(Ordering::Relaxed),
            failed: FAILED[*point as usize].load(Ordering::Relaxed),
        };
        Point::ALL.iter().map(count).collect()
    }

    /// Has a call fail from now on as `actions` say, in the language of the crate `fail`, with an error's number for the
    /// value: `2*off->1*return(12)`.
    ///
    /// # Errors
    /// There is no such call, or the actions make no sense.
    pub fn set(name: &str, actions: &str) -> Result<(), String> {
        let known = Point::ALL.iter().any(|point| point.name() == name);
        if !known {
            return Err(format!("there is no failpoint {name:?}"));
        }
        fail::cfg(name, actions)
    }

    /// An error that one of the operating system's can be.
    pub(crate) trait FromErrno {
        fn from_errno(errno: i32) -> Self;
    }

    impl FromErrno for io::Error {
        fn from_errno(errno: i32) -> Self {
            Self::from_raw_os_error(errno)
        }
    }

    impl FromErrno for kvm_ioctls::Error {
        fn from_errno(errno: i32) -> Self {
            Self::new(errno)
        }
    }

    pub(crate) fn pass<T, E: FromErrno>(
        point: Point,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        fail::fail_point!(point.name(), |errno| {
            FAILED[point as usize].fetch_add(1, Ordering::Relaxed);
            let errno = errno.and_then(|errno| errno.parse().ok());
            Err(E::from_errno(errno.unwrap_or(libc::EIO)))
        });
        PASSED[point as usize].fetch_add(1, Ordering::Relaxed);
        let result = call();
        misbehave_if_told();
        result
    }

    /// The thread that is to do what it may not.
    static MISBEHAVES: Mutex<Option<String>> = Mutex::new(None);

    /// Has the thread of this name make a system call that no thread of this program makes, once, after the next of these
    /// calls that it makes; at once, if it is the calling one.
    pub fn misbehave(thread: String) {
        *MISBEHAVES.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        misbehave_if_told();
    }

    /// How often a thread has, and nothing came of it.
    #[must_use]
    pub fn misdeeds() -> u64 {
        MISDEEDS.load(Ordering::Relaxed)
    }

    static MISDEEDS: AtomicU64 = AtomicU64::new(0);

    fn misbehave_if_told() {
        let mut told = MISBEHAVES.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some() && told.as_deref() == thread::current().name() {
            *told = None;
            // Whether it opens is another matter: the call was made.
            drop(std::fs::File::open("/proc/version"));
            MISDEEDS.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_call_fails_as_often_as_it_is_told_to_and_with_that_error() {
            let call = || pass(Point::Duplicate, || Ok::<_, io::Error>(7));
            set("duplicate-descriptor", "1*off->2*return(24)->off").unwrap();
            let number = |result: io::Result<i32>| result.map_err(|e| e.raw_os_error());
            assert_eq!(number(call()), Ok(7));
            assert_eq!(number(call()), Err(Some(24)));
            assert_eq!(number(call()), Err(Some(24)));
            assert_eq!(number(call()), Ok(7));
            let count = counts()
                .into_iter()
                .find(|c| c.name == "duplicate-descriptor");
            let count = count.unwrap();
            assert_eq!((count.passed, count.failed), (2, 2));
            set("duplicate-descriptor", "off").unwrap();
        }

        #[test]
        fn what_makes_no_sense_is_said() {
            assert!(set("nothing", "off").unwrap_err().contains("nothing"));
            assert!(set("kick", "5*now").is_err());
        }
    }
}
