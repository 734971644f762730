//! The `switchboard` binary: parses the command line and hands over.

fn main() -> std::process::ExitCode {
    switchboard::cli::main()
}
