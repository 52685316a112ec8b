//! EC2 credentials: a key and a secret by which a user signs requests to EC2 or S3, and the tokens that the services which were
//! asked get for such a signature.

mod signature;

pub use signature::escape;

use std::net::IpAddr;
use std::sync::Arc;

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::Request;
use serde_json::{Value, json};

use crate::credentials::{Credential, id_of_access_key};
use crate::projects::project_get_in;
use crate::token::cache::Live;
use crate::token::issue::Claim;
use crate::token::payload::{Target, Via};
use crate::users::user_get_in;
use crate::wire::Object;
use crate::{Identity, application_credentials, fault, oauth1, trusts};

use signature::{Ec2Request, S3Request, Window};

/// Characters of a secret that nobody guesses: those made here are hex digits.
const LONG: usize = 32;

/// What a signature is checked against.
pub enum Signed {
    Ec2,
    S3,
}

/// As `OS-EC2` shows a credential.
pub fn view(credential: &Credential, req: &Request) -> Value {
    let blob = blob(credential);
    let link = format!("{}/v3/users/{}/credentials/OS-EC2/{}", req.base_url, credential.user_id, text(&blob, "access").unwrap_or_default());
    json!({
        "user_id": credential.user_id,
        "tenant_id": credential.project_id,
        "access": blob.get("access"),
        "secret": blob.get("secret"),
        "trust_id": blob.get("trust_id"),
        "links": { "self": link },
    })
}

fn blob(credential: &Credential) -> Object {
    serde_json::from_str(&credential.blob).unwrap_or_default()
}

fn text<'a>(blob: &'a Object, key: &str) -> Option<&'a str> {
    blob.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A new key and its secret.
pub fn fresh(user_id: &str, project_id: &str) -> Credential {
    let access = base::id::hex();
    Credential {
        id: id_of_access_key(&access),
        user_id: user_id.to_string(),
        project_id: Some(project_id.to_string()),
        kind: "ec2".into(),
        blob: json!({ "access": access, "secret": base::id::hex(), "trust_id": null }).to_string(),
        extra: Object::new(),
    }
}

impl Identity {
    /// `NotFound` of the user or of the project.
    pub(crate) async fn ec2_create(&self, ctx: &Context, credential: Credential) -> Result<Credential> {
        let (user, project) = (credential.user_id.clone(), credential.project_id.clone().unwrap_or_default());
        self.0.store.read(|tx| user_get_in(tx, &user).and(project_get_in(tx, &project).map(|_| ()))).await?;
        self.credential_create(ctx, credential).await
    }

    /// The token for a signed request: for the project of the credential, and by the trust that it was made by.
    /// `from`: the service that was asked. Secrets that can be guessed are guarded as passwords are; one as long as those that are made here cannot be,
    /// and who only knows the key of somebody's credential shall not keep the owner from using it.
    pub(crate) async fn ec2_token(&self, request: &Object, form: Signed, from: Option<IpAddr>) -> Result<(String, Arc<Live>)> {
        let unknown = || Error::new(Kind::NotFound, "EC2 access key not found.");
        let access = signature::access(request)?;
        let credential = self.credential_fetch(&id_of_access_key(access)).await?.filter(Credential::is_ec2).ok_or_else(unknown)?;
        let blob = blob(&credential);
        // Without a secret anybody could sign.
        let secret = text(&blob, "secret").ok_or_else(fault::unauthorized)?;
        let asked = format!("ec2/{access}");
        let can_be_guessed = secret.len() < LONG;
        if can_be_guessed {
            self.0.attempts.check(from, &asked)?;
        }
        let checked = match form {
            Signed::Ec2 => Ec2Request::read(request)?.check(secret),
            Signed::S3 => S3Request::read(request)?.check(secret),
        };
        let window: Window = checked.inspect_err(|_| {
            if can_be_guessed {
                self.0.attempts.failed(from, &asked);
            }
        })?;
        window.check(Timestamp::now())?;
        self.token_make(|tx, now| {
            let project_id = credential.project_id.clone().ok_or_else(fault::unauthorized)?;
            let mut claim = Claim {
                user_id: credential.user_id.clone(),
                methods: self.0.methods.bit("ec2credential"),
                target: Target::Project(project_id.clone()),
                via: Via::User,
                expires_at: None,
                parent_audit_id: None,
            };
            // It gives no more than what it was made by.
            if let Some(id) = text(&blob, "trust_id") {
                let trust = trusts::trust_usable_in(tx, id).map_err(|_| fault::unauthorized())?;
                let actor = if trust.impersonation { &trust.trustor_user_id } else { &trust.trustee_user_id };
                if *actor != credential.user_id || trust.project_id.as_ref() != Some(&project_id) {
                    return Err(fault::unauthorized());
                }
                (claim.user_id, claim.target) = (trust.trustee_user_id, Target::Trust { id: trust.id, project_id });
            } else if let Some(id) = text(&blob, "app_cred_id") {
                let by = application_credentials::credential_usable_in(tx, id)?.ok_or_else(fault::unauthorized)?;
                if by.user_id != credential.user_id || by.project_id != project_id {
                    return Err(fault::unauthorized());
                }
                (claim.via, claim.expires_at) = (Via::ApplicationCredential(by.id), by.expires_at);
            } else if let Some(id) = text(&blob, "access_token_id") {
                let by = oauth1::access_token_in(tx, &self.0.credential_keys, id)?.ok_or_else(fault::unauthorized)?;
                if by.user_id != credential.user_id || by.project_id != project_id || by.has_ended(now) {
                    return Err(fault::unauthorized());
                }
                (claim.via, claim.expires_at) = (Via::OAuth1(by.id), Some(by.expires_at));
            } else if text(&blob, "access_id").is_some() {
                // Of a delegation that is not known here: nothing, rather than all that the user may.
                return Err(fault::unauthorized());
            }
            Ok(claim)
        })
        .await
    }
}
