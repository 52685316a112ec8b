//! From a raw request to an answer: the same steps for every service.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use base::{Context, Error, Kind, Result, Scope};
use futures_util::FutureExt;

use crate::access::AccessLog;
use crate::body;
use crate::certificate::{Certificate, Proxies};
use crate::fault::{self, FaultStyle};
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::query::Query;
use crate::request::Request;
use crate::response::{self, Response};
use crate::routes::{Found, Lookup, RouteInfo, Table};
use crate::version::Version;

/// Turns a token into the caller's context. Implemented by identity.
#[async_trait]
pub trait Authenticate: Send + Sync {
    /// `Unauthenticated` when the token is not valid now.
    async fn authenticate(&self, token: &str) -> Result<Context>;

    /// As [`Authenticate::authenticate`], for one request: some tokens are good for some requests only.
    async fn admit(&self, token: &str, _asked: &Asked<'_>) -> Result<Context> {
        self.authenticate(token).await
    }

    /// A request without a token, which is let in by what else it has to show. By default nobody is.
    async fn admit_tokenless(&self, _asked: &Asked<'_>) -> Result<Context> {
        Err(no_token())
    }
}

/// What a request is for, as far as that matters to its token.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Empty: no service's.
    pub service: &'a str,
    pub method: &'a Method,
    /// As it was sent.
    pub path: &'a str,
    /// Below where the service is mounted.
    pub inner: &'a str,
    pub headers: &'a HeaderMap,
    /// What the client has shown, verified.
    pub certificate: Option<&'a Certificate>,
}

struct Mount {
    prefix: &'static str,
    table: Arc<Table>,
}

/// All mounted services.
pub struct App {
    mounts: Vec<Mount>,
    authenticator: Arc<dyn Authenticate>,
    pub metrics: Metrics,
    log: AccessLog,
    max_body: usize,
    proxies: Proxies,
    /// For the `WWW-Authenticate` header.
    identity_url: String,
}

impl App {
    pub fn new(authenticator: Arc<dyn Authenticate>, log: AccessLog, max_body: usize, identity_url: String, metrics: Metrics) -> App {
        App { mounts: Vec::new(), authenticator, metrics, log, max_body, identity_url, proxies: Proxies::default() }
    }

    /// With reverse proxies in front.
    pub fn behind(mut self, proxies: Proxies) -> App {
        self.proxies = proxies;
        self
    }

    /// Serves a table below each of `prefixes` (`/compute`; empty: at the root). Longer prefixes win.
    pub fn mount(&mut self, prefixes: &[&'static str], table: Table) {
        let table = Arc::new(table);
        self.mounts.extend(prefixes.iter().map(|prefix| Mount { prefix, table: table.clone() }));
        self.mounts.sort_by_key(|m| std::cmp::Reverse(m.prefix.len()));
    }

    /// Every route there is, each once.
    pub fn routes(&self) -> Vec<RouteInfo> {
        let mut seen = Vec::new();
        let mut infos = Vec::new();
        for mount in &self.mounts {
            if !seen.contains(&Arc::as_ptr(&mount.table)) {
                seen.push(Arc::as_ptr(&mount.table));
                infos.extend_from_slice(mount.table.infos());
            }
        }
        infos
    }

    /// Answers one request; never fails.
    pub async fn handle(&self, raw: hyper::Request<Body>, peer: &Peer) -> Response {
        let started = Instant::now();
        let request_id = format!("req-{}", base::id::uuid());
        let method = raw.method().clone();
        let target = self.log.enabled().then(|| (logged(raw.uri()), peer.client(raw.headers(), self.proxies.forwarded)));
        self.metrics.in_flight.inc();
        let mut trail = Trail::default();
        // A panic in a handler is our fault, but it ends that one request only.
        let answer = std::panic::AssertUnwindSafe(self.answer(raw, peer, &request_id, &mut trail)).catch_unwind().await;
        let mut response = answer
            .unwrap_or_else(|_| Err(Error::internal("a handler panicked")))
            .unwrap_or_else(|error| self.fault(&trail, &error, &request_id));
        self.metrics.in_flight.dec();
        stamp(&mut response, &trail, &request_id);
        let seconds = started.elapsed();
        let status = response.status().as_u16();
        self.metrics.observe(trail.service, method_name(&method), status, seconds.as_secs_f64());
        if let Some((target, client)) = target {
            let audit = !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
            let line = format!(
                "{} {request_id} {} {} {} {} {method} {target} {status} {}us",
                base::Timestamp::now().iso_micros_z(),
                trail.global_id.as_deref().unwrap_or("-"),
                or_dash(&trail.user),
                or_dash(&trail.project),
                client.map_or_else(|| "-".into(), |address| address.to_string()),
                seconds.as_micros()
            );
            self.log.write(line, audit);
        }
        response
    }

    fn fault(&self, trail: &Trail, error: &Error, request_id: &str) -> Response {
        if error.is(Kind::Internal) {
            tracing::error!(request_id, service = trail.service, "{}", error.chain());
        }
        let style = match (trail.style, trail.version) {
            (FaultStyle::Placement, Some(version)) if version < fault::CODES => FaultStyle::PlacementUncoded,
            (style, _) => style,
        };
        let mut response = fault::render(style, error, request_id);
        if response.status() == StatusCode::UNAUTHORIZED {
            response::set_header(&mut response, "www-authenticate", &format!("Keystone uri=\"{}\"", self.identity_url));
        }
        if let Some(allow) = &trail.allow {
            response::set_header(&mut response, "allow", allow);
        }
        response
    }

    async fn answer(&self, raw: hyper::Request<Body>, peer: &Peer, request_id: &str, trail: &mut Trail) -> Result<Response> {
        let (mut parts, raw_body) = raw.into_parts();
        let path = parts.uri.path().to_string();
        let certificate = peer.certificate(&parts.headers, &self.proxies);
        trail.global_id =
            parts.headers.get("x-openstack-request-id").and_then(|v| v.to_str().ok()).filter(|v| is_request_id(v)).map(str::to_string);
        match path.as_str() {
            "/healthz" => return response::text(200, "OK".into()),
            "/metrics" => {
                let asked = asked("", &parts, &path, &path, certificate.as_ref());
                self.context(&asked, request_id, trail).await?;
                return Ok(response::with_type(
                    200,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    Body::from(self.metrics.render()?),
                ));
            }
            _ => {}
        }
        let mut no_path = None;
        let mut chosen = None;
        for mount in &self.mounts {
            let Some(rest) = path.strip_prefix(mount.prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')) else { continue };
            match mount.table.lookup(&parts.method, rest) {
                Lookup::Found(found) => {
                    chosen = Some((mount, found));
                    break;
                }
                Lookup::NoMethod(allow) => {
                    trail.enter(&mount.table);
                    trail.allow = Some(allow);
                    trail.version = mount.table.api.versions.and_then(|versions| versions.negotiate(&parts.headers).ok());
                    return Err(Error::new(
                        Kind::MethodNotAllowed,
                        format!("The method {} is not allowed for this resource.", parts.method),
                    ));
                }
                Lookup::NoPath => no_path = no_path.or(Some(mount)),
            }
        }
        let Some((mount, Found { handler, info, params })) = chosen else {
            if let Some(mount) = no_path.filter(|m| !m.prefix.is_empty()) {
                trail.enter(&mount.table);
                // Whether a path exists is told only to those who have a token.
                let inner = path.strip_prefix(mount.prefix).unwrap_or(&path);
                let asked = asked(mount.table.api.service, &parts, &path, inner, certificate.as_ref());
                self.context(&asked, request_id, trail).await?;
            }
            return Err(Error::new(Kind::NotFound, "The resource could not be found."));
        };
        let api = mount.table.api;
        trail.enter(&mount.table);
        let inner = path.strip_prefix(mount.prefix).unwrap_or(&path);
        let asked = asked(api.service, &parts, &path, inner, certificate.as_ref());
        let ctx = if info.public { anonymous(request_id, trail) } else { self.context(&asked, request_id, trail).await? };
        let version = match &api.versions {
            _ if info.legacy => {
                trail.versions = None;
                Version::LEGACY
            }
            Some(versions) => {
                // Until a version is chosen, a fault is stamped with the oldest.
                trail.version = Some(versions.min);
                versions.negotiate(&parts.headers)?
            }
            None => Version::default(),
        };
        trail.version = trail.versions.map(|_| version);
        let in_path = params.iter().find(|(name, _)| *name == "project_id").filter(|_| !info.public && project_in_path(&info.path));
        if let Some((_, id)) = in_path.filter(|(_, id)| !ctx.project_id().is_empty() && id != ctx.project_id()) {
            return Err(Error::invalid(format!(
                "Malformed request URL: URL's project_id '{id}' doesn't match Context's project_id '{}'",
                ctx.project_id()
            )));
        }
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let (bytes, raw_body) = if info.upload {
            (bytes::Bytes::new(), Some(raw_body))
        } else {
            (body::collect(raw_body, declared, self.max_body).await?, None)
        };
        let root_url = peer.root_url(&parts, self.proxies.forwarded);
        let request = Request {
            ctx,
            version,
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            base_url: format!("{root_url}{}", mount.prefix),
            root_url,
            address: peer.client(&parts.headers, self.proxies.forwarded),
            certificate,
            by_proxy: self.proxies.include(peer.address),
            token: token(&parts.headers).map(str::to_string),
            upgrade: parts.extensions.remove::<hyper::upgrade::OnUpgrade>(),
            method: parts.method,
            path,
            headers: parts.headers,
            body: bytes,
            params,
            raw: std::sync::Mutex::new(raw_body),
        };
        handler(request).await
    }

    async fn context(&self, asked: &Asked<'_>, request_id: &str, trail: &mut Trail) -> Result<Context> {
        let mut ctx = match token(asked.headers) {
            Some(token) => self.authenticator.admit(token, asked).await?,
            None => self.authenticator.admit_tokenless(asked).await?,
        };
        ctx.request_id = request_id.to_string();
        ctx.global_request_id = trail.global_id.clone();
        trail.user.clone_from(&ctx.user_id);
        if let Scope::Project { id, .. } = &ctx.scope {
            trail.project.clone_from(id);
        }
        Ok(ctx)
    }
}

fn asked<'a>(service: &'a str, parts: &'a Parts, path: &'a str, inner: &'a str, certificate: Option<&'a Certificate>) -> Asked<'a> {
    Asked { service, method: &parts.method, path, inner, headers: &parts.headers, certificate }
}

fn no_token() -> Error {
    Error::unauthenticated("The request you have made requires authentication.")
}

fn anonymous(request_id: &str, trail: &Trail) -> Context {
    Context { request_id: request_id.to_string(), global_request_id: trail.global_id.clone(), ..Context::default() }
}

/// What is known of a request on its way, for the answer's headers and the log.
struct Trail {
    service: &'static str,
    style: FaultStyle,
    versions: Option<crate::version::Versions>,
    version: Option<Version>,
    allow: Option<String>,
    global_id: Option<String>,
    user: String,
    project: String,
}

impl Default for Trail {
    fn default() -> Self {
        Trail {
            service: "none",
            style: FaultStyle::Identity,
            versions: None,
            version: None,
            allow: None,
            global_id: None,
            user: String::new(),
            project: String::new(),
        }
    }
}

impl Trail {
    fn enter(&mut self, table: &Table) {
        self.service = table.api.service;
        self.style = table.api.style;
        self.versions = table.api.versions;
    }
}

fn stamp(response: &mut Response, trail: &Trail, request_id: &str) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        if trail.style == FaultStyle::Compute {
            response.headers_mut().insert("x-compute-request-id", id.clone());
        }
        response.headers_mut().insert("x-openstack-request-id", id);
    }
    if let (Some(versions), Some(version)) = (&trail.versions, trail.version) {
        versions.stamp(version, response.headers_mut());
    }
}

/// The token header; identity's clients also send a service token, which adds nothing here.
fn token(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-auth-token").and_then(|v| v.to_str().ok()).filter(|t| !t.is_empty())
}

/// `req-` and a UUID: anything else in the header is not taken over into logs.
fn is_request_id(text: &str) -> bool {
    text.strip_prefix("req-").is_some_and(|id| id.len() == 36 && base::id::is_uuid(id))
}

/// Whether `{project_id}` stands for the caller's project and not for a resource: right after the version.
fn project_in_path(path: &str) -> bool {
    path.split('/').nth(2) == Some("{project_id}")
}

/// A request's address as it is logged: a console's token opens the console for whoever reads it.
fn logged(uri: &hyper::Uri) -> String {
    match uri.query() {
        Some(query) if query.to_ascii_lowercase().contains("token") => format!("{}?***", uri.path()),
        _ => uri.to_string(),
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
