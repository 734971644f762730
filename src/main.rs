//! The `switchboard` binary: parses the command line and hands over.

// the system's allocator keeps what a storm of connections has freed, and packs their buffers less densely; see
// docs/performance.md
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    switchboard::cli::main()
}
