//! Builds the Debian image of the VM tests: one ext4 file system without partitions, and the kernel taken out of it.
//!
//! A recipe is a folder: `packages` (names of Debian's packages, one a line), `tree` (files that are copied over the root) and `configure` (a script
//! that is run in the root, once). Two steps are cached, each under a digest of all that it is made from: the packages (about a minute), and what the
//! rest makes of them (seconds). Each is made beside its place and renamed, so an interrupted run leaves nothing half done. What changes
//! often, as the agent, is not in the image: the VM's driver writes it into each VM's copy; or it is installed by its package into an image of its own.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nap_host::cmd::{Cmd, CmdError};
use nap_host::root::{FileError, Root};
use nap_host::{confined, observe};
use nap_model::os::MKFS_EXT4;
use nap_model::plan::AbsPath;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::bake::{self, BakeError};
use crate::check::{self, Wish, WishError};
use crate::progress::Progress;
use crate::{generalize, inventory};

/// Debian 13.
const SUITE: &str = "trixie";

/// Installs the packages. Manuals and translations are of no use in a test, and start no faster for being there.
const MMDEBSTRAP: &[&str] = &[
    "--quiet",
    "--mode=root",
    "--variant=apt",
    "--aptopt=APT::Install-Recommends \"false\"",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
];

/// Without metadata_csum debugfs can write into the file system later, and without lazy init no thread of the guest does.
const MKFS: &[&str] = &["-q", "-F", "-O", "^metadata_csum,^64bit", "-E", "lazy_itable_init=0,lazy_journal_init=0"];

/// Size of the file system; the file that holds it has holes.
const DISK_BYTES: u64 = 4 << 30;

/// Time for installing the packages from a slow mirror.
const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Time for one of the other programs on a busy machine.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Where the image is made, and from what.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The recipe's folder.
    pub recipe: &'a Path,
    /// Address of a mirror of Debian; asked only when packages have to be installed.
    pub mirror: &'a str,
    /// Gets `base.raw` and `vmlinuz`, and `NAME.raw` of an image with the package.
    pub out: &'a Path,
}

/// An image as an image pipeline makes it, from the package.
#[derive(Debug)]
pub struct Packaged<'a> {
    /// Name of the image.
    pub name: &'a str,
    /// The program that becomes /opt/bin/kubelet.
    pub kubelet: &'a Path,
    /// The package that is installed.
    pub deb: &'a Path,
    /// Whether the image is baked, checked and generalized, too.
    pub is_baked: bool,
}

/// Why there is no image.
#[derive(Debug, Error)]
pub enum TestImageError {
    /// It takes chroot and mount.
    #[error("making an image needs root: packages are installed into it; run this as root")]
    NotRoot,
    /// Something of this machine could not be used.
    #[error("cannot {action} {}", path.display())]
    Local {
        /// What we were doing, as a verb.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The recipe's packages bring no kernel, or several.
    #[error("the packages of the recipe bring {found} kernels (/boot/vmlinuz-*), want one")]
    Kernels {
        /// How many.
        found: usize,
    },
    /// A program failed.
    #[error(transparent)]
    Program(#[from] CmdError),
    /// A file of the image could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Baking failed.
    #[error(transparent)]
    Bake(#[from] BakeError),
    /// Nobody can ask that of an image.
    #[error(transparent)]
    Wish(#[from] WishError),
    /// The image that was baked cannot serve.
    #[error("the image that was made cannot serve: {}", .0.join("; "))]
    Lacks(Vec<String>),
}

/// Builds `base.raw` and `vmlinuz`, unless they are there already.
///
/// # Errors
/// When a step fails; what was there before stays.
pub async fn build(sources: &Sources<'_>, progress: &Progress) -> Result<(), TestImageError> {
    let recipe = Recipe::read(sources.recipe)?;
    let _lock = lock(sources.out)?;
    base(&recipe, sources, progress).await?;
    progress.end();
    Ok(())
}

/// Builds `NAME.raw`, anew each time, and what [`build`] does.
///
/// # Errors
/// When a step fails, or the image that was baked cannot serve.
pub async fn build_packaged(
    sources: &Sources<'_>,
    packaged: &Packaged<'_>,
    progress: &Progress,
) -> Result<(), TestImageError> {
    let recipe = Recipe::read(sources.recipe)?;
    let _lock = lock(sources.out)?;
    let rootfs = base(&recipe, sources, progress).await?;
    must_be_root()?;
    let root = sources.out.join(format!("{}.root", packaged.name));
    remove(&root)?;
    make_root(&recipe, &rootfs, &root, progress).await?;
    install(packaged, &root, progress).await?;
    let disk = sources.out.join(format!("{}.raw", packaged.name));
    let beside = sources.out.join(format!("{}.raw.new", packaged.name));
    make_disk(&root, &beside, progress).await?;
    fs::rename(&beside, &disk).map_err(local("rename", &beside))?;
    progress.end();
    Ok(())
}

/// What the image is made from, whole.
struct Recipe {
    packages: Vec<String>,
    /// By path below the root.
    tree: Vec<(AbsPath, Vec<u8>, u32)>,
    configure: Vec<u8>,
}

impl Recipe {
    fn read(folder: &Path) -> Result<Self, TestImageError> {
        let file = |name: &str| fs::read(folder.join(name)).map_err(local("read", &folder.join(name)));
        let packages = String::from_utf8_lossy(&file("packages")?).lines().map(str::to_owned).collect();
        let mut tree = Vec::new();
        read_tree(&folder.join("tree"), &folder.join("tree"), &mut tree)?;
        tree.sort();
        Ok(Self { packages, tree, configure: file("configure")? })
    }

    /// Names of the two caches. This file is part of both: with other steps it is another image.
    fn digests(&self) -> (String, String) {
        let packages = [include_str!("test_image.rs"), &self.packages.join("\n")];
        let rootfs = digest(packages.iter().map(|part| part.as_bytes()));
        let mut parts = vec![rootfs.clone().into_bytes(), self.configure.clone()];
        for (path, bytes, mode) in &self.tree {
            parts.extend([path.as_str().as_bytes().to_vec(), bytes.clone(), mode.to_be_bytes().to_vec()]);
        }
        let image = digest(parts.iter().map(Vec::as_slice));
        (rootfs, image)
    }
}

/// Every file below a folder, with the mode that git knows of it.
fn read_tree(top: &Path, folder: &Path, found: &mut Vec<(AbsPath, Vec<u8>, u32)>) -> Result<(), TestImageError> {
    for entry in fs::read_dir(folder).map_err(local("read", folder))? {
        let path = entry.map_err(local("read", folder))?.path();
        if path.is_dir() {
            read_tree(top, &path, found)?;
            continue;
        }
        let bytes = fs::read(&path).map_err(local("read", &path))?;
        let mode = fs::metadata(&path).map_err(local("read", &path))?.permissions().mode();
        let inside = Path::new("/").join(path.strip_prefix(top).unwrap_or(&path));
        let inside =
            AbsPath::try_from(&*inside.to_string_lossy()).expect("a path below a folder is absolute below its root");
        found.push((inside, bytes, if mode & 0o100 == 0 { 0o644 } else { 0o755 }));
    }
    Ok(())
}

fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// One builds at a time; until the file is closed.
fn lock(out: &Path) -> Result<File, TestImageError> {
    fs::create_dir_all(out).map_err(local("make", out))?;
    let path = out.join("image.lock");
    let file = File::create(&path).map_err(local("open", &path))?;
    file.lock().map_err(local("lock", &path))?;
    Ok(file)
}

/// Makes what is not cached, points `base.raw` and `vmlinuz` at it, and returns where the installed packages are.
async fn base(recipe: &Recipe, sources: &Sources<'_>, progress: &Progress) -> Result<PathBuf, TestImageError> {
    let (rootfs, image) = recipe.digests();
    let (rootfs, image) = (format!("rootfs-{rootfs}"), format!("image-{image}"));
    let at = |name: &str| sources.out.join(name);
    if !at(&rootfs).exists() {
        must_be_root()?;
        let beside = beside(&at(&rootfs))?;
        install_packages(recipe, sources.mirror, &beside, progress).await?;
        fs::rename(&beside, at(&rootfs)).map_err(local("rename", &beside))?;
    }
    if !at(&image).exists() {
        must_be_root()?;
        let beside = beside(&at(&image))?;
        let root = beside.join("root");
        fs::create_dir(&beside).map_err(local("make", &beside))?;
        make_root(recipe, &at(&rootfs), &root, progress).await?;
        let kernel = kernel(&root)?;
        fs::copy(&kernel, beside.join("vmlinuz")).map_err(local("copy", &kernel))?;
        make_disk(&root, &beside.join("base.raw"), progress).await?;
        fs::rename(&beside, at(&image)).map_err(local("rename", &beside))?;
    }
    for name in names(sources.out)? {
        let is_ours = name.starts_with("rootfs-") || name.starts_with("image-");
        if is_ours && name != rootfs && name != image {
            remove(&at(&name))?;
        }
    }
    for name in ["base.raw", "vmlinuz"] {
        let beside = at(&format!("{name}.new"));
        remove(&beside)?;
        symlink(Path::new(&image).join(name), &beside).map_err(local("make", &beside))?;
        fs::rename(&beside, at(name)).map_err(local("rename", &beside))?;
    }
    Ok(at(&rootfs))
}

async fn install_packages(
    recipe: &Recipe,
    mirror: &str,
    root: &Path,
    progress: &Progress,
) -> Result<(), TestImageError> {
    let include = format!("--include={}", recipe.packages.join(","));
    let source = format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {SUITE} main");
    let root = root.to_string_lossy();
    let arguments = [MMDEBSTRAP, &[&include, SUITE, &root, &source]].concat();
    run("installing Debian's packages", "/usr/bin/mmdebstrap", &arguments, INSTALL_LIMIT, progress).await
}

async fn make_root(recipe: &Recipe, rootfs: &Path, root: &Path, progress: &Progress) -> Result<(), TestImageError> {
    let (from, to) = (rootfs.to_string_lossy(), root.to_string_lossy());
    run("copying the root", "/usr/bin/cp", &["--archive", &from, &to], LIMIT, progress).await?;
    let inside = Root::open(root)?;
    for (path, bytes, mode) in &recipe.tree {
        inside.write(path, bytes, *mode)?;
    }
    let script = AbsPath::literal("/configure");
    inside.write(&script, &recipe.configure, 0o755)?;
    progress.during("configuring", confined::run(&inside, "/bin/sh", &[script.as_str()], LIMIT)).await?;
    Ok(inside.remove(&script)?)
}

/// The file system of what is in `root`, which is removed.
async fn make_disk(root: &Path, disk: &Path, progress: &Progress) -> Result<(), TestImageError> {
    let file = File::create(disk).map_err(local("make", disk))?;
    file.set_len(DISK_BYTES).map_err(local("make", disk))?;
    let (root_text, disk_text) = (root.to_string_lossy(), disk.to_string_lossy());
    let arguments = [MKFS, &["-d", &root_text, &disk_text]].concat();
    run("making the file system", MKFS_EXT4, &arguments, LIMIT, progress).await?;
    remove(root)
}

/// What an image pipeline does.
async fn install(packaged: &Packaged<'_>, root: &Path, progress: &Progress) -> Result<(), TestImageError> {
    let inside = Root::open(root)?;
    let kubelet = fs::read(packaged.kubelet).map_err(local("read", packaged.kubelet))?;
    inside.write(&AbsPath::literal("/opt/bin/kubelet"), &kubelet, 0o755)?;
    let deb = AbsPath::literal("/nap-agent.deb");
    inside.write(&deb, &fs::read(packaged.deb).map_err(local("read", packaged.deb))?, 0o644)?;
    let arguments = ["--install", deb.as_str()];
    progress.during("installing the package", confined::run(&inside, "/usr/bin/dpkg", &arguments, LIMIT)).await?;
    inside.remove(&deb)?;
    if !packaged.is_baked {
        return Ok(());
    }
    let (inside, os) = bake::open(root)?;
    bake::run(&inside, os, progress).await?;
    let found = inventory::look(&inside, os, progress).await?;
    let wish = Wish { network: Some("none".to_owned()), ..Wish::default() };
    let verdict = check::check(&found, observe::image(&inside)?.as_ref(), os, &wish)?;
    if !verdict.missing.is_empty() {
        return Err(TestImageError::Lacks(verdict.missing));
    }
    generalize::run(&inside, progress)?;
    Ok(())
}

async fn run(
    what: &str,
    program: &str,
    arguments: &[&str],
    limit: Duration,
    progress: &Progress,
) -> Result<(), TestImageError> {
    progress.during(what, Cmd::new(program.into(), arguments, limit).output()).await?;
    Ok(())
}

fn kernel(root: &Path) -> Result<PathBuf, TestImageError> {
    let boot = root.join("boot");
    let kernels: Vec<String> = names(&boot)?.into_iter().filter(|name| name.starts_with("vmlinuz-")).collect();
    match kernels.as_slice() {
        [kernel] => Ok(boot.join(kernel)),
        _ => Err(TestImageError::Kernels { found: kernels.len() }),
    }
}

fn must_be_root() -> Result<(), TestImageError> {
    let own = Path::new("/proc/self");
    let is_root = fs::metadata(own).map_err(local("read", own))?.uid() == 0;
    if is_root { Ok(()) } else { Err(TestImageError::NotRoot) }
}

/// Where something is made before it gets its name; nothing is there.
fn beside(path: &Path) -> Result<PathBuf, TestImageError> {
    let beside = path.with_extension("new");
    remove(&beside)?;
    Ok(beside)
}

fn names(folder: &Path) -> Result<Vec<String>, TestImageError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(local("read", folder))?;
    Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Removes what a path names, a directory with all that is in it; that there is nothing is fine.
fn remove(path: &Path) -> Result<(), TestImageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(local("remove", path))
}

fn local(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TestImageError {
    let path = path.to_owned();
    move |source| TestImageError::Local { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(folder: &Path) -> Recipe {
        Recipe::read(folder).unwrap()
    }

    #[test]
    fn each_cache_is_named_by_what_it_is_made_from() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("packages", "systemd\nudev\n");
        write("configure", "true\n");
        write("tree/etc/a", "1");
        let (rootfs, image) = recipe(folder.path()).digests();
        assert_eq!(recipe(folder.path()).digests(), (rootfs.clone(), image.clone()));
        type Change<'a> = &'a dyn Fn();
        let at = |path: &str| folder.path().join(path);
        let changes: [(Change<'_>, bool); 5] = [
            (&|| write("tree/etc/a", "2"), false),
            (&|| fs::rename(at("tree/etc/a"), at("tree/etc/b")).unwrap(), false),
            (&|| fs::set_permissions(at("tree/etc/b"), fs::Permissions::from_mode(0o755)).unwrap(), false),
            (&|| write("configure", "false\n"), false),
            (&|| write("packages", "systemd\n"), true),
        ];
        let mut seen = vec![image];
        for (change, is_of_packages) in changes {
            change();
            let now = recipe(folder.path()).digests();
            assert_eq!(now.0 != rootfs, is_of_packages);
            assert!(!seen.contains(&now.1), "another image has another name");
            seen.push(now.1);
        }
    }

    #[test]
    fn a_root_has_one_kernel() {
        let root = tempfile::tempdir().unwrap();
        let boot = root.path().join("boot");
        fs::create_dir(&boot).unwrap();
        assert!(matches!(kernel(root.path()), Err(TestImageError::Kernels { found: 0 })));
        fs::write(boot.join("vmlinuz-6.12.0"), "").unwrap();
        fs::write(boot.join("initrd.img-6.12.0"), "").unwrap();
        assert_eq!(kernel(root.path()).unwrap(), boot.join("vmlinuz-6.12.0"));
        fs::write(boot.join("vmlinuz-6.13.0"), "").unwrap();
        assert!(matches!(kernel(root.path()), Err(TestImageError::Kernels { found: 2 })));
    }
}
