#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotvisor_fuzz::target("agent")(bytes));
