//! Names the shared object by its ABI, so that programs linked with it find it in that version.
//! rustc itself gives the linker a version script that exports the `no_mangle` functions alone.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnixl_rs.so.0");
}
