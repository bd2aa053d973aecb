//! Keeps the sections in which pgrx stores the SQL entities. `cargo pgrx` would pass the same flag through
//! RUSTFLAGS, hence to every dependency, and have them built a second time beside those of `cargo test`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    }
}
