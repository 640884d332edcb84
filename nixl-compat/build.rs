//! Names the shared object as NIXL names its own, so that what was linked against that finds this.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnixl_capi.so");
}
