//! A backup as a file: a tar archive of the files of a data directory, behind one that describes them. So it can be listed, and in
//! need unpacked, without Switchboard, compressed by any program, and read and written as a stream.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};

use crate::{
    app::restored::{DATABASE, SECRETS},
    terminal::output::printable,
};

/// The name of the description, which comes first.
const DESCRIPTION: &str = "backup.json";

/// The most bytes of a description.
const DESCRIPTION_BYTES: u64 = 64 * 1024;

/// The version of the format. A reader refuses a higher one.
const FORMAT: u64 = 1;

/// What a backup has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Description {
    format: u64,
    /// The version of the program that made it.
    pub(super) switchboard: String,
    /// When it was begun: what was acknowledged before is in it.
    pub(super) created_at: DateTime<Utc>,
    /// The last migration of the database.
    schema: String,
    files: BTreeMap<String, Contained>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Contained {
    bytes: u64,
    sha256: String,
}

/// Counts and digests what passes through it.
struct Digesting<T> {
    inner: T,
    bytes: u64,
    sha256: Sha256,
}

impl<T> Digesting<T> {
    fn new(inner: T) -> Self {
        Self { inner, bytes: 0, sha256: Sha256::new() }
    }

    fn contained(self) -> Contained {
        let sha256 = self.sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Contained { bytes: self.bytes, sha256 }
    }
}

impl<T: Write> Write for Digesting<T> {
    fn write(&mut self, some: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(some)?;
        self.bytes += written as u64;
        self.sha256.update(&some[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a backup of the files of a folder, of which the secrets may be missing.
pub(super) fn write(folder: &Path, created_at: DateTime<Utc>, schema: &str, out: impl Write) -> anyhow::Result<()> {
    let mut files = BTreeMap::new();
    let names: Vec<_> = SECRETS.into_iter().chain([DATABASE]).filter(|name| folder.join(name).exists()).collect();
    for name in &names {
        let mut digesting = Digesting::new(io::sink());
        io::copy(&mut File::open(folder.join(name))?, &mut digesting)?;
        files.insert((*name).to_owned(), digesting.contained());
    }
    let description = Description {
        format: FORMAT,
        switchboard: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: created_at.trunc_subsecs(0),
        schema: schema.to_owned(),
        files,
    };
    let text = serde_json::to_string_pretty(&description)? + "\n";
    let mut archive = Builder::new(out);
    let mut append = |name: &str, bytes: u64, content: &mut dyn Read| {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(bytes);
        // they have the secret and hashes of passwords
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(created_at.timestamp()).unwrap_or_default());
        archive.append_data(&mut header, name, content)
    };
    append(DESCRIPTION, text.len() as u64, &mut text.as_bytes())?;
    for name in names {
        let mut content = File::open(folder.join(name))?;
        append(name, content.metadata()?.len(), &mut content)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// Writes the files of a backup into an empty folder, and onto the disk. Only the names that a backup can have are written, and all is
/// as the description says.
pub(super) fn read(input: impl Read, folder: &Path) -> anyhow::Result<Description> {
    const NO_BACKUP: &str = "this is no backup by `switchboard backup`";
    let mut archive = Archive::new(input);
    let mut entries = archive.entries().context(NO_BACKUP)?;
    let first = entries.next().context(NO_BACKUP)?.context(NO_BACKUP)?;
    ensure!(&*first.path_bytes() == DESCRIPTION.as_bytes(), NO_BACKUP);
    let mut text = String::new();
    first.take(DESCRIPTION_BYTES).read_to_string(&mut text).context(NO_BACKUP)?;
    let description: Value = serde_json::from_str(&text).with_context(|| format!("{NO_BACKUP}: {DESCRIPTION}"))?;
    ensure!(
        description["format"].as_u64().is_none_or(|format| format <= FORMAT),
        "this backup was made by a newer switchboard ({}): restore it with that version",
        printable(description["switchboard"].as_str().unwrap_or_default())
    );
    let description: Description =
        serde_json::from_value(description).with_context(|| format!("{NO_BACKUP}: {DESCRIPTION}"))?;
    ensure!(description.files.contains_key(DATABASE), "{NO_BACKUP}: it has no database");
    let mut missing: Vec<_> = description.files.iter().collect();
    for entry in entries {
        let mut entry = entry.context("the backup is damaged")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let known = SECRETS.into_iter().chain([DATABASE]).find(|known| *known == name);
        let place = missing.iter().position(|(expected, _)| **expected == name);
        let (Some(name), Some(place), EntryType::Regular) = (known, place, entry.header().entry_type()) else {
            bail!("the backup is damaged: it has {}, which it should not have", printable(&name));
        };
        let (_, expected) = missing.remove(place);
        let path = folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = Digesting::new(file.with_context(|| format!("cannot create {}", path.display()))?);
        // one byte more shows that there are more
        copy(&mut entry.by_ref().take(expected.bytes.saturating_add(1)), &mut file)
            .with_context(|| format!("cannot write {}", path.display()))?;
        file.inner.sync_all().with_context(|| format!("cannot write {}", path.display()))?;
        ensure!(file.contained() == *expected, "the backup is damaged: {name} is not what it was");
    }
    ensure!(missing.is_empty(), "the backup is damaged: its end is missing");
    Ok(description)
}

/// Copies all that can be read: what ends too early is found by its digest.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(some) => to.write_all(&buffer[..some])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}
