//! `sturnus`: one program that is a cloud. See `sturnus --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match sturnus::command::main(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sturnus: {error:#}");
            ExitCode::FAILURE
        }
    }
}
