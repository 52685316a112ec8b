//! What a server shows, replaced while it serves.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base::{Error, Result, error::Internal};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::{Authority, Life, files};

/// The certificate and key of a server. New connections get what [`Served::refresh`] found last; those that are open keep theirs.
#[derive(Debug)]
pub struct Served {
    source: Source,
    current: RwLock<Current>,
}

#[derive(Debug)]
enum Source {
    /// Issued by the authority in this directory for these names.
    Issued { directory: PathBuf, names: Vec<String> },
    /// Files that somebody else replaces.
    Given { certificate: PathBuf, key: PathBuf },
}

#[derive(Debug)]
struct Current {
    certificate: String,
    shown: Arc<CertifiedKey>,
}

impl Served {
    /// A certificate of the authority in `directory`, for a server that is reached by `names`.
    pub fn issued(directory: &Path, names: Vec<String>) -> Result<Arc<Served>> {
        Served::new(Source::Issued { directory: directory.to_path_buf(), names })
    }

    /// The chain and the key in two files (PEM).
    pub fn given(certificate: &Path, key: &Path) -> Result<Arc<Served>> {
        Served::new(Source::Given { certificate: certificate.to_path_buf(), key: key.to_path_buf() })
    }

    fn new(source: Source) -> Result<Arc<Served>> {
        let current = RwLock::new(source.load()?);
        Ok(Arc::new(Served { source, current }))
    }

    /// Looks whether there is a newer certificate, and has one issued when it is time; says whether another one is shown now. On an
    /// error the old one stays. It reads and writes files.
    pub fn refresh(&self) -> Result<bool> {
        let fresh = self.source.load()?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.certificate != fresh.certificate;
        *current = fresh;
        Ok(changed)
    }

    /// How long what is shown is good.
    pub fn life(&self) -> Option<Life> {
        Life::of(&self.current.read().unwrap_or_else(PoisonError::into_inner).certificate)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).shown.clone())
    }
}

impl Source {
    fn load(&self) -> Result<Current> {
        let (certificate, key) = match self {
            Source::Issued { directory, names } => Authority::open(directory)?.server_pair(names)?,
            Source::Given { certificate, key } => {
                let read =
                    |path: &Path| files::read(path)?.ok_or_else(|| Error::invalid(format!("{}: there is no such file", path.display())));
                (read(certificate)?, read(key)?)
            }
        };
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().internal("reading a server's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).internal("reading a server's key")?;
        // Files that are replaced one after the other do not fit meanwhile.
        let shown =
            CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).internal("a server's certificate and key")?;
        Ok(Current { certificate, shown: Arc::new(shown) })
    }
}
