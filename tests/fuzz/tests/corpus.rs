//! Each target with its corpus, what once broke it among it, and with random bytes: the same ones each time.

use hotvisor_fuzz::{TARGETS, Way, boot};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Random inputs for each target, beside its corpus.
const INPUTS: u32 = 5_000;
/// The longest of them.
const LONGEST: usize = 512;

#[test]
fn every_target_takes_its_corpus() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        let mut ways = Vec::new();
        for file in &files {
            println!("{}", file.display());
            let input = fs::read(file).unwrap();
            match *name {
                "boot" => ways.extend(boot(&input)),
                _ => target(&input),
            }
        }
        println!("{name}: {} inputs", files.len());
        if *name == "boot" {
            // It is worth its name where a guest could be entered, by each way.
            for way in [Way::Linux64, Way::Pvh] {
                assert!(ways.contains(&way), "{way:?} is not among them");
            }
        }
    }
}

#[test]
fn every_target_takes_random_bytes() {
    for (seed, (name, target)) in (0..).zip(TARGETS) {
        let (mut random, begin) = (fastrand::Rng::with_seed(seed), Instant::now());
        for n in 0..INPUTS {
            let mut bytes = vec![0; random.usize(..LONGEST)];
            random.fill(&mut bytes);
            if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                panic!("{name}: input {n} of seed {seed}: {bytes:?}");
            }
        }
        println!("{name}: {INPUTS} inputs in {:?}", begin.elapsed());
    }
}

/// Random bytes get as far as that, and not only to the first check of an image.
#[test]
fn random_images_can_be_entered() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut inputs = (0..INPUTS).map(|_| {
        let mut bytes = vec![0; random.usize(..LONGEST)];
        random.fill(&mut bytes);
        boot(&bytes)
    });
    let ways: Vec<Way> = inputs.by_ref().flatten().collect();
    for way in [Way::Linux64, Way::Pvh] {
        let entered = ways.iter().filter(|found| **found == way).count();
        println!("{way:?}: {entered} of {INPUTS}");
        assert!(entered > 100, "{way:?}: {entered}");
    }
}

/// libFuzzer has the same targets, each with its file and its corpus.
#[test]
fn every_target_is_one_of_libfuzzers() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(here.join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().path().with_extension(""));
        names
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("libfuzzer/targets"), targets);
    assert_eq!(names("corpus"), targets);
    let manifest = fs::read_to_string(here.join("libfuzzer/Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]").skip(1);
    let bins: BTreeSet<String> = bins
        .filter_map(|bin| bin.split('"').nth(1).map(str::to_owned))
        .collect();
    assert_eq!(bins, targets);
}
