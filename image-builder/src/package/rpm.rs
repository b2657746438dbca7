//! The rpm. Source: <https://rpm-software-management.github.io/rpm/manual/spec.html> for what its scripts are told.

use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileOptions, PackageBuilder};

use super::{Format, Package, PackageError, What, indented};

/// The package's own version beside the program's.
pub(super) const RELEASE: &str = "1";

/// Instead of the building machine's name.
const BUILD_HOST: &str = "nap-image-builder";

pub(super) fn bytes(package: &Package) -> Result<Vec<u8>, PackageError> {
    let description = &package.description;
    let architecture = package.program.architecture.rpm();
    let at = u32::try_from(package.at.as_second()).unwrap_or_default();
    let mut builder = PackageBuilder::new(
        &description.name,
        &package.version,
        &description.license,
        architecture,
        &description.summary,
    );
    builder
        .using_config(BuildConfig::v4().source_date(at).compression(CompressionWithLevel::Gzip(9)))
        .release(RELEASE)
        .description(description.description.trim())
        .packager(&description.maintainer)
        .build_host(BUILD_HOST);
    // What is not named here stays behind, empty, when the package goes.
    let own = format!("/{}", description.name);
    for directory in package.directories(Format::Rpm).iter().filter(|directory| directory.ends_with(&own)) {
        builder.with_dir_entry(FileOptions::dir(directory))?;
    }
    for entry in package.entries(Format::Rpm) {
        match &entry.what {
            What::File { bytes, mode, is_config } => {
                let mode = u16::try_from(*mode).unwrap_or(0o644);
                let mut options = FileOptions::new(&entry.path).permissions(mode);
                if *is_config {
                    options = options.config().noreplace();
                } else if entry.path.starts_with("/usr/share/licenses/") {
                    options = options.license();
                } else if entry.path.starts_with("/usr/share/doc/") || entry.path.starts_with("/usr/share/man/") {
                    options = options.doc();
                }
                builder.with_file_contents(bytes.clone(), options)?;
            }
            What::Link { target } => {
                builder.with_symlink(FileOptions::symlink(&entry.path, target))?;
            }
        }
    }
    for release in &package.releases {
        let items: Vec<String> = release.items.iter().map(|item| format!("- {item}")).collect();
        let name = format!("{} - {}-{RELEASE}", description.maintainer, release.version);
        builder.add_changelog_entry(name, items.join("\n"), u32::try_from(release.at.as_second()).unwrap_or_default());
    }
    dependencies(package, &mut builder);
    let scripts = &description.scripts;
    let (installed, upgraded) = (indented(&scripts.installed), indented(&scripts.upgraded));
    builder
        // The number of this package's versions that are there when all is done.
        .post_install_script(format!("if [ \"$1\" = 1 ]; then\n{installed}else\n{upgraded}fi\n"))
        .pre_uninstall_script(format!("if [ \"$1\" = 0 ]; then\n{}fi\n", indented(&scripts.removing)))
        .post_uninstall_script(format!("if [ \"$1\" = 0 ]; then\n{}fi\n", indented(&scripts.removed)));
    let mut bytes = Vec::new();
    builder.build()?.write(&mut bytes)?;
    Ok(bytes)
}

/// Libraries are asked for by the versions of their symbols, as rpmbuild does it.
fn dependencies(package: &Package, builder: &mut PackageBuilder) {
    for library in &package.program.libraries {
        let name = &library.name;
        builder.requires(Dependency::any(format!("{name}()(64bit)")));
        for version in &library.versions {
            builder.requires(Dependency::any(format!("{name}({version})(64bit)")));
        }
    }
    let dependency = |(name, version): (&String, &String)| match version.as_str() {
        "" => Dependency::any(name),
        version => Dependency::greater_eq(name, version),
    };
    for row in &package.description.depends {
        builder.requires(dependency(row));
    }
    for row in &package.description.recommends {
        builder.recommends(dependency(row));
    }
    for dependency in [Dependency::script_post("systemd"), Dependency::script_preun("systemd")] {
        builder.requires(dependency);
    }
}
