//! The report's own tests are in Python, like the report.

use std::io::ErrorKind;
use std::process::Command;

#[test]
fn the_report_says_what_was_measured() {
    let directory = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new("python3");
    command.args(["-B", "-m", "unittest", "test_report"]);
    match command.current_dir(directory).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("SKIP report: no python3");
        }
        Err(error) => panic!("{error}"),
    }
}
