//! `/v3/OS-OAUTH2/token`: OAuth 2.0 (RFC 6749, 4.4). A client is an application credential, an access token the token it gives; or a user
//! with a certificate (RFC 8705), and the token is bound to that.

use std::sync::Arc;

use base::{Error, Kind, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_api::{Query, Request, Response, response};
use serde_json::{Value, json};

use super::R;
use crate::auth::Answer;
use crate::token::cache::Live;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes.public("POST", "/v3/OS-OAUTH2/token", create)
}

/// How a client proves who it is.
struct Grant {
    client_id: String,
    /// None: by the certificate that it has shown.
    client_secret: Option<String>,
}

/// The ways of [`Grant`] that may be used (`oauth2.oauth2_authn_methods`).
#[derive(Clone, Copy)]
struct Ways {
    secret: bool,
    /// And there is one.
    certificate: bool,
}

impl Ways {
    fn of(identity: &Identity, req: &Request) -> Ways {
        let allowed = |way: &str| identity.0.config.text("oauth2.oauth2_authn_methods").split(',').any(|known| known.trim() == way);
        Ways { secret: allowed("client_secret_basic"), certificate: allowed("tls_client_auth") && req.certificate.is_some() }
    }
}

/// A refusal in OAuth's own form (RFC 6749, 5.2), with upstream's word for what that has none for.
struct Refusal {
    status: u16,
    error: &'static str,
    description: String,
}

impl Refusal {
    fn request(description: impl Into<String>) -> Refusal {
        Refusal { status: 400, error: "invalid_request", description: description.into() }
    }

    /// Why is never told: it would help to guess.
    fn client() -> Refusal {
        Refusal { status: 401, error: "invalid_client", description: "Client authentication failed.".into() }
    }

    /// None: a fault of ours, which is told as all of them are.
    fn of(error: &Error) -> Option<Refusal> {
        let other = |status| Refusal { status, error: "other_error", description: error.message().to_string() };
        match (error.status(), error.kind()) {
            (Some(status), _) => Some(other(status)),
            (None, Kind::Unauthenticated) => Some(Refusal::client()),
            (None, Kind::Invalid) => Some(Refusal::request(error.message())),
            (None, Kind::Unavailable) => Some(other(503)),
            _ => None,
        }
    }

    fn response(self, req: &Request) -> Result<Response> {
        let mut response = kept_nowhere(self.status, &json!({ "error": self.error, "error_description": self.description }))?;
        if self.status == 401 {
            response::set_header(&mut response, "www-authenticate", &format!("Keystone uri=\"{}/v3\"", req.base_url));
        }
        Ok(response)
    }
}

/// Neither tokens nor what was wrong with secrets is for caches (RFC 6749, 5.1).
fn kept_nowhere(status: u16, body: &Value) -> Result<Response> {
    let mut response = super::answer(status, body)?;
    response::set_header(&mut response, "cache-control", "no-store");
    response::set_header(&mut response, "pragma", "no-cache");
    Ok(response)
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let grant = match read(Ways::of(&identity, &req), req.header("content-type"), req.header("authorization"), &req.body) {
        Ok(grant) => grant,
        Err(refusal) => return refusal.response(&req),
    };
    let issued = match (&grant.client_secret, &req.certificate) {
        (None, Some(certificate)) => identity.token_by_certificate(&grant.client_id, certificate).await,
        (secret, _) => by_secret(&identity, &req, &grant.client_id, secret.as_deref().unwrap_or_default()).await,
    };
    match issued {
        Ok((token, live)) => {
            let seconds = live.payload.expires_at.since(live.payload.issued_at).as_secs();
            kept_nowhere(200, &json!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds }))
        }
        Err(error) => match Refusal::of(&error) {
            Some(refusal) => refusal.response(&req),
            None => Err(error),
        },
    }
}

async fn by_secret(identity: &Identity, req: &Request, id: &str, secret: &str) -> Result<(String, Arc<Live>)> {
    let given = json!({ "id": id, "secret": secret });
    let proof = json!({ "methods": ["application_credential"], "application_credential": given });
    let auth = wire::Object::from_iter([("identity".to_string(), proof)]);
    // A user of whom more is demanded has no further method to offer here.
    match identity.token_issue(req, &auth).await? {
        Answer::Receipt(_) => Err(fault::unauthorized()),
        Answer::Token(token, live) => Ok((token, live)),
    }
}

/// Who has shown a certificate and names a client in the form, is that by the certificate. Else the client's id and secret stand in
/// `Authorization` or, as upstream, in the form; those in the header count.
fn read(ways: Ways, kind: Option<&str>, authorization: Option<&str>, body: &[u8]) -> std::result::Result<Grant, Refusal> {
    let is_form = kind.is_some_and(|kind| {
        let name = kind.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    let form = if is_form { Query::parse(&String::from_utf8_lossy(body)) } else { Query::default() };
    let one = |name: &str| match form.all(name).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [value] => Ok(Some(value.to_string()).filter(|value| !value.is_empty())),
        _ => Err(Refusal::request(format!("The parameter {name} is given more than once."))),
    };
    let grant_type = one("grant_type")?.ok_or_else(|| Refusal::request("The parameter grant_type is required."))?;
    let (of_form, secret_of_form) = (one("client_id")?, one("client_secret")?);
    if grant_type != "client_credentials" {
        let description = format!("The parameter grant_type {grant_type} is not supported.");
        return Err(Refusal { status: 400, error: "unsupported_grant_type", description });
    }
    let (client_id, client_secret) = match authorization.map(str::trim).and_then(|text| text.split_once(' ')) {
        _ if ways.certificate && of_form.is_some() => (of_form.unwrap_or_default(), None),
        _ if !ways.secret => return Err(Refusal::client()),
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("basic") => {
            let (id, secret) = basic(text).ok_or_else(Refusal::client)?;
            (id, Some(secret))
        }
        _ => (of_form.ok_or_else(Refusal::client)?, Some(secret_of_form.ok_or_else(Refusal::client)?)),
    };
    // No id has a zero byte, and not every database takes one.
    if client_id.is_empty() || client_id.contains('\0') || client_secret.as_ref().is_some_and(String::is_empty) {
        return Err(Refusal::client());
    }
    Ok(Grant { client_id, client_secret })
}

/// User and password of RFC 7617; neither is percent-encoded, as upstream and its clients have it.
fn basic(text: &str) -> Option<(String, String)> {
    let plain = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    plain.split_once(':').map(|(user, password)| (user.to_string(), password.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded");
    const SECRET: Ways = Ways { secret: true, certificate: false };

    fn said(refused: std::result::Result<Grant, Refusal>) -> (u16, &'static str) {
        refused.map(|grant| (grant.client_id, grant.client_secret)).map_err(|r| (r.status, r.error)).unwrap_err()
    }

    #[test]
    fn a_certificate_counts_for_the_client_of_the_form() {
        let header = format!("Basic {}", STANDARD.encode("of header:secret"));
        let read = |ways: (bool, bool), body: &str| {
            let (secret, certificate) = ways;
            read(Ways { secret, certificate }, FORM, Some(&header), body.as_bytes())
                .map(|grant| (grant.client_id, grant.client_secret))
                .ok()
        };
        let (bare, named) = ("grant_type=client_credentials", "grant_type=client_credentials&client_id=of+form");
        let (by_secret, by_certificate) = (Some(("of header".into(), Some("secret".into()))), Some(("of form".into(), None)));
        assert_eq!((read((true, true), named), read((true, true), bare)), (by_certificate.clone(), by_secret.clone()));
        assert_eq!((read((true, false), named), read((true, false), bare)), (by_secret.clone(), by_secret));
        assert_eq!((read((false, true), named), read((false, true), bare)), (by_certificate, None));
        assert_eq!((read((false, false), named), read((false, false), bare)), (None, None));
    }

    #[test]
    fn what_is_sent_badly_is_told_apart() {
        let ok = format!("Basic {}", STANDARD.encode("id:se:cret"));
        let grant = read(SECRET, Some("Application/X-WWW-Form-Urlencoded; charset=UTF-8"), Some(&ok), b"grant_type=client_credentials")
            .ok()
            .unwrap();
        assert_eq!((grant.client_id.as_str(), grant.client_secret.as_deref()), ("id", Some("se:cret")));
        for (kind, header, body, wanted) in [
            (Some("application/json"), Some(ok.as_str()), "grant_type=client_credentials", (400, "invalid_request")),
            (None, Some(&ok), "grant_type=client_credentials", (400, "invalid_request")),
            (FORM, Some(&ok), "", (400, "invalid_request")),
            (FORM, Some(&ok), "grant_type=", (400, "invalid_request")),
            (FORM, Some(&ok), "grant_type=client_credentials&grant_type=client_credentials", (400, "invalid_request")),
            (FORM, Some(&ok), "grant_type=client_credentials&client_id=a&client_id=b", (400, "invalid_request")),
            (FORM, Some(&ok), "grant_type=password", (400, "unsupported_grant_type")),
            (FORM, None, "grant_type=client_credentials", (401, "invalid_client")),
            (FORM, None, "grant_type=client_credentials&client_id=a", (401, "invalid_client")),
            (FORM, None, "grant_type=client_credentials&client_secret=a", (401, "invalid_client")),
            (FORM, Some("Basic"), "grant_type=client_credentials", (401, "invalid_client")),
            (FORM, Some("Basic !!"), "grant_type=client_credentials", (401, "invalid_client")),
            (FORM, Some("Basic aWQ="), "grant_type=client_credentials", (401, "invalid_client")),
            (FORM, Some("Basic OnNlY3JldA=="), "grant_type=client_credentials", (401, "invalid_client")),
            (FORM, Some("Digest x"), "grant_type=client_credentials", (401, "invalid_client")),
            // A header that is wrong is not made good by the form.
            (FORM, Some("Basic !!"), "grant_type=client_credentials&client_id=a&client_secret=b", (401, "invalid_client")),
        ] {
            assert_eq!(said(read(SECRET, kind, header, body.as_bytes())), wanted, "{kind:?} {header:?} {body}");
        }
    }

    proptest! {
        #[test]
        fn what_comes_in_a_header_is_what_was_sent(id in "[0-9a-zA-Z%+]{1,40}", secret in "[ -~é]{1,40}") {
            let header = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
            let grant = read(SECRET, FORM, Some(&header), b"grant_type=client_credentials&client_id=x&client_secret=y").ok().unwrap();
            prop_assert_eq!((grant.client_id, grant.client_secret), (id, Some(secret)));
        }

        #[test]
        fn nothing_upsets_it(header in proptest::option::of(".{0,60}"), body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(Ways { secret: true, certificate: true }, FORM, header.as_deref(), &body);
        }
    }
}
