//! The test bed: everything between `cargo test` and an unmodified Linux guest.
//!
//! Hotvisor needs a KVM that runs 64-bit guests. Where the host has one, tests use it directly;
//! anywhere else the bed boots an emulated machine (*L1*: QEMU without hardware acceleration, whose
//! emulated CPU offers SVM) and runs the same test executable, with the same arguments, inside it.
//! The guest that Hotvisor boots is called *L2*, whether or not there is an L1 around it.
//!
//! | module | what it is for |
//! |---|---|
//! | [`environment`] | numbers that a run of the tests may be told |
//! | [`host`] | Debian packages that the host must have |
//! | [`installed`] | programs of others, installed once |
//! | [`paths`] | where the bed keeps what it makes |
//! | [`kernels`] | Debian's kernels, fetched once, and their modules |
//! | [`image`] | initial RAM file systems |
//! | [`artifacts`] | one directory with all that a test needs, the same in L1 and on the host |
//! | [`nested`] | L1: boots it, runs one program in it, brings its output and exit code back |
//! | [`lines`] | output in pieces, as lines |
//! | [`systemd`] | a systemd of its own in L1, for the unit |
//! | [`vm`] | drives one VMM process and the shell of the guest in it |
//! | [`stress`] | the scenarios in which `hotvisor stress` runs |
//! | [`harness`] | runs a table of tests wherever they can run |

pub mod artifacts;
pub mod environment;
pub mod harness;
pub mod host;
pub mod image;
pub mod installed;
pub mod kernels;
pub mod lines;
pub mod nested;
pub mod paths;
pub mod process;
pub mod promtool;
pub mod schemathesis;
pub mod stress;
pub mod systemd;
pub mod vm;
