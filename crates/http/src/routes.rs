//! The route table is data: method and path → handler, and everything else about the route beside it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::http::Method;
use base::Result;

use crate::fault::FaultStyle;
use crate::request::Request;
use crate::response::Response;
use crate::version::Versions;

/// What all routes of a service share.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// Service type: the name in logs, metrics and policies.
    pub service: &'static str,
    pub style: FaultStyle,
    pub versions: Option<Versions>,
    /// Whether HEAD is answered wherever GET is.
    pub head: bool,
    /// Whether a path that ends in a slash means what it means without. Version documents are found either way.
    pub slash: bool,
}

pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

pub(crate) struct Entry {
    pub method: Method,
    pub handler: Handler,
    pub info: RouteInfo,
}

/// A route as coverage tests and documents see it.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    pub service: &'static str,
    pub method: &'static str,
    pub path: String,
    /// No token needed.
    pub public: bool,
    /// The handler reads the body itself.
    pub upload: bool,
    /// From before there were microversions: see [`Routes::legacy_also`].
    pub legacy: bool,
}

/// Builds a service's table. `S` is the service's handle, cloned for each request.
pub struct Routes<S> {
    state: S,
    api: Api,
    entries: Vec<Entry>,
    prefixes: Vec<Prefix>,
}

/// Where paths lie, and whether those are the ones from before there were microversions.
#[derive(Clone, Copy)]
struct Prefix {
    text: &'static str,
    legacy: bool,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub fn new(state: S, api: Api) -> Self {
        Routes { state, api, entries: Vec::new(), prefixes: Vec::new() }.under("")
    }

    /// Paths declared from here on lie below `prefix`.
    pub fn under(mut self, prefix: &'static str) -> Self {
        self.prefixes = vec![Prefix { text: prefix, legacy: false }];
        self
    }

    /// As [`Routes::under`], and also below `with_project`, which ends in `/{project_id}`: the path's project
    /// must then be the token's.
    pub fn under_also(mut self, prefix: &'static str, with_project: &'static str) -> Self {
        self.prefixes = [prefix, with_project].map(|text| Prefix { text, legacy: false }).to_vec();
        self
    }

    /// Paths declared from here on lie also below these two, where requests know nothing of microversions: their headers
    /// are not looked at and not answered, and the version is [`Version::LEGACY`](crate::Version::LEGACY).
    pub fn legacy_also(mut self, prefix: &'static str, with_project: &'static str) -> Self {
        self.prefixes.extend([prefix, with_project].map(|text| Prefix { text, legacy: true }));
        self
    }

    pub fn get<F, R>(self, path: &str, handler: F) -> Self
    where
        F: Fn(S, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        self.add("GET", path, false, false, handler)
    }
    pub fn post<F, R>(self, path: &str, handler: F) -> Self
    where
        F: Fn(S, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        self.add("POST", path, false, false, handler)
    }
    pub fn put<F, R>(self, path: &str, handler: F) -> Self
    where
        F: Fn(S, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        self.add("PUT", path, false, false, handler)
    }
    pub fn patch<F, R>(self, path: &str, handler: F) -> Self
    where
        F: Fn(S, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        self.add("PATCH", path, false, false, handler)
    }
    pub fn delete<F, R>(self, path: &str, handler: F) -> Self
    where
        F: Fn(S, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        self.add("DELETE", path, false, false, handler)
    }
    /// A route without a token: version documents, `POST /v3/auth/tokens`.
    pub fn public<F, R>(self, method: &'static str, path: &str, handler: F) -> Self
    where
        F: Fn(S, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        self.add(method, path, true, false, handler)
    }
    /// A route whose handler reads the body as a stream.
    pub fn upload<F, R>(self, method: &'static str, path: &str, handler: F) -> Self
    where
        F: Fn(S, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        self.add(method, path, false, true, handler)
    }

    fn add<F, R>(mut self, method: &'static str, path: &str, public: bool, upload: bool, handler: F) -> Self
    where
        F: Fn(S, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        let state = self.state.clone();
        let handler: Handler = Arc::new(move |req| Box::pin(handler(state.clone(), req)));
        for Prefix { text, legacy } in self.prefixes.iter().copied() {
            let full = format!("{text}{path}");
            let full = if full.is_empty() { "/".to_string() } else { full };
            self.entries.push(Entry {
                method: Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET),
                handler: handler.clone(),
                info: RouteInfo { service: self.api.service, method, path: full, public, upload, legacy },
            });
        }
        self
    }

    /// The finished table. An error names two routes that clash.
    pub fn build(self) -> Result<Table> {
        Table::new(self.api, self.entries)
    }
}

/// All routes of one service, ready to be mounted.
pub struct Table {
    pub api: Api,
    router: matchit::Router<usize>,
    paths: Vec<PathEntry>,
    infos: Vec<RouteInfo>,
}

struct PathEntry {
    names: Vec<&'static str>,
    methods: Vec<(Method, Handler, RouteInfo)>,
}

pub(crate) struct Found<'a> {
    pub handler: &'a Handler,
    pub info: &'a RouteInfo,
    pub params: Vec<(&'static str, String)>,
}

pub(crate) enum Lookup<'a> {
    Found(Found<'a>),
    NoPath,
    /// The methods the path has.
    NoMethod(String),
}

impl Table {
    fn new(api: Api, entries: Vec<Entry>) -> Result<Table> {
        let mut table = Table { api, router: matchit::Router::new(), paths: Vec::new(), infos: Vec::new() };
        let mut known = std::collections::HashMap::new();
        for entry in entries {
            let (shape, names) = shape(&entry.info.path);
            let index = match known.get(&shape) {
                Some(index) => *index,
                None => {
                    let index = table.paths.len();
                    table.router.insert(&shape, index).map_err(|e| base::Error::internal(format!("route {}: {e}", entry.info.path)))?;
                    table.paths.push(PathEntry { names, methods: Vec::new() });
                    known.insert(shape, index);
                    index
                }
            };
            let path = &mut table.paths[index];
            if path.methods.iter().any(|(m, ..)| *m == entry.method) {
                return Err(base::Error::internal(format!("route {} {} is declared twice", entry.method, entry.info.path)));
            }
            table.infos.push(entry.info.clone());
            path.methods.push((entry.method, entry.handler, entry.info));
        }
        Ok(table)
    }

    pub fn infos(&self) -> &[RouteInfo] {
        &self.infos
    }

    pub(crate) fn lookup(&self, method: &Method, path: &str) -> Lookup<'_> {
        let trimmed = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        let Ok(found) = self.router.at(if trimmed.is_empty() { "/" } else { trimmed }) else { return Lookup::NoPath };
        let entry = &self.paths[*found.value];
        let wanted = if self.api.head && method == Method::HEAD && !entry.methods.iter().any(|(m, ..)| m == Method::HEAD) {
            &Method::GET
        } else {
            method
        };
        let slashed = trimmed.len() < path.len();
        let fits = |info: &RouteInfo| !slashed || info.public || self.api.slash;
        let Some((_, handler, info)) = entry.methods.iter().find(|(m, _, info)| m == wanted && fits(info)) else {
            if slashed {
                // The list with an empty id: that is no resource, whatever the list's own methods are.
                return Lookup::NoPath;
            }
            let allow: Vec<&str> = entry.methods.iter().map(|(m, ..)| m.as_str()).collect();
            return Lookup::NoMethod(allow.join(", "));
        };
        let decode = |v: &str| percent_encoding::percent_decode_str(v).decode_utf8_lossy().into_owned();
        let params = entry.names.iter().copied().zip(found.params.iter().map(|(_, v)| decode(v))).collect();
        Lookup::Found(Found { handler, info, params })
    }
}

/// The path with its variables renamed by position, so that two routes may name the same one differently.
fn shape(path: &str) -> (String, Vec<&'static str>) {
    let mut names = Vec::new();
    let segments: Vec<String> = path
        .split('/')
        .map(|segment| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) => {
                let rest = name.starts_with('*');
                // Route tables are built once a process, so their few names may live for ever.
                names.push(&*Box::leak(name.trim_start_matches('*').to_string().into_boxed_str()));
                if rest { format!("{{*p{}}}", names.len()) } else { format!("{{p{}}}", names.len()) }
            }
            None => segment.to_string(),
        })
        .collect();
    (segments.join("/"), names)
}
