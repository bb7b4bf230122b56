//! The doorway of the binary.
fn main() {}
