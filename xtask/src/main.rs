//! Developer commands. `cargo xtask help` lists them.
#![forbid(unsafe_code)]

mod args;
mod bindgen;
mod checks;
mod dist;
mod install;
mod lexer;
mod metadata;
mod python;
mod rdma;
mod report;
mod shell;
mod source;
mod statement;
mod test;
mod ucx;

use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{}", args::help());
            ExitCode::SUCCESS
        }
        Ok(Command::Rdma(options)) => rdma::command(&options),
        Ok(Command::Test(options)) => test::run(&options),
        Ok(Command::Bindgen(include)) => bindgen::run(&test::root(), include.as_deref()),
        Ok(Command::Wheel) => match python::wheel(&test::root()) {
            Ok(made) => {
                println!("{made}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("cargo xtask wheel: {why}");
                ExitCode::FAILURE
            }
        },
        Ok(Command::Dist) => dist::run(&test::root()),
        Ok(Command::Ucx) => {
            println!("{}", ucx::provide(&test::root()));
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("cargo xtask: {message}\n\n{}", args::help());
            ExitCode::from(2)
        }
    }
}
