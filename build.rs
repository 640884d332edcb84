//! Records what this build was made from, for `nixl doctor` and bug reports.

fn main() {
    let profile = std::env::var("PROFILE").unwrap_or_default();
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=NIXL_BUILD={target} {profile}");
    println!("cargo::rerun-if-changed=build.rs");
}
