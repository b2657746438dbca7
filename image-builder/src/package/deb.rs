//! The deb. Source: deb(5), deb-control(5), and Debian Policy chapter 6 for when which script runs.

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest as _, Md5};

use super::{Entry, Format, Package, PackageError, What, indented};

/// Packages of the libraries, and the prefix of the versions of their symbols where those are the library's own.
const LIBRARIES: &[(&str, &str, &str)] = &[
    ("libc.so.6", "libc6", "GLIBC_"),
    ("libm.so.6", "libc6", "GLIBC_"),
    ("ld-linux-x86-64.so.2", "libc6", "GLIBC_"),
    ("ld-linux-aarch64.so.1", "libc6", "GLIBC_"),
    ("libgcc_s.so.1", "libgcc-s1", "GCC_"),
    ("libsystemd.so.0", "libsystemd0", "LIBSYSTEMD_"),
];

/// Left by a removal that was no purge: the next installation is one, though dpkg calls it a configuration of the old version.
const REMOVED: &str = "/var/lib/nap-agent/removed";

pub(super) fn bytes(package: &Package) -> Result<Vec<u8>, PackageError> {
    let at = package.at.as_second();
    let entries: Vec<&Entry> = package.entries(Format::Deb).collect();
    let directories = package.directories(Format::Deb);
    let size: usize = entries.iter().map(|entry| kibibytes(entry)).sum::<usize>() + directories.len();
    let control = gzip(control_members(package, &entries, size)?, at);
    let mut members: Vec<Member> = directories
        .iter()
        .map(|path| Member { path: format!("{path}/"), mode: 0o755, kind: Kind::Directory })
        .collect();
    members.extend(entries.into_iter().map(|entry| match &entry.what {
        What::File { bytes, mode, .. } => {
            Member { path: entry.path.clone(), mode: *mode, kind: Kind::File(bytes.clone()) }
        }
        What::Link { target } => Member { path: entry.path.clone(), mode: 0o777, kind: Kind::Link(target.clone()) },
    }));
    members.sort_by(|one, other| one.path.cmp(&other.path));
    let data = gzip(members, at);
    let mut archive = b"!<arch>\n".to_vec();
    for (name, bytes) in [("debian-binary", b"2.0\n".to_vec()), ("control.tar.gz", control), ("data.tar.gz", data)] {
        let header = format!("{name:<16}{at:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, "100644", bytes.len());
        archive.extend(header.as_bytes());
        archive.extend(&bytes);
        if bytes.len() % 2 == 1 {
            archive.push(b'\n');
        }
    }
    Ok(archive)
}

/// As dpkg-gencontrol counts: files in whole KiB, everything else as one.
fn kibibytes(entry: &Entry) -> usize {
    match &entry.what {
        What::File { bytes, .. } => bytes.len().div_ceil(1024),
        What::Link { .. } => 1,
    }
}

struct Member {
    path: String,
    mode: u32,
    kind: Kind,
}

enum Kind {
    Directory,
    File(Vec<u8>),
    Link(String),
}

fn gzip(members: Vec<Member>, at: i64) -> Vec<u8> {
    // GzEncoder writes neither name nor time.
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    let root = Member { path: "/".to_owned(), mode: 0o755, kind: Kind::Directory };
    for member in std::iter::once(root).chain(members) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(member.mode);
        header.set_mtime(at.unsigned_abs());
        header.set_uid(0);
        header.set_gid(0);
        let named = header.set_username("root").and_then(|()| header.set_groupname("root"));
        let path = format!(".{}", member.path);
        let added = named.and_then(|()| match &member.kind {
            Kind::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                archive.append_data(&mut header, path, std::io::empty())
            }
            Kind::File(bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(bytes.len() as u64);
                archive.append_data(&mut header, path, bytes.as_slice())
            }
            Kind::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, path, target)
            }
        });
        added.expect("memory takes what is written to it, and no path here is one that tar has no room for");
    }
    let writer = archive.into_inner().expect("memory takes what is written to it");
    writer.finish().expect("memory takes what is written to it")
}

fn control_members(package: &Package, entries: &[&Entry], size: usize) -> Result<Vec<Member>, PackageError> {
    let file =
        |name: &str, mode, text: String| Member { path: format!("/{name}"), mode, kind: Kind::File(text.into_bytes()) };
    let scripts = &package.description.scripts;
    let (installed, upgraded) = (indented(&scripts.installed), indented(&scripts.upgraded));
    let postinst = format!(
        "if [ \"$1\" = configure ] && {{ [ -z \"$2\" ] || [ -e {REMOVED} ]; }}; then\n    rm -f {REMOVED}\n{installed}\
         elif [ \"$1\" = configure ]; then\n{upgraded}fi\n"
    );
    let removing = indented(&scripts.removing);
    let prerm = format!(
        "if [ \"$1\" = remove ]; then\n{removing}    mkdir -p -m 0700 /var/lib/nap-agent\n    : >{REMOVED}\nfi\n"
    );
    let (removed, purged) = (indented(&scripts.removed), indented(&scripts.purged));
    let postrm = format!("if [ \"$1\" = remove ]; then\n{removed}elif [ \"$1\" = purge ]; then\n{purged}fi\n");
    let script = |text: String| format!("#!/bin/sh\nset -e\n{text}");
    Ok(vec![
        file("conffiles", 0o644, conffiles(entries)),
        file("control", 0o644, control(package, size)?),
        file("md5sums", 0o644, md5sums(entries)),
        file("postinst", 0o755, script(postinst)),
        file("postrm", 0o755, script(postrm)),
        file("prerm", 0o755, script(prerm)),
    ])
}

fn control(package: &Package, size: usize) -> Result<String, PackageError> {
    let description = &package.description;
    let mut depends = libraries(package)?;
    depends.extend(description.depends.iter().map(dependency));
    depends.sort();
    let recommends: Vec<String> = description.recommends.iter().map(dependency).collect();
    let text: String = description.description.trim().lines().map(|line| format!(" {line}\n")).collect();
    Ok(format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {size}\nDepends: {}\nRecommends: {}\n\
         Section: {}\nPriority: optional\nDescription: {}\n{text}",
        description.name,
        package.version,
        package.program.architecture.deb(),
        description.maintainer,
        depends.join(", "),
        recommends.join(", "),
        description.section,
        description.summary,
    ))
}

fn dependency((name, version): (&String, &String)) -> String {
    if version.is_empty() { name.clone() } else { format!("{name} (>= {version})") }
}

/// The libraries' packages, each in the oldest version that has the symbols.
fn libraries(package: &Package) -> Result<Vec<String>, PackageError> {
    let mut needed: Vec<(String, String)> = Vec::new();
    for library in &package.program.libraries {
        let row = LIBRARIES.iter().find(|(name, ..)| *name == library.name);
        let (_, deb, prefix) = row.ok_or_else(|| PackageError::UnknownLibrary(library.name.clone()))?;
        let version = library.newest(prefix).unwrap_or_default();
        match needed.iter_mut().find(|(name, _)| name == deb) {
            Some((_, known)) if newer(&version, known) => *known = version,
            Some(_) => {}
            None => needed.push(((*deb).to_owned(), version)),
        }
    }
    Ok(needed.iter().map(|(name, version)| dependency((name, version))).collect())
}

fn newer(one: &str, other: &str) -> bool {
    let numbers = |version: &str| version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    numbers(one) > numbers(other)
}

fn conffiles(entries: &[&Entry]) -> String {
    let is_config = |entry: &&&Entry| matches!(entry.what, What::File { is_config: true, .. });
    entries.iter().filter(is_config).map(|entry| format!("{}\n", entry.path)).collect()
}

fn md5sums(entries: &[&Entry]) -> String {
    let line = |entry: &&Entry| match &entry.what {
        What::File { bytes, .. } => {
            let sum: String = Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("{sum}  {}\n", entry.path.trim_start_matches('/')))
        }
        What::Link { .. } => None,
    };
    entries.iter().filter_map(line).collect()
}
