//! The `switchboard` binary.

// after many connections have closed, the system's allocator returns less memory, and it packs their buffers less densely;
// see docs/performance.md
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    switchboard::cli::main()
}
