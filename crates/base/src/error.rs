//! The one error of the system.
//!
//! An [`Error`] carries two texts: the public `message`, which a client may read, and the chain of its
//! sources, which only the log may. HTTP status and body are chosen last, in the http crate, from [`Kind`].

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The resource does not exist, or the caller may not know that it does.
    NotFound,
    /// A resource with this name or key exists already.
    Exists,
    /// The request is wrong in itself; repeating it never helps.
    Invalid,
    /// No valid token.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// The request does not fit the present state of the resource.
    Conflict,
    QuotaExceeded,
    /// No host, address or space is left that fits.
    NoCapacity,
    /// A feature that this cloud does not have.
    NotSupported,
    /// A microversion or media type that is not served.
    NotAcceptable,
    MethodNotAllowed,
    UnsupportedMediaType,
    PreconditionFailed,
    TooLarge,
    /// Try again later; nothing was done.
    Unavailable,
    /// A deadline passed; whether it was done is unknown.
    Timeout,
    Gone,
    /// Our fault. Clients see the request id only.
    Internal,
}

/// See the module's description.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    /// The name clients know the fault by, where their API has one (`NeutronError.type`, placement's `code`).
    name: Option<&'static str>,
    /// Overrides the status that `kind` would have, where a reference asks for an unusual one.
    status: Option<u16>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), name: None, status: None, source: None }))
    }
    /// `kind "id" could not be found.`
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(Kind::NotFound, format!("{what} {id} could not be found."))
    }
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
    pub fn exists(message: impl Into<String>) -> Self {
        Self::new(Kind::Exists, message)
    }
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, message)
    }
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(Kind::Unauthenticated, message)
    }
    pub fn quota(message: impl Into<String>) -> Self {
        Self::new(Kind::QuotaExceeded, message)
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(Kind::Timeout, message)
    }
    /// Our fault: `message` goes to the log, never to the client.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
    /// The fault's name on the wire, for example `IpAddressInUse`.
    pub fn named(mut self, name: &'static str) -> Self {
        self.0.name = Some(name);
        self
    }
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
    pub fn message(&self) -> &str {
        &self.0.message
    }
    pub fn name(&self) -> Option<&'static str> {
        self.0.name
    }
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }
    pub fn is(&self, kind: Kind) -> bool {
        self.0.kind == kind
    }
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, Kind::Unavailable | Kind::Timeout)
    }
    /// The message and all its sources, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

/// Turns a foreign error into [`Kind::Internal`] with a word about what was being done.
pub trait Internal<T> {
    fn internal(self, doing: &str) -> Result<T>;
}
impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Internal<T> for std::result::Result<T, E> {
    fn internal(self, doing: &str) -> Result<T> {
        self.map_err(|e| Error::internal(doing).caused_by(e))
    }
}
