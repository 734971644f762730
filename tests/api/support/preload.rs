//! Libraries in C that change what the system tells a broker.

use std::{fs::File, os::unix::fs::FileExt, path::Path, process::Command};

use super::ChangeBroker;

/// Compiles a file of this folder and loads the library into all processes of a broker.
pub fn preload(mut change: ChangeBroker, name: &str) -> ChangeBroker {
    let library = change.dir().join(name).with_extension("so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/support").join(name);
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(status.expect("a C compiler").success());
    change.env("LD_PRELOAD", library.to_str().unwrap())
}

/// The clocks of a broker's processes.
pub struct SteppedClock(File);

impl SteppedClock {
    /// Lets a test set the clocks of this broker.
    pub fn of(change: ChangeBroker) -> (Self, ChangeBroker) {
        let mut change = preload(change, "stepped_clock.c");
        let path = change.dir().join("stepped_clock");
        std::fs::write(&path, [0; 16]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        (Self(file), change.env("STEPPED_CLOCK", path.to_str().unwrap()))
    }

    /// Sets how many seconds the date and time are ahead.
    pub fn set_date(&self, seconds: i64) {
        self.0.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Sets how many seconds more have passed for all that measures how long something takes.
    pub fn set_passed(&self, seconds: i64) {
        self.0.write_all_at(&seconds.to_ne_bytes(), 8).unwrap();
    }
}
