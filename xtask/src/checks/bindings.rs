//! The bindings of `ucx-sys` are what bindgen makes of the pinned headers.

use std::fs;

use super::{Context, Stop};
use crate::{bindgen, install, ucx};

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let skip = |why: &str| Err(Stop::Skip(why.to_owned()));
    if !install::has_libclang() {
        return skip("no libclang (Debian package libclang-dev)");
    }
    let Some(include) = ucx::headers(&context.root) else {
        return skip("no headers of UCX below target/ucx/wheel");
    };
    let out = context.root.join("target/ucx/bindings");
    let failed = |error| Stop::Fail(format!("{}: {error}", out.display()));
    fs::create_dir_all(&out).map_err(failed)?;
    bindgen::generate(&context.root, &include, &out)?;
    for name in bindgen::FILES {
        let made = fs::read(out.join(name)).map_err(failed)?;
        let kept = fs::read(context.root.join(bindgen::SOURCES).join(name)).map_err(failed)?;
        if made != kept {
            let file = format!("{}/{name}", bindgen::SOURCES);
            let why = format!("{file} is not what the headers give: run cargo xtask bindgen");
            return Err(Stop::Fail(why));
        }
    }
    Ok(String::new())
}
