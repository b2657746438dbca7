//! What a binary needs from the machine it runs on, read from its own symbols.

use std::collections::BTreeSet;

use object::elf;
use object::read::elf::{Dyn, ElfFile64};
use object::{Endianness, Object};
use thiserror::Error;

/// Why a file is no program that can be packaged.
#[derive(Debug, Error)]
pub enum ElfError {
    /// It is no 64-bit ELF file, or a broken one.
    #[error("no program: {0}")]
    Unreadable(#[from] object::Error),
    /// Its processor is none of ours.
    #[error("built for {0:?}, want x86-64 or AArch64")]
    Architecture(object::Architecture),
    /// It has no dynamic section.
    #[error("linked statically; its libraries cannot be told")]
    Static,
}

/// A processor that there are packages for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Architecture {
    /// Debian's and Kubernetes' word.
    pub fn deb(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The word of rpm, Rust and the kernel.
    pub fn rpm(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// A shared library and the versions of symbols that a program takes from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its name, such as `libc.so.6`.
    pub name: String,
    /// Such as `GLIBC_2.34`.
    pub versions: BTreeSet<String>,
}

impl Library {
    /// The newest version with this prefix, by its numbers: `2.34` of `GLIBC_2.34`.
    pub fn newest(&self, prefix: &str) -> Option<String> {
        let numbers = |version: &str| version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
        let versions = self.versions.iter().filter_map(|version| version.strip_prefix(prefix));
        versions
            .filter(|version| version.starts_with(|first: char| first.is_ascii_digit()))
            .max_by_key(|version| numbers(version))
            .map(str::to_owned)
    }
}

/// A program's processor and libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its processor.
    pub architecture: Architecture,
    /// In the order in which it names them.
    pub libraries: Vec<Library>,
}

impl Program {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// When it is none, or not one of a processor of ours.
    pub fn read(bytes: &[u8]) -> Result<Self, ElfError> {
        let file = ElfFile64::<Endianness>::parse(bytes)?;
        let architecture = match file.architecture() {
            object::Architecture::X86_64 => Architecture::Amd64,
            object::Architecture::Aarch64 => Architecture::Arm64,
            other => return Err(ElfError::Architecture(other)),
        };
        let mut libraries = needed(&file, bytes)?;
        let (endian, sections) = (file.endian(), file.elf_section_table());
        if let Some((mut needs, strings)) = sections.gnu_verneed(endian, bytes)? {
            let strings = sections.strings(endian, bytes, strings)?;
            while let Some((need, mut symbols)) = needs.next()? {
                let file = text(need.file(endian, strings)?);
                let Some(library) = libraries.iter_mut().find(|library| library.name == file) else { continue };
                while let Some(symbol) = symbols.next()? {
                    library.versions.insert(text(symbol.name(endian, strings)?));
                }
            }
        }
        Ok(Self { architecture, libraries })
    }
}

fn needed(file: &ElfFile64<'_, Endianness>, bytes: &[u8]) -> Result<Vec<Library>, ElfError> {
    let (endian, sections) = (file.endian(), file.elf_section_table());
    let Some((entries, strings)) = sections.dynamic(endian, bytes)? else { return Err(ElfError::Static) };
    let strings = sections.strings(endian, bytes, strings)?;
    let mut libraries = Vec::new();
    for entry in entries.iter().filter(|entry| entry.tag(endian) == elf::DT_NEEDED) {
        let name = text(entry.string(endian, strings)?);
        libraries.push(Library { name, versions: BTreeSet::new() });
    }
    Ok(libraries)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_its_libraries_and_the_versions_that_it_takes() {
        let program = Program::read(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap();
        assert_eq!(program.architecture.rpm(), std::env::consts::ARCH);
        let libc = program.libraries.iter().find(|library| library.name == "libc.so.6").unwrap();
        assert!(libc.newest("GLIBC_").unwrap().starts_with("2."), "{libc:?}");
        assert!(matches!(Program::read(b"#!/bin/sh\n"), Err(ElfError::Unreadable(_))));
    }

    #[test]
    fn the_newest_version_is_by_its_numbers_and_not_a_private_one() {
        let versions = ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_PRIVATE", "GCC_12.0.0"].map(str::to_owned).into();
        let library = Library { name: "libc.so.6".into(), versions };
        assert_eq!(library.newest("GLIBC_").as_deref(), Some("2.34"));
        assert_eq!(library.newest("LIBSYSTEMD_"), None);
    }
}
