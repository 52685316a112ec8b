//! `/servers/{id}/remote-consoles`, `/os-console-auth-tokens` (compute API reference, "Server consoles"), and what a
//! console's URL leads to: a page for browsers, and the websocket with the bytes of the guest.

use base::{Error, Kind, Result};
use http_api::response::{set_header, with_type};
use http_api::{Request, Response, Routes, Version, empty, json, websocket};
use serde_json::{Map, Value, json};

use crate::Compute;
use crate::consoles::ConsoleKind;
use crate::fields::{self, Fields};

/// Below `/v2.1`.
pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes.post("/servers/{id}/remote-consoles", create).get("/os-console-auth-tokens/{token}", token)
}

/// What needs no token of identity: a console's own opens it.
pub fn public(routes: Routes<Compute>) -> Routes<Compute> {
    routes.public("GET", "/console/stream", stream).public("GET", "/console/{file}", file)
}

const REMOTE_CONSOLES: Version = Version::new(2, 6);
const WITH_MKS: Version = Version::new(2, 8);
/// Tokens of all kinds can be shown.
const ALL_TOKENS: Version = Version::new(2, 31);
const WITH_SPICE_DIRECT: Version = Version::new(2, 99);

fn unavailable(kind: &str) -> Error {
    Error::invalid(format!("Unavailable console type {kind}."))
}

/// What a protocol and a type stand for here.
fn kind_of(protocol: &str, kind: &str) -> Result<ConsoleKind> {
    match (protocol, kind) {
        ("vnc", "novnc") => Ok(ConsoleKind::Vnc),
        ("vnc", _) => Err(Error::invalid(format!("Invalid console type {kind}"))),
        ("serial", _) => Ok(ConsoleKind::Serial),
        ("rdp", _) => Err(unavailable(protocol)),
        // SPICE and MKS, which no guest here has.
        _ => Err(unavailable(kind)),
    }
}

/// Where a token is used: a page for a screen, the websocket itself for a serial port, as upstream answers.
fn url(req: &Request, token: &str, kind: ConsoleKind) -> String {
    let mount = req.base_url.strip_prefix(&req.root_url).unwrap_or_default().trim_start_matches('/');
    match kind {
        // Clients take the websocket's path from the query, without a slash at its beginning.
        ConsoleKind::Vnc => format!("{}/console/vnc.html?path={mount}%2Fconsole%2Fstream%3Ftoken%3D{token}", req.base_url),
        ConsoleKind::Serial => {
            let secure = req.base_url.strip_prefix("https://").map(|rest| format!("wss://{rest}"));
            let plain = || format!("ws://{}", req.base_url.trim_start_matches("http://"));
            format!("{}/console/stream?token={token}", secure.unwrap_or_else(plain))
        }
    }
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    if req.version < REMOTE_CONSOLES {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    let body = req.object()?;
    let version = req.version;
    let mut root = Fields::root(&body, req.version);
    let (protocol, kind) = root.need("remote_console", |f| {
        let mut of = Fields::of(f)?;
        let protocols: &[&str] =
            if version >= WITH_MKS { &["vnc", "spice", "serial", "rdp", "mks"] } else { &["vnc", "spice", "serial", "rdp"] };
        let kinds: &[&str] = match version {
            v if v >= WITH_SPICE_DIRECT => &["novnc", "xvpvnc", "spice-html5", "serial", "rdp-html5", "webmks", "spice-direct"],
            v if v >= WITH_MKS => &["novnc", "xvpvnc", "spice-html5", "serial", "rdp-html5", "webmks"],
            _ => &["novnc", "xvpvnc", "spice-html5", "serial", "rdp-html5"],
        };
        let found = (of.need("protocol", fields::one_of(protocols))?, of.need("type", fields::one_of(kinds))?);
        of.finish()?;
        Ok(found)
    })?;
    root.finish()?;
    let (token, asked) = compute.console_create(&req.ctx, req.param("id"), "create_console", kind_of(protocol, kind)).await?;
    json(200, &json!({"remote_console": {"protocol": protocol, "type": kind, "url": url(&req, &token, asked)}}))
}

/// An action of the versions up to 2.5.
struct Old {
    name: &'static str,
    protocol: &'static str,
    kinds: &'static [&'static str],
    verb: &'static str,
}

const OLD: &[Old] = &[
    Old { name: "os-getVNCConsole", protocol: "vnc", kinds: &["novnc", "xvpvnc"], verb: "get_vnc_console" },
    Old { name: "os-getSPICEConsole", protocol: "spice", kinds: &["spice-html5"], verb: "get_spice_console" },
    Old { name: "os-getSerialConsole", protocol: "serial", kinds: &["serial"], verb: "get_serial_console" },
    Old { name: "os-getRDPConsole", protocol: "rdp", kinds: &["rdp-html5"], verb: "get_rdp_console" },
];

/// Answers a server action if it is one of those that ask for consoles.
pub async fn action(compute: &Compute, req: &Request, body: &Map<String, Value>) -> Option<Result<Response>> {
    match OLD.iter().find(|old| body.contains_key(old.name)) {
        Some(action) => Some(old(compute, req, action, body).await),
        None => None,
    }
}

async fn old(compute: &Compute, req: &Request, action: &Old, body: &Map<String, Value>) -> Result<Response> {
    if req.version >= REMOTE_CONSOLES {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    let mut root = Fields::root(body, req.version);
    let kind = root.need(action.name, |f| {
        let mut of = Fields::of(f)?;
        let kind = of.need("type", fields::one_of(action.kinds))?;
        of.finish()?;
        Ok(kind)
    })?;
    root.finish()?;
    let (token, asked) = compute.console_create(&req.ctx, req.param("id"), action.verb, kind_of(action.protocol, kind)).await?;
    json(200, &json!({"console": {"type": kind, "url": url(req, &token, asked)}}))
}

async fn token(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-console-auth-tokens", &req.ctx, &())?;
    if req.version < ALL_TOKENS {
        return Err(Error::invalid("Only tokens of consoles of type rdp-html5 could be shown before version 2.31."));
    }
    if let Some((name, _)) = req.query.0.first().filter(|_| req.version >= WITH_SPICE_DIRECT) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
    }
    let of = compute.console_token_show(req.param("token")).await?;
    // A guest's console listens on no port: its bytes come through the host's session.
    json(200, &json!({"console": {"instance_uuid": of.server_id, "host": of.host, "port": 0, "internal_access_path": null}}))
}

/// The websocket. Who has no good token gets an answer without a body, and the connection ends.
async fn stream(compute: Compute, mut req: Request) -> Result<Response> {
    let opened = match req.query.get("token") {
        Some(_) if !own_origin(&req) => Err(Error::forbidden("The page that asks is not from here.")),
        Some(token) => compute.console_open(token).await,
        None => Err(Error::new(Kind::NotFound, "Token not found")),
    };
    match opened {
        Ok(stream) => websocket::upgrade(&mut req, &["binary"], |io| stream.carry(io)).await,
        Err(error) => {
            let status = match error.kind() {
                Kind::NotFound | Kind::Forbidden => 403,
                Kind::Conflict => 409,
                _ => return Err(error),
            };
            let mut refused = empty(status)?;
            set_header(&mut refused, "connection", "close");
            Ok(refused)
        }
    }
}

/// Browsers say which page asks: only our own may, or a script of any page could use a token it got hold of.
fn own_origin(req: &Request) -> bool {
    let Some(origin) = req.header("origin") else { return true };
    let host = |url: &str| url.split_once("://").map_or("", |(_, rest)| rest).to_ascii_lowercase();
    host(origin) == host(&req.root_url)
}

const FILES: &[(&str, &str, &str)] = &[
    ("vnc.html", "text/html; charset=utf-8", include_str!("../../console/vnc.html")),
    ("vnc.js", "text/javascript; charset=utf-8", include_str!("../../console/vnc.js")),
    ("serial.html", "text/html; charset=utf-8", include_str!("../../console/serial.html")),
    ("serial.js", "text/javascript; charset=utf-8", include_str!("../../console/serial.js")),
    ("console.css", "text/css; charset=utf-8", include_str!("../../console/console.css")),
];

async fn file(_: Compute, req: Request) -> Result<Response> {
    let name = req.param("file");
    let missing = || Error::new(Kind::NotFound, "The resource could not be found.");
    let (_, kind, text) = FILES.iter().find(|(n, ..)| *n == name).ok_or_else(missing)?;
    let mut answer = with_type(200, kind, (*text).into());
    // Nothing but our own files runs there, and the token in the address goes nowhere.
    let policy =
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'";
    set_header(&mut answer, "content-security-policy", policy);
    set_header(&mut answer, "referrer-policy", "no-referrer");
    set_header(&mut answer, "x-content-type-options", "nosniff");
    set_header(&mut answer, "cache-control", "no-cache");
    Ok(answer)
}
