//! Benchmarks run, once each and unoptimised: what they measure is for `cargo bench`.

use super::{Context, Stop};
use crate::metadata::Metadata;
use crate::shell;

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let metadata = Metadata::read(&context.root)?;
    let targets = metadata
        .packages
        .iter()
        .flat_map(|package| &package.targets);
    let count = targets.filter(|(kind, _)| kind == "bench").count();
    if count == 0 {
        return Err(Stop::Skip("the workspace has no benchmark".to_owned()));
    }
    shell::run(&mut context.cargo(&["test", "--workspace", "--bench", "*"]))?;
    Ok(format!("{count} programs"))
}
