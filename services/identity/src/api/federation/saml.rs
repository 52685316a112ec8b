//! This cloud as a SAML identity provider for others: `/v3/auth/OS-FEDERATION/saml2` and its metadata; and its metadata for providers whom
//! it believes.

use std::time::Duration;

use axum::body::Body;
use base::{Error, Kind, Result, Scope};
use http_api::{Request, Response, response};
use serde_json::Value;

use crate::api::R;
use crate::federation::peers::Peer;
use crate::federation::saml::idp::{self, Idp, Subject};
use crate::federation::saml::xml::Element;
use crate::federation::service_providers::{ServiceProvider, service_provider_get_in};
use crate::groups::groups_of_user_in;
use crate::projects::project_fetch_in;
use crate::token::cache::Live;
use crate::token::payload::{Target, Via};
use crate::token::validate::as_subject;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .public("POST", "/v3/auth/OS-FEDERATION/saml2", create)
        .public("POST", "/v3/auth/OS-FEDERATION/saml2/ecp", create_ecp)
        .public("GET", "/v3/OS-FEDERATION/saml2/metadata", metadata)
        .public("GET", "/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/metadata", metadata_for_provider)
}

fn own(identity: &Identity) -> Result<&Idp> {
    let message = "This cloud is no SAML identity provider: saml.idp_entity_id is not set.";
    identity.0.saml.as_ref().ok_or_else(|| Error::new(Kind::NotSupported, message))
}

async fn metadata(identity: Identity, _: Request) -> Result<Response> {
    // Anybody may ask: to strangers a thing that is not there is no fault of ours.
    let idp = own(&identity).map_err(|e| Error::new(Kind::NotFound, e.message()))?;
    Ok(xml(idp.metadata()))
}

/// What the provider of a protocol is to know of us.
async fn metadata_for_provider(identity: Identity, req: Request) -> Result<Response> {
    match identity.0.peers.find(req.param("idp_id"), req.param("protocol_id")) {
        Some(Peer::Saml(provider)) => Ok(response::with_type(200, "application/samlmetadata+xml", Body::from(provider.metadata()))),
        _ => Err(Error::new(Kind::NotFound, "There is no SAML provider with this protocol.")),
    }
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let (assertion, provider) = assertion(&identity, &req).await?;
    Ok(for_provider(idp::plain(&assertion), &provider))
}

async fn create_ecp(identity: Identity, req: Request) -> Result<Response> {
    let (assertion, provider) = assertion(&identity, &req).await?;
    let relay_state = format!("{}{}", provider.relay_state_prefix, base::id::hex());
    Ok(for_provider(idp::ecp(assertion, &relay_state), &provider))
}

fn xml(document: String) -> Response {
    response::with_type(200, "text/xml", Body::from(document))
}

fn for_provider(document: String, provider: &ServiceProvider) -> Response {
    let mut response = xml(document);
    response::set_header(&mut response, "x-sp-url", &provider.sp_url);
    response::set_header(&mut response, "x-auth-url", &provider.auth_url);
    response
}

async fn assertion(identity: &Identity, req: &Request) -> Result<(Element, ServiceProvider)> {
    let (token, provider_id) = wanted(req)?;
    let idp = own(identity)?;
    let provider = identity.0.store.read(|tx| service_provider_get_in(tx, &provider_id)).await?;
    if !provider.enabled {
        return Err(Error::forbidden(format!("Service Provider {provider_id} is disabled")));
    }
    let live = identity.token_live(&token, Duration::ZERO).await.map_err(|e| as_subject(e, &token))?;
    if !live.is_held_by(req.certificate.as_ref()) {
        return Err(fault::unauthorized());
    }
    let subject = subject(identity, &live).await?;
    Ok((idp.response(&subject, &provider.sp_url, live.payload.expires_at)?, provider))
}

/// The token, and for whom the assertion is to be.
fn wanted(req: &Request) -> Result<(String, String)> {
    let mut auth = wire::member(req, "auth")?;
    let mut part = |name: &str| match auth.remove(name) {
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(fault::field(&format!("auth/{name}"), "it is not of type 'object'")),
        None => Err(fault::field("auth", format!("'{name}' is a required property"))),
    };
    let (mut proof, mut scope) = (part("identity")?, part("scope")?);
    wire::nothing_else(&auth, "auth")?;
    if proof.remove("methods").is_some_and(|methods| !methods.is_array()) {
        return Err(fault::field("auth/identity/methods", "it is not of type 'array'"));
    }
    let (token, provider) = (id(&mut proof, "auth/identity", "token")?, id(&mut scope, "auth/scope", "service_provider")?);
    wire::nothing_else(&proof, "auth/identity")?;
    wire::nothing_else(&scope, "auth/scope")?;
    Ok((token, provider))
}

fn id(map: &mut wire::Object, path: &str, name: &str) -> Result<String> {
    let inner = map.remove(name).ok_or_else(|| fault::field(path, format!("'{name}' is a required property")))?;
    match inner.get("id") {
        Some(Value::String(id)) => Ok(id.clone()),
        _ => Err(fault::field(&format!("{path}/{name}"), "'id' is a required property, of type 'string'")),
    }
}

async fn subject(identity: &Identity, live: &Live) -> Result<Subject> {
    let Scope::Project { name: project, domain_name: project_domain, .. } = &live.ctx.scope else {
        return Err(Error::forbidden("An assertion is made of a token for a project."));
    };
    // An assertion says who somebody is, and nothing of what a delegation leaves out.
    let whole = matches!(live.payload.via, Via::User | Via::Federation { .. }) && !matches!(live.payload.target, Target::Trust { .. });
    if !whole {
        return Err(Error::forbidden("An assertion is not made of a token by a trust, an application credential or OAuth."));
    }
    let groups = identity.0.store.read(|tx| {
        let mut groups = Vec::new();
        for (group, _) in groups_of_user_in(tx, &live.ctx.user_id)? {
            let domain = project_fetch_in(tx, &group.domain_id)?;
            groups.extend(domain.map(|domain| (group.name, domain.name)));
        }
        Ok(groups)
    });
    let shown: Value = serde_json::from_slice(&live.bare).unwrap_or_default();
    let roles = shown["token"]["roles"].as_array().into_iter().flatten().filter_map(|role| role["name"].as_str().map(str::to_string));
    Ok(Subject {
        user: live.ctx.user_name.clone(),
        user_domain: live.ctx.user_domain_name.clone(),
        roles: roles.collect(),
        project: project.clone(),
        project_domain: project_domain.clone(),
        groups: groups.await?,
    })
}
