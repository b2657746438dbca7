//! Where the custom data comes from: an ordered list of sources, and why each other one did not give it.

use std::path::Path;
use std::time::{Duration, Instant};

use nap_model::config::carrier::CarrierError;
use nap_model::config::{Cluster, Decoded, decode, ovf};
use nap_model::facts::Dmi;
use nap_model::report::{Failure, Reason};
use nap_model::secret::SecretString;
use serde::Serialize;
use tracing::{debug, warn};

use crate::imds::{Imds, ImdsError};
use crate::root::Root;
use crate::{chain, media, persist};

/// How long IMDS may take when the configuration must come from it, in seconds: a host update answers 410 for up to 70.
pub const IMDS_LIMIT: Duration = Duration::from_secs(90);

/// How long IMDS may take for a token that most likely is elsewhere, or nowhere.
const TOKEN_LIMIT: Duration = Duration::from_secs(5);

/// How far a search may go.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Whether the provisioning disc may be mounted; a command that only shows something leaves it alone.
    pub may_mount: bool,
    /// How long IMDS may take.
    pub imds_limit: Duration,
}

/// What is tried, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The file that the command line names; then nothing else is tried.
    GivenFile,
    /// The provisioning disc.
    OvfMedia,
    /// Our own copy of an earlier boot, which says which VM it is of.
    OwnCopy,
    /// cloud-init's copy of the disc's document.
    OvfCopy,
    /// WALinuxAgent's copy of the custom data.
    WaagentCopy,
    /// cloud-init's copy of the custom data.
    CloudInitCopy,
    /// IMDS `userData`.
    ImdsUserData,
    /// IMDS `customData`, empty on Azure, filled by emulators.
    ImdsCustomData,
}

/// A source that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The source.
    pub source: Source,
    /// What came of it, in one line without secrets.
    pub outcome: String,
}

/// The configuration and where it came from.
#[derive(Debug)]
pub struct Found {
    /// The source that won.
    pub source: Source,
    /// What it gave.
    pub decoded: Decoded,
    /// Every source tried, the winner last.
    pub tried: Vec<Tried>,
}

/// Tries the sources in order and returns the first that holds a configuration, good or bad.
///
/// # Errors
/// [`Reason::CustomDataMissing`], [`Reason::CustomDataUnreadable`] or [`Reason::ImdsUnreachable`], with every source's outcome.
pub async fn find(root: &Root, given: Option<&Path>, dmi: &Dmi, imds: &Imds, reach: Reach) -> Result<Found, Failure> {
    let mut search = Search { may_mount: reach.may_mount, ..Search::default() };
    let found = match given {
        Some(path) => search.given(path),
        None => match search.on_disk(root, dmi) {
            Some(found) => Some(found),
            None if search.damaged => None,
            None => search.in_imds(imds, reach.imds_limit).await,
        },
    };
    match found {
        Some((source, decoded)) => Ok(Found { source, decoded, tried: search.tried }),
        None => Err(search.failure(given.is_some())),
    }
}

/// The bootstrap token for this cluster in another's copy of the custom data, the first that has one: ours has none, because it had done its
/// work. A copy that an image was captured with is of another cluster.
pub async fn find_token(root: &Root, dmi: &Dmi, imds: &Imds, cluster: &Cluster) -> Option<(Source, SecretString)> {
    let mut search = Search::default();
    let token = |won: Won| {
        let (source, decoded) = won?;
        let config = decoded.config.filter(|config| config.cluster == *cluster)?;
        Some((source, config.bootstrap_token?))
    };
    match COPIES.iter().find_map(|copy| token(copy(&mut search, root, dmi))) {
        Some(found) => Some(found),
        None => token(search.in_imds(imds, TOKEN_LIMIT).await),
    }
}

/// What others keep of the custom data, in the order in which it is tried.
const COPIES: [fn(&mut Search, &Root, &Dmi) -> Won; 3] = [
    |search, root, _| search.ovf_copy(root),
    |search, root, _| search.file(root, Source::WaagentCopy, "/var/lib/waagent/CustomData"),
    Search::cloud_init_copy,
];

/// The source that won and what it gave; nothing when it gave nothing.
type Won = Option<(Source, Decoded)>;

#[derive(Default)]
struct Search {
    tried: Vec<Tried>,
    unreadable: Option<String>,
    damaged: bool,
    may_mount: bool,
    imds_failed: bool,
}

impl Search {
    fn given(&mut self, path: &Path) -> Won {
        match std::fs::read(path) {
            Ok(bytes) => self.opens(Source::GivenFile, &bytes),
            Err(error) => self.no(Source::GivenFile, format!("cannot read {}: {error}", path.display())),
        }
    }

    fn on_disk(&mut self, root: &Root, dmi: &Dmi) -> Won {
        let first: [fn(&mut Self, &Root, &Dmi) -> Won; 2] = [|search, root, _| search.media(root), Self::own_copy];
        // A custom data that is damaged is this boot's, and an older copy would be the wrong one.
        first.iter().chain(&COPIES).find_map(|source| if self.damaged { None } else { source(self, root, dmi) })
    }

    fn media(&mut self, root: &Root) -> Won {
        if !root.is_machine() {
            return self.no(Source::OvfMedia, "no drives below a scratch root".to_owned());
        }
        if !self.may_mount {
            return self.no(Source::OvfMedia, "not mounted by a command that touches nothing".to_owned());
        }
        match media::read(root) {
            Ok(document) => self.ovf(Source::OvfMedia, document),
            Err(error) => self.no(Source::OvfMedia, chain(&error)),
        }
    }

    fn ovf_copy(&mut self, root: &Root) -> Won {
        let path = "/var/lib/waagent/ovf-env.xml";
        match root.read(path) {
            Ok(Some(xml)) => match ovf::parse(&xml) {
                Ok(document) => self.ovf(Source::OvfCopy, document),
                Err(error) => self.no(Source::OvfCopy, error.to_string()),
            },
            Ok(None) => self.no(Source::OvfCopy, format!("no {path}")),
            Err(error) => self.no(Source::OvfCopy, chain(&error)),
        }
    }

    fn ovf(&mut self, source: Source, document: ovf::OvfEnvironment) -> Won {
        match document.custom_data {
            _ if document.preprovisioned => {
                self.no(source, "still the pool's document, not this VM's (PreprovisionedVm)".to_owned())
            }
            Some(bytes) => self.opens(source, &bytes),
            None => self.no(source, "ovf-env.xml has no CustomData".to_owned()),
        }
    }

    fn cloud_init_copy(&mut self, root: &Root, dmi: &Dmi) -> Won {
        // An image captured without cleaning holds another VM's custom data; cloud-init names the instance after the VM.
        let instance = root.read_text("/var/lib/cloud/data/instance-id").ok().flatten().unwrap_or_default();
        let is_uuid = instance.len() == 36 && instance.matches('-').count() == 4;
        if is_uuid && !dmi.is_vm(&instance) {
            return self.no(Source::CloudInitCopy, format!("belongs to another VM, {instance}"));
        }
        self.file(root, Source::CloudInitCopy, "/var/lib/cloud/instance/user-data.txt")
    }

    fn own_copy(&mut self, root: &Root, dmi: &Dmi) -> Won {
        match persist::read_copy(root, dmi) {
            Ok(Some(bytes)) => self.opens(Source::OwnCopy, &bytes),
            Ok(None) => self.no(Source::OwnCopy, "no copy of this VM's".to_owned()),
            Err(error) => self.no(Source::OwnCopy, chain(&error)),
        }
    }

    fn file(&mut self, root: &Root, source: Source, path: &str) -> Won {
        match root.read(path) {
            Ok(Some(bytes)) if !bytes.is_empty() => self.opens(source, &bytes),
            Ok(_) => self.no(source, format!("no {path}, or empty")),
            Err(error) => self.no(source, chain(&error)),
        }
    }

    async fn in_imds(&mut self, imds: &Imds, limit: Duration) -> Won {
        let start = Instant::now();
        for (source, name) in [(Source::ImdsUserData, "userData"), (Source::ImdsCustomData, "customData")] {
            let left = limit.saturating_sub(start.elapsed());
            let found = match imds.compute_text(name, left).await {
                Ok(bytes) if bytes.is_empty() => self.no(source, "empty".to_owned()),
                Ok(bytes) => self.opens(source, &bytes),
                Err(error) => {
                    let is_gone = matches!(error, ImdsError::Unreachable { .. });
                    self.imds_failed |= is_gone;
                    let found = self.no(source, chain(&error));
                    if is_gone {
                        return None; // the other text would only fail the same way, once more as long
                    }
                    found
                }
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn opens(&mut self, source: Source, bytes: &[u8]) -> Won {
        match decode(bytes) {
            Ok(decoded) => {
                self.tried
                    .push(Tried { source, outcome: format!("{} bytes, a {}", bytes.len(), decoded.document.format) });
                Some((source, decoded))
            }
            Err(error) => {
                let message = error.to_string();
                if !matches!(error, CarrierError::Nothing(_)) {
                    self.damaged = true;
                    warn!(?source, error = message, "custom data cannot be read");
                }
                self.unreadable.get_or_insert_with(|| message.clone());
                self.no(source, message)
            }
        }
    }

    fn no(&mut self, source: Source, outcome: String) -> Won {
        debug!(?source, outcome, "no configuration here");
        self.tried.push(Tried { source, outcome });
        None
    }

    fn failure(self, given: bool) -> Failure {
        let (reason, message) = match self.unreadable {
            Some(message) => (Reason::CustomDataUnreadable, message),
            None if self.imds_failed => (
                Reason::ImdsUnreachable,
                "no source on this machine had a configuration, and IMDS did not answer".to_owned(),
            ),
            None if given => (Reason::CustomDataMissing, "the given file cannot be read".to_owned()),
            None => (Reason::CustomDataMissing, "no source had a custom data".to_owned()),
        };
        let tried = self.tried.iter().map(|tried| format!("{:?}: {}", tried.source, tried.outcome));
        tried.fold(Failure::new(reason, "fetch", message), Failure::seen)
    }
}
