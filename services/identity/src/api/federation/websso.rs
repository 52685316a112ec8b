//! Web single sign-on: a browser that a dashboard sends goes to the identity provider, comes back, and takes a token to the dashboard.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use base::{Error, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_api::{Request, Response, response};
use serde_json::json;
use sha2::Digest;

use crate::api::R;
use crate::api::auth::answered;
use crate::auth::{Answer, Word};
use crate::federation::oidc::code::Login;
use crate::federation::peers::Peer;
use crate::federation::saml::request::posted;
use crate::{Identity, fault, wire};

const PROTOCOL: &str = "/v3/auth/OS-FEDERATION/websso/{protocol_id}";
const PROVIDER: &str = "/v3/auth/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/websso";
const PURPOSE: &str = "web sso";
/// How long a user may take to log in.
const PATIENCE: Duration = Duration::from_secs(600);
const SCRIPT: &str = "document.getElementById('sso').submit()";

pub fn routes(routes: R) -> R {
    routes
        .public("GET", PROTOCOL, choose)
        .public("POST", PROTOCOL, choose)
        .public("GET", PROVIDER, sign_on)
        .public("POST", PROVIDER, sign_on)
}

/// By the protocol alone: the one provider that has it, or a page to choose one.
async fn choose(identity: Identity, req: Request) -> Result<Response> {
    let origin = origin(&identity, &req)?;
    match &identity.0.peers.of_protocol(req.param("protocol_id"))[..] {
        [] => Err(fault::unauthorized()),
        [one] => begin(&identity, one, &origin).await,
        several => {
            let link = |peer: &Peer| {
                let url = format!("{}?origin={}", peer.browser_url(), http_api::query::encode(&origin));
                format!("<li><a href=\"{}\">{}</a></li>", escape(&url), escape(peer.names().0))
            };
            let list: String = several.iter().map(link).collect();
            page(&format!("<ul>{list}</ul>"), "default-src 'none'; frame-ancestors 'none'; base-uri 'none'")
        }
    }
}

/// The way there, and the way back.
async fn sign_on(identity: Identity, req: Request) -> Result<Response> {
    let peer = identity.0.peers.find(req.param("idp_id"), req.param("protocol_id")).ok_or_else(fault::unauthorized)?;
    let form = posted(&req)?;
    let back = match &peer {
        Peer::Oidc(_) => req.query.get("state"),
        Peer::Saml(_) => form.as_ref().and_then(|form| form.relay_state.as_deref()),
    };
    let Some(state) = back else { return begin(&identity, &peer, &origin(&identity, &req)?).await };
    let state = state.to_string();
    let login = opened(&identity, &req, &peer, &state)?;
    let word = match &peer {
        Peer::Oidc(provider) => {
            if req.query.get("iss").is_some_and(|issuer| issuer != provider.settings.issuer) {
                return Err(provider.refuse("another provider answers (RFC 9207)"));
            }
            let code = req.query.get("code").ok_or_else(|| provider.refuse("the user was not let in"))?;
            Word::Claims(provider.redeem(&login.of_provider, code).await?)
        }
        Peer::Saml(provider) => {
            let document = form.and_then(|form| form.document).ok_or_else(|| provider.refuse("there is none"))?;
            Word::Answer { document, request: login.of_provider.nonce.clone(), consumer: peer.browser_url().into() }
        }
    };
    let (idp, protocol) = peer.names();
    let said = json!({ "identity_provider": idp, "protocol": protocol });
    let auth = wire::Object::from_iter([("identity".to_string(), json!({ "methods": ["mapped"], "mapped": said }))]);
    match identity.token_issue_by(&req, &auth, word).await? {
        Answer::Token(token, _) => to_dashboard(&peer, &state, &login.origin, &token),
        receipt => answered(receipt, &req),
    }
}

/// A login on its way.
struct Begun {
    origin: String,
    of_provider: Login,
}

async fn begin(identity: &Identity, peer: &Peer, origin: &str) -> Result<Response> {
    let secret = || format!("{}{}", base::id::hex(), base::id::hex());
    let login = Login {
        state: base::id::hex(),
        nonce: match peer {
            Peer::Oidc(_) => secret(),
            // What the answer must name.
            Peer::Saml(provider) => identity.saml_request_id(provider),
        },
        verifier: secret(),
        redirect_uri: peer.browser_url().into(),
    };
    let url = match peer {
        Peer::Oidc(provider) => provider.login_url(&login).await?,
        Peer::Saml(provider) => provider.login_url(&login.nonce, &login.state)?,
    };
    let (idp, protocol) = peer.names();
    let sealed = identity.state_seal(PURPOSE, &[idp, protocol, origin, &login.state, &login.nonce, &login.verifier]);
    let mut response = http_api::response::with_type(302, "text/plain", Body::empty());
    response::set_header(&mut response, "location", &url);
    response::set_header(&mut response, "set-cookie", &cookie(peer, &login.state, &sealed, PATIENCE.as_secs()));
    kept_nowhere(&mut response);
    Ok(response)
}

/// The browser alone has it: nobody finishes with another's browser what he began with his own (login CSRF).
fn cookie(peer: &Peer, state: &str, value: &str, seconds: u64) -> String {
    let url = peer.browser_url();
    let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or("/");
    let site = match peer {
        // A form that another site sends brings no other cookies.
        Peer::Saml(_) => "SameSite=None; Secure",
        Peer::Oidc(_) if url.starts_with("https:") => "SameSite=Lax; Secure",
        Peer::Oidc(_) => "SameSite=Lax",
    };
    format!("sturnus-sso-{state}={value}; Path={path}; Max-Age={seconds}; HttpOnly; {site}")
}

fn opened(identity: &Identity, req: &Request, peer: &Peer, state: &str) -> Result<Begun> {
    let name = format!("sturnus-sso-{state}");
    let cookies = req.headers.get_all("cookie").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    let sealed = cookies.filter_map(|pair| pair.trim().split_once('=')).find(|(known, _)| *known == name).map(|(_, value)| value);
    let values = sealed.and_then(|sealed| identity.state_open(PURPOSE, sealed, PATIENCE)).unwrap_or_default();
    match <[String; 6]>::try_from(values) {
        Ok([idp, protocol, origin, own, nonce, verifier]) if (idp.as_str(), protocol.as_str()) == peer.names() && own == state => {
            Ok(Begun { origin, of_provider: Login { state: own, nonce, verifier, redirect_uri: peer.browser_url().into() } })
        }
        _ => {
            tracing::info!("a login is not believed: its browser did not begin it here, or long ago");
            Err(fault::unauthorized())
        }
    }
}

/// Where the token goes: one of the dashboards of the configuration, to the letter.
fn origin(identity: &Identity, req: &Request) -> Result<String> {
    let origin = req.query.get("origin").filter(|origin| !origin.is_empty()).ok_or_else(|| Error::invalid("The query has no 'origin'."))?;
    if !identity.0.dashboards.iter().any(|known| known == origin) {
        return Err(Error::unauthenticated(format!("'{origin}' is not a trusted dashboard host")));
    }
    Ok(origin.to_string())
}

fn to_dashboard(peer: &Peer, state: &str, origin: &str, token: &str) -> Result<Response> {
    let target = reqwest::Url::parse(origin).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    let hash = STANDARD.encode(sha2::Sha256::digest(SCRIPT));
    let policy = format!("default-src 'none'; script-src 'sha256-{hash}'; form-action {target}; frame-ancestors 'none'; base-uri 'none'");
    let form = format!(
        "<form id=\"sso\" method=\"post\" action=\"{}\"><input type=\"hidden\" name=\"token\" value=\"{}\"><noscript><button>Continue</button></noscript>\
         </form><script>{SCRIPT}</script>",
        escape(origin),
        escape(token)
    );
    let mut response = page(&form, &policy)?;
    response::set_header(&mut response, "set-cookie", &cookie(peer, state, "", 0));
    Ok(response)
}

fn page(body: &str, policy: &str) -> Result<Response> {
    let document =
        format!("<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>Single sign-on</title></head><body>{body}</body></html>\n");
    let mut response = response::with_type(200, "text/html; charset=utf-8", Body::from(document));
    response::set_header(&mut response, "content-security-policy", policy);
    kept_nowhere(&mut response);
    Ok(response)
}

fn kept_nowhere(response: &mut Response) {
    for (name, value) in [("cache-control", "no-store"), ("referrer-policy", "no-referrer"), ("x-content-type-options", "nosniff")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
