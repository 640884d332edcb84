//! Developer commands. `cargo xtask help` lists them.
#![forbid(unsafe_code)]

mod args;
mod checks;
mod install;
mod lexer;
mod metadata;
mod report;
mod shell;
mod source;
mod statement;
mod test;
mod wheel;

use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{}", args::help());
            ExitCode::SUCCESS
        }
        Ok(Command::Test(options)) => test::run(&options),
        Err(message) => {
            eprintln!("cargo xtask: {message}\n\n{}", args::help());
            ExitCode::from(2)
        }
    }
}
