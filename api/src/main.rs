//! The `hotvisor` program.
fn main() {}
